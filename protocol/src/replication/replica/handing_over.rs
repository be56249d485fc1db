//! Handovers: the master's part and the successor's (REP-HANDOVER).

use tierkv_types::{Epoch, NodeId};

use super::{Moment, Replica, Role};
use crate::replication::{
    cluster_state::Listed,
    command::Command,
    handover::{Handover, HandoverError, Stage},
    message::{Message, Offer, Process},
    seen::Seen,
};

/// The part of F after which an unsettled swap is declined.
const SETTLE_PART: u32 = 2;

impl Replica {
    /// Begins a handover.
    pub(super) fn hand_over(
        &mut self,
        moment: Moment,
        id: u64,
        to: Option<&NodeId>,
        leaves: bool,
        commands: &mut Vec<Command>,
    ) {
        let begun = self.begin_handover(moment, id, to, leaves);
        match begun {
            Ok((to, offer)) => commands.push(Command::Send {
                to,
                message: Message::Offer(offer),
            }),
            Err(error) => commands.push(Command::HandedOver {
                id,
                result: Err(error),
            }),
        }
    }

    fn begin_handover(
        &mut self,
        moment: Moment,
        id: u64,
        to: Option<&NodeId>,
        leaves: bool,
    ) -> Result<(NodeId, Offer), HandoverError> {
        match self.confirm() {
            Ok(_) => self.begin_offer(moment, id, to, leaves),
            Err(_) => Err(HandoverError::NotMaster),
        }
    }

    /// Chooses a successor, and begins with the offer to it.
    pub(super) fn begin_offer(
        &mut self,
        moment: Moment,
        id: u64,
        to: Option<&NodeId>,
        leaves: bool,
    ) -> Result<(NodeId, Offer), HandoverError> {
        self.questions += 1;
        let number = self.questions;
        let promising = self.promising;
        let Role::Mastering(term) = &mut self.role else {
            return Err(HandoverError::NotMaster);
        };
        if term.handover.is_some() {
            return Err(HandoverError::UnderWay);
        }
        let successor = term.successor(to, moment.now);
        let successor = successor.ok_or(HandoverError::NoSuccessor)?;
        let (to, epoch) = (successor.node.clone(), term.epoch());
        term.handover = Some(Handover {
            id,
            successor,
            leaves,
            number,
            epoch: epoch.max(promising).next(),
            stage: Stage::Offered,
            since: moment.now,
        });
        Ok((to, Offer { epoch, number }))
    }

