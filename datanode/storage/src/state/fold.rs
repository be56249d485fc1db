//! Record by record: the replicated state but for its items, and what the store lacks of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use tierkv_types::{Record, RequestId, Version};

use super::{
    effects::Effects,
    outcome::Outcome,
    progress::{Discontinuity, Progress},
    table::{Row, Table},
};

/// What a record did, and the outcome of the request that it applies.
pub(crate) type Folded<'r, 'f> = (Effects<'r>, Option<&'f (RequestId, Outcome)>);

/// The state that records make when they are taken in one after the other. Items go
/// elsewhere, for they are many: whoever folds takes them from the [`Effects`].
#[derive(Debug)]
pub(crate) struct Fold {
    progress: Progress,
    unstored: Unstored,
}

/// What records did that the store does not have yet, beside their items.
#[derive(Debug, Default)]
pub(crate) struct Unstored {
    /// Up to where tombstones are forgotten.
    pub(crate) forgotten: Option<Version>,
    /// What requests were answered.
    pub(crate) outcomes: Vec<(RequestId, Outcome)>,
    /// Places that these take.
    pub(crate) outcome_places: usize,
    rows: BTreeMap<(Table, Bytes), Option<Bytes>>,
}

impl Fold {
    /// Goes on from where a store stands.
    pub(crate) fn after(progress: Progress) -> Self {
        Self {
            progress,
            unstored: Unstored::default(),
        }
    }

    /// Takes in the next record; answers its effects, of which the items are still to be
    /// taken in by the caller, and its outcome.
    ///
    /// # Errors
    /// [`Discontinuity`] if it is not the next one, and nothing was taken in.
    pub(crate) fn take<'r>(&mut self, record: &'r Record) -> Result<Folded<'r, '_>, Discontinuity> {
        let epoch = self.progress.advance(record.position, record.version)?;
        let mut effects = Effects::of(record);
        let rows = epoch.into_iter().chain(std::mem::take(&mut effects.rows));
        let unstored = &mut self.unstored;
        for Row { table, key, value } in rows {
            unstored.rows.insert((table, key), value);
        }
        unstored.forgotten = unstored.forgotten.max(effects.forgotten);
        let outcome = effects.outcome();
        let has_outcome = outcome.is_some();
        if let Some((id, outcome)) = outcome {
            unstored.outcome_places += outcome.places();
            unstored.outcomes.push((id, outcome));
        }
        let outcome = unstored.outcomes.last().filter(|_| has_outcome);
        Ok((effects, outcome))
    }

    /// Up to where records were taken in.
    pub(crate) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Places that outcomes take which the store does not have.
    pub(crate) const fn unstored_places(&self) -> usize {
        self.unstored.outcome_places
    }

    /// Hands out what the store does not have yet, and counts it as stored.
    pub(crate) fn take_unstored(&mut self) -> Unstored {
        std::mem::take(&mut self.unstored)
    }
}

impl Unstored {
    /// The last change of each row.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let rows = self.rows.iter().map(|((table, key), value)| Row {
            table: *table,
            key: key.clone(),
            value: value.clone(),
        });
        rows.collect()
    }
}
