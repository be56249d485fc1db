//! What a node does with the records of coordination that it sees.

use tierkv_types::{Epoch, Index, Position};

use super::{Moment, Reading, Replica, Role};
use crate::replication::{
    change::ChangeError, cluster_state::ClusterState, command::Command, following::Following,
    handover::HandoverError, mastership::Mastership, rules::Rule, seen::Seen,
};

impl Replica {
    /// Requests a linearizable read of the record. If one is under way, another follows it.
    pub(super) fn ask_record(&mut self, commands: &mut Vec<Command>) {
        if self.reading.is_some() {
            self.reads_again = true;
            return;
        }
        self.reads += 1;
        let round = self.mastership().map(Mastership::started);
        self.reading = Some(Reading {
            number: self.reads,
            floor: self.seen_order().max(self.others_saw),
            round: round.unwrap_or_default(),
            last: self.log.last(),
        });
        commands.push(Command::Read);
    }

    /// A read has ended.
    pub(super) fn has_read(
        &mut self,
        moment: Moment,
        record: Option<Seen>,
        commands: &mut Vec<Command>,
    ) {
        let Some(reading) = self.reading.take() else {
            return;
        };
        let names_me = (record.as_ref()).is_some_and(|seen| {
            let term = self.mastership();
            term.is_some_and(|term| term.epoch() == seen.state.epoch) && seen.state.names(&self.me)
        });
        let found = record.as_ref().map_or((Epoch::ZERO, 0), Seen::order);
        self.observe(moment, record, Some(&reading), commands);
        if names_me {
            self.read_vouches(moment, reading.round, commands);
        }
        self.offer_is_checked(reading.number, found, commands);
        if std::mem::take(&mut self.reads_again) && !matches!(self.role, Role::Halted) {
            self.ask_record(commands);
        }
    }

    /// Handles a record, of a watch or of a linearizable read.
    pub(super) fn observe(
        &mut self,
        moment: Moment,
        record: Option<Seen>,
        reading: Option<&Reading>,
        commands: &mut Vec<Command>,
    ) {
        let found = record.as_ref().map_or((Epoch::ZERO, 0), Seen::order);
        if reading.is_some_and(|reading| found < reading.floor) {
            return self.coordination_went_back(moment, record.as_ref(), commands);
        }
        let others_saw = match self.is_waiting() {
            true => self.others_saw,
            false => (Epoch::ZERO, 0),
        };
        if found < self.seen_order().max(others_saw) {
            // A watch may show an old record late: a read shows the current one.
            return self.ask_record(commands);
        }
        let Some(record) = record else {
            return;
        };
        let last = reading.map_or(self.log.last(), |reading| reading.last);
        if let Some(why) = self.objection(&record.state, last) {
            return match reading {
                Some(_) => self.halt(why, commands),
                // It may be an old record.
                None => self.ask_record(commands),
            };
        }
        let is_new = self.seen.as_ref() != Some(&record);
        self.leave_earlier_record(moment, &record);
        self.seen = Some(record.clone());
        if is_new && !record.state.is_unfounded() {
            commands.push(Command::Promise {
                epoch: self.promised,
                seen: Some(record.clone()),
            });
        }
        if self
            .unsettled
            .is_some_and(|expected| record.order() > expected)
        {
            self.unsettled = None;
        }
        if self.is_waiting() {
            self.role = Role::Following(Box::new(Following::since(moment.now)));
        }
        match &self.role {
            Role::Mastering(term) if record.state.epoch > term.epoch() => {
                let is_declined = self.is_declined(&record);
                self.step_down(moment, commands);
                if is_declined {
                    self.stand_again(moment, commands);
                }
            }
            Role::Mastering(_) => self.own_record(moment, &record, commands),
            Role::Following(_) => self.follow(moment, record, commands),
            Role::Waiting | Role::Halted => {}
        }
    }

    /// A node that is not master sees a record after an earlier one. The master of a new epoch gets
    /// F to be heard, and answers that a candidate got under the earlier record don't count under
    /// this one: the candidate would otherwise depose at once a master that was just elected.
    fn leave_earlier_record(&mut self, moment: Moment, record: &Seen) {
        let earlier = self.seen_order();
        let Role::Following(following) = &mut self.role else {
            return;
        };
        if record.order() > earlier {
            following.asking = None;
        }
        // Whoever heard this master before it saw the record counts from there.
        if record.state.epoch > earlier.0.max(self.accepted) {
            following.master = record.state.master_process();
            following.heard_at = moment.now;
        }
    }

    /// A linearizable read found an older record than somebody saw. A single node ends: its operator
    /// recovers it while it does not run. A node of several waits until an operator has made a record
    /// that is above all others, for which it reports its log; it does nothing else meanwhile.
    fn coordination_went_back(
        &mut self,
        moment: Moment,
        record: Option<&Seen>,
        commands: &mut Vec<Command>,
    ) {
        let found = record.map_or(Epoch::ZERO, |seen| seen.state.epoch);
        let mut known = record.into_iter().chain(&self.seen);
        if found == Epoch::ZERO || !known.any(|seen| seen.state.nodes() > 1) {
            return self.halt(forgotten(found), commands);
        }
        if self.is_waiting() {
            return;
        }
        self.step_down(moment, commands);
        (self.proposal, self.handed, self.swapping) = (None, None, None);
        self.role = Role::Waiting;
        commands.push(Command::Wait(self.seen_order().max(self.others_saw).0));
    }

