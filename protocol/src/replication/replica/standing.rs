//! A candidate: it asks the other members, promises the next epoch and swaps the record
//! (REP-FAILOVER, REP-PROMISE).

use std::collections::BTreeMap;

use tierkv_types::{Epoch, NodeId, Position};

use super::{Moment, Replica, Role, SwapOutcome};
use crate::replication::{
    cluster_state::{ClusterState, Listed},
    command::Command,
    following::{Asking, Proposal, Stage},
    message::{Ask, Confirm, Message, Process},
    rules::Rule,
    seen::Seen,
};

/// The part of F that a member must have heard no master for before it confirms a candidate. Below
/// one, as the candidate may have heard the master's last message a little earlier.
const CONFIRMING_TENTHS: u32 = 9;
/// The part of F for which a confirmation counts.
const ASKING_PART: u32 = 2;
/// A cluster of so many members has no majority without its master.
const SMALL_CLUSTER: usize = 2;

impl Replica {
    /// Considers at once whether to stand, where nothing has to be waited for: the record names no
    /// master, or an earlier process of this node.
    pub(super) fn consider(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Some(seen) = &self.seen else {
            return;
        };
        let master = seen.state.master.as_ref();
        let is_vacant = master.is_none_or(|master| *master == self.me.node);
        if is_vacant && self.may_stand(&seen.state) && !self.is_asking() {
            self.ask(moment, commands);
        }
    }

    /// The work of a heartbeat without mastership.
    pub(super) fn look_for_master(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Role::Following(following) = &self.role else {
            return;
        };
        let Some(seen) = &self.seen else {
            return;
        };
        let is_silent = moment.now.since(following.heard_at) >= self.silence();
        let is_vacant = (seen.state.master.as_ref()).is_none_or(|it| *it == self.me.node);
        if self.rules.lack(Rule::Failover) && !is_vacant && !seen.state.is_unfounded() {
            return;
        }
        if !self.may_stand(&seen.state) || !(is_silent || is_vacant) {
            return;
        }
        if self.has_majority() {
            self.stand(commands);
        } else {
            self.ask(moment, commands);
        }
    }

    /// Whether this node may take mastership by this record: the record lists its log, or the
    /// cluster is new and the log is empty.
    fn may_stand(&self, state: &ClusterState) -> bool {
        let is_able = matches!(self.role, Role::Following(_))
            && self.proposal.is_none()
            && self.handed.is_none()
            && !self.log.is_cutting()
            && !self.is_stuck()
            && (self.is_compared || self.rules.lack(Rule::NoteCompared));
        let is_founder = state.is_unfounded()
            && state.members.contains(&self.me.node)
            && self.log.last() == Position::default();
        let is_member = state.members.contains(&self.me.node);
        let is_listed = self.is_listed(state) || (self.rules.lack(Rule::ListedStand) && is_member);
        is_able && (is_founder || is_listed && !state.is_unfounded())
    }

    fn is_asking(&self) -> bool {
        matches!(&self.role, Role::Following(following) if following.asking.is_some())
    }

    /// Asks the other members that have not confirmed yet.
    fn ask(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Some(seen) = &self.seen else {
            return;
        };
        let silence = self.silence();
        let Role::Following(following) = &mut self.role else {
            return;
        };
        let order = seen.order();
        let is_valid =
            |it: &Asking| it.seen == order && moment.now.since(it.asked_at) < silence / ASKING_PART;
        let questions = &mut self.questions;
        if !following.asking.as_ref().is_some_and(is_valid) {
            *questions += 1;
            following.asking = Some(Asking {
                number: *questions,
                asked_at: moment.now,
                seen: order,
                granted: BTreeMap::new(),
                promised: Epoch::ZERO,
            });
        }
        let ask = Ask {
            number: *questions,
            last: self.log.last(),
            seen: order,
        };
        let granted = following.asking.as_ref().map(|it| &it.granted);
        let others = seen.state.members.iter().filter(|node| {
            let is_missing = granted.is_none_or(|granted| !granted.contains_key(*node));
            **node != self.me.node && is_missing
        });
        commands.extend(others.map(|to| Command::Send {
            to: to.clone(),
            message: Message::Ask(ask.clone()),
        }));
        if self.has_all() {
            self.stand(commands);
        }
    }

