//! Operators' orders to a cluster: its nodes, its failover time, and handovers. They go down to the
//! cluster's master.

use std::{collections::BTreeMap, time::Duration};

use tierkv_cache::Cache;
use tierkv_coordination::directory::{CLIENT_COORDINATORS, Presence};
use tierkv_protocol::replication::{F_MS_BOUNDS, least_staleness};
use tierkv_rpc::{
    proto::{
        internal::{
            ProbeRequest, orders_client::OrdersClient,
            server_coordinator_client::ServerCoordinatorClient,
        },
        status::{read_error, write_error},
        v1::{
            ChangeClusterRequest, ChangeClusterResponse, HandOverRequest, HandOverResponse,
            SetFailover, change_cluster_request::Change,
        },
    },
    tiers::{Peer, ToServerCoordinator},
    within,
};
use tierkv_types::Error;
use tokio::time::{Instant, timeout};

use super::{Admin, PROBE_TIMEOUT};

impl<C: Cache> Admin<C> {
    /// Changes a cluster; the change is installed when this returns.
    ///
    /// # Errors
    /// The master's refusal; `Unavailable` if no tier answers in time; `OutcomeUnknown` if the answer
    /// was lost.
    pub(crate) async fn change_cluster(
        &self,
        order: ChangeClusterRequest,
        deadline: Instant,
    ) -> Result<ChangeClusterResponse, Error> {
        if let Some(Change::SetFailover(set)) = &order.change {
            self.check_failover(set).await?;
        }
        let order = &order;
        self.below
            .each(deadline, async |peer| {
                probe(&peer).await?;
                let mut client = OrdersClient::new(peer.channel());
                let changed = client.change_cluster(within(order.clone(), deadline)).await;
                changed.map_err(|status| write_error(&status))
            })
            .await
            .map(tonic::Response::into_inner)
    }

    /// Hands a cluster's mastership over; returns the new master.
    ///
    /// # Errors
    /// As for [`Self::change_cluster`].
    pub(crate) async fn hand_over(
        &self,
        order: HandOverRequest,
        deadline: Instant,
    ) -> Result<HandOverResponse, Error> {
        let order = &order;
        self.below
            .each(deadline, async |peer| {
                probe(&peer).await?;
                let mut client = OrdersClient::new(peer.channel());
                let handed_over = client.hand_over(within(order.clone(), deadline)).await;
                handed_over.map_err(|status| write_error(&status))
            })
            .await
            .map(tonic::Response::into_inner)
    }

    /// Checks a failover time against its bounds, and against the staleness bounds of all client
    /// coordinators: `CACHED` reads must outlast a failover (REP-TIMES).
    async fn check_failover(&self, set: &SetFailover) -> Result<(), Error> {
        let f_ms = set.failover_ms;
        if !F_MS_BOUNDS.contains(&f_ms) {
            return Err(Error::invalid(format!(
                "failover-ms is {f_ms}; it is at least {} and at most {}",
                F_MS_BOUNDS.start(),
                F_MS_BOUNDS.end()
            )));
        }
        let present = self.coordination.list(CLIENT_COORDINATORS).await?;
        let bounds = present.iter().filter_map(|(node, data)| {
            let bound = Presence::decode(data)?.max_staleness_ms?;
            Some((node.as_str(), Duration::from_millis(bound)))
        });
        let mut bounds: BTreeMap<&str, Duration> = bounds.collect();
        bounds.insert(&self.node, self.max_staleness);
        let least = least_staleness(f_ms);
        let too_low: Vec<String> = (bounds.iter())
            .filter(|(_, bound)| **bound < least)
            .map(|(node, bound)| format!("{node} ({} ms)", bound.as_millis()))
            .collect();
        match too_low.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "failover-ms {f_ms} needs reads.max_staleness_ms of at least {} on every client \
                 coordinator, so that reads outlast a failover; it is lower on {}. Raise it there \
                 and restart them, or choose a shorter failover-ms",
                least.as_millis(),
                too_low.join(", ")
            ))),
        }
    }
}

/// Checks that a server coordinator answers: what is sent to a lost one would have an unknown
/// outcome.
async fn probe(peer: &Peer<ToServerCoordinator>) -> Result<(), Error> {
    let mut client = ServerCoordinatorClient::new(peer.channel());
    match timeout(PROBE_TIMEOUT, client.probe(ProbeRequest {})).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(read_error(&status)),
        Err(_) => Err(Error::unavailable("the server coordinator does not answer")),
    }
}
