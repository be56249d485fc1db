//! [`Progress`]: the position, clock and epochs after a run of records.

use std::fmt;

use tierkv_types::{EpochTable, Position, Version};

use super::{epochs, table::Row};
use crate::Cursor;

/// A run of records: its last position, the clock, and the epochs seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) position: Position,
    /// The version of the last record, or a higher one that was seen before.
    pub(crate) clock: Version,
    pub(crate) epochs: EpochTable,
}

/// A record that can't be the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discontinuity {
    /// It leaves a gap, has the index of an earlier record, or is of an earlier epoch.
    Position { last: Position, next: Position },
    /// Its version is not above the one before (I5).
    Version { next: Position },
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { last, next } => {
                write!(f, "record {next} does not continue {last}")
            }
            Self::Version { next } => write!(
                f,
                "I5: the version of record {next} is not above the one before"
            ),
        }
    }
}

impl Progress {
    /// The place after the last record.
    pub(crate) const fn cursor(&self) -> Cursor {
        Cursor {
            position: self.position,
            version: self.clock,
        }
    }

    /// Advances by the next record. Returns the row of its epoch, if the epoch begins with it.
    ///
    /// # Errors
    /// [`Discontinuity`]; nothing is changed then.
    pub(crate) fn advance(
        &mut self,
        next: Position,
        version: Version,
    ) -> Result<Option<Row>, Discontinuity> {
        let last = self.position;
        if next.index != last.index.next() || next.epoch < last.epoch {
            return Err(Discontinuity::Position { last, next });
        }
        if version <= self.clock {
            return Err(Discontinuity::Version { next });
        }
        let begins = next.epoch > last.epoch;
        if begins && self.epochs.begin(next.epoch, next.index).is_err() {
            return Err(Discontinuity::Position { last, next });
        }
        let row = begins.then(|| epochs::row(next.epoch, next.index));
        (self.position, self.clock) = (next, version);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::{Epoch, Index};

    use super::*;

    fn at(epoch: u64, index: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    #[test]
    fn only_the_next_record_is_taken_in() {
        let mut progress = Progress::default();
        let version = Version::from_bits;
        assert!(progress.advance(at(2, 1), version(5)).unwrap().is_some());
        assert!(progress.advance(at(2, 2), version(6)).unwrap().is_none());
        for (position, bits) in [
            (at(2, 2), 7),
            (at(2, 4), 7),
            (at(1, 3), 7),
            (at(2, 3), 6),
            (at(3, 3), 5),
        ] {
            let before = progress.clone();
            assert!(progress.advance(position, version(bits)).is_err());
            assert_eq!(progress, before);
        }
        let row = progress.advance(at(4, 3), version(7)).unwrap().unwrap();
        assert_eq!(
            epochs::from_rows(&[row]).unwrap().last(),
            Some((Epoch(4), Index(3)))
        );
        let epochs: Vec<_> = progress.epochs.iter().collect();
        assert_eq!(epochs, [(Epoch(2), Index(1)), (Epoch(4), Index(3))]);
        assert_eq!(progress.epochs.of(Index(2)), Some(Epoch(2)));
        assert_eq!(progress.epochs.of(Index(0)), None);
    }
}
