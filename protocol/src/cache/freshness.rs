//! [`Freshness`]: the latest answers of one cluster's master, kept by a reader.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tierkv_types::{BootTime, Epoch, Round, Slot, SlotTable, Version};

use super::Mark;

/// Most answers that a reader keeps of one cluster; a further one replaces the oldest. So while a
/// master answers a question every 200 ms, no kept answer is older than 12.8 s.
pub const MAX_ANSWERS: usize = 64;

/// A master's answer to the question of CACHE-MARK.
///
/// Its round was started, and need not be vouched (acknowledged by all in sync). The mark that
/// makes this answer count has a later round, and that one was vouched.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// When the question was *sent*, by the reader's clock.
    pub asked_at: BootTime,
    /// The epoch that the answering process holds.
    pub epoch: Epoch,
    /// The latest round that the master had started when it answered, vouched or not.
    pub round: Round,
    /// The cluster clock when it answered.
    pub clock: Version,
    /// The slots that its cluster owns.
    pub slots: Arc<SlotTable>,
}

/// The latest answers of one cluster's masters, bounded by [`MAX_ANSWERS`].
///
/// All are of one epoch, ordered by the time of the question, newest last.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    answers: VecDeque<Vouched>,
}

impl Freshness {
    /// Without answers: every entry is stale.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an answer.
    ///
    /// An answer of a lower epoch than the newest is ignored: its master was deposed. One of a
    /// higher epoch drops all others: marks of their epoch are no longer written.
    pub fn learn(&mut self, answer: Vouched) {
        if let Some(newest) = self.answers.back() {
            if answer.epoch < newest.epoch {
                return;
            }
            if answer.epoch > newest.epoch {
                self.answers.clear();
            }
        }
        // Answers to overlapping questions may arrive out of order; each is valid by itself.
        let at = self
            .answers
            .iter()
            .rposition(|known| known.asked_at <= answer.asked_at)
            .map_or(0, |before| before + 1);
        if self.answers.len() == MAX_ANSWERS {
            if at == 0 {
                return;
            }
            self.answers.pop_front();
            self.answers.insert(at - 1, answer);
        } else {
            self.answers.insert(at, answer);
        }
    }

    /// Of the answers received, the one to the most recent question.
    #[must_use]
    pub fn newest(&self) -> Option<&Vouched> {
        self.answers.back()
    }

    /// An estimate of the cluster clock at `now`: the newest answer's clock plus the time since
    /// its question.
    ///
    /// It may be ahead of the cluster clock by the time between the question and the answer; a
    /// value then expires that much too early in the cache. It is behind only by what the cluster
    /// clock has gained on the reader's clock since the answer.
    #[must_use]
    pub fn cluster_clock(&self, now: BootTime) -> Version {
        let Some(newest) = self.newest() else {
            return Version::ZERO;
        };
        let passed = u64::try_from(now.since(newest.asked_at).as_millis()).unwrap_or(u64::MAX);
        // A version has 48 bits of milliseconds.
        let millis = newest
            .clock
            .millis()
            .saturating_add(passed)
            .min(u64::MAX >> 16);
        newest.clock.max(Version::from_millis(millis))
    }

