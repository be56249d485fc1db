//! Operators' requests to the master of a cluster: changes of its members and settings, and
//! handovers (REP-HANDOVER).

use tierkv_protocol::replication::{Change, ChangeError, ClusterState, HandoverError};
use tierkv_rpc::proto::v1::{
    ChangeClusterRequest, ChangeClusterResponse, HandOverRequest, HandOverResponse,
    change_cluster_request as request,
};
use tierkv_types::{Code, Error, NodeId};
use tokio::time::{Instant, timeout_at};

use crate::service::Service;

impl Service {
    /// Changes the cluster's record; returns once the change is installed.
    ///
    /// # Errors
    /// `NotMaster` if another node is; `OutcomeUnknown` at the deadline; else why the change is
    /// refused, with what to do.
    pub(crate) async fn change_cluster(
        &self,
        order: ChangeClusterRequest,
        deadline: Instant,
    ) -> Result<ChangeClusterResponse, Error> {
        self.check_cluster(&order.cluster)?;
        let change = parsed(order.change)?;
        let before = self.record_as_master()?;
        let ordered = self.orders.change(change.clone());
        let result = timeout_at(deadline, ordered)
            .await
            .map_err(|_| unsettled())??;
        let changed = match result {
            // As wanted already.
            Err(ChangeError::IsMember) => false,
            Err(error) => return Err(refused(&change, error)),
            Ok(()) => match &change {
                Change::SetF(f_ms) => before.f_ms != *f_ms,
                Change::AddNode(_) | Change::RemoveNode(_) => true,
            },
        };
        let after = self.sequencer.look(|replica, _| replica.seen().cloned());
        let after = after.map_or(before, |seen| seen.state);
        let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect();
        Ok(ChangeClusterResponse {
            members: names(&after.members),
            learners: names(&after.learners),
            in_sync: (after.in_sync.iter())
                .map(|listed| listed.node.to_string())
                .collect(),
            failover_ms: after.f_ms,
            changed,
        })
    }

    /// Hands the mastership over; returns the new master.
    ///
    /// # Errors
    /// As for [`Self::change_cluster`]. The master goes on after any error but `OutcomeUnknown`.
    pub(crate) async fn hand_over(
        &self,
        order: HandOverRequest,
        deadline: Instant,
    ) -> Result<HandOverResponse, Error> {
        self.check_cluster(&order.cluster)?;
        let to = match order.to.as_str() {
            "" => None,
            name => Some(NodeId::new(name)?),
        };
        let record = self.record_as_master()?;
        if let Some(to) = &to {
            if *to == *self.node {
                return Ok(HandOverResponse {
                    master: to.to_string(),
                    changed: false,
                });
            }
            check_successor(&record, to)?;
        }
        let ordered = self.orders.hand_over(to, false);
        let result = timeout_at(deadline, ordered)
            .await
            .map_err(|_| unsettled())??;
        let master = result.map_err(given_up)?;
        Ok(HandOverResponse {
            master: master.to_string(),
            changed: true,
        })
    }

    fn check_cluster(&self, cluster: &str) -> Result<(), Error> {
        match cluster == self.cluster {
            true => Ok(()),
            false => Err(Error::new(
                Code::NotMaster,
                "this node belongs to another cluster",
            )),
        }
    }

    /// The cluster's record, if this node is its master.
    fn record_as_master(&self) -> Result<ClusterState, Error> {
        let record = self
            .sequencer
            .look(|replica, _| replica.mastership().map(|term| term.record().clone()));
        record.ok_or_else(|| Error::new(Code::NotMaster, ChangeError::NotMaster.to_string()))
    }
}

