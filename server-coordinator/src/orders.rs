//! Operators' orders, on their way to the master of a cluster.
//!
//! An order is sent to a master at most once: until then it is retried while the cluster has no
//! master that answers. One whose answer is lost has an unknown outcome. Giving it again is
//! harmless.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use tierkv_rpc::{
    last_attempt,
    proto::{
        internal::orders_client::OrdersClient,
        status::detail,
        v1::{
            ChangeClusterRequest, ChangeClusterResponse, HandOverRequest, HandOverResponse,
            change_cluster_request::Change,
        },
    },
    tiers::{Peer, ToDataNode, inspect},
    within,
};
use tierkv_types::{ClusterId, Code, Error, NodeId};
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::{
    routes::Routes,
    routing::{Router, next_table},
};

/// Timeout of the question whether a master answers, before an order is sent to it.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

impl Router {
    /// Passes a change to the cluster's master.
    ///
    /// # Errors
    /// The master's refusal; `Unavailable` if none answers in time; `OutcomeUnknown`.
    pub(crate) async fn change_cluster(
        &self,
        order: ChangeClusterRequest,
        deadline: Instant,
    ) -> Result<ChangeClusterResponse, Error> {
        let cluster = ClusterId::new(&order.cluster)?;
        if let Some(Change::AddNode(added)) = &order.change {
            let node = NodeId::new(&added.node)?;
            check_free(&self.routes.borrow(), &cluster, &node)?;
        }
        self.order(&cluster, deadline, |master| {
            let order = order.clone();
            async move {
                let mut client = OrdersClient::new(master.channel());
                client.change_cluster(within(order, deadline)).await
            }
        })
        .await
    }

    /// Passes a handover to the cluster's master.
    ///
    /// # Errors
    /// As for [`Self::change_cluster`].
    pub(crate) async fn hand_over(
        &self,
        order: HandOverRequest,
        deadline: Instant,
    ) -> Result<HandOverResponse, Error> {
        let cluster = ClusterId::new(&order.cluster)?;
        self.order(&cluster, deadline, |master| {
            let order = order.clone();
            async move {
                let mut client = OrdersClient::new(master.channel());
                client.hand_over(within(order, deadline)).await
            }
        })
        .await
    }

    /// Sends an order to the cluster's master, and again while it certainly was not carried out.
    async fn order<T, F>(
        &self,
        cluster: &ClusterId,
        deadline: Instant,
        send: impl Fn(Peer<ToDataNode>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut routes = self.routes.clone();
        let last_attempt = last_attempt(deadline);
        loop {
            let table = Arc::clone(&routes.borrow_and_update());
            check_known(&table, cluster)?;
            let failure = match table.of_cluster(cluster) {
                // What is sent to a lost machine would have an unknown outcome.
                Ok(master) => match inspect(master.channel(), PROBE_TIMEOUT).await {
                    Ok(_) => match send(master).await {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) => detail(&status).ok_or_else(|| lost(&status))?,
                    },
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let ended = next_table(failure, &mut routes, last_attempt).await;
            ended.map_err(|error| without_key(error, cluster))?;
        }
    }
}

fn lost(status: &Status) -> Error {
    Error::outcome_unknown(format!(
        "the order was sent to the cluster's master and its answer never came ({}); `tierkv \
         status` shows the cluster, and giving the order again is harmless",
        status.message()
    ))
}

/// The error of an order that reached no master.
fn without_key(error: Error, cluster: &ClusterId) -> Error {
    match error.code {
        Code::Unavailable => Error::unavailable(format!(
            "cluster {cluster} has no master that answers; nothing was done. `tierkv status` shows \
             its nodes; try again once it has one"
        )),
        _ => error,
    }
}

/// Checks that the platform has the cluster.
fn check_known(routes: &Routes, cluster: &ClusterId) -> Result<(), Error> {
    // Before the first table nothing is known.
    if routes.clusters.contains_key(cluster) || routes.clusters.is_empty() {
        return Ok(());
    }
    let existing: Vec<&str> = routes.clusters.keys().map(ClusterId::as_str).collect();
    Err(Error::new(
        Code::NotFound,
        format!(
            "the platform has no cluster {cluster}; it has {}",
            existing.join(", ")
        ),
    ))
}

/// Checks that no other cluster has the node, and that no process runs under its name for another
/// one.
fn check_free(routes: &Routes, cluster: &ClusterId, node: &NodeId) -> Result<(), Error> {
    let others = routes.clusters.iter().filter(|(id, _)| *id != cluster);
    let having = others
        .filter(|(_, it)| it.state.has(node))
        .map(|(id, _)| id);
    let process = routes.nodes.get(node.as_str());
    let running = process.and_then(|it| it.presence.cluster.as_ref());
    let running = running.filter(|other| *other != cluster);
    let taken: BTreeSet<&ClusterId> = having.chain(running).collect();
    match taken.first() {
        None => Ok(()),
        Some(other) => Err(Error::new(
            Code::AlreadyExists,
            format!(
                "the node {node} belongs to cluster {other}; a node belongs to one cluster, so \
                 name another one"
            ),
        )),
    }
}
