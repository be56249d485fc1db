//! The transfer of a master's whole state to a node that joins the cluster (REP-JOIN).
//!
//! ```text
//!  the master                                        the joining node
//!  ──────────                                        ────────────────
//!  source ── header, pieces, log, end ── gRPC ─────► receiver ──► Installation
//!    │
//!  joiners: a hold on the log for each node,
//!           until its own log is in sync
//! ```
//!
//! Reading order: `log_bytes` (records as a stream of bytes), `digest`, then on the master's side
//! `joiners`, `source` and `damage`, and `receiver` on the other. `snapshot_door` is the gRPC service.

mod damage;
mod digest;
mod joiners;
mod log_bytes;
mod receiver;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    damage::Relief,
    joiners::{Joiners, JoinersWorker},
    receiver::{Installed, ReceiveError, Target, Transfer, UNLOCK_PATIENCE, UNLOCK_PAUSE, called},
    source::SnapshotSource,
};

/// Bytes of a piece of the state, and of a part of the log. A larger entry comes alone.
const PART_BYTES: usize = 1 << 20;
