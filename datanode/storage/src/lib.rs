//! Commit log, memory tier, SQL store, checkpoint and recovery of a data node.
//!
//! ```text
//!   append ──► log (one thread: one write, one fsync a batch) ──► durable position
//!   apply  ──► memory: active ─freeze─► frozen ─checkpoint─► store (SQLite)
//!                                          └─ once stored ─► clean entries (evictable)
//!   get / load ◄── memory, then one batched store read
//! ```
//!
//! The log is the source of truth and the replication stream; the store is a checkpoint
//! of it; memory holds at least what the store does not have yet (I7). After a start, store
//! plus committed log is exactly the committed state before the crash.
//!
//! Reading order:
//!
//! - `state` (the effects of a record), [`Storage`] (the API);
//! - [`disk`] (all file access), `log` (segments and group commit), `node_state` (what must
//!   survive restarts: log id, promise, cluster state) and `stored_time` (platform time), both
//!   in a `small_file` that is replaced as a whole;
//! - `memory` (the memory tier), [`store`] (the SQL store), `core` (what they share);
//! - `rejoin` (what a replica and a joining node need of the log);
//! - `opening` and `recovery` (a start), `checkpoint`, `snapshot` (a consistent read of a
//!   range), `piece`, `node_snapshot` and `installation` (a whole node's state for another
//!   node), `repair` (when a start refuses and an operator decides), `set_aside` (when the cluster
//!   has the data elsewhere), `scrub`, `tail` (applied records for watchers).

mod blocking;
mod checkpoint;
mod core;
mod directory;
pub mod disk;
mod error;
mod failure;
mod installation;
mod item;
mod log;
mod memory;
mod meters;
mod node_snapshot;
mod node_state;
mod opening;
mod piece;
mod recovery;
mod rejoin;
mod repair;
mod report;
mod scrub;
mod set_aside;
mod settings;
mod small_file;
mod snapshot;
mod state;
#[cfg(any(test, feature = "conformance"))]
mod steps;
mod storage;
pub mod store;
mod stored_time;
mod tail;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::{
    directory::{check_platform, platform_of},
    disk::{Disk, RealDisk},
    error::StorageError,
    installation::Installation,
    item::{Entry, Item, Residence},
    log::{LogHold, LogRoom, Queued, TruncateError},
    meters::Waiting,
    node_snapshot::NodeSnapshot,
    piece::outcomes_in,
    recovery::Recovered,
    repair::{Finding, GivenUp, Problem, Repair, Repaired},
    report::StorageReport,
    scrub::Scrubbed,
    set_aside::{Unusable, set_aside},
    settings::{EvictionPolicy, MemoryLimits, StorageSettings, UnknownEvictionPolicy, WalSync},
    snapshot::Snapshot,
    state::{Appended, Effects, Existed, ItemHash, Outcome, Row, Table},
    storage::Storage,
    store::{ScrubbedRows, Store},
    tail::{Cursor, Stretch, Tail, TailError},
};

#[cfg(any(test, feature = "conformance"))]
pub use self::steps::Steps;

/// Locks `mutex`, also after a panic of a holder: each critical section here leaves its data
/// valid at every step, and a panic in production ends the process.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