    /// A record that a node sees that is not master.
    fn follow(&mut self, moment: Moment, record: Seen, commands: &mut Vec<Command>) {
        if let Some(proposal) = &self.proposal
            && record.revision > proposal.expected
        {
            let is_mine = record.state.names(&self.me) && record.state.epoch == proposal.next.epoch;
            self.proposal = None;
            self.swapping = None;
            if is_mine {
                return self.take_office(moment, record, commands);
            }
        }
        if self.proposal.is_none() && self.is_handed_over(&record.state) {
            let epoch = record.state.epoch;
            self.handed = Some(record);
            return self.promise(epoch, commands);
        }
        if self.rules.lack(Rule::StartsUnmastered)
            && record.state.master.as_ref() == Some(&self.me.node)
            && self.is_listed(&record.state)
        {
            let (me, now) = (self.me.clone(), moment.now);
            let installed = (record.revision, record.state);
            let term = Mastership::new(me, installed, &self.log, now, self.rules);
            self.role = Role::Mastering(Box::new(term));
            return;
        }
        self.consider(moment, commands);
    }

    /// Whether the record hands mastership to this process. One that promised the epoch declined
    /// it, or proposed it itself.
    fn is_handed_over(&self, state: &ClusterState) -> bool {
        let is_named = match self.rules.lack(Rule::HandoverNamesProcess) {
            true => state.master.as_ref() == Some(&self.me.node),
            false => state.names(&self.me),
        };
        let is_open = state.epoch > self.promising;
        is_named && is_open && self.is_listed(state) && state.epoch > self.log.last().epoch
    }

    /// Why this node may not go on with this record, which was current when its log ended at `last`.
    fn objection(&self, state: &ClusterState, last: Position) -> Option<String> {
        if state.is_unfounded() && last != Position::default() {
            return Some(format!(
                "the cluster is new, but node {} has a log up to record {}: its data directory \
                 belongs to another cluster; give it an empty one",
                self.me.node, last
            ));
        }
        let is_only_member = state.members == [self.me.node.clone()];
        (is_only_member && !state.is_unfounded() && !self.is_listed(state)).then(|| {
            format!(
                "the record lists no log {} of node {}: the data directory was replaced, lost its \
                 log or belongs to another cluster; bring the right one back, or continue with \
                 this one: `tierkv admin recover --data-dir DIR`",
                self.log.id, self.me.node
            )
        })
    }

    /// This node is master by this record.
    pub(super) fn take_office(
        &mut self,
        moment: Moment,
        record: Seen,
        commands: &mut Vec<Command>,
    ) {
        let epoch = record.state.epoch;
        assert!(
            epoch > self.log.last().epoch,
            "I2: a term must be new to the log"
        );
        self.log.append(Position {
            epoch,
            index: self.log.last().index.next(),
        });
        self.accepted = self.accepted.max(epoch);
        self.proposal = None;
        self.handed = None;
        self.swapping = None;
        self.unsettled = None;
        self.seen = Some(record.clone());
        commands.push(Command::Promise {
            epoch: self.promising,
            seen: self.seen.clone(),
        });
        commands.push(Command::AppendNoop(self.log.last()));
        let (me, now) = (self.me.clone(), moment.now);
        let installed = (record.revision, record.state);
        let term = Mastership::new(me, installed, &self.log, now, self.rules);
        self.role = Role::Mastering(Box::new(term));
        self.lead(moment, commands);
    }

    /// This node is not master any more.
    pub(super) fn step_down(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let following = Role::Following(Box::new(Following::since(moment.now)));
        let Role::Mastering(mut term) = std::mem::replace(&mut self.role, following) else {
            return;
        };
        self.log.matched = Index::ZERO;
        self.swapping = None;
        let epoch = term.epoch();
        commands.push(Command::SteppedDown(epoch));
        for id in term.wanted.drain() {
            let result = Err(ChangeError::NotMaster);
            commands.push(Command::Changed { id, result });
        }
        if let Some(handover) = term.handover.take() {
            let successor = &handover.successor.node;
            let has_it = (self.seen.as_ref())
                .is_some_and(|seen| seen.state.master.as_ref() == Some(successor));
            let result = match has_it {
                true => Ok(successor.clone()),
                false => Err(HandoverError::NotMaster),
            };
            commands.push(Command::HandedOver {
                id: handover.id,
                result,
            });
        }
    }
}

/// Why coordination's record can't be trusted any more (COORD-BACK). Without one, or with one that
/// was made anew, the epoch is zero.
fn forgotten(found: Epoch) -> &'static str {
    if found == Epoch::ZERO {
        "coordination has no record of this cluster, but this node has seen one: the \
         coordination store was wiped; bring it back, or continue with this node's state: \
         `tierkv admin recover --data-dir DIR`"
    } else {
        "coordination went back to an earlier epoch: an old backup was restored; bring the \
         newest back, or continue with this node's state: `tierkv admin recover --data-dir DIR`"
    }
}