    /// The successor has read the record.
    pub(super) fn successor_is_ready(&mut self, moment: Moment, from: &Process, offer: Offer) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let epoch = term.epoch();
        if let Some(handover) = &mut term.handover
            && handover.stage == Stage::Offered
            && handover.successor == *from
            && (handover.number, epoch) == (offer.number, offer.epoch)
        {
            handover.enter(Stage::Draining, moment.now);
        }
    }

    /// Goes on with a handover, if what it waits for has come, or for too long has not.
    pub(super) fn drive_handover(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let silence = self.silence();
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let Some(handover) = term.handover.clone() else {
            return;
        };
        let waited = moment.now.since(handover.since);
        match handover.stage {
            Stage::Offered | Stage::Draining if waited >= silence => {
                term.handover = None;
                commands.push(Command::HandedOver {
                    id: handover.id,
                    result: Err(HandoverError::TooSlow),
                });
            }
            Stage::Draining => {
                // A swap of the master's own is settled first.
                let is_settled = term.sets.pending().is_none();
                let is_committed = self.log.commit == self.log.last().index;
                if is_settled && is_committed && term.holds_all(&handover.successor, &self.log) {
                    if let Some(handover) = &mut term.handover {
                        handover.enter(Stage::Promising, moment.now);
                    }
                    self.promise(handover.epoch, commands);
                }
            }
            Stage::Swapping | Stage::Declining if waited >= silence / SETTLE_PART => {
                if let Some(handover) = &mut term.handover {
                    handover.enter(Stage::Declining, handover.since);
                }
                commands.push(Command::Send {
                    to: handover.successor.node.clone(),
                    message: Message::Decline(handover.epoch),
                });
            }
            Stage::Offered
            | Stage::Promising
            | Stage::Swapping
            | Stage::Declining
            | Stage::Declined => {}
        }
    }

    /// The next epoch is durable: the master swaps it in for its successor.
    pub(super) fn handover_is_promised(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let (me, promised) = (self.me.clone(), self.promised);
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let record = term.record().clone();
        let Some(handover) = (term.handover.as_mut())
            .filter(|it| it.stage == Stage::Promising && it.epoch <= promised)
        else {
            return;
        };
        handover.enter(Stage::Swapping, moment.now);
        let others: Vec<Listed> = (record.in_sync.iter())
            .filter(|listed| listed.node != me.node)
            .cloned()
            .collect();
        let in_sync = match handover.leaves && others.len() >= record.min_in_sync() {
            true => others,
            false => record.in_sync.clone(),
        };
        let next = record.succeeded_by(handover.epoch, Some(&handover.successor), in_sync);
        term.sets.propose(next.clone());
        let expected = term.sets.revision();
        self.swap(expected, next, commands);
    }

    /// The handover's swap failed for certain: the master goes on.
    pub(super) fn handover_failed(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let is_over = |it: &mut Handover| {
            matches!(
                it.stage,
                Stage::Swapping | Stage::Declining | Stage::Declined
            )
        };
        if let Some(handover) = term.handover.take_if(is_over) {
            commands.push(Command::HandedOver {
                id: handover.id,
                result: Err(HandoverError::NotInstalled),
            });
            self.lead(moment, commands);
        }
    }

    /// The successor declined: this master goes on, and both sets count until the swap is settled.
    pub(super) fn declined(
        &mut self,
        moment: Moment,
        from: &Process,
        epoch: Epoch,
        commands: &mut Vec<Command>,
    ) {
        let Role::Mastering(term) = &mut self.role else {
            return;
        };
        let is_it = |it: &&mut Handover| {
            it.stage == Stage::Declining && it.successor == *from && it.epoch == epoch
        };
        if let Some(handover) = term.handover.as_mut().filter(is_it) {
            handover.enter(Stage::Declined, moment.now);
            self.lead(moment, commands);
        }
    }

    /// Whether a record is the handover that its successor declined.
    pub(super) fn is_declined(&self, record: &Seen) -> bool {
        let handover = self.mastership().and_then(|term| term.handover.as_ref());
        handover.is_some_and(|it| {
            it.stage == Stage::Declined
                && it.epoch == record.state.epoch
                && record.state.names(&it.successor)
        })
    }

    /// A master offers to hand over to this node: it answers once it has read the record.
    pub(super) fn offered(&mut self, from: &Process, offer: Offer, commands: &mut Vec<Command>) {
        let reads = self.reads;
        let accepted = self.accepted;
        let Role::Following(following) = &mut self.role else {
            return;
        };
        if following.master.as_ref() == Some(from) && offer.epoch == accepted {
            following.offered = Some((from.clone(), offer, reads));
            self.ask_record(commands);
        }
    }

    /// A read with this number has ended, and found this record.
    pub(super) fn offer_is_checked(
        &mut self,
        number: u64,
        found: (Epoch, u64),
        commands: &mut Vec<Command>,
    ) {
        let Role::Following(following) = &mut self.role else {
            return;
        };
        let is_due = |offered: &mut (Process, Offer, u64)| number > offered.2;
        if let Some((from, offer, _)) = following.offered.take_if(is_due)
            && found.0 == offer.epoch
        {
            commands.push(Command::Send {
                to: from.node,
                message: Message::Ready(offer),
            });
        }
    }

    /// A master asks this process never to take an epoch.
    pub(super) fn decline(&mut self, from: &Process, epoch: Epoch, commands: &mut Vec<Command>) {
        let (promised, promising) = (self.promised, self.promising);
        let is_taking = self.handed.is_some();
        let Role::Following(following) = &mut self.role else {
            return;
        };
        if is_taking {
            return;
        }
        if promised >= epoch {
            return commands.push(Command::Send {
                to: from.node.clone(),
                message: Message::Declined(epoch),
            });
        }
        following.declining = Some((from.node.clone(), epoch));
        if promising < epoch {
            self.promising = epoch;
            commands.push(Command::Promise {
                epoch,
                seen: self.seen.clone(),
            });
        }
    }

    /// The promise of a declined epoch is durable.
    pub(super) fn decline_is_promised(&mut self, commands: &mut Vec<Command>) {
        let promised = self.promised;
        let Role::Following(following) = &mut self.role else {
            return;
        };
        let is_durable = |declining: &mut (NodeId, Epoch)| declining.1 <= promised;
        if let Some((to, epoch)) = following.declining.take_if(is_durable) {
            commands.push(Command::Send {
                to,
                message: Message::Declined(epoch),
            });
        }
    }
}
