//! A master's part: commits, rounds, and changes of its record (REP-UNION, REP-ROUND, REP-SHED,
//! REP-JOIN).

use tierkv_types::Round;

use super::{Moment, Replica, Role, SwapOutcome};
use crate::replication::{
    change::{Change, ChangeError},
    command::Command,
    handover::Stage,
    mastership::Mastership,
    rules::Rule,
    seen::Seen,
};

/// Rounds that are open for so many heartbeats are vouched for by a read of the record.
const READ_AFTER_HEARTBEATS: u32 = 2;

impl Replica {
    /// The work of a heartbeat of a master.
    pub(super) fn lead(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        self.give_up_if_stuck(moment, commands);
        let patience = self.heartbeat_interval() * READ_AFTER_HEARTBEATS;
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        term.tick(moment.now, &self.log);
        let is_stopped = term.is_stopped();
        if !is_stopped {
            term.start_round(moment.now, self.log.commit, moment.clock);
        }
        let is_open_long =
            (term.rounds.open_since()).is_some_and(|since| moment.now.since(since) > patience);
        let reads = is_open_long && term.is_open(self.log.commit) && !is_stopped;
        if reads && self.reading.is_none() {
            self.ask_record(commands);
        }
        self.commit_more(moment, commands);
        self.change_record(moment, commands);
    }

    /// Commits and vouches for what all in sync have, and goes on with a handover.
    pub(super) fn commit_more(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let was_open = term.is_open(self.log.commit);
        if let Some(index) = term.committable(&self.log, moment.now)
            && index > self.log.commit
        {
            self.log.commit = index;
            if let Some(index) = self.log.announce(index) {
                commands.push(Command::Commit(index));
            }
            if !was_open && term.is_open(index) && !self.rules.lack(Rule::NoopFirst) {
                term.rounds.discard();
                // So that reads are answered at once.
                term.start_round(moment.now, index, moment.clock);
            }
        }
        self.drive_handover(moment, commands);
        self.vouch_more(moment, None, commands);
    }

    /// A read that began when `round` was the latest shows that this process is still the master.
    pub(super) fn read_vouches(
        &mut self,
        moment: Moment,
        round: Round,
        commands: &mut Vec<Command>,
    ) {
        let all = self.rules.lack(Rule::ReadAfterRound);
        let latest = self.mastership().map(Mastership::started);
        let round = latest.filter(|_| all).unwrap_or(round);
        self.vouch_more(moment, Some(round), commands);
    }

    /// Vouches for the rounds that are proven: by all in sync, or by a read that began when the
    /// round `read` was the latest. Then starts the one that reads wait for.
    fn vouch_more(&mut self, moment: Moment, read: Option<Round>, commands: &mut Vec<Command>) {
        let commit = self.log.commit;
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        if !term.is_open(commit) || term.is_stopped() {
            return;
        }
        let epoch = term.epoch();
        if let Some((round, commit)) = term.vouch(read) {
            commands.push(Command::Vouched {
                epoch,
                round,
                commit,
            });
        }
        if term.rounds.is_due() {
            term.start_round(moment.now, commit, moment.clock);
        }
    }

    /// Proposes the next record, if a change is due.
    fn change_record(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let (next, ended) = term.next_record(moment.now, &self.log);
        let is_without_wanted = ended.is_some();
        if let Some((id, result)) = ended {
            commands.push(Command::Changed { id, result });
        }
        let Some(next) = next else {
            return;
        };
        // The one after a change that has ended is not part of this record.
        if !is_without_wanted {
            term.wanted.include();
        }
        term.sets.propose(next.clone());
        term.follow_all(moment.now, &self.log);
        let expected = term.sets.revision();
        self.swap(expected, next, commands);
    }

    /// A swap of the master's own has ended.
    pub(super) fn own_swap_ended(&mut self, outcome: SwapOutcome, commands: &mut Vec<Command>) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let Some(pending) = term.sets.pending().cloned() else {
            return;
        };
        let is_declined = (term.handover.as_ref()).is_some_and(|it| it.stage == Stage::Declined);
        let expected = term.sets.revision();
        match outcome {
            SwapOutcome::Won(_) | SwapOutcome::Lost => self.ask_record(commands),
            // A swap that leaves the record as it is: then the handover's can't succeed any more.
            SwapOutcome::Unknown if is_declined => {
                let installed = term.record().clone();
                self.swap(expected, installed, commands);
            }
            SwapOutcome::Unknown => self.swap(expected, pending, commands),
        }
    }

    /// A record of this master's term: its own change, or the same again.
    pub(super) fn own_record(
        &mut self,
        moment: Moment,
        record: &Seen,
        commands: &mut Vec<Command>,
    ) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        if record.state.epoch != term.epoch() || record.revision <= term.sets.revision() {
            return;
        }
        let is_pending = term.sets.pending() == Some(&record.state);
        if !is_pending && record.state != *term.record() {
            let why = "the cluster's record was changed by someone else in this node's term; \
                       restart the node";
            return self.halt(why, commands);
        }
        self.swapping = None;
        term.sets.settle(record.revision, record.state.clone());
        term.follow_all(moment.now, &self.log);
        if let Some(id) = term.wanted.settled(is_pending) {
            commands.push(Command::Changed { id, result: Ok(()) });
        }
        self.handover_failed(moment, commands);
        self.commit_more(moment, commands);
    }

    /// An operator's change.
    pub(super) fn want(&mut self, id: u64, change: Change, commands: &mut Vec<Command>) {
        let refused = match &mut self.role {
            Role::Mastering(term) if term.wanted.is_full() => ChangeError::TooManyChanges,
            Role::Mastering(term) => return term.want(id, change),
            _ => ChangeError::NotMaster,
        };
        let result = Err(refused);
        commands.push(Command::Changed { id, result });
    }
}
