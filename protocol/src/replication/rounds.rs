//! [`Rounds`]: a master's heartbeat rounds, which prove that it was still master (REP-ROUND).

use std::collections::{BTreeMap, VecDeque};

use tierkv_types::{BootTime, Incarnation, Index, LogId, NodeId, Round, Version};

/// Most rounds that wait for acknowledgements. Over it the oldest is forgotten: a later round
/// proves more.
const MAX_OPEN_ROUNDS: usize = 1_024;

/// What a master knew when it sent a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) round: Round,
    /// The commit index.
    pub(super) commit: Index,
    /// The clock that the round carries.
    pub(super) clock: Version,
    /// When it was sent.
    pub(super) sent_at: BootTime,
    /// The newest probe of each replica, and the process whose clock it is on.
    pub(super) probes: BTreeMap<NodeId, (Incarnation, BootTime)>,
}

impl Sample {
    /// The probe of a replica, if it is of the process that sends now: another one's clock may have
    /// another origin.
    pub(super) fn probe_of(
        &self,
        node: &NodeId,
        sender: Option<(Incarnation, LogId)>,
    ) -> Option<BootTime> {
        let (incarnation, probe) = self.probes.get(node)?;
        sender
            .is_some_and(|(now, _)| now == *incarnation)
            .then_some(*probe)
    }
}

/// The rounds of one term.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    started: Round,
    /// Those that are not vouched yet.
    open: VecDeque<Sample>,
    /// The newest vouched one.
    vouched: Option<Sample>,
    /// The highest clock that all in sync acknowledged (REP-CONFIRM).
    acknowledged_clock: Version,
    /// Rounds that were sent up to this time show no age.
    ages_from: Option<BootTime>,
    /// Whether a read waits for a round that is not started yet.
    is_wanted: bool,
}

impl Rounds {
    pub(super) const fn started(&self) -> Round {
        self.started
    }

    pub(super) fn vouched(&self) -> Round {
        self.vouched.as_ref().map_or(Round::ZERO, |it| it.round)
    }

    pub(super) const fn acknowledged_clock(&self) -> Version {
        self.acknowledged_clock
    }

    /// When the newest vouched round was sent, if that shows an age of what is applied up to this
    /// index: its commit index is, so a read sees no less than one at a replica that is faster.
    pub(super) fn vouched_at(&self, applied: Index) -> Option<BootTime> {
        let vouched = self.vouched.as_ref();
        let vouched = vouched.filter(|sample| sample.commit <= applied);
        let sent_at = vouched.map(|sample| sample.sent_at);
        sent_at.filter(|at| self.ages_from.is_none_or(|from| from < *at))
    }

    /// The clock may have stood still before `now`.
    pub(super) fn begin_ages_anew(&mut self, now: BootTime) {
        self.ages_from = Some(now);
    }

    /// The newest round that was started.
    pub(super) fn newest(&self) -> Option<&Sample> {
        self.open.back().or(self.vouched.as_ref())
    }

    /// When the oldest round that is not vouched was sent.
    pub(super) fn open_since(&self) -> Option<BootTime> {
        self.open.front().map(|sample| sample.sent_at)
    }

    /// The round that a read which has just arrived waits for: one that is not sent yet.
    pub(super) fn want(&mut self) -> Round {
        self.is_wanted = true;
        self.started.next()
    }

    /// Whether to start a round for waiting reads now: one for all that wait.
    pub(super) fn is_due(&self) -> bool {
        self.is_wanted && self.open.is_empty()
    }

    /// Starts the next round.
    pub(super) fn start(
        &mut self,
        now: BootTime,
        commit: Index,
        clock: Version,
        probes: BTreeMap<NodeId, (Incarnation, BootTime)>,
    ) {
        self.is_wanted = false;
        self.started = self.started.next();
        if self.open.len() == MAX_OPEN_ROUNDS {
            self.open.pop_front();
        }
        self.open.push_back(Sample {
            round: self.started,
            commit,
            clock,
            sent_at: now,
            probes,
        });
    }

    /// Forgets the rounds that are not vouched: they were sent before the master knew everything
    /// that earlier terms committed (REP-NOOP).
    pub(super) fn discard(&mut self) {
        self.open.clear();
    }

    /// All rounds up to this one are proven. `acknowledged`: by all in sync, so that these merged
    /// the round's clock, too. Returns the newest round that is newly vouched.
    pub(super) fn vouch(&mut self, up_to: Round, acknowledged: bool) -> Option<&Sample> {
        let mut newest = None;
        while self
            .open
            .front()
            .is_some_and(|sample| sample.round <= up_to)
        {
            newest = self.open.pop_front();
        }
        let newest = newest?;
        if acknowledged {
            self.acknowledged_clock = self.acknowledged_clock.max(newest.clock);
        }
        Some(self.vouched.insert(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(rounds: &mut Rounds, commit: u64) {
        let clock = Version::from_millis(commit);
        rounds.start(BootTime::default(), Index(commit), clock, BTreeMap::new());
    }

    #[test]
    fn the_newest_acknowledged_round_counts() {
        let mut rounds = Rounds::default();
        for commit in [5, 6, 7] {
            start(&mut rounds, commit);
        }
        let vouched = rounds.vouch(Round(2), true).unwrap();
        assert_eq!((vouched.round, vouched.commit), (Round(2), Index(6)));
        assert_eq!(rounds.acknowledged_clock(), Version::from_millis(6));
        assert_eq!(rounds.vouch(Round(2), true), None);
        assert_eq!(rounds.vouch(Round(9), false).unwrap().round, Round(3));
        assert_eq!(rounds.acknowledged_clock(), Version::from_millis(6));
    }

    #[test]
    fn one_round_serves_all_reads_that_wait() {
        let mut rounds = Rounds::default();
        assert_eq!((rounds.want(), rounds.want()), (Round(1), Round(1)));
        assert!(rounds.is_due());
        start(&mut rounds, 1);
        assert_eq!(rounds.want(), Round(2));
        assert!(!rounds.is_due(), "the round before is still under way");
        rounds.vouch(Round(1), true);
        assert!(rounds.is_due());
    }

    #[test]
    fn a_vouched_round_shows_an_age_once_its_commit_index_is_applied() {
        let mut rounds = Rounds::default();
        start(&mut rounds, 5);
        assert_eq!(rounds.vouched_at(Index(5)), None);
        rounds.vouch(Round(1), true);
        assert_eq!(rounds.vouched_at(Index(4)), None);
        assert_eq!(rounds.vouched_at(Index(5)), Some(BootTime::default()));
    }

    #[test]
    fn unanswered_rounds_are_bounded() {
        let mut rounds = Rounds::default();
        for commit in 0..2 * MAX_OPEN_ROUNDS as u64 {
            start(&mut rounds, commit);
        }
        assert_eq!(rounds.open.len(), MAX_OPEN_ROUNDS);
        let last = rounds.started();
        assert_eq!(rounds.vouch(last, true).unwrap().round, last);
    }
}
