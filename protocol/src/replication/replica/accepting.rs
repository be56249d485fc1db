//! A replica's part: it takes a master's records and acknowledges them (REP-JOIN, REP-APPLY,
//! REP-PROMISE).

use tierkv_types::{Epoch, Index, Position, Round};

use super::{Moment, Replica, Role};
use crate::replication::{
    command::Command,
    message::{Acknowledge, Append, Echo, Message, Process},
    rules::Rule,
};

impl Replica {
    /// No epoch below this one is acknowledged (REP-PROMISE).
    fn floor(&self) -> Epoch {
        if self.rules.lack(Rule::PromiseKept) {
            return Epoch::ZERO;
        }
        let settled = self.accepted.max(self.seen_order().0);
        let proposed = self.proposal.as_ref().map(|it| it.next.epoch);
        let unsettled = self.unsettled.map(|_| self.promised);
        let open = [proposed, unsettled].into_iter().flatten();
        open.fold(settled, Epoch::max)
    }

    /// A master's message.
    pub(super) fn accept(
        &mut self,
        moment: Moment,
        from: &Process,
        append: &Append,
        commands: &mut Vec<Command>,
    ) {
        let epoch = append.epoch;
        if epoch < self.floor() {
            if self.unsettled.is_some() && epoch >= self.seen_order().0 {
                self.settle_earlier(commands);
            }
            return;
        }
        if let Role::Mastering(term) = &self.role {
            if epoch == term.epoch() {
                let why = format!("I2: {from} is master of epoch {epoch}, and so is this node");
                return self.halt(why, commands);
            }
            self.step_down(moment, commands);
        }
        let is_durable = epoch <= self.promised;
        let promising = self.promising;
        let Role::Following(following) = &mut self.role else {
            return;
        };
        if !is_durable {
            following.promised_to = Some((from.clone(), epoch));
            following.heard_at = moment.now;
            if promising < epoch {
                self.promise(epoch, commands);
            }
            return;
        }
        self.enter_epoch(moment, from, epoch);
        let is_lacking = append.lacking == Some(self.log.id);
        if let Role::Following(following) = &mut self.role {
            following.lacking = is_lacking.then_some(epoch);
        }
        if is_lacking {
            return commands.push(Command::Install {
                source: from.clone(),
                contradicts: false,
            });
        }
        let differing = self.take_records(from, append, commands);
        self.commit_up_to(append.commit, commands);
        self.acknowledged_clock = self.acknowledged_clock.max(append.acknowledged_clock);
        if let Some(echo) = append.echo {
            self.take_echo(moment, echo);
        }
        if let Role::Following(following) = &mut self.role {
            following.round = following.round.max(append.round);
        }
        self.acknowledge(moment, differing, commands);
    }

    /// Follows this process as the master of the epoch. A proposal of this node's own is settled by
    /// that: its epoch is not above, so the record has changed since.
    fn enter_epoch(&mut self, moment: Moment, from: &Process, epoch: Epoch) {
        if epoch != self.accepted {
            self.accepted = epoch;
            self.log.matched = Index::ZERO;
            if let Role::Following(following) = &mut self.role {
                following.round = Round::ZERO;
            }
        }
        if self.proposal.take().is_some() {
            self.swapping = None;
        }
        self.unsettled = None;
        if let Role::Following(following) = &mut self.role {
            following.master = Some(from.clone());
            following.heard_at = moment.now;
            following.asking = None;
            following.promised_to = None;
        }
    }

    /// The promise of a master's epoch is durable: it may send its records.
    pub(super) fn acceptance_is_promised(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Role::Following(following) = &self.role else {
            return;
        };
        let Some((from, epoch)) = following.promised_to.clone() else {
            return;
        };
        if epoch <= self.promised && epoch >= self.floor() {
            self.enter_epoch(moment, &from, epoch);
            self.acknowledge(moment, None, commands);
        }
    }

    /// Takes the records of a message. Returns the end of this log if it lacks the record before
    /// them.
    fn take_records(
        &mut self,
        from: &Process,
        append: &Append,
        commands: &mut Vec<Command>,
    ) -> Option<Vec<(Epoch, Index)>> {
        let is_unchecked =
            self.rules.lack(Rule::PrevChecked) && append.prev.index <= self.log.last().index;
        if !self.log.has(append.prev) && !is_unchecked {
            return Some(self.log.differing(append.prev));
        }
        if self.log.is_cutting() {
            return None;
        }
        let cuts = !self.rules.lack(Rule::TailCut);
        let received = self.log.receive(append.prev, &append.records, cuts);
        if let Some(position) = received.cut {
            commands.push(Command::Cut(position));
        }
        if !received.fresh.is_empty() {
            commands.push(Command::Append(received.fresh));
        }
        if received.contradicts {
            commands.push(Command::Install {
                source: from.clone(),
                contradicts: true,
            });
        }
        None
    }

    fn commit_up_to(&mut self, commit: Index, commands: &mut Vec<Command>) {
        let common = match self.rules.lack(Rule::AppliesMatched) {
            true => self.log.last().index,
            false => self.log.matched,
        };
        self.log.commit = self.log.commit.max(commit.min(common));
        // Also what was known to be committed before the start.
        if let Some(index) = self.log.announce(common) {
            commands.push(Command::Commit(index));
        }
    }

    fn take_echo(&mut self, moment: Moment, echo: Echo) {
        if echo.probe > moment.now || echo.probe < self.started_at {
            // Of an earlier process of this node, whose clock may have had another origin.
            return;
        }
        let echo = Echo {
            probe: match self.rules.lack(Rule::AgeFromProbe) {
                true => moment.now,
                false => echo.probe,
            },
            commit: match self.rules.lack(Rule::AgeWhenApplied) {
                true => Index::ZERO,
                false => echo.commit,
            },
        };
        self.freshness.echo(echo, self.log.applied);
    }

    /// Acknowledges what this log has in common with the master's.
    pub(super) fn acknowledge(
        &self,
        moment: Moment,
        differing: Option<Vec<(Epoch, Index)>>,
        commands: &mut Vec<Command>,
    ) {
        let Role::Following(following) = &self.role else {
            return;
        };
        let Some(master) = &following.master else {
            return;
        };
        if self.accepted < self.floor() {
            return;
        }
        commands.push(Command::Send {
            to: master.node.clone(),
            message: Message::Acknowledge(Acknowledge {
                epoch: self.accepted,
                log_id: self.log.id,
                round: following.round,
                last: self.log.last(),
                matched: self.log.matched,
                durable: self.log.acknowledged(),
                probe: moment.now,
                differing,
            }),
        });
    }

    /// More of the log is durable.
    pub(super) fn log_grew(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        match self.role {
            Role::Following(_) => self.acknowledge(moment, None, commands),
            Role::Mastering(_) => self.commit_more(moment, commands),
            Role::Waiting | Role::Halted => {}
        }
    }

    /// A position of this log, for the sender of records.
    #[must_use]
    pub fn position(&self, index: Index) -> Position {
        self.log.position(index)
    }
}
