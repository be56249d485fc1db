//! What a cache may answer: the pure rules of the cache tier.
//!
//! A cache is never authoritative. An entry may be used only while its cluster's master vouches
//! for it, by a [`Mark`] in every cache node. The reader knows how old that is, because it
//! stores when it asked the master ([`Freshness`]). Clocks of two machines are never compared
//! (CACHE-MARK).
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
//! Round r' was started after T, and its commit index c was sampled then. So every key changed
//! before T was deleted from the node. A later fill was read after its lease was won, so it is
//! no older either. Hence a hit is at most `now − T` stale.
//!
//! Reading order: [`entry`] (what is stored), [`mark`] (what a master writes), [`freshness`] (the
//! reader's answers), [`verdict`] (whether an entry may answer a read), [`writer`] (when a master
//! writes a mark).

pub mod entry;
pub mod freshness;
pub mod mark;
pub mod verdict;
pub mod writer;

#[cfg(test)]
mod simulation;

pub use entry::{AbsentEntry, DecodeEntryError, ENTRY_LIFE, Entry, ValueEntry};
pub use freshness::{Freshness, MAX_ANSWERS, Vouched};
pub use mark::{DecodeMarkError, Mark};
pub use verdict::{ReadBound, Verdict, judge};
pub use writer::{MAX_PENDING_ROUNDS, MarkWriter, REDELIVERY_WINDOW};
