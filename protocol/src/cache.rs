//! What a cache may answer: the pure rules of the cache tier.
//!
//! A cache is never authoritative. An entry counts only as long as its cluster's master
//! says so, which it does by a [`Mark`] in every cache node, and the reader knows how old
//! that word is because it remembers when it asked the master ([`Freshness`]). No clocks
//! of two machines are ever compared (CACHE-MARK).
//!
//! ```text
//!  reader                        master                      cache node
//!    │── question, sent at T ─────►│                              │
//!    │◄── (epoch, round r, slots) ─│                              │
//!    │                             │── deletes up to commit c ───►│
//!    │                             │   round r' > r vouched at c  │
//!    │                             │── mark (epoch, r', c) ──────►│
//!    │── lookup: first the mark, then the entry ─────────────────►│
//!    │   mark.epoch = epoch, mark.round > r  ⇒  age = now − T     │
//! ```
//!
//! Round r' was started after T and its commit index was sampled then, so everything
//! committed before T is deleted from the node; what was filled since was read after its
//! lease was won, so it is no older either. Hence a hit is at most `now − T` stale.
//!
//! Reading order: [`entry`] (what is stored), [`mark`] (the master's word), [`slots`]
//! (what a cluster owns), [`freshness`] (what a reader remembers), [`verdict`] (whether an
//! entry counts), [`writer`] (when a master writes a mark).

pub mod entry;
pub mod freshness;
pub mod mark;
pub mod slots;
pub mod verdict;
pub mod writer;

#[cfg(test)]
mod simulation;

pub use entry::{AbsentEntry, DecodeEntryError, ENTRY_LIFE, Entry, ValueEntry};
pub use freshness::{Freshness, MAX_ANSWERS, Vouched};
pub use mark::{DecodeMarkError, Mark};
pub use slots::{OwnedRun, SlotTable, SlotTableError};
pub use verdict::{ReadBound, Verdict, judge};
pub use writer::{MAX_PENDING_ROUNDS, MarkWriter, REDELIVERY_WINDOW};
