//! [`OwnLog`]: the machine's view of its node's log.

use std::{sync::Arc, time::Duration};

use tierkv_types::{Epoch, EpochTable, Index, LogId, Position, Record};

/// Epochs that one message names of a log that differs; more are named after further messages.
const EPOCHS_A_MESSAGE: usize = 32;

/// The log of one node: what is appended, durable, committed and applied.
#[derive(Clone, Debug)]
pub(super) struct OwnLog {
    pub(super) id: LogId,
    epochs: EpochTable,
    last: Position,
    durable: Index,
    pub(super) commit: Index,
    /// Up to here the driver has commands to apply; at the start, what the store has.
    announced: Index,
    pub(super) applied: Index,
    /// Up to here the log is that of the epoch's master (REP-APPLY); zero in a new epoch.
    pub(super) matched: Index,
    /// The position after which the log is being cut.
    cutting: Option<Position>,
    /// How long records have waited without one becoming durable.
    waited: Duration,
}

/// The effect of a master's records on a log.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Records to append.
    pub(super) fresh: Vec<Arc<Record>>,
    /// The position after which to cut the log before.
    pub(super) cut: Option<Position>,
    /// The records contradict applied ones: this log is of another history.
    pub(super) contradicts: bool,
}

impl OwnLog {
    /// The log that a node found on its disk, all of it durable.
    pub(super) fn found(
        id: LogId,
        epochs: EpochTable,
        last: Position,
        commit: Index,
        applied: Index,
    ) -> Self {
        assert!(
            commit <= last.index,
            "the commit index is after the log's end"
        );
        Self {
            id,
            epochs,
            last,
            durable: last.index,
            commit,
            announced: applied,
            applied,
            matched: Index::ZERO,
            cutting: None,
            waited: Duration::ZERO,
        }
    }

    pub(super) const fn last(&self) -> Position {
        self.last
    }

    pub(super) const fn durable(&self) -> Index {
        self.durable
    }

    /// Up to here a replica acknowledges its log.
    pub(super) fn acknowledged(&self) -> Index {
        self.durable.min(self.matched)
    }

    /// The index up to which the driver may apply now, if that is new: everything committed up to
    /// `limit`.
    pub(super) fn announce(&mut self, limit: Index) -> Option<Index> {
        let index = self.commit.min(limit);
        let is_more = index > self.announced;
        self.announced = self.announced.max(index);
        is_more.then_some(index)
    }

    /// Whether the record is in the log. Every log begins at the default position.
    pub(super) fn has(&self, position: Position) -> bool {
        position.index <= self.last.index && self.epochs.position(position.index) == position
    }

    /// The position of a record of this log.
    pub(super) fn position(&self, index: Index) -> Position {
        self.epochs.position(index.min(self.last.index))
    }

    /// Adds the next record.
    pub(super) fn append(&mut self, position: Position) {
        assert!(
            position.index == self.last.index.next() && position.epoch >= self.last.epoch,
            "record {position} does not follow {}",
            self.last
        );
        if position.epoch > self.last.epoch {
            let begun = self.epochs.begin(position.epoch, position.index);
            assert!(begun.is_ok(), "epoch {} is out of order", position.epoch);
        }
        self.last = position;
    }

    /// Removes all records after `last`.
    pub(super) fn truncate(&mut self, last: Position) {
        assert!(
            self.has(last) && last.index >= self.applied,
            "REP-APPLY: an applied record is cut: the log ends at {last}, {} is applied",
            self.applied
        );
        self.epochs.truncate(last.index);
        self.last = last;
        self.durable = self.durable.min(last.index);
        self.matched = self.matched.min(last.index);
        self.waited = Duration::ZERO;
    }

    /// Records that the log is durable up to a position. One that was cut meanwhile counts for
    /// nothing.
    pub(super) fn is_durable(&mut self, position: Position) {
        if self.has(position) && position.index > self.durable {
            self.durable = position.index;
            self.waited = Duration::ZERO;
        }
    }

    /// A heartbeat has passed, the time between two of which is `interval`. Waiting is counted in
    /// heartbeats, so that a process that was paused does not take the pause for a disk that hangs.
    pub(super) fn heartbeat(&mut self, interval: Duration) {
        self.waited = match self.durable < self.last.index {
            true => self.waited.saturating_add(interval),
            false => Duration::ZERO,
        };
    }

    /// How long records have waited without one becoming durable; zero if none waits.
    pub(super) const fn waited(&self) -> Duration {
        self.waited
    }

    /// Records that the cut under way is done.
    pub(super) fn is_cut(&mut self, position: Position) {
        if self.cutting == Some(position) {
            self.cutting = None;
        }
    }

    /// Whether a cut is under way; no records are taken meanwhile.
    pub(super) const fn is_cutting(&self) -> bool {
        self.cutting.is_some()
    }

