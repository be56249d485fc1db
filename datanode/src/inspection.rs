//! The answer to `Inspect`: a data node's state.

use tierkv_coordination::directory::Presence;
use tierkv_protocol::replication::Seen;
use tierkv_rpc::proto::{convert, internal::InspectResponse, v1};
use tierkv_storage::MemoryLimits;
use tierkv_types::NodeRole;

use crate::service::Service;

impl Service {
    /// This node's log position, role and limits.
    pub(crate) fn inspect(&self) -> InspectResponse {
        let log_id = self.storage.log_id().0;
        let memory = Some(in_force(*self.memory.borrow()));
        self.sequencer.look(|replica, now| {
            let age = replica.fresh_since(now).map(|since| now.since(since));
            let follows = replica.master(now).map(|process| process.node.to_string());
            let seen = replica.seen().filter(|_| replica.is_waiting());
            InspectResponse {
                host: self.presence.host.clone(),
                pid: self.presence.pid,
                incarnation: self.presence.incarnation,
                log_id,
                role: v1::NodeRole::from(replica.role(now)).into(),
                epoch: replica.mastership().map_or(0, |term| term.epoch().0),
                log_epoch: replica.last().epoch.0,
                log_index: replica.last().index.0,
                commit_index: replica.commit().0,
                age_ms: age.map(convert::age_ms),
                memory,
                follows: follows.unwrap_or_default(),
                awaits_newer_than: seen.map(Seen::encode).unwrap_or_default(),
                awaits_epoch_above: match replica.is_waiting() {
                    true => replica.highest_seen().0,
                    false => 0,
                },
            }
        })
    }
}

/// The state of a node without an engine, while it installs a snapshot.
pub(crate) fn without_engine(presence: &Presence) -> InspectResponse {
    InspectResponse {
        host: presence.host.clone(),
        pid: presence.pid,
        incarnation: presence.incarnation,
        role: v1::NodeRole::from(NodeRole::Joining).into(),
        ..InspectResponse::default()
    }
}

/// The memory limits in force, as a wire message.
fn in_force(limits: MemoryLimits) -> v1::MemoryLimits {
    let policy = convert::policy(&limits.policy.to_string());
    v1::MemoryLimits {
        policy: policy.unwrap_or_default().into(),
        max_records: limits.said_records(),
        max_bytes: limits.max_bytes,
    }
}
