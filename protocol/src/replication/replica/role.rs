//! What a node is in its cluster, for operators and their monitoring. No decision of the machine
//! depends on it. And whether its state may be replaced.

use tierkv_types::{BootTime, Epoch, NodeRole};

use super::{Replica, Role};
use crate::replication::Process;

impl Replica {
    /// What this node is in its cluster, by the record that it sees and the master that it heard
    /// within F.
    #[must_use]
    pub fn role(&self, now: BootTime) -> NodeRole {
        if matches!(self.role, Role::Mastering(_)) {
            return match self.confirm() {
                Ok(_) => NodeRole::Master,
                Err(_) => NodeRole::TakingOver,
            };
        }
        let Some(seen) = self.seen.as_ref().filter(|_| self.master(now).is_some()) else {
            return NodeRole::Starting;
        };
        if self.is_in_sync() {
            NodeRole::Replica
        } else if seen.state.learners.contains(&self.me.node) {
            NodeRole::Learner
        } else {
            NodeRole::Joining
        }
    }

    /// Whether the record that this node sees lists its log.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let seen = self.seen.as_ref();
        seen.is_some_and(|seen| seen.state.lists(&self.me.node, self.log.id))
    }

    /// Whether a snapshot that this master began to send in this epoch may replace the node's state:
    /// the master's last message still said that the node needs one, no other master was heard
    /// since, and no record that the node knows of counts on its log (REP-JOIN).
    #[must_use]
    pub fn may_be_replaced(&self, by: &Process, epoch: Epoch) -> bool {
        let Role::Following(following) = &self.role else {
            return false;
        };
        following.master.as_ref() == Some(by)
            && following.lacking == Some(epoch)
            && self.accepted == epoch
            && !self.is_in_sync()
    }

    /// Whether a record of the term that this node sees is committed here.
    #[must_use]
    pub fn has_begun_term(&self) -> bool {
        self.log.position(self.log.commit).epoch == self.seen_order().0
    }
}