fn parsed(change: Option<request::Change>) -> Result<Change, Error> {
    match change {
        Some(request::Change::AddNode(added)) => Ok(Change::AddNode(NodeId::new(&added.node)?)),
        Some(request::Change::RemoveNode(removed)) => {
            Ok(Change::RemoveNode(NodeId::new(&removed.node)?))
        }
        Some(request::Change::SetFailover(set)) => Ok(Change::SetF(set.failover_ms)),
        None => Err(Error::invalid(
            "the request has no change; give add_node, remove_node or set_failover",
        )),
    }
}

/// The swap, or the handover, is not settled: coordination may not answer.
fn unsettled() -> Error {
    Error::outcome_unknown(
        "the master did not finish in time, and may do so later: coordination may be away. `tierkv \
         status` shows the cluster, and giving the order again is harmless",
    )
}

/// A refused change, in words and with a code for users.
fn refused(change: &Change, error: ChangeError) -> Error {
    let code = match error {
        ChangeError::IsMember => Code::AlreadyExists,
        ChangeError::NoMember => Code::NotFound,
        ChangeError::IsMaster | ChangeError::TooFewInSync => Code::ConditionFailed,
        ChangeError::TooManyMembers | ChangeError::TooManyChanges => Code::ResourceExhausted,
        ChangeError::FOutOfBounds => Code::InvalidArgument,
        ChangeError::NotMaster => Code::NotMaster,
    };
    let of = match change {
        Change::AddNode(node) | Change::RemoveNode(node) => format!("{node}: "),
        Change::SetF(f_ms) => format!("failover-ms {f_ms}: "),
    };
    Error::new(code, format!("{of}{error}"))
}

/// Checks that a node may become master by the cluster's record.
fn check_successor(record: &ClusterState, to: &NodeId) -> Result<(), Error> {
    if !record.has(to) {
        return Err(Error::new(
            Code::NotFound,
            format!("{to}: {}", ChangeError::NoMember),
        ));
    }
    match record.in_sync.iter().any(|listed| listed.node == *to) {
        true => Ok(()),
        false => Err(Error::new(
            Code::ConditionFailed,
            format!(
                "{to} is not in sync, so it can't become master; wait until `tierkv status` shows \
                 it as a replica, or leave out the node"
            ),
        )),
    }
}

/// A handover that was given up, in words and with a code for users.
fn given_up(error: HandoverError) -> Error {
    let code = match error {
        HandoverError::NotMaster => Code::NotMaster,
        HandoverError::UnderWay => Code::Conflict,
        HandoverError::NoSuccessor | HandoverError::TooSlow | HandoverError::NotInstalled => {
            Code::ConditionFailed
        }
    };
    Error::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_a_node_in_sync() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let listed = tierkv_protocol::replication::Listed {
            node: node("n1"),
            log_id: tierkv_types::LogId(7),
        };
        let members = vec![node("n1"), node("n2")];
        let epoch = tierkv_types::Epoch(3);
        let record = ClusterState::new(epoch, node("n1"), vec![listed], members);
        assert!(check_successor(&record, &node("n1")).is_ok());
        let behind = check_successor(&record, &node("n2")).unwrap_err();
        assert_eq!(behind.code, Code::ConditionFailed);
        let unknown = check_successor(&record, &node("n9")).unwrap_err();
        assert_eq!(unknown.code, Code::NotFound);
    }

    #[test]
    fn only_a_master_that_lost_its_office_is_asked_elsewhere() {
        for error in [
            ChangeError::NoMember,
            ChangeError::IsMaster,
            ChangeError::TooFewInSync,
            ChangeError::TooManyMembers,
            ChangeError::FOutOfBounds,
            ChangeError::TooManyChanges,
        ] {
            let refusal = refused(&Change::SetF(1), error);
            assert!(!refusal.code.is_misrouted(), "{refusal}");
            // A retry of its own would repeat the pause of writers.
            assert_ne!(refusal.code, Code::Unavailable, "{refusal}");
        }
        let lost = refused(&Change::SetF(1), ChangeError::NotMaster);
        assert!(lost.code.is_misrouted());
    }
}
