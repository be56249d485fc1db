//! Operators' calls: topology, health, memory settings, and changes of clusters.

use std::future::Future;

use tierkv_rpc::proto::{
    status::{read_error, write_error},
    v1::{
        ChangeClusterRequest, ChangeClusterResponse, GetClusterRequest, GetClusterResponse,
        GetMemoryRequest, HandOverRequest, HandOverResponse, MemorySettings, SetMemoryRequest,
        admin_client::AdminClient,
    },
};
use tierkv_types::{Code, Error as Refusal};
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{client::Client, error::Error};

impl Client {
    /// The platform's topology and health.
    ///
    /// Read roles and health through the getters and their conversions, as in
    /// `NodeRole::from(member.role())`. A role that this release does not have becomes
    /// [`NodeRole::Unknown`](crate::NodeRole::Unknown).
    ///
    /// # Errors
    /// `Unavailable` if the coordinator can't be reached in time.
    pub async fn cluster(&self) -> Result<GetClusterResponse, Error> {
        let mut admin = self.admin();
        let answer = self.in_time(admin.get_cluster(GetClusterRequest {})).await;
        read(answer)
    }

    /// The operators' changes to the data nodes' memory settings, and what is in force on each
    /// node.
    ///
    /// # Errors
    /// `Unavailable` if the coordinator can't be reached in time.
    pub async fn memory(&self) -> Result<MemorySettings, Error> {
        let mut admin = self.admin();
        let answer = self.in_time(admin.get_memory(GetMemoryRequest {})).await;
        read(answer)
    }

    /// Changes the data nodes' memory settings at run time; the nodes apply them a moment later.
    ///
    /// # Errors
    /// `InvalidArgument` for a value out of bounds. With [`Code::OutcomeUnknown`] the change may
    /// have been made; retrying is safe.
    pub async fn set_memory(&self, change: SetMemoryRequest) -> Result<MemorySettings, Error> {
        let mut admin = self.admin();
        written(self.in_time(admin.set_memory(change)).await)
    }

    /// Adds a node to a cluster, removes one, or sets the cluster's failover time. The change is
    /// installed when this returns; a node that was added catches up after that, which
    /// [`Client::cluster`] shows.
    ///
    /// # Errors
    /// Why the change is refused, with what to do. With [`Code::OutcomeUnknown`] it may have been
    /// made; asking again is harmless.
    pub async fn change_cluster(
        &self,
        change: ChangeClusterRequest,
    ) -> Result<ChangeClusterResponse, Error> {
        let mut admin = self.admin();
        written(self.in_time(admin.change_cluster(self.timed(change))).await)
    }

    /// Hands the mastership of a cluster to another of its nodes; returns the new master.
    ///
    /// # Errors
    /// Why it was not done; the master goes on. With [`Code::OutcomeUnknown`] it may have been done.
    pub async fn hand_over(&self, order: HandOverRequest) -> Result<HandOverResponse, Error> {
        let mut admin = self.admin();
        written(self.in_time(admin.hand_over(self.timed(order))).await)
    }

    /// A call with this client's timeout, which the tiers below keep within.
    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout());
        request
    }

    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    /// The answer, or `None` after the timeout.
    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<Result<T, Status>> {
        let answer = timeout(self.timeout(), call).await.ok()?;
        Some(self.note_time(answer))
    }
}

fn written<T>(answer: Option<Result<T, Status>>) -> Result<T, Error> {
    match answer {
        Some(answer) => answer.map_err(|status| write_error(&status).into()),
        None => Err(Refusal::outcome_unknown("no answer came in time").into()),
    }
}

fn read<T>(answer: Option<Result<T, Status>>) -> Result<T, Error> {
    match answer {
        Some(answer) => answer.map_err(|status| read_error(&status).into()),
        None => Err(Refusal::new(Code::DeadlineExceeded, "no answer came in time").into()),
    }
}