    /// Takes a master's records, the first of which follows `prev`, a record of this log. What the
    /// log has already is skipped; where it has other records, it is cut (REP-JOIN).
    pub(super) fn receive(
        &mut self,
        prev: Position,
        records: &[Arc<Record>],
        cuts: bool,
    ) -> Received {
        let mut received = Received::default();
        let mut end = prev;
        for record in records {
            let position = record.position;
            assert!(
                position.index == end.index.next() && position.epoch >= end.epoch,
                "a message has record {position} after {end}"
            );
            if self.has(position) {
                end = position;
                continue;
            }
            if position.index <= self.last.index {
                if end.index < self.applied.max(self.commit) {
                    received.contradicts = true;
                    break;
                }
                if !cuts {
                    end = position;
                    continue;
                }
                self.truncate(end);
                self.cutting = Some(end);
                received.cut = Some(end);
                break;
            }
            self.append(position);
            received.fresh.push(Arc::clone(record));
            end = position;
        }
        if !received.contradicts {
            self.matched = self.matched.max(end.index);
        }
        received
    }

    /// The last epochs of this log for a master whose record `sought` is not in it.
    pub(super) fn differing(&self, sought: Position) -> Vec<(Epoch, Index)> {
        self.epochs.before(sought.index, EPOCHS_A_MESSAGE)
    }

    /// The next position to try with a replica whose log ends with the record `last` and has these
    /// epochs: the last record that both have, if one of the epochs is in this log, else an earlier
    /// record of this log.
    pub(super) fn common(&self, last: Index, epochs: &[(Epoch, Index)]) -> Position {
        let mut end = last;
        for (epoch, first) in epochs.iter().rev() {
            if let Some(own_end) = self.end_of(*epoch, *first) {
                return self.position(end.min(own_end));
            }
            end = Index(first.0.saturating_sub(1));
        }
        self.position(end)
    }

    /// The last record of the epoch, if it begins with the record `first`.
    fn end_of(&self, epoch: Epoch, first: Index) -> Option<Index> {
        let mut later = self.epochs.iter().rev();
        let mut end = self.last.index;
        later.find_map(|(own, begun)| {
            let found = (own == epoch && begun == first).then_some(end);
            end = Index(begun.0.saturating_sub(1));
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tierkv_types::{Payload, Version};

    use super::*;

    fn log(epochs: &[u64]) -> OwnLog {
        let mut log = OwnLog::found(
            LogId(1),
            EpochTable::default(),
            Position::default(),
            Index::ZERO,
            Index::ZERO,
        );
        for (place, epoch) in epochs.iter().enumerate() {
            log.append(Position {
                epoch: Epoch(*epoch),
                index: Index(place as u64 + 1),
            });
        }
        log
    }

    fn records(epochs: &[u64], after: Index) -> Vec<Arc<Record>> {
        let all = epochs.iter().zip(1..);
        let rest = all.filter(|(_, index)| *index > after.0);
        rest.map(|(epoch, index)| {
            Arc::new(Record {
                position: Position {
                    epoch: Epoch(*epoch),
                    index: Index(index),
                },
                commit: Index::ZERO,
                version: Version::from_bits(index),
                payload: Payload::Noop,
            })
        })
        .collect()
    }

    /// Two logs that begin alike, with epochs of their own after that: as in a cluster, no epoch is
    /// in both after the place where they part.
    fn two_logs() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
        let epochs = |parity: u64| {
            vec(1_u64..40, 0..60).prop_map(move |mut epochs| {
                epochs
                    .iter_mut()
                    .for_each(|it| *it = 1_000 + *it * 2 + parity);
                epochs.sort_unstable();
                epochs
            })
        };
        let begin = vec(1_u64..40, 0..60).prop_map(|mut epochs| {
            epochs.sort_unstable();
            epochs
        });
        (begin, epochs(0), epochs(1)).prop_map(|(begin, one, other)| {
            ([begin.clone(), one].concat(), [begin, other].concat())
        })
    }

    proptest! {
        #[test]
        fn two_logs_find_their_common_part_and_become_one((one, other) in two_logs()) {
            let (master, mut replica) = (log(&one), log(&other));
            let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            let mut prev = master.last();
            let mut tries = 0;
            while !replica.has(prev) {
                prev = master.common(replica.last().index, &replica.differing(prev));
                tries += 1;
                prop_assert!(tries < 5);
            }
            prop_assert!(prev.index.0 <= common as u64);
            let sent = records(&one, prev.index);
            let mut received = replica.receive(prev, &sent, true);
            if let Some(cut) = received.cut {
                prop_assert_eq!(cut.index.0, common as u64);
                prop_assert!(received.fresh.is_empty());
                replica.is_cut(cut);
                received = replica.receive(cut, &records(&one, cut.index), true);
            }
            prop_assert!(received.cut.is_none() && !received.contradicts);
            prop_assert_eq!(replica.matched, master.last().index);
            let tail = other.len().saturating_sub(one.len().max(common));
            // Without a record of the master's there, a longer tail stays.
            if one.len() > common || other.len() == common {
                prop_assert_eq!(replica.last(), master.last(), "tail {}", tail);
            }
        }
    }

    #[test]
    fn an_applied_record_is_never_cut() {
        let mut replica = log(&[1, 1, 2]);
        replica.commit = Index(3);
        replica.applied = Index(2);
        let prev = Position {
            epoch: Epoch(1),
            index: Index(2),
        };
        let received = replica.receive(prev, &records(&[1, 1, 3], Index(2)), true);
        assert!(received.contradicts && received.fresh.is_empty());
        assert_eq!(replica.matched, Index::ZERO);
    }
}
