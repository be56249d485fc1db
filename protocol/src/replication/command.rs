//! [`Command`]s of the machine for its driver, and the condition that each waits for.

use std::{collections::VecDeque, sync::Arc};

use tierkv_types::{Epoch, Index, NodeId, Position, Record, Round};

use super::{
    change::ChangeError,
    cluster_state::ClusterState,
    handover::HandoverError,
    message::{Message, Process},
    seen::Seen,
};

/// An action for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the epoch and the highest record seen durable, then feed
    /// [`Event::Promised`](super::Event::Promised).
    Promise {
        /// The promised epoch, which must never be forgotten (REP-PROMISE).
        epoch: Epoch,
        /// The highest record that was seen (COORD-BACK).
        seen: Option<Seen>,
    },
    /// Swap the record in coordination, then feed [`Event::Swapped`](super::Event::Swapped) with the
    /// same number.
    Swap {
        /// Tells the outcomes of swaps apart.
        number: u64,
        /// The revision to replace.
        expected: u64,
        /// The record to install.
        state: ClusterState,
    },
    /// Read the record, then feed [`Event::Read`](super::Event::Read).
    Read,
    /// Append an empty record at this position (REP-NOOP).
    AppendNoop(Position),
    /// Append the master's records.
    Append(Vec<Arc<Record>>),
    /// Cut the log after this position, then feed [`Event::Cut`](super::Event::Cut) (REP-JOIN).
    Cut(Position),
    /// Everything up to this index is committed: apply it (REP-APPLY).
    Commit(Index),
    /// This round is vouched; the commit index was sampled before it started (REP-ROUND).
    Vouched {
        /// The term that numbered the round.
        epoch: Epoch,
        /// The round.
        round: Round,
        /// The commit index of the round.
        commit: Index,
    },
    /// Send a message to a node; it may be lost.
    Send {
        /// The node.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// This node is not master of the epoch any more: the outcome of writes that are not committed
    /// is unknown.
    SteppedDown(Epoch),
    /// Why it steps down: its log has taken nothing for F, so another member is to take over
    /// (REP-STUCK).
    GaveUp(Epoch),
    /// The log can't continue the master's: install a snapshot of it, and start the machine anew
    /// with a new log (REP-JOIN). It may be repeated.
    Install {
        /// The master.
        source: Process,
        /// Whether what is applied here is not the master's history: nothing of it may be served
        /// meanwhile. Else the log only lacks records, and the machine may go on until the snapshot
        /// is there.
        contradicts: bool,
    },
    /// The result of a change that an operator wanted.
    Changed {
        /// The number of its [`Event::Change`](super::Event::Change).
        id: u64,
        /// Whether it is installed.
        result: Result<(), ChangeError>,
    },
    /// The result of a handover.
    HandedOver {
        /// The number of its [`Event::HandOver`](super::Event::HandOver).
        id: u64,
        /// The new master.
        result: Result<NodeId, HandoverError>,
    },
    /// Coordination's record is behind the highest epoch that was seen, which is this one: the node
    /// does nothing until an operator has made another record (COORD-BACK).
    Wait(Epoch),
    /// Stop the process, for this reason: continuing would break a guarantee.
    Halt(String),
}

/// The condition before which a command must not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The promise of this epoch is durable (REP-PROMISE).
    Promised(Epoch),
    /// The node's own log is durable up to this index.
    Durable(Index),
    /// Everything up to this index is applied.
    Applied(Index),
}

impl Command {
    /// The condition it waits for; `None` if it may be carried out at once.
    #[must_use]
    pub const fn condition(&self) -> Option<Condition> {
        match self {
            Self::Swap { state, .. } => Some(Condition::Promised(state.epoch)),
            Self::AppendNoop(position) => Some(Condition::Promised(position.epoch)),
            Self::Commit(index) => Some(Condition::Durable(*index)),
            Self::Vouched { commit, .. } => Some(Condition::Applied(*commit)),
            Self::Promise { .. }
            | Self::Read
            | Self::Append(_)
            | Self::Cut(_)
            | Self::Send { .. }
            | Self::SteppedDown(_)
            | Self::GaveUp(_)
            | Self::Install { .. }
            | Self::Changed { .. }
            | Self::HandedOver { .. }
            | Self::Wait(_)
            | Self::Halt(_) => None,
        }
    }

    /// Whether it changes the end of the log. Such commands are carried out in their order.
    const fn is_of_log(&self) -> bool {
        matches!(self, Self::AppendNoop(_) | Self::Append(_) | Self::Cut(_))
    }
}

