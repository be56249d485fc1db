//! The replicated state: the effects of a log record, defined only here.
//!
//! Every member of a cluster applies the same log and so gets the same state. What a record does
//! to that state is defined in this module and nowhere else:
//!
//! ```text
//!             ┌── Effects (what one record does) ──┐
//!   record ───┤                                    ├─ Fold ─► items, tombstones, outcomes,
//!             └── Progress (where the log stands) ─┘          rows of small tables
//! ```
//!
//! The running node and a repair apply records with a [`Fold`]. A start reads only the headers
//! of records that the store has, so it follows only their [`Progress`]. A sequencer keeps the
//! effects of records that are not applied yet in an [`Appended`].
//!
//! Reading order: `effects` (one record), `progress` and `epochs` (position, clock), `fold`
//! (both, and what the store lacks of them), `appended` (records not applied yet), `outcome`,
//! `outcome_list` and `requests` (outcomes of requests), `table` (the small tables), `slots` (the
//! owned slots), `item_hash`.

mod appended;
mod effects;
mod epochs;
mod fold;
mod item_hash;
mod outcome;
mod outcome_list;
mod progress;
mod requests;
mod slots;
mod table;

pub use self::{
    appended::Appended,
    effects::Effects,
    item_hash::ItemHash,
    outcome::{Existed, Outcome},
    table::{Row, Table},
};
pub(crate) use self::{
    epochs::{from_rows as epochs_from_rows, row as epoch_row},
    fold::{Fold, Unstored},
    outcome_list::{decode_outcomes, encode_outcome},
    progress::Progress,
    requests::{REQUEST_LIMIT, Requests},
    slots::from_rows as slots_from_rows,
};
