//! [`SlotTable`]: slots of one cluster, each with the revision at which it last moved.

use thiserror::Error;

use crate::slot::{SLOT_COUNT, Slot};

/// Neighbouring slots that last moved at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRun {
    /// The first slot.
    pub first: u16,
    /// The number of slots; at least 1.
    pub count: u16,
    /// The version of the placement map at which they last moved; at least 1.
    pub revision: u64,
}

/// Runs that make no valid table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlotTableError {
    /// A run has no slots.
    #[error("a run of slots is empty; leave it out")]
    EmptyRun,
    /// A run has no revision.
    #[error("a run of slots has revision 0; revisions begin with 1")]
    NoRevision,
    /// A run ends after the last slot.
    #[error("a run goes past slot 4095; check its first slot and count")]
    OutOfRange,
    /// A run begins before the previous one ends.
    #[error("two runs overlap or are out of order; send them by first slot")]
    Overlap,
}

/// The slots that a cluster owns, with the revision at which each last moved (CACHE-KEY).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTable {
    /// Ordered by first slot, disjoint, none empty.
    runs: Box<[SlotRun]>,
}

impl SlotTable {
    /// Checks runs from the wire or a disk.
    ///
    /// # Errors
    /// If a run is empty, has no revision, goes past the last slot, or overlaps the one before.
    pub fn from_runs(runs: Vec<SlotRun>) -> Result<Self, SlotTableError> {
        let mut free_from = 0_u32;
        for run in &runs {
            if run.count == 0 {
                return Err(SlotTableError::EmptyRun);
            }
            if run.revision == 0 {
                return Err(SlotTableError::NoRevision);
            }
            if u32::from(run.first) < free_from {
                return Err(SlotTableError::Overlap);
            }
            free_from = u32::from(run.first) + u32::from(run.count);
            if free_from > u32::from(SLOT_COUNT) {
                return Err(SlotTableError::OutOfRange);
            }
        }
        Ok(Self { runs: runs.into() })
    }

    /// The revision at which `slot` last moved, if the cluster owns it.
    #[must_use]
    pub fn revision_of(&self, slot: Slot) -> Option<u64> {
        let slot = slot.number();
        let behind = self.runs.partition_point(|run| run.first <= slot);
        let run = self.runs[..behind].last()?;
        (slot - run.first < run.count).then_some(run.revision)
    }

    /// For each slot the revision at which it last moved; 0: it is none of these slots.
    #[must_use]
    pub fn revisions(&self) -> Box<[u64]> {
        let mut revisions = vec![0; SLOT_COUNT.into()];
        for run in &self.runs {
            let first = usize::from(run.first);
            revisions[first..first + usize::from(run.count)].fill(run.revision);
        }
        revisions.into()
    }

    /// The runs, by first slot.
    #[must_use]
    pub fn runs(&self) -> &[SlotRun] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn run(first: u16, count: u16, revision: u64) -> SlotRun {
        SlotRun {
            first,
            count,
            revision,
        }
    }

    #[test]
    fn bad_runs_are_refused() {
        let table = |runs: &[SlotRun]| SlotTable::from_runs(runs.to_vec());
        assert_eq!(table(&[run(0, 0, 1)]), Err(SlotTableError::EmptyRun));
        assert_eq!(table(&[run(4_095, 2, 1)]), Err(SlotTableError::OutOfRange));
        assert_eq!(
            table(&[run(u16::MAX, u16::MAX, 1)]),
            Err(SlotTableError::OutOfRange)
        );
        assert_eq!(
            table(&[run(0, 2, 1), run(1, 1, 1)]),
            Err(SlotTableError::Overlap)
        );
        assert_eq!(table(&[run(0, 1, 0)]), Err(SlotTableError::NoRevision));
        assert!(table(&[]).is_ok());
        assert!(table(&[run(0, 4_096, 1)]).is_ok());
    }

    /// The runs of slots with their revisions.
    fn runs(owned: &BTreeMap<u16, u64>) -> Vec<SlotRun> {
        let mut runs: Vec<SlotRun> = Vec::new();
        for (&slot, &revision) in owned {
            match runs.last_mut() {
                Some(last) if last.revision == revision && last.first + last.count == slot => {
                    last.count += 1;
                }
                _ => runs.push(run(slot, 1, revision)),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn every_slot_is_found_again(
            owned in proptest::collection::btree_map(0_u16..64, 1_u64..3, 0..64)
        ) {
            let table = SlotTable::from_runs(runs(&owned)).unwrap();
            let revisions = table.revisions();
            for slot in Slot::all() {
                let revision = owned.get(&slot.number()).copied();
                prop_assert_eq!(table.revision_of(slot), revision);
                prop_assert_eq!(revisions[slot.index()], revision.unwrap_or_default());
            }
            prop_assert_eq!(SlotTable::from_runs(table.runs().to_vec()).unwrap(), table);
        }
    }
}