/// Most vouched rounds in a [`CommandQueue`]. They wait for their commits to be applied, which may
/// take long; a round that is left out makes the marks coarser, and never wrong.
const MAX_WAITING_ROUNDS: usize = 2;

/// Chooses one of so many commands, by its index.
pub type Choice = Box<dyn FnMut(usize) -> usize + Send + Sync>;

/// Commands that are not carried out yet. Any command whose condition holds may be next; it is
/// the oldest, unless a [`Choice`] is set.
pub struct CommandQueue {
    commands: VecDeque<Command>,
    promised: Epoch,
    durable: Index,
    applied: Index,
    choose: Choice,
}

impl CommandQueue {
    /// An empty queue of a node that has promised `promised`, whose log is durable up to
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

    /// Lets `choose` select which of the ready commands is next.
    #[must_use]
    pub fn choosing(self, choose: Choice) -> Self {
        Self { choose, ..self }
    }

    /// Adds commands. Of the vouched rounds, at most `MAX_WAITING_ROUNDS` wait: the oldest,
    /// whose turn must come however many follow, and the newest, which replaces the one before.
    pub fn extend(&mut self, commands: impl IntoIterator<Item = Command>) {
        for command in commands {
            let is_round = |command: &Command| matches!(command, Command::Vouched { .. });
            if is_round(&command) {
                let rounds = self.commands.iter().enumerate();
                let mut rounds = rounds.filter(|(_, other)| is_round(other));
                if let Some((newest, _)) = rounds.nth(MAX_WAITING_ROUNDS - 1) {
                    self.commands.remove(newest);
                }
            }
            self.commands.push_back(command);
        }
    }

    /// Records that the promise of an epoch is durable.
    pub fn promised(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }

    /// Records that the log was cut after `index`: what follows is not durable.
    pub fn cut(&mut self, index: Index) {
        self.durable = self.durable.min(index);
    }

    /// Records that the node's own log is durable up to `index`.
    pub fn durable(&mut self, index: Index) {
        self.durable = self.durable.max(index);
    }

    /// Records that everything up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        self.applied = self.applied.max(index);
    }

    /// Removes and returns a command that may be carried out now.
    pub fn take_ready(&mut self) -> Option<Command> {
        let first_of_log = self.commands.iter().position(Command::is_of_log);
        let ready: Vec<usize> = (self.commands.iter().enumerate())
            .filter(|(place, command)| {
                let is_next = !command.is_of_log() || Some(*place) == first_of_log;
                is_next && self.holds(command.condition())
            })
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
            epoch: Epoch(1),
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
    fn the_log_is_changed_in_order_whatever_is_chosen() {
        let queue = CommandQueue::new(Epoch(1), Index(4), Index(4));
        let mut queue = queue.choosing(Box::new(|count| count - 1));
        let position = Position {
            epoch: Epoch(1),
            index: Index(2),
        };
        let commands = [
            Command::Cut(position),
            Command::Append(Vec::new()),
            Command::Commit(Index(4)),
        ];
        queue.extend(commands.clone());
        let [cut, append, commit] = commands.map(Some);
        assert_eq!(queue.take_ready(), commit);
        assert_eq!(queue.take_ready(), cut);
        assert_eq!(queue.take_ready(), append);
        queue.cut(Index(2));
        queue.extend([Command::Commit(Index(4))]);
        assert_eq!(queue.take_ready(), None);
    }

    #[test]
    fn one_of_several_is_chosen() {
        let queue = CommandQueue::new(Epoch(1), Index(4), Index(4));
        let mut queue = queue.choosing(Box::new(|count| count - 1));
        queue.extend([vouched(1, 4), Command::Commit(Index(9)), vouched(2, 4)]);
        assert_eq!(queue.take_ready(), Some(vouched(2, 4)));
        assert_eq!(queue.take_ready(), Some(vouched(1, 4)));
        assert_eq!(queue.take_ready(), None);
    }
    #[test]
    fn the_oldest_and_the_newest_round_wait() {
        let mut queue = CommandQueue::new(Epoch(1), Index(4), Index(4));
        queue.extend((5..1_000).map(|index| vouched(index, index)));
        assert_eq!(queue.commands, [vouched(5, 5), vouched(999, 999)]);
        queue.applied(Index(5));
        assert_eq!(queue.take_ready(), Some(vouched(5, 5)));
        queue.extend([vouched(1_000, 1_000), vouched(1_001, 1_001)]);
        queue.applied(Index(1_001));
        assert_eq!(queue.take_ready(), Some(vouched(999, 999)));
        assert_eq!(queue.take_ready(), Some(vouched(1_001, 1_001)));
        assert_eq!(queue.take_ready(), None);
    }
}
