//! One node's replication machine.
//!
//! ```text
//!            Observed                 Promised              Won
//! Following ──────────► Promising ──────────────► Swapping ─────► Mastering
//!     ▲   (listed, alone)   │ epoch durable           │ ▲             │
//!     └────────────────── Lost ◄──────────────────────┘ └─ Unknown    │ opening record
//!                                                         (swap again)▼ durable: commits
//! ```

use std::time::Duration;

use tierkv_types::{BootTime, Epoch, Index, LogId, NodeId, Position};

use super::{
    cluster_state::{ClusterState, Listed},
    command::Command,
    mastership::Mastership,
};

/// How often a master starts a heartbeat round.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a new master waits before it acknowledges anything: 1 s plus 5 %, within
/// which an earlier master's vouching runs out (REP-WAIT).
pub const TAKEOVER_WAIT: Duration = Duration::from_millis(1_050);

/// What the machine is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// The cluster's record as a watch shows it, with its revision; `None`: there is none.
    /// It may be an old one, seen late or twice.
    Observed(Option<(u64, ClusterState)>),
    /// The cluster's record as a linearizable read, begun after its [`Command::Read`],
    /// found it.
    Read(Option<(u64, ClusterState)>),
    /// The epoch that a [`Command::Promise`] named is durable.
    Promised(Epoch),
    /// How a [`Command::Swap`] ended.
    Swapped(SwapOutcome),
    /// The node's own log is durable up to here.
    Durable(Position),
    /// What a [`Command::Commit`] named is applied: reads see it.
    Applied(Index),
    /// Time went by.
    Tick,
}

/// How a compare-and-swap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The record is ours, at this revision.
    Won(u64),
    /// The record was another; ours was not installed.
    Lost,
    /// Nobody knows: both outcomes count as possible (COORD-CAS).
    Unknown,
}

/// Why an operation is refused here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not master the cluster, or does not yet act as its master.
    #[error("this node is not the cluster's master")]
    NotMaster,
}

/// A cluster to be founded if coordination knows none.
#[derive(Clone, Debug)]
pub struct Founding {
    /// All nodes of the cluster.
    pub members: Vec<NodeId>,
}

/// What a node found on its own disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The log's name.
    pub log_id: LogId,
    /// The last record of the log, all of it durable.
    pub last: Position,
    /// What is known to be committed.
    pub commit: Index,
    /// What the store holds of it.
    pub applied: Index,
    /// The highest epoch it ever promised.
    pub promised: Epoch,
    /// The highest record it ever saw.
    pub seen: Option<ClusterState>,
}

#[derive(Clone, Debug)]
enum Role {
    /// Waits to be told what the record says.
    Following,
    /// Its epoch is on the way to disk.
    Promising {
        expected: Option<u64>,
        next: ClusterState,
    },
    /// Its swap is under way, or of unknown outcome and sent again. Once a try was `lost`
    /// for certain, the record has moved on and no earlier try can land any more.
    Swapping {
        expected: Option<u64>,
        next: ClusterState,
        lost: bool,
    },
    /// It holds the term.
    Mastering(Mastership),
    /// It gave up for good.
    Halted,
}

/// One node's replication machine.
#[derive(Clone, Debug)]
pub struct Replica {
    me: NodeId,
    founding: Founding,
    log_id: LogId,
    started_at: BootTime,
    promised: Epoch,
    seen: Option<ClusterState>,
    last: Position,
    durable: Position,
    commit: Index,
    applied: Index,
    /// The epoch that was seen when the read under way was asked for: what it finds can't
    /// be older, unless coordination forgot.
    reading: Option<Epoch>,
    role: Role,
}

impl Replica {
    /// A node that starts at `now` with what its disk held. It is master of nothing,
    /// whatever the record says (REP-START).
    #[must_use]
    pub fn start(me: NodeId, founding: Founding, restored: Restored, now: BootTime) -> Self {
        assert!(
            restored.commit <= restored.last.index,
            "committed beyond the log's end"
        );
        Self {
            me,
            founding,
            log_id: restored.log_id,
            started_at: now,
            promised: restored.promised,
            seen: restored.seen,
            last: restored.last,
            durable: restored.last,
            commit: restored.commit,
            applied: restored.applied,
            reading: None,
            role: Role::Following,
        }
    }

