//! The answer to `Inspect`: a data node's state.

use tierkv_coordination::directory::Presence;
use tierkv_rpc::proto::{convert, internal::InspectResponse, v1};
use tierkv_storage::MemoryLimits;
use tierkv_types::NodeRole;

use crate::service::Service;

impl Service {
    /// This node's log position, role and limits.
    pub(crate) fn inspect(&self) -> InspectResponse {
        let (last, commit, mastership) = self.sequencer.standing();
        let confirmed = self.sequencer.confirm(|_| ()).is_ok();
        let role = match (&mastership, confirmed) {
            (Some(_), true) => NodeRole::Master,
            (Some(_), false) => NodeRole::TakingOver,
            (None, _) => NodeRole::Starting,
        };
        InspectResponse {
            host: self.presence.host.clone(),
            pid: self.presence.pid,
            incarnation: self.presence.incarnation,
            log_id: self.storage.log_id().0,
            role: v1::NodeRole::from(role).into(),
            epoch: mastership.map_or(0, |term| term.epoch().0),
            log_index: last.index.0,
            commit_index: commit.0,
            age_ms: 0,
            memory: Some(in_force(*self.memory.borrow())),
        }
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
