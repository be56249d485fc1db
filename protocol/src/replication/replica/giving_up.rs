//! A master whose log takes nothing any more gives mastership up (REP-STUCK).
//!
//! A disk that hangs reports no error. The master's heartbeats would go on, so nobody would succeed
//! it, and no write would be committed. It can't hand over either: its own log has to acknowledge
//! what is appended, and the successor's epoch has to be promised on the same disk. So it becomes
//! silent, and the others fail over as if it had died. Before that, a member has to read the record
//! and say so, as for a handover: without coordination nobody could succeed it.
//!
//! The record names it still. Once its disk takes records again, it stands for the next epoch, if
//! nobody else did.

use std::time::Duration;

use super::{Moment, Replica, Role};
use crate::replication::{command::Command, handover::Stage, message::Message, rules::Rule};

/// The number of an offer that nobody ordered. Those of orders are higher.
const OWN_OFFER: u64 = 0;

/// One slow sync, as while a checkpoint is written to the same disk, is no reason to give up, however
/// short F is.
const MIN_STUCK: Duration = Duration::from_secs(1);

impl Replica {
    /// Whether records have waited for this node's log for F, and at least for [`MIN_STUCK`], and none
    /// became durable. Then the
    /// node does not stand for mastership.
    pub(super) fn is_stuck(&self) -> bool {
        self.log.waited() >= self.silence().max(MIN_STUCK)
    }

    /// Whether this node gave mastership up, and nobody has succeeded it yet. It does not confirm a
    /// candidate: the next record then lists its log only if it has to.
    pub(super) fn has_given_up(&self) -> bool {
        let master = self
            .seen
            .as_ref()
            .and_then(|seen| seen.state.master.as_ref());
        let is_following = matches!(self.role, Role::Following(_));
        is_following && master == Some(&self.me.node) && self.is_stuck()
    }

    /// Gives mastership up, if the log is stuck, the others can go on, and one of them has read the
    /// record.
    pub(super) fn give_up_if_stuck(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        if !self.is_stuck() || self.rules.lack(Rule::StuckGivesUp) {
            return;
        }
        let Role::Mastering(term) = &self.role else {
            return;
        };
        if !term.can_be_succeeded(moment.now) {
            return;
        }
        match term.handover.as_ref().map(|it| it.stage) {
            None => {
                if let Ok((to, offer)) = self.begin_offer(moment, OWN_OFFER, None, false) {
                    let message = Message::Offer(offer);
                    commands.push(Command::Send { to, message });
                }
            }
            Some(Stage::Draining) => {
                commands.push(Command::GaveUp(term.epoch()));
                self.step_down(moment, commands);
            }
            // No answer yet, or the master is silent already.
            Some(_) => {}
        }
    }
}