    /// Takes in one event and says what is to be done. What must wait carries its condition
    /// ([`Command::condition`]); the order is of no meaning.
    pub fn step(&mut self, now: BootTime, event: Event, commands: &mut Vec<Command>) {
        match event {
            Event::Observed(record) => self.observe(record, None, commands),
            Event::Read(record) => {
                let floor = self.reading.take();
                self.observe(record, floor, commands);
            }
            Event::Promised(epoch) => self.promise_is_durable(epoch, commands),
            Event::Swapped(outcome) => self.swapped(outcome, commands),
            Event::Durable(position) => self.log_is_durable(position, commands),
            Event::Applied(index) => {
                assert!(
                    index <= self.commit,
                    "REP-APPLY: applied before it was committed"
                );
                self.applied = self.applied.max(index);
            }
            Event::Tick => self.tick(now, commands),
        }
    }

    /// Reserves the place of the next record.
    ///
    /// # Errors
    /// [`Refusal::NotMaster`] unless this node may act as master (see [`Replica::confirm`]).
    pub fn propose(&mut self, now: BootTime) -> Result<Position, Refusal> {
        let epoch = self.confirm(now)?.epoch();
        self.last = Position {
            epoch,
            index: self.last.index.next(),
        };
        Ok(self.last)
    }

    /// Gives the places after `position` back: the log took none of their records.
    pub fn retract(&mut self, position: Position) {
        assert!(
            self.durable.index <= position.index,
            "a durable record can't be taken back"
        );
        self.last = position;
    }

    /// The term under which this node may act as master now: answer `LATEST` and
    /// confirmed reads (REP-CONFIRM), vouch, and take writes.
    ///
    /// # Errors
    /// [`Refusal::NotMaster`] unless this node masters, its opening record is committed and
    /// applied (REP-NOOP), and with it everything that earlier terms acknowledged, and its
    /// waiting time is over (REP-WAIT). A master alone in sync needs no heartbeat's
    /// acknowledgement but its own.
    pub fn confirm(&self, now: BootTime) -> Result<&Mastership, Refusal> {
        match &self.role {
            Role::Mastering(term) if !term.is_waiting(now) && term.is_open(self.applied) => {
                Ok(term)
            }
            _ => Err(Refusal::NotMaster),
        }
    }

    /// The term this node holds, whether or not it may answer yet.
    #[must_use]
    pub const fn mastership(&self) -> Option<&Mastership> {
        match &self.role {
            Role::Mastering(term) => Some(term),
            _ => None,
        }
    }

    /// The last position given out.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// Up to where everything is applied.
    #[must_use]
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// Up to where everything is committed.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// Takes in a record. `floor` is the epoch that a linearizable read must find at least.
    fn observe(
        &mut self,
        record: Option<(u64, ClusterState)>,
        floor: Option<Epoch>,
        commands: &mut Vec<Command>,
    ) {
        if matches!(self.role, Role::Halted) {
            return;
        }
        let found = record
            .as_ref()
            .map_or(Epoch::ZERO, |(_, state)| state.epoch);
        let seen = self.seen.as_ref().map_or(Epoch::ZERO, |state| state.epoch);
        if found < seen {
            return match floor {
                Some(floor) if found < floor => self.halt(forgotten(record.is_none()), commands),
                // A watch may show an old record late. A read tells whether it is one.
                _ => self.ask(commands),
            };
        }
        let installed = record.as_ref().map(|(_, state)| state.clone());
        match std::mem::replace(&mut self.role, Role::Following) {
            Role::Following => self.stand(record, commands),
            // The swap or the promise under way ends by itself and then looks again.
            promising @ Role::Promising { .. } => self.role = promising,
            Role::Swapping { next, .. } if installed.as_ref() == Some(&next) => {
                self.take_office(next, commands);
            }
            Role::Swapping { lost: true, .. } => self.stand(record, commands),
            swapping @ Role::Swapping { .. } => self.role = swapping,
            Role::Mastering(term) => {
                let deposed = installed.is_some_and(|state| state.epoch > term.epoch());
                self.role = Role::Mastering(term);
                if deposed {
                    self.halt("the record names a later term; restart the node", commands);
                }
            }
            Role::Halted => self.role = Role::Halted,
        }
    }

    /// Has the record read. One read at a time: what is known when it is asked for is the
    /// floor of its answer, and of no earlier one's.
    fn ask(&mut self, commands: &mut Vec<Command>) {
        if self.reading.is_none() {
            self.reading = Some(self.seen.as_ref().map_or(Epoch::ZERO, |state| state.epoch));
            commands.push(Command::Read);
        }
    }

