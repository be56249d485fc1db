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

/// An event for the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The cluster's record from a watch, with its revision; `None`: there is none. It may be an
    /// old record, seen late or twice.
    Observed(Option<(u64, ClusterState)>),
    /// The cluster's record from a linearizable read that began after its [`Command::Read`].
    Read(Option<(u64, ClusterState)>),
    /// The epoch of a [`Command::Promise`] is durable.
    Promised(Epoch),
    /// The result of a [`Command::Swap`].
    Swapped(SwapOutcome),
    /// The node's own log is durable up to this position.
    Durable(Position),
    /// Everything up to the index of a [`Command::Commit`] is applied: reads see it.
    Applied(Index),
    /// Time has passed.
    Tick,
}

/// The result of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Our record is installed, at this revision.
    Won(u64),
    /// There was another record; ours was not installed.
    Lost,
    /// Unknown: both outcomes are possible (COORD-CAS).
    Unknown,
}

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node is not the cluster's master, or may not act as master yet.
    #[error("this node is not the cluster's master")]
    NotMaster,
}

/// The state that a node found on its own disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The log's id.
    pub log_id: LogId,
    /// The last record of the log, all of it durable.
    pub last: Position,
    /// The highest index known to be committed.
    pub commit: Index,
    /// The last index in the store.
    pub applied: Index,
    /// The highest epoch that the node promised.
    pub promised: Epoch,
    /// The highest record that the node saw.
    pub seen: Option<ClusterState>,
}

#[derive(Clone, Debug)]
enum Role {
    /// Waits for the record.
    Following,
    /// Its promise is being made durable.
    Promising { expected: u64, next: ClusterState },
    /// Its swap is under way, or had an unknown outcome and is retried. Once a try was certainly
    /// `lost`, the record has changed and no earlier try can succeed any more.
    Swapping {
        expected: u64,
        next: ClusterState,
        lost: bool,
    },
    /// It is master of the term.
    Mastering(Mastership),
    /// It gave up for good.
    Halted,
}

/// One node's replication machine.
#[derive(Clone, Debug)]
pub struct Replica {
    me: NodeId,
    log_id: LogId,
    started_at: BootTime,
    promised: Epoch,
    seen: Option<ClusterState>,
    last: Position,
    durable: Position,
    commit: Index,
    applied: Index,
    /// The epoch seen when the read under way was requested. A read that finds an older one shows
    /// that coordination lost data.
    reading: Option<Epoch>,
    role: Role,
}

impl Replica {
    /// A node that starts at `now` with the state of its disk. It is not master, even if the
    /// record names it (REP-START).
    #[must_use]
    pub fn start(me: NodeId, restored: Restored, now: BootTime) -> Self {
        assert!(
            restored.commit <= restored.last.index,
            "the commit index is after the log's end"
        );
        Self {
            me,
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

    /// Handles one event and appends the commands to carry out. A command that must wait has a
    /// condition ([`Command::condition`]); the order of commands has no meaning.
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

    /// Reserves the position of the next record.
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

    /// Frees the positions after `position`: the log took none of their records.
    pub fn retract(&mut self, position: Position) {
        assert!(
            self.durable.index <= position.index,
            "a durable record can't be taken back"
        );
        self.last = position;
    }

    /// The term in which this node may act as master now: answer `LATEST` and confirmed reads
    /// (REP-CONFIRM), vouch, and take writes.
    ///
    /// # Errors
    /// [`Refusal::NotMaster`], unless all of these hold: this node is master; its opening record
    /// is committed and applied (REP-NOOP), and with it everything that earlier terms
    /// acknowledged; its waiting time is over (REP-WAIT). A master that is alone in sync needs
    /// only its own acknowledgement of heartbeats.
    pub fn confirm(&self, now: BootTime) -> Result<&Mastership, Refusal> {
        match &self.role {
            Role::Mastering(term) if !term.is_waiting(now) && term.is_open(self.applied) => {
                Ok(term)
            }
            _ => Err(Refusal::NotMaster),
        }
    }

    /// The term of this node's mastership, even if it may not act yet.
    #[must_use]
    pub const fn mastership(&self) -> Option<&Mastership> {
        match &self.role {
            Role::Mastering(term) => Some(term),
            _ => None,
        }
    }

    /// The last reserved position.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// The index up to which everything is applied.
    #[must_use]
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// The index up to which everything is committed.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// Handles a record. `floor`: the lowest epoch that a linearizable read may find.
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
                Some(floor) if found < floor => self.halt(forgotten(found), commands),
                // A watch may show an old record late: a read shows the current one.
                _ => self.ask(commands),
            };
        }
        let installed = record.as_ref().map(|(_, state)| state.clone());
        match std::mem::replace(&mut self.role, Role::Following) {
            Role::Following => self.stand(record, commands),
            // The swap or promise under way will end and then read the record again.
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

    /// Requests a read of the record. There is one read at a time, because the epoch seen at its
    /// request is the floor for its result and not for an earlier read's.
    fn ask(&mut self, commands: &mut Vec<Command>) {
        if self.reading.is_none() {
            self.reading = Some(self.seen.as_ref().map_or(Epoch::ZERO, |state| state.epoch));
            commands.push(Command::Read);
        }
    }

    /// Tries to become master, if the record lists this log and no other member, or if it is the
    /// first record of a cluster and this log is empty. Without a record it waits for one: no node
    /// founds a cluster by itself.
    fn stand(&mut self, record: Option<(u64, ClusterState)>, commands: &mut Vec<Command>) {
        let Some((expected, state)) = record else {
            return;
        };
        if let Some(why) = self.objection(&state) {
            return self.halt(why, commands);
        }
        let epoch = state.epoch.max(self.promised).max(self.last.epoch).next();
        let listed = Listed {
            node: self.me.clone(),
            log_id: self.log_id,
        };
        let next = state.succeeded_by(epoch, Some(self.me.clone()), vec![listed]);
        // The record stored with the promise is the one that was read. The proposed record counts
        // as seen only once it is installed.
        if !state.is_unfounded() {
            self.seen = Some(state);
        }
        commands.push(Command::Promise {
            epoch,
            seen: self.seen.clone(),
        });
        self.role = Role::Promising { expected, next };
    }

    /// Why this node may never stand by this record.
    fn objection(&self, state: &ClusterState) -> Option<String> {
        if state.members != [self.me.clone()] {
            let members: Vec<&str> = state.members.iter().map(NodeId::as_str).collect();
            return Some(format!(
                "the record names the members {}, and this node is {}; this release runs clusters \
                 of one member",
                members.join(", "),
                self.me
            ));
        }
        if state.is_unfounded() {
            let is_new = self.last == Position::default();
            return (!is_new).then(|| {
                format!(
                    "the cluster is new, but node {} has a log up to record {}: its data directory \
                     belongs to another cluster; give it an empty one",
                    self.me, self.last
                )
            });
        }
        (!state.lists(&self.me, self.log_id)).then(|| {
            format!(
                "the record lists no log {} of node {}: the data directory was replaced, lost its \
                 log or belongs to another cluster; bring the right one back, or continue with \
                 this one: `tierkv admin recover --data-dir DIR`",
                self.log_id, self.me
            )
        })
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
            // An earlier try of unknown outcome may have succeeded: read the record.
            (Role::Swapping { expected, next, .. }, SwapOutcome::Lost) => {
                self.role = Role::Swapping {
                    expected,
                    next,
                    lost: true,
                };
                self.ask(commands);
            }
            // Only another swap can resolve the unknown outcome, by changing the revision.
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
            "durable after the last reserved position"
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

#[cfg(test)]
mod tests;
