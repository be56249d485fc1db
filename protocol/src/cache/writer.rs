//! Decides when a master writes which mark into one cache node (CACHE-MARK, CACHE-REDELIVER).

use std::{collections::VecDeque, time::Duration};

use tierkv_types::{BootTime, Epoch, Index, Round};

use super::Mark;

/// How long a new master withholds its marks if it can't redeliver the deletes that earlier masters
/// may not have delivered. It is longer than [`ENTRY_LIFE`](super::ENTRY_LIFE), so that every entry
/// that a lost delete should have removed is too old then (CACHE-REDELIVER).
pub const REDELIVERY_WINDOW: Duration = Duration::from_secs(8 * 60);

/// Most vouched rounds that wait for their deletes. Over it the newest is replaced by the next
/// one, so marks get coarser while a node lags, but never wrong.
pub const MAX_PENDING_ROUNDS: usize = 64;

/// One master's marks for one cache node: decides which mark may be written now.
///
/// Call it for each vouched round and each delivery. Write the mark that [`MarkWriter::due`]
/// returns, then call [`MarkWriter::written`]. The epoch is fixed: a new mastership makes a new
/// writer.
#[derive(Clone, Debug)]
pub struct MarkWriter {
    epoch: Epoch,
    /// Marks are withheld before this instant.
    withheld_until: Option<BootTime>,
    /// The node confirmed every delete up to this index.
    delivered: Index,
    /// Vouched rounds whose deletes are not all confirmed; rounds and indexes increase.
    pending: VecDeque<(Round, Index)>,
    /// The highest round whose deletes are confirmed.
    ready: Option<Mark>,
    /// The round of the last mark written to the node.
    written: Option<Round>,
}

impl MarkWriter {
    /// The writer of a master that delivers or redelivers every delete that the node may have
    /// missed.
    #[must_use]
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            withheld_until: None,
            delivered: Index::ZERO,
            pending: VecDeque::new(),
            ready: None,
            written: None,
        }
    }

    /// The writer of a master that can't redeliver deletes which an earlier master may not have
    /// delivered: no mark is due before `until`.
    #[must_use]
    pub const fn withheld(epoch: Epoch, until: BootTime) -> Self {
        let mut writer = Self::new(epoch);
        writer.withheld_until = Some(until);
        writer
    }

    /// Ends the withholding: all deletes that could be missing were delivered.
    pub const fn allow(&mut self) {
        self.withheld_until = None;
    }

    /// `round` is vouched; `commit` was the commit index when it was started.
    pub fn vouched(&mut self, round: Round, commit: Index) {
        let newest = self.pending.back().map(|(round, _)| *round);
        let ready = self.ready.map(|mark| mark.round);
        if newest.max(ready).is_some_and(|known| known >= round) {
            return;
        }
        let same_index = self
            .pending
            .back()
            .is_some_and(|(_, index)| *index >= commit);
        if same_index || self.pending.len() == MAX_PENDING_ROUNDS {
            self.pending.pop_back();
        }
        self.pending.push_back((round, commit));
        self.advance();
    }

    /// The node confirmed every delete up to `index`.
    pub fn delivered(&mut self, index: Index) {
        self.delivered = self.delivered.max(index);
        self.advance();
    }

    /// The mark to write now, unless the node has it.
    #[must_use]
    pub fn due(&self, now: BootTime) -> Option<Mark> {
        if self.withheld_until.is_some_and(|until| now < until) {
            return None;
        }
        self.ready.filter(|mark| self.written < Some(mark.round))
    }

    /// The node stored `mark`.
    pub fn written(&mut self, mark: &Mark) {
        if mark.epoch == self.epoch {
            self.written = self.written.max(Some(mark.round));
        }
    }

    /// The node may have lost its mark (eviction, restart): the mark is due again.
    pub const fn lost(&mut self) {
        self.written = None;
    }

    fn advance(&mut self) {
        while let Some((round, index)) = self.pending.front().copied() {
            if index > self.delivered {
                break;
            }
            self.pending.pop_front();
            self.ready = Some(Mark {
                epoch: self.epoch,
                round,
                index,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(secs))
    }

    fn due(writer: &MarkWriter) -> Option<u64> {
        writer.due(at(0)).map(|mark| mark.round.0)
    }

    #[test]
    fn a_mark_waits_for_the_deletes_up_to_its_commit_index() {
        let mut writer = MarkWriter::new(Epoch(3));
        writer.vouched(Round(1), Index(10));
        writer.vouched(Round(2), Index(12));
        assert_eq!(due(&writer), None);
        writer.delivered(Index(11));
        assert_eq!(due(&writer), Some(1));
        writer.vouched(Round(3), Index(12));
        writer.vouched(Round(4), Index(13));
        writer.delivered(Index(12));
        let mark = writer.due(at(0)).unwrap();
        let expected = Mark {
            epoch: Epoch(3),
            round: Round(3),
            index: Index(12),
        };
        assert_eq!(mark, expected);
    }

    #[test]
    fn a_written_mark_is_due_again_only_when_lost() {
        let mut writer = MarkWriter::new(Epoch(3));
        writer.vouched(Round(1), Index(0));
        let mark = writer.due(at(0)).unwrap();
        writer.written(&mark);
        assert_eq!(due(&writer), None);
        writer.lost();
        assert_eq!(due(&writer), Some(1));
    }

    #[test]
    fn marks_are_withheld_until_their_time_or_until_allowed() {
        let mut writer = MarkWriter::withheld(Epoch(3), at(480));
        writer.vouched(Round(1), Index(0));
        assert_eq!(writer.due(at(479)), None);
        assert!(writer.due(at(480)).is_some());
        writer.allow();
        assert!(writer.due(at(0)).is_some());
    }

    #[test]
    fn repeated_and_late_rounds_change_nothing() {
        let mut writer = MarkWriter::new(Epoch(3));
        writer.vouched(Round(2), Index(5));
        writer.delivered(Index(9));
        writer.vouched(Round(2), Index(5));
        writer.vouched(Round(1), Index(1));
        assert_eq!(due(&writer), Some(2));
        writer.delivered(Index(1));
        writer.vouched(Round(3), Index(9));
        assert_eq!(due(&writer), Some(3));
    }

    #[test]
    fn pending_rounds_are_bounded_and_the_earliest_stay() {
        let mut writer = MarkWriter::new(Epoch(3));
        for round in 1..=1_000 {
            writer.vouched(Round(round), Index(round));
        }
        assert_eq!(writer.pending.len(), MAX_PENDING_ROUNDS);
        writer.delivered(Index(5));
        assert_eq!(due(&writer), Some(5));
        writer.delivered(Index(1_000));
        assert_eq!(due(&writer), Some(1_000));
    }
}
