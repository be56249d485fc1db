//! The replicated state: what a log record means, said once.
//!
//! Every member of a cluster reads the same log and so comes to the same state. What a
//! record does to that state stands in this room and nowhere else:
//!
//! ```text
//!             ┌── Effects::of (what one record does) ──┐
//!   record ───┤                                        ├──► items, tombstones, outcomes,
//!             └── Progress (where the log stands) ─────┘    rows of small tables
//! ```
//!
//! Reading order: `effects` (one record), `progress` (position, clock, epochs), `fold` (the
//! two together, and what the store lacks of them), `appended` (what the records that are
//! not applied yet will do), `outcome` and `requests` (what became of requests), `table`
//! (the small tables), `item_hash`.

mod item_hash;
mod table;

pub use self::{
    item_hash::ItemHash,
    table::{Row, Table},
};