    /// An upper bound of the staleness of an entry looked up after `mark` was read (CACHE-MARK).
    ///
    /// It is the age of the latest question whose answer has the *same* epoch as the mark and a
    /// *lower* round, and in which the cluster owns `slot` since `slot_revision`. `None`: no
    /// answer vouches for the entry.
    #[must_use]
    pub fn age(
        &self,
        mark: &Mark,
        now: BootTime,
        slot: Slot,
        slot_revision: u64,
    ) -> Option<Duration> {
        self.answers
            .iter()
            .rev()
            .find(|answer| {
                answer.epoch == mark.epoch
                    && answer.round < mark.round
                    && answer.slots.revision_of(slot) == Some(slot_revision)
            })
            .map(|answer| now.since(answer.asked_at))
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::{Index, SlotRun};

    use super::*;

    const REVISION: u64 = 7;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn answer(asked_at: u64, epoch: u64, round: u64) -> Vouched {
        let owned = SlotRun {
            first: 10,
            count: 5,
            revision: REVISION,
        };
        Vouched {
            asked_at: at(asked_at),
            epoch: Epoch(epoch),
            round: Round(round),
            clock: Version::from_millis(1_000_000),
            slots: Arc::new(SlotTable::from_runs(vec![owned]).unwrap()),
        }
    }

    fn age(freshness: &Freshness, epoch: u64, round: u64) -> Option<u128> {
        let mark = Mark {
            epoch: Epoch(epoch),
            round: Round(round),
            index: Index(0),
        };
        freshness
            .age(&mark, at(1_000), Slot::new(12).unwrap(), REVISION)
            .map(|age| age.as_millis())
    }

    #[test]
    fn the_age_is_that_of_the_latest_question_below_the_mark() {
        let mut freshness = Freshness::new();
        assert_eq!(age(&freshness, 1, 9), None);
        for (asked_at, round) in [(100, 3), (300, 5), (500, 7)] {
            freshness.learn(answer(asked_at, 1, round));
        }
        assert_eq!(age(&freshness, 1, 3), None);
        assert_eq!(age(&freshness, 1, 4), Some(900));
        assert_eq!(age(&freshness, 1, 7), Some(700));
        assert_eq!(age(&freshness, 1, 8), Some(500));
        assert_eq!(age(&freshness, 2, 8), None);
    }

    #[test]
    fn a_slot_must_be_owned_at_the_revision_asked_for() {
        let mut freshness = Freshness::new();
        freshness.learn(answer(100, 1, 3));
        let mark = Mark {
            epoch: Epoch(1),
            round: Round(4),
            index: Index(0),
        };
        let age =
            |slot, revision| freshness.age(&mark, at(1_000), Slot::new(slot).unwrap(), revision);
        assert!(age(12, REVISION).is_some());
        assert!(age(12, REVISION + 1).is_none());
        assert!(age(15, REVISION).is_none());
    }

    #[test]
    fn a_higher_epoch_drops_the_older_and_a_lower_one_is_ignored() {
        let mut freshness = Freshness::new();
        freshness.learn(answer(100, 1, 3));
        freshness.learn(answer(200, 2, 1));
        assert_eq!(age(&freshness, 1, 9), None);
        freshness.learn(answer(300, 1, 4));
        assert_eq!(age(&freshness, 1, 9), None);
        assert_eq!(age(&freshness, 2, 9), Some(800));
    }

    #[test]
    fn answers_out_of_order_are_put_in_order() {
        let mut freshness = Freshness::new();
        freshness.learn(answer(300, 1, 6));
        freshness.learn(answer(100, 1, 7));
        assert_eq!(freshness.newest().unwrap().asked_at, at(300));
        assert_eq!(age(&freshness, 1, 7), Some(700));
    }

    #[test]
    fn the_ring_is_bounded_and_forgets_the_oldest() {
        let mut freshness = Freshness::new();
        for round in 1..=200 {
            freshness.learn(answer(round, 1, round));
        }
        assert_eq!(freshness.answers.len(), MAX_ANSWERS);
        assert_eq!(age(&freshness, 1, 137), None);
        assert_eq!(age(&freshness, 1, 138), Some(1_000 - 137));
        freshness.learn(answer(1, 1, 1));
        assert_eq!(freshness.answers.len(), MAX_ANSWERS);
        assert_eq!(age(&freshness, 1, 137), None);
    }

    #[test]
    fn the_cluster_clock_moves_on_with_the_readers() {
        let mut freshness = Freshness::new();
        assert_eq!(freshness.cluster_clock(at(5)), Version::ZERO);
        freshness.learn(answer(100, 1, 1));
        let clock = |now| freshness.cluster_clock(at(now));
        assert_eq!(clock(100), Version::from_millis(1_000_000));
        assert_eq!(clock(350), Version::from_millis(1_000_250));
    }
}