    /// Answers a candidate.
    pub(super) fn answer(
        &mut self,
        moment: Moment,
        from: &Process,
        ask: &Ask,
        commands: &mut Vec<Command>,
    ) {
        self.others_saw = self.others_saw.max(ask.seen);
        if ask.seen > self.seen_order() {
            self.ask_record(commands);
        }
        let confirm = Confirm {
            number: ask.number,
            is_granted: self.is_granted(moment, from, ask),
            log_id: self.log.id,
            last: self.log.last(),
            promised: self.promised,
            seen: self.seen_order(),
        };
        commands.push(Command::Send {
            to: from.node.clone(),
            message: Message::Confirm(confirm),
        });
    }

    fn is_granted(&self, moment: Moment, from: &Process, ask: &Ask) -> bool {
        let Role::Following(following) = &self.role else {
            return false;
        };
        let Some(seen) = &self.seen else {
            return false;
        };
        let patience = self.silence() * CONFIRMING_TENTHS / 10;
        let is_of_master = |node: Option<&NodeId>| {
            // A master that asks is none any more.
            node.is_none_or(|node| *node == from.node)
        };
        let is_silent = moment.now.since(following.heard_at) >= patience
            || is_of_master(seen.state.master.as_ref())
            || (following.master.as_ref()).is_some_and(|it| it.node == from.node);
        let is_longer = self.is_listed(&seen.state) && self.log.last() > ask.last;
        let stands_itself = is_longer && !self.is_stuck();
        let is_sound = self.is_compared || self.rules.lack(Rule::NoteCompared);
        is_silent
            && !stands_itself
            && is_sound
            && !self.has_given_up()
            && ask.seen >= self.seen_order()
    }

    /// A member's answer.
    pub(super) fn confirmed(
        &mut self,
        from: &Process,
        confirm: Confirm,
        commands: &mut Vec<Command>,
    ) {
        self.others_saw = self.others_saw.max(confirm.seen);
        if confirm.seen > self.seen_order() {
            return self.ask_record(commands);
        }
        let Role::Following(following) = &mut self.role else {
            return;
        };
        let Some(asking) = (following.asking.as_mut()).filter(|it| it.number == confirm.number)
        else {
            return;
        };
        asking.promised = asking.promised.max(confirm.promised);
        if confirm.is_granted {
            asking.granted.insert(from.node.clone(), confirm);
        }
        if self.has_all() {
            self.stand(commands);
        }
    }

    fn asking(&self) -> Option<&Asking> {
        match &self.role {
            Role::Following(following) => following.asking.as_ref(),
            _ => None,
        }
    }

    /// Whether every other member has confirmed, so that nothing is left to wait for.
    fn has_all(&self) -> bool {
        let (Some(asking), Some(seen)) = (self.asking(), &self.seen) else {
            return false;
        };
        let mut others = seen.state.members.iter();
        others.all(|node| *node == self.me.node || asking.granted.contains_key(node))
    }

    /// Whether a majority of the members confirms, this node included. In a cluster of two, the
    /// other one's missing liveness key stands for its confirmation.
    fn has_majority(&self) -> bool {
        let (Some(asking), Some(seen)) = (self.asking(), &self.seen) else {
            return false;
        };
        let members = &seen.state.members;
        let confirming = members.iter().filter(|node| {
            let is_gone = members.len() <= SMALL_CLUSTER && !self.present.contains(*node);
            **node == self.me.node || asking.granted.contains_key(*node) || is_gone
        });
        confirming.count() > members.len() / 2
    }

    /// Proposes itself as master: first the promise, then the swap.
    fn stand(&mut self, commands: &mut Vec<Command>) {
        let (Some(asking), Some(seen)) = (self.asking(), &self.seen) else {
            return;
        };
        if !self.may_stand(&seen.state) {
            return;
        }
        let Some(in_sync) = self.in_sync_after(asking, &seen.state) else {
            return;
        };
        let known = [self.promising, self.log.last().epoch, asking.promised];
        let epoch = known.into_iter().fold(seen.state.epoch, Epoch::max).next();
        let next = seen.state.succeeded_by(epoch, Some(&self.me), in_sync);
        self.propose_record(seen.revision, next, commands);
    }

    fn propose_record(&mut self, expected: u64, next: ClusterState, commands: &mut Vec<Command>) {
        let epoch = next.epoch;
        // The outcome of an earlier swap is of no interest any more.
        self.swapping = None;
        self.proposal = Some(Proposal {
            expected,
            next,
            stage: Stage::Promising,
        });
        if let Role::Following(following) = &mut self.role {
            following.asking = None;
        }
        self.promise(epoch, commands);
    }

