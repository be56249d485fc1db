//! [`Fold`]: the replicated state without its items, and the part that the store lacks.

use std::collections::BTreeMap;

use bytes::Bytes;
use tierkv_types::{Record, RequestId, Version};

use super::{
    effects::Effects,
    outcome::Outcome,
    progress::{Discontinuity, Progress},
    table::{Row, Table},
};

/// A record's effects, and the outcome of its request.
pub(crate) type Folded<'r, 'f> = (Effects<'r>, Option<&'f (RequestId, Outcome)>);

/// The state after records are applied one after the other. It has no items, as these are many:
/// the caller takes them from the [`Effects`].
#[derive(Debug)]
pub(crate) struct Fold {
    progress: Progress,
    unstored: Unstored,
}

/// The effects that the store does not have yet, without items.
#[derive(Debug, Default)]
pub(crate) struct Unstored {
    /// The version up to which tombstones are forgotten.
    pub(crate) forgotten: Option<Version>,
    /// Requests and their outcomes.
    pub(crate) outcomes: Vec<(RequestId, Outcome)>,
    /// The places that the outcomes take.
    pub(crate) outcome_places: usize,
    rows: BTreeMap<(Table, Bytes), Option<Bytes>>,
}

impl Fold {
    /// Continues from a store's progress.
    pub(crate) fn after(progress: Progress) -> Self {
        Self {
            progress,
            unstored: Unstored::default(),
        }
    }

    /// Applies the next record. Returns its effects, whose items the caller must apply, and its
    /// outcome.
    ///
    /// # Errors
    /// [`Discontinuity`] if it is not the next record; nothing is changed then.
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

    /// The progress after the last record.
    pub(crate) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The places of outcomes that the store does not have.
    pub(crate) const fn unstored_places(&self) -> usize {
        self.unstored.outcome_places
    }

    /// Returns what the store does not have yet, and counts it as stored.
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
