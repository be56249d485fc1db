//! The cells `failover` and `handover`: how long a cluster of three acknowledges no write while its
//! mastership changes, and whether anything fails meanwhile.
//!
//! 64 tasks put and 64 tasks read (`CACHED`) through the SDK as fast as they can, all the time. The
//! platform is one of separate processes, with three data nodes and an etcd of three members. A round
//! begins when all three nodes are in sync. There is no peer. Reading order:
//! [`silence`] (the longest pause between two answers), [`clients`] (the tasks), [`change`] (one
//! round of either cell), [`figures`] (the figures of all rounds), [`failover`] and [`handover`]
//! (the two cells).

pub(crate) mod change;
pub(crate) mod clients;
pub(crate) mod failover;
pub(crate) mod figures;
pub(crate) mod handover;
pub(crate) mod silence;

use std::time::Duration;

use tierkv_harness::{SeparateTiers, TierSetup};
use tierkv_workload::Failure;

use crate::stage::{Settings, tiers};

/// Rounds of a cell.
pub(crate) const ROUNDS: u64 = 30;
/// Data nodes of the cluster.
const DATA_NODES: u16 = 3;
/// Members of the platform's etcd.
const ETCD_MEMBERS: usize = 3;
/// Timeout until all data nodes are in sync, after the platform's start and after a restart of one.
const IN_SYNC_LIMIT: Duration = Duration::from_secs(120);

/// A platform of three data nodes, with every record written once.
async fn loaded(settings: Settings, failover_ms: u32) -> Result<SeparateTiers, Failure> {
    let setup = TierSetup {
        data_nodes: DATA_NODES,
        etcd_members: ETCD_MEMBERS,
        failover_ms: Some(failover_ms),
        ..TierSetup::default()
    };
    tiers::loaded(setup, settings).await
}
