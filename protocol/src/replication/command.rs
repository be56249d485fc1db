//! What the machine has its driver do, and what each of it waits for.

use std::collections::VecDeque;

use tierkv_types::{Epoch, Index, Position, Round};

use super::cluster_state::ClusterState;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the epoch and the highest record seen durable, then feed [`Event::Promised`](super::Event::Promised).
    Promise {
        /// What must never be forgotten (REP-PROMISE).
        epoch: Epoch,
        /// The highest record that was seen (COORD-BACK).
        seen: Option<ClusterState>,
    },
    /// Swap the record in coordination, then feed [`Event::Swapped`](super::Event::Swapped).
    Swap {
        /// The revision to replace; `None`: there must be no record.
        expected: Option<u64>,
        /// The record to install.
        state: ClusterState,
    },
    /// Read the record, then feed [`Event::Read`](super::Event::Read).
    Read,
    /// Append an empty record at this position (REP-NOOP).
    AppendNoop(Position),
    /// Everything up to here is committed: apply it (REP-APPLY).
    Commit(Index),
    /// This round is vouched, and this commit index was sampled before it started (REP-ROUND).
    Vouched {
        /// The round.
        round: Round,
        /// The commit index that it carries.
        commit: Index,
    },
    /// Stop the process and say why: going on would break the promise.
    Halt(String),
}

/// What must have happened before a command may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// This epoch is promised, durably (REP-PROMISE).
    Promised(Epoch),
    /// The node's own log is durable up to here.
    Durable(Index),
    /// Everything up to here is applied, and whoever deletes keys from the cache has heard
    /// of it.
    Applied(Index),
}

impl Command {
    /// What it waits for; `None` if it may be carried out at once.
    #[must_use]
    pub const fn condition(&self) -> Option<Condition> {
        match self {
            Self::Promise { .. } | Self::Read | Self::Halt(_) => None,
            Self::Swap { state, .. } => Some(Condition::Promised(state.epoch)),
            Self::AppendNoop(position) => Some(Condition::Promised(position.epoch)),
            Self::Commit(index) => Some(Condition::Durable(*index)),
            Self::Vouched { commit, .. } => Some(Condition::Applied(*commit)),
        }
    }
}

/// Chooses one of so many commands, by its place.
pub type Choice = Box<dyn FnMut(usize) -> usize + Send + Sync>;

/// Commands that are not carried out yet. Any of those whose conditions hold may come next;
/// the oldest does, unless somebody else chooses.
pub struct CommandQueue {
    commands: VecDeque<Command>,
    promised: Epoch,
    durable: Index,
    applied: Index,
    choose: Choice,
}

impl CommandQueue {
    /// An empty one of a node that promised `promised` before, whose log is durable up to
    /// `durable` and applied up to `applied`.
    #[must_use]
    pub fn new(promised: Epoch, durable: Index, applied: Index) -> Self {
        Self {
            commands: VecDeque::new(),
            promised,
            durable,
            applied,
            choose: Box::new(|_| 0),
        }
    }

    /// Lets `choose` say which of several commands that may be carried out comes next.
    #[must_use]
    pub fn choosing(self, choose: Choice) -> Self {
        Self { choose, ..self }
    }

    /// Takes commands in.
    pub fn extend(&mut self, commands: impl IntoIterator<Item = Command>) {
        self.commands.extend(commands);
    }

    /// An epoch is promised, durably.
    pub fn promised(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }

    /// The node's own log is durable up to here.
    pub fn durable(&mut self, index: Index) {
        self.durable = self.durable.max(index);
    }

    /// Everything up to here is applied.
    pub fn applied(&mut self, index: Index) {
        self.applied = self.applied.max(index);
    }

    /// Hands out a command that may be carried out now.
    pub fn take_ready(&mut self) -> Option<Command> {
        let ready: Vec<usize> = (self.commands.iter().enumerate())
            .filter(|(_, command)| self.holds(command.condition()))
            .map(|(place, _)| place)
            .collect();
        let place = match ready.len() {
            0 => return None,
            1 => ready[0],
            count => ready[(self.choose)(count).min(count - 1)],
        };
        self.commands.remove(place)
    }

    fn holds(&self, condition: Option<Condition>) -> bool {
        match condition {
            None => true,
            Some(Condition::Promised(epoch)) => epoch <= self.promised,
            Some(Condition::Durable(index)) => index <= self.durable,
            Some(Condition::Applied(index)) => index <= self.applied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vouched(round: u64, commit: u64) -> Command {
        Command::Vouched {
            round: Round(round),
            commit: Index(commit),
        }
    }

    #[test]
    fn what_must_wait_lets_others_pass() {
        let mut queue = CommandQueue::new(Epoch(1), Index(4), Index(4));
        let noop = Command::AppendNoop(Position {
            epoch: Epoch(2),
            index: Index(5),
        });
        let commands = [
            vouched(1, 5),
            Command::Commit(Index(5)),
            noop.clone(),
            Command::Read,
        ];
        queue.extend(commands);
        assert_eq!(queue.take_ready(), Some(Command::Read));
        assert_eq!(queue.take_ready(), None);
        queue.promised(Epoch(2));
        assert_eq!(queue.take_ready(), Some(noop));
        queue.durable(Index(5));
        assert_eq!(queue.take_ready(), Some(Command::Commit(Index(5))));
        assert_eq!(queue.take_ready(), None);
        queue.applied(Index(5));
        assert_eq!(queue.take_ready(), Some(vouched(1, 5)));
        assert_eq!(queue.take_ready(), None);
    }

    #[test]
    fn one_of_several_is_chosen() {
        let queue = CommandQueue::new(Epoch(1), Index(4), Index(4));
        let mut queue = queue.choosing(Box::new(|count| count - 1));
        queue.extend([vouched(1, 4), vouched(9, 9), vouched(2, 4)]);
        assert_eq!(queue.take_ready(), Some(vouched(2, 4)));
        assert_eq!(queue.take_ready(), Some(vouched(1, 4)));
        assert_eq!(queue.take_ready(), None);
    }
}
