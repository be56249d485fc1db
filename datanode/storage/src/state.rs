//! The replicated state: what a log record means, said once.
//!
//! Every member of a cluster reads the same log and so comes to the same state. What a
//! record does to that state stands in this room and nowhere else:
//!
//! ```text
//!             ┌── Effects (what one record does) ──┐
//!   record ───┤                                    ├─ Fold ─► items, tombstones, outcomes,
//!             └── Progress (where the log stands) ─┘          rows of small tables
//! ```
//!
//! A fold is taken by whoever applies records: the running node, and a repair. A start reads
//! only frames of what the store has, so it takes their progress alone; and a sequencer
//! keeps what is not applied yet in an [`Appended`], from the same effects.
//!
//! Reading order: `effects` (one record), `progress` and `epochs` (position, clock), `fold`
//! (the two together, and what the store lacks of them), `appended` (what is not applied
//! yet), `outcome` and `requests` (what became of requests), `table` (the small tables),
//! `item_hash`.

mod appended;
mod effects;
mod epochs;
mod fold;
mod item_hash;
mod outcome;
mod progress;
mod requests;
mod table;

pub use self::{
    appended::Appended,
    effects::Effects,
    item_hash::ItemHash,
    outcome::{Existed, Outcome},
    table::{Row, Table},
};
pub(crate) use self::{
    epochs::{EpochTable, row as epoch_row},
    fold::{Fold, Unstored},
    progress::Progress,
    requests::{REQUEST_LIMIT, Requests},
};
