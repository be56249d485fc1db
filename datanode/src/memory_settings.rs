//! Memory settings changed while running: a record in coordination, applied when it changes.
//!
//! A value in the record overrides the node's configuration, also after a restart, until an
//! operator resets it. For a value that is not in the record, the node's configuration holds.

use std::sync::Arc;

use tierkv_coordination::{
    Coordination, CoordinationError, Versioned, Watched,
    directory::{self, MemorySettings},
};
use tierkv_rpc::Follower;
use tierkv_storage::{MemoryLimits, Storage};
use tokio::sync::watch;

/// Applies the record of memory settings.
pub(crate) struct MemorySettingsFollower {
    record: Watched<Option<Versioned>>,
    storage: Arc<Storage>,
    own: MemoryLimits,
    in_force: watch::Sender<MemoryLimits>,
}

impl MemorySettingsFollower {
    /// Watches the record. `own`: the limits of the node's configuration.
    ///
    /// # Errors
    /// Those of the watch's first state.
    pub(crate) async fn watch(
        coordination: &dyn Coordination,
        storage: Arc<Storage>,
        own: MemoryLimits,
    ) -> Result<Self, CoordinationError> {
        Ok(Self {
            record: coordination.watch(directory::MEMORY_SETTINGS).await?,
            storage,
            own,
            in_force: watch::Sender::new(own),
        })
    }

    /// The limits that are in force.
    pub(crate) fn in_force(&self) -> watch::Receiver<MemoryLimits> {
        self.in_force.subscribe()
    }
}

impl Follower for MemorySettingsFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "memory settings"
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        self.record.changed().await
    }

    async fn apply(&mut self) {
        let record = self.record.current();
        let set = record.as_ref().as_ref();
        let limits = match set.map(|record| MemorySettings::decode(&record.value)) {
            None => Ok(self.own),
            Some(Ok(set)) => overridden(self.own, &set),
            Some(Err(why)) => Err(why),
        };
        let limits = match limits {
            Ok(limits) if limits == *self.in_force.borrow() => return,
            Ok(limits) => limits,
            Err(why) => {
                tracing::error!(why, "the memory settings are invalid, nothing was changed");
                return;
            }
        };
        let storage = Arc::clone(&self.storage);
        // Evicting and reordering millions of records takes a while.
        if tokio::task::spawn_blocking(move || storage.set_memory(limits))
            .await
            .is_ok()
        {
            tracing::info!(
                policy = %limits.policy,
                max_records = limits.max_records,
                max_bytes = limits.max_bytes,
                "memory settings changed"
            );
            self.in_force.send_replace(limits);
        }
    }
}

/// `own`, overridden by what is `set`.
fn overridden(own: MemoryLimits, set: &MemorySettings) -> Result<MemoryLimits, String> {
    let policy = set.policy.as_deref().map(str::parse).transpose();
    Ok(MemoryLimits {
        policy: policy
            .map_err(|error| format!("{error}"))?
            .unwrap_or(own.policy),
        max_records: (set.max_records).map_or(own.max_records, MemoryLimits::records_from),
        max_bytes: set.max_bytes.unwrap_or(own.max_bytes),
    })
}

#[cfg(test)]
mod tests {
    use tierkv_storage::EvictionPolicy;

    use super::*;

    #[test]
    fn what_is_set_wins_and_the_rest_stays_the_nodes_own() {
        let own = MemoryLimits {
            policy: EvictionPolicy::Lru,
            max_records: 7,
            max_bytes: 9,
        };
        let with = |set: MemorySettings| overridden(own, &set);
        assert_eq!(with(MemorySettings::default()), Ok(own));
        let set = MemorySettings {
            policy: Some("lfu".to_owned()),
            max_records: Some(0),
            max_bytes: None,
        };
        let wanted = MemoryLimits {
            policy: EvictionPolicy::Lfu,
            max_records: MemoryLimits::UNBOUNDED,
            max_bytes: 9,
        };
        assert_eq!(with(set), Ok(wanted));
        let unknown = MemorySettings {
            policy: Some("mru".to_owned()),
            ..MemorySettings::default()
        };
        assert!(with(unknown).unwrap_err().contains("mru"));
    }
}
