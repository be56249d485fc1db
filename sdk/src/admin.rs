//! Operators' calls: topology, health and memory settings.

use std::future::Future;

use tierkv_rpc::proto::{
    status::{read_error, write_error},
    v1::{
        GetClusterRequest, GetClusterResponse, GetMemoryRequest, MemorySettings, SetMemoryRequest,
        admin_client::AdminClient,
    },
};
use tierkv_types::{Code, Error as Refusal};
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

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
        match self.in_time(admin.set_memory(change)).await {
            Some(answer) => answer.map_err(|status| write_error(&status).into()),
            None => Err(Refusal::outcome_unknown("no answer came in time").into()),
        }
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

fn read<T>(answer: Option<Result<T, Status>>) -> Result<T, Error> {
    match answer {
        Some(answer) => answer.map_err(|status| read_error(&status).into()),
        None => Err(Refusal::new(Code::DeadlineExceeded, "no answer came in time").into()),
    }
}