    /// The logs in sync of the next record: the listed ones whose nodes confirm, and as many silent
    /// ones as `min_in_sync` needs. `None`: a new cluster needs more founders.
    fn in_sync_after(&self, asking: &Asking, state: &ClusterState) -> Option<Vec<Listed>> {
        let mut in_sync = vec![self.listed()];
        if state.is_unfounded() {
            let founders = asking.granted.iter();
            let founders = founders.filter(|(_, it)| it.last == Position::default());
            in_sync.extend(founders.map(|(node, it)| Listed {
                node: node.clone(),
                log_id: it.log_id,
            }));
            return (in_sync.len() >= state.min_in_sync()).then_some(in_sync);
        }
        let others = state.in_sync.iter().filter(|it| it.node != self.me.node);
        let by_name = self.rules.lack(Rule::LogIdCounts);
        let (confirming, silent): (Vec<&Listed>, Vec<&Listed>) = others.partition(|listed| {
            let granted = asking.granted.get(&listed.node);
            granted.is_some_and(|it| it.log_id == listed.log_id || by_name)
        });
        in_sync.extend(confirming.into_iter().cloned());
        let fewest = match self.rules.lack(Rule::Min) {
            true => 1,
            false => state.min_in_sync(),
        };
        let missing = fewest.saturating_sub(in_sync.len());
        in_sync.extend(silent.into_iter().take(missing).cloned());
        Some(in_sync)
    }

    /// Makes an epoch durable.
    pub(super) fn promise(&mut self, epoch: Epoch, commands: &mut Vec<Command>) {
        self.promising = self.promising.max(epoch);
        commands.push(Command::Promise {
            epoch,
            seen: self.seen.clone().filter(|seen| !seen.state.is_unfounded()),
        });
    }

    pub(super) fn promise_is_durable(
        &mut self,
        moment: Moment,
        epoch: Epoch,
        commands: &mut Vec<Command>,
    ) {
        self.promised = self.promised.max(epoch);
        if let Some(proposal) = &mut self.proposal
            && proposal.stage == Stage::Promising
            && proposal.next.epoch <= self.promised
        {
            proposal.stage = Stage::Swapping;
            let (expected, next) = (proposal.expected, proposal.next.clone());
            self.swap(expected, next, commands);
        }
        if let Some(handed) = self.handed.take() {
            match handed.state.epoch <= self.promised {
                true => self.take_office(moment, handed, commands),
                false => self.handed = Some(handed),
            }
        }
        self.handover_is_promised(moment, commands);
        self.decline_is_promised(commands);
        self.acceptance_is_promised(moment, commands);
    }

    pub(super) fn swap(&mut self, expected: u64, state: ClusterState, commands: &mut Vec<Command>) {
        self.swaps += 1;
        self.swapping = Some(state.clone());
        commands.push(Command::Swap {
            number: self.swaps,
            expected,
            state,
        });
    }

    /// The result of a swap.
    pub(super) fn swapped(
        &mut self,
        moment: Moment,
        number: u64,
        outcome: SwapOutcome,
        commands: &mut Vec<Command>,
    ) {
        let swapped = self.swapping.take_if(|_| number == self.swaps);
        let Some(state) = swapped else {
            return;
        };
        if let SwapOutcome::Won(revision) = outcome {
            return self.observe(moment, Some(Seen { revision, state }), None, commands);
        }
        if matches!(self.role, Role::Mastering(_)) {
            return self.own_swap_ended(outcome, commands);
        }
        let Some(proposal) = &mut self.proposal else {
            // A swap that only settles what an earlier process left.
            return self.ask_record(commands);
        };
        match outcome {
            // An earlier try of unknown outcome may have succeeded: read the record.
            SwapOutcome::Won(_) | SwapOutcome::Lost => {
                proposal.stage = Stage::Lost;
                self.ask_record(commands);
            }
            // Only another swap can settle the unknown outcome, by changing the revision.
            SwapOutcome::Unknown => {
                let (expected, next) = (proposal.expected, proposal.next.clone());
                self.swap(expected, next, commands);
            }
        }
    }

    /// A swap that leaves the record as it is: it settles the swap of an earlier process.
    pub(super) fn settle_earlier(&mut self, commands: &mut Vec<Command>) {
        let is_free = self.proposal.is_none() && self.swapping.is_none();
        let Some(seen) = self.seen.clone().filter(|_| is_free) else {
            return;
        };
        self.swap(seen.revision, seen.state, commands);
    }

    /// Takes mastership back after a handover whose successor declined.
    pub(super) fn stand_again(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Some(seen) = &self.seen else {
            return;
        };
        if self.may_stand(&seen.state) {
            self.ask(moment, commands);
        }
    }
}
