//! Decides whether an entry may answer a read (I6).

use std::time::Duration;

use tierkv_types::{BootTime, Slot, Version};

use super::{Entry, Freshness, Mark};

/// A reader's requirements on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBound {
    /// The largest staleness it accepts.
    pub max_age: Duration,
    /// The lowest version of the key it accepts; [`Version::ZERO`] for any.
    pub min_version: Version,
}

/// The use of an entry that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may answer the read.
    Hit {
        /// An upper bound of its staleness.
        age: Duration,
    },
    /// A miss: read from the data node, and don't fill, because no lease was won.
    Stale,
}

/// Judges an entry found in a cache node.
///
/// `mark`: the mark of the slot's cluster in the same node, read *before* the entry.
/// `slot_revision`: the revision in the key that was looked up. `cluster_clock`: the reader's
/// estimate of the cluster's clock ([`Freshness::cluster_clock`]).
#[must_use]
#[allow(clippy::too_many_arguments)] // Each is one input of the rule; a struct would only rename them.
pub fn judge(
    freshness: &Freshness,
    mark: Option<&Mark>,
    entry: &Entry,
    slot: Slot,
    slot_revision: u64,
    bound: &ReadBound,
    now: BootTime,
    cluster_clock: Version,
) -> Verdict {
    if entry.version() < bound.min_version || entry.is_over(cluster_clock) {
        return Verdict::Stale;
    }
    match mark.and_then(|mark| freshness.age(mark, now, slot, slot_revision)) {
        Some(age) if age <= bound.max_age => Verdict::Hit { age },
        _ => Verdict::Stale,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tierkv_types::{Epoch, Index, Round, SlotRun, SlotTable};

    use super::*;
    use crate::cache::{AbsentEntry, ENTRY_LIFE, ValueEntry, Vouched};

    const CLOCK: u64 = 1_000_000;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn verdict(entry: &Entry, max_age: u64, min_version: u64, marked: bool) -> Verdict {
        let all = SlotRun {
            first: 0,
            count: 4_096,
            revision: 1,
        };
        let mut freshness = Freshness::new();
        freshness.learn(Vouched {
            asked_at: at(100),
            epoch: Epoch(1),
            round: Round(1),
            clock: Version::from_millis(CLOCK),
            slots: Arc::new(SlotTable::from_runs(vec![all]).unwrap()),
        });
        let mark = Mark {
            epoch: Epoch(1),
            round: Round(2),
            index: Index(0),
        };
        let bound = ReadBound {
            max_age: Duration::from_millis(max_age),
            min_version: Version::from_bits(min_version),
        };
        judge(
            &freshness,
            marked.then_some(&mark),
            entry,
            Slot::new(9).unwrap(),
            1,
            &bound,
            at(300),
            Version::from_millis(CLOCK),
        )
    }

    fn value(version: u64, expires: Option<u64>, filled: u64) -> Entry {
        Entry::Value(ValueEntry {
            version: Version::from_bits(version),
            expires: expires.map(Version::from_millis),
            filled: Version::from_millis(filled),
            value: Bytes::new(),
        })
    }

    const HIT: Verdict = Verdict::Hit {
        age: Duration::from_millis(200),
    };

    #[test]
    fn a_hit_keeps_the_bound() {
        let entry = value(5, None, CLOCK);
        assert_eq!(verdict(&entry, 200, 0, true), HIT);
        assert_eq!(verdict(&entry, 199, 0, true), Verdict::Stale);
        assert_eq!(verdict(&entry, 200, 0, false), Verdict::Stale);
    }

    #[test]
    fn a_hit_keeps_min_version_also_for_absences() {
        let absent = Entry::Absent(AbsentEntry {
            version: Version::from_bits(5),
            filled: Version::from_millis(CLOCK),
        });
        for entry in [value(5, None, CLOCK), absent] {
            assert_eq!(verdict(&entry, 200, 5, true), HIT);
            assert_eq!(verdict(&entry, 200, 6, true), Verdict::Stale);
        }
    }

    #[test]
    fn expired_values_and_old_entries_are_misses() {
        assert_eq!(
            verdict(&value(5, Some(CLOCK), 0), 200, 0, true),
            Verdict::Stale
        );
        assert_eq!(
            verdict(&value(5, Some(CLOCK + 1), CLOCK), 200, 0, true),
            HIT
        );
        let life = u64::try_from(ENTRY_LIFE.as_millis()).unwrap();
        assert_eq!(verdict(&value(5, None, CLOCK - life), 200, 0, true), HIT);
        let old = value(5, None, CLOCK - life - 1);
        assert_eq!(verdict(&old, 200, 0, true), Verdict::Stale);
    }
}
