//! Whether reads that may be stale say truly how stale they are.
//!
//! A read that was sent at one moment with an answer of some age must show every write of its key
//! that was acknowledged before that moment minus that age, whoever answered. So must every read
//! for the bound that the platform promises, whatever age it says.

use std::{collections::BTreeMap, time::Duration};

use tierkv::Source;

/// The bound of reads that ask for no other: the default of `reads.max_staleness_ms`.
pub const MAX_STALENESS: Duration = Duration::from_secs(5);

/// The answer of a read that may be stale; times in nanoseconds since the record began.
#[derive(Clone, Copy, Debug)]
pub struct BoundedRead {
    /// When it was sent.
    pub sent: i64,
    /// The age in the answer.
    pub age: Duration,
    /// The version in the answer; `None` if the key was absent.
    pub version: Option<u64>,
    /// The tier that answered.
    pub source: Source,
}

/// The acknowledged writes of one key.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// By when they were answered: the highest version that was acknowledged until then.
    highest: BTreeMap<i64, u64>,
}

impl Acknowledged {
    /// Takes the writes as pairs of when they were answered and their version.
    #[must_use]
    pub fn new(writes: &[(i64, u64)]) -> Self {
        let mut writes = Vec::from(writes);
        writes.sort_unstable();
        let mut highest = 0;
        let grown = writes.iter().map(|(answered, version)| {
            highest = highest.max(*version);
            (*answered, highest)
        });
        Self {
            highest: grown.collect(),
        }
    }

    /// Checks one read.
    ///
    /// # Errors
    /// What is wrong with its answer, in words.
    pub fn check(&self, read: &BoundedRead) -> Result<(), String> {
        if read.age > MAX_STALENESS {
            return Err(format!("is older than {MAX_STALENESS:?}: {read:?}"));
        }
        let as_of = read.sent.saturating_sub(nanos(read.age));
        let before = self.highest.range(..as_of).next_back();
        match before {
            Some((answered, version)) if read.version.is_none_or(|read| read < *version) => {
                let older = Duration::from_nanos(read.sent.abs_diff(*answered));
                Err(format!(
                    "has an age of {:?}, but lacks version {version}, which was acknowledged \
                     {older:?} before it was sent: {read:?}",
                    read.age
                ))
            }
            _ => Ok(()),
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn read(sent_ms: i64, age_ms: u64, version: Option<u64>) -> BoundedRead {
        BoundedRead {
            sent: sent_ms * MS,
            age: Duration::from_millis(age_ms),
            version,
            source: Source::Replica,
        }
    }

    #[test]
    fn an_age_below_the_truth_is_found() {
        // Answers may come in another order than versions.
        let writes = Acknowledged::new(&[(300 * MS, 6), (200 * MS, 7), (100 * MS, 5)]);
        for sound in [
            read(50, 0, None),
            read(150, 60, None),
            read(150, 0, Some(5)),
            read(250, 60, Some(5)),
            read(250, 0, Some(7)),
            read(400, 0, Some(8)),
        ] {
            assert_eq!(writes.check(&sound), Ok(()), "{sound:?}");
        }
        for broken in [
            read(150, 0, None),
            read(150, 49, None),
            read(250, 49, Some(5)),
            read(350, 0, Some(6)),
            read(6_000, 5_001, Some(7)),
        ] {
            assert!(writes.check(&broken).is_err(), "{broken:?}");
        }
    }
}
