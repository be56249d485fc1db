//! Records what clients saw of some keys, and checks the record with a known checker.
//!
//! Writers and readers use a few keys at the same time; every operation is recorded with when it
//! was sent and when it was answered. A write of unknown outcome may take effect at any later time,
//! or never. Per key, the record must be linearizable (checked by `porcupine-rs`, the algorithm of
//! Wing, Gong and Lowe): so no acknowledged write is lost and no `LATEST` read is stale. A session
//! never reads behind its own write, no increment is applied twice, and an answer that may be stale
//! says truly how stale it is ([`crate::freshness`]). The writers and readers are a [`Workload`].

mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

pub use self::workload::{Totals, Workload};
use crate::freshness::{Acknowledged, BoundedRead};

/// Time that the checker may take for one key.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// An operation on one key, with what its client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This value was written, or may have been.
    Written(u64),
    /// This value was read; `None`: the key was absent.
    Read(Option<u64>),
}

/// A register that holds a value or none.
#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = Seen;
    type Metadata = ();

    fn init() -> Option<u64> {
        None
    }

    fn step(state: &Option<u64>, operation: &Seen) -> (bool, Option<u64>) {
        match operation {
            Seen::Written(value) => (true, Some(*value)),
            Seen::Read(value) => (value == state, *state),
        }
    }
}

/// One recorded operation; times in nanoseconds since the record began.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// When it was sent.
    pub sent: i64,
    /// When it was answered; `i64::MAX`: its outcome is unknown.
    pub answered: i64,
    /// What was seen.
    pub seen: Seen,
}

/// Everything that was recorded of one round.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<usize, Vec<Recorded>>,
    /// By key: when writes were acknowledged, and their versions.
    acknowledged: BTreeMap<usize, Vec<(i64, u64)>>,
    /// By key: `CACHED` reads.
    bounded: BTreeMap<usize, Vec<BoundedRead>>,
    counters: BTreeMap<usize, Counter>,
    /// Promises that were broken at once.
    broken: Vec<String>,
    /// Failures by code, for people.
    failures: BTreeMap<String, usize>,
}

impl History {
    /// Checks everything that was recorded.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn check(&self) -> Result<(), String> {
        if let Some(broken) = self.broken.first() {
            return Err(broken.clone());
        }
        for (key, recorded) in &self.keys {
            let operations: Vec<Operation<Register>> = (recorded.iter())
                .map(|operation| Operation {
                    client_id: None,
                    call_time: operation.sent,
                    return_time: operation.answered,
                    op: operation.seen,
                    metadata: None,
                })
                .collect();
            match check_operations_timeout(&operations, CHECK_TIME) {
                CheckResult::Ok => {}
                CheckResult::Illegal => {
                    return Err(format!("key {key} is not linearizable: {recorded:?}"));
                }
                CheckResult::Unknown => {
                    return Err(format!(
                        "key {key} could not be checked within {CHECK_TIME:?}: {} operations",
                        recorded.len()
                    ));
                }
            }
        }
        for (key, reads) in &self.bounded {
            let writes = self.acknowledged.get(key).map_or(&[][..], Vec::as_slice);
            let writes = Acknowledged::new(writes);
            let checked = reads.iter().try_for_each(|read| writes.check(read));
            checked.map_err(|broken| format!("a read of key {key} {broken}"))?;
        }
        for (key, counter) in &self.counters {
            counter
                .check()
                .map_err(|broken| format!("counter {key} {broken}"))?;
        }
        Ok(())
    }

    /// Failures by code.
    #[must_use]
    pub const fn failures(&self) -> &BTreeMap<String, usize> {
        &self.failures
    }
}

/// The increments by 1 of one counter.
#[derive(Clone, Debug, Default)]
struct Counter {
    /// The answers of those that were acknowledged.
    answers: Vec<i64>,
    /// How many have an unknown outcome.
    unknown: usize,
    /// What the counter held at the end.
    end: i64,
}

impl Counter {
    /// Each acknowledged increment has an answer of its own, and the numbers that are left out, up
    /// to the counter's end, are those of increments of unknown outcome.
    fn check(&self) -> Result<(), String> {
        let Self {
            answers,
            unknown,
            end,
        } = self;
        let distinct: BTreeSet<i64> = answers.iter().copied().collect();
        if distinct.len() != answers.len() {
            return Err("has two increments with the same answer".to_owned());
        }
        let highest = distinct.last().copied().unwrap_or(0);
        if *end < highest {
            return Err(format!(
                "reached {highest}, but ends at {end}: a write was lost"
            ));
        }
        let count = usize::try_from(*end).unwrap_or(0);
        if count - answers.len() > *unknown {
            return Err(format!(
                "ends at {end} after {} acknowledged increments and {unknown} of unknown outcome: \
                 one was applied twice",
                answers.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operations: &[(i64, i64, Seen)]) -> History {
        let recorded = operations.iter().map(|(sent, answered, seen)| Recorded {
            sent: *sent,
            answered: *answered,
            seen: *seen,
        });
        History {
            keys: BTreeMap::from([(1, recorded.collect())]),
            ..History::default()
        }
    }

    #[test]
    fn a_lost_write_and_a_stale_read_are_found() {
        use Seen::{Read, Written};
        let sound = of(&[
            (0, 1, Read(None)),
            (2, 3, Written(1)),
            (4, i64::MAX, Written(2)),
            (5, 6, Read(Some(1))),
            (7, 8, Read(Some(2))),
        ]);
        assert_eq!(sound.check(), Ok(()));
        let lost = of(&[(0, 1, Written(1)), (2, 3, Read(None))]);
        assert!(lost.check().is_err());
        let stale = of(&[
            (0, 1, Written(1)),
            (2, 3, Written(2)),
            (4, 5, Read(Some(1))),
        ]);
        assert!(stale.check().is_err());
        // What was read once stays: the write of unknown outcome took effect.
        let undone = of(&[
            (0, 1, Written(1)),
            (2, i64::MAX, Written(2)),
            (3, 4, Read(Some(2))),
            (5, 6, Read(Some(1))),
        ]);
        assert!(undone.check().is_err());
    }

    #[test]
    fn an_increment_that_is_lost_or_applied_twice_is_found() {
        let check = |answers: &[i64], unknown, end| {
            let answers = answers.to_vec();
            Counter {
                answers,
                unknown,
                end,
            }
            .check()
        };
        assert!(check(&[1, 2, 4], 1, 4).is_ok());
        assert!(check(&[1, 2, 4], 1, 5).is_err());
        assert!(check(&[1, 2, 4], 2, 5).is_ok());
        assert!(check(&[1, 2, 4], 0, 4).is_err());
        assert!(check(&[1, 2, 2], 5, 2).is_err());
        assert!(check(&[1, 2, 3], 5, 2).is_err());
        assert!(check(&[], 3, 0).is_ok());
    }

    #[test]
    fn an_age_that_is_too_low_is_found() {
        let mut history = of(&[(0, 10, Seen::Written(1))]);
        history.acknowledged.insert(1, vec![(10, 100)]);
        let read = |sent, age_ns| BoundedRead {
            sent,
            age: Duration::from_nanos(age_ns),
            version: None,
            source: tierkv::Source::Replica,
        };
        history.bounded.insert(1, vec![read(30, 20)]);
        assert_eq!(history.check(), Ok(()));
        history.bounded.insert(1, vec![read(30, 19)]);
        assert!(history.check().is_err());
    }
}