    /// Stands for mastership if the record lets this log, and nobody else, take it.
    fn stand(&mut self, record: Option<(u64, ClusterState)>, commands: &mut Vec<Command>) {
        let (expected, members) = match &record {
            None => (None, self.founding.members.clone()),
            Some((revision, state)) => {
                if !state.lists(&self.me, self.log_id) {
                    let why = format!(
                        "the record lists no log {} of node {}: the data directory was replaced, \
                         lost its log or belongs to another cluster; bring the right one back, \
                         or go on with this one: `tierkv admin recover --data-dir DIR`",
                        self.log_id, self.me
                    );
                    return self.halt(why, commands);
                }
                (Some(*revision), state.members.clone())
            }
        };
        if members != [self.me.clone()] {
            return self.halt(
                "the record names other members; this release runs clusters of one member",
                commands,
            );
        }
        let above = record
            .as_ref()
            .map_or(Epoch::ZERO, |(_, state)| state.epoch);
        let epoch = above.max(self.promised).max(self.last.epoch).next();
        let listed = Listed {
            node: self.me.clone(),
            log_id: self.log_id,
        };
        let next = ClusterState::new(epoch, self.me.clone(), vec![listed], members);
        // The proposal counts as seen only once it is installed; what is made durable
        // with the promise is the record that was read.
        if let Some((_, state)) = record {
            self.seen = Some(state);
        }
        commands.push(Command::Promise {
            epoch,
            seen: self.seen.clone(),
        });
        self.role = Role::Promising { expected, next };
    }

    fn promise_is_durable(&mut self, epoch: Epoch, commands: &mut Vec<Command>) {
        self.promised = self.promised.max(epoch);
        match std::mem::replace(&mut self.role, Role::Following) {
            Role::Promising { expected, next } if next.epoch == epoch => {
                commands.push(Command::Swap {
                    expected,
                    state: next.clone(),
                });
                self.role = Role::Swapping {
                    expected,
                    next,
                    lost: false,
                };
            }
            other => self.role = other,
        }
    }

    fn swapped(&mut self, outcome: SwapOutcome, commands: &mut Vec<Command>) {
        match (std::mem::replace(&mut self.role, Role::Following), outcome) {
            (Role::Swapping { next, .. }, SwapOutcome::Won(_)) => self.take_office(next, commands),
            // Ours may have landed by an earlier try of unknown outcome: the record tells.
            (Role::Swapping { expected, next, .. }, SwapOutcome::Lost) => {
                self.role = Role::Swapping {
                    expected,
                    next,
                    lost: true,
                };
                self.ask(commands);
            }
            // Only a swap can raise the revision that settles the doubt.
            (Role::Swapping { expected, next, .. }, SwapOutcome::Unknown) => {
                commands.push(Command::Swap {
                    expected,
                    state: next.clone(),
                });
                self.role = Role::Swapping {
                    expected,
                    next,
                    lost: false,
                };
            }
            (other, _) => self.role = other,
        }
    }

    fn take_office(&mut self, installed: ClusterState, commands: &mut Vec<Command>) {
        assert!(
            installed.epoch > self.last.epoch,
            "I2: a term must be new to the log"
        );
        self.seen = Some(installed.clone());
        self.last = Position {
            epoch: installed.epoch,
            index: self.last.index.next(),
        };
        let ready_at = self.started_at.after(TAKEOVER_WAIT);
        commands.push(Command::Promise {
            epoch: installed.epoch,
            seen: self.seen.clone(),
        });
        commands.push(Command::AppendNoop(self.last));
        self.role = Role::Mastering(Mastership::new(installed, self.last.index, ready_at));
    }

    fn log_is_durable(&mut self, position: Position, commands: &mut Vec<Command>) {
        assert!(
            position.index <= self.last.index,
            "durable beyond what was given out"
        );
        self.durable = self.durable.max(position);
        if let Role::Mastering(term) = &mut self.role {
            term.acknowledge(&self.me, self.durable.index);
            if let Some(index) = term.committable()
                && index > self.commit
            {
                self.commit = index;
                commands.push(Command::Commit(index));
            }
        }
    }

    fn tick(&mut self, now: BootTime, commands: &mut Vec<Command>) {
        let commit = self.commit;
        if let Role::Mastering(term) = &mut self.role
            && !term.is_waiting(now)
            && term.is_open(commit)
            && let Some(round) = term.start_round(&self.me)
        {
            commands.push(Command::Vouched { round, commit });
        }
    }

    fn halt(&mut self, why: impl Into<String>, commands: &mut Vec<Command>) {
        self.role = Role::Halted;
        commands.push(Command::Halt(why.into()));
    }
}

/// Why coordination can't be believed any more (COORD-BACK).
const fn forgotten(record_is_gone: bool) -> &'static str {
    if record_is_gone {
        "coordination has no record of this cluster, but this node has seen one: the \
         coordination store was wiped; bring it back, or go on with what this node knows: \
         `tierkv admin recover --data-dir DIR`"
    } else {
        "coordination went back to an earlier epoch: an old backup was restored; bring the \
         newest back, or go on with what this node knows: `tierkv admin recover --data-dir DIR`"
    }
}

#[cfg(test)]
mod tests;
