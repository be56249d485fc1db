//! Gives every write its place in the log, its version and its answer.
//!
//! One lock guards the replication machine, the cluster clock and the *appended state*:
//! what keys will hold once everything appended is committed. Conditions and `existed`
//! are judged against that state, and an answer that depends on it waits for its commit
//! (REP-APPLY).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierkv_protocol::replication::{Command, Event, Mastership, Refusal, Replica};
use tierkv_storage::{Residence, Storage};
use tierkv_types::{
    BootTime, ChangeKind, Clock, Code, Error, HybridClock, Index, ItemKey, Payload, Position,
    Record, Version, Write,
};
use tokio::{sync::oneshot, time::Instant};

/// The sequencer of one data node.
pub(crate) struct Sequencer {
    state: Mutex<State>,
    storage: Arc<Storage>,
    clock: Arc<dyn Clock>,
}

struct State {
    replica: Replica,
    clock: HybridClock,
    /// Appended and not yet committed, in index order.
    pending: VecDeque<Record>,
    /// For each key with a pending change: the last such change's index, and whether the
    /// key is there after it.
    appended: HashMap<ItemKey, Appended>,
    /// Who waits for which index, in index order.
    waiters: VecDeque<Waiter>,
}

#[derive(Clone, Copy)]
struct Appended {
    index: Index,
    present: bool,
}

/// Told once the records up to an index are committed, applied and invalidated.
pub(crate) struct Waiter {
    index: Index,
    done: oneshot::Sender<()>,
}

impl Waiter {
    pub(crate) fn done(self) {
        // A peer that went away needs no answer.
        let _ = self.done.send(());
    }
}

/// A write with its deadline, as a frame brought it.
pub(crate) struct Proposal {
    pub(crate) write: Write,
    pub(crate) deadline: Instant,
}

/// What the store said of keys that memory does not know.
pub(crate) struct Known {
    /// The store's generation before it was asked.
    pub(crate) generation: u64,
    /// Whether each key is there.
    pub(crate) present: HashMap<ItemKey, bool>,
}

/// What will be answered once the wait is over.
pub(crate) struct Sequenced {
    pub(crate) version: Version,
    pub(crate) existed: Vec<bool>,
}

/// What became of some proposals.
pub(crate) struct Proposed {
    /// In the order of the proposals.
    pub(crate) answers: Vec<Result<Sequenced, Error>>,
    /// Over once every answer may be given; an error means the outcome is unknown.
    pub(crate) committed: oneshot::Receiver<()>,
}

impl Sequencer {
    /// A sequencer whose log ends in `tail`, the records that the store does not hold yet.
    pub(crate) fn new(
        replica: Replica,
        seen: Version,
        tail: Vec<Record>,
        storage: Arc<Storage>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut state = State {
            replica,
            clock: HybridClock::starting_above(seen),
            pending: VecDeque::new(),
            appended: HashMap::new(),
            waiters: VecDeque::new(),
        };
        for record in tail {
            state.note_appended(&record);
            state.pending.push_back(record);
        }
        Self {
            state: Mutex::new(state),
            storage,
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a broken invariant: the driver halts the process on
        // it, and until then the state is as the panicking step left it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the machine what happened.
    pub(crate) fn step(&self, event: Event, commands: &mut Vec<Command>) {
        self.lock()
            .replica
            .step(self.clock.boot_time(), event, commands);
    }

    /// What to say of the mastership now; `NotMaster` if it may not be acted on.
    pub(crate) fn confirm<T>(&self, say: impl FnOnce(&Mastership) -> T) -> Result<T, Error> {
        self.lock()
            .replica
            .confirm(self.clock.boot_time())
            .map(say)
            .map_err(not_master)
    }

    /// The last position of the log, the commit index, and whether this node masters.
    pub(crate) fn standing(&self) -> (Position, Index, Option<Mastership>) {
        let state = self.lock();
        let replica = &state.replica;
        (
            replica.last(),
            replica.commit(),
            replica.mastership().cloned(),
        )
    }

    /// The cluster's time now.
    pub(crate) fn now(&self) -> Version {
        self.lock().clock.now(self.clock.wall_millis())
    }

    /// Appends the record that opens a term (REP-NOOP).
    pub(crate) fn append_noop(&self, position: Position) -> Result<(), Error> {
        let mut state = self.lock();
        let record = state.record(position, Payload::Noop, self.clock.wall_millis());
        state.pending.push_back(record.clone());
        self.storage
            .append(vec![record])
            .map_err(|error| error.to_error())
    }

    /// Appends the writes of a frame, in order. Each is refused or gets its place; those
    /// that got one are logged together.
    ///
    /// # Errors
    /// The proposals come back if a key's prior state is needed and neither memory nor
    /// `known` tells it any more: load it and call again.
    pub(crate) fn propose(
        &self,
        proposals: Vec<Proposal>,
        known: &Known,
    ) -> Result<Proposed, Vec<Proposal>> {
        let now = Instant::now();
        let (boot_time, wall) = (self.clock.boot_time(), self.clock.wall_millis());
        let mut state = self.lock();
        if !proposals
            .iter()
            .all(|proposal| self.resident(&state, &proposal.write, known))
        {
            return Err(proposals);
        }
        let before = (state.replica.last(), state.pending.len());
        let mut answers = Vec::with_capacity(proposals.len());
        let mut records = Vec::with_capacity(proposals.len());
        for Proposal { write, deadline } in proposals {
            answers.push(if deadline <= now {
                Err(Error::new(
                    Code::DeadlineExceeded,
                    "the deadline passed before the write was logged; nothing was done",
                ))
            } else {
                self.sequence(&mut state, write, known, boot_time, wall, &mut records)
            });
        }
        let (done, committed) = oneshot::channel();
        if let Err(error) = self.storage.append(records) {
            // The log takes all or nothing, and it took nothing: so did this node.
            state.take_back(before);
            let error = error.to_error();
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(error.clone());
            }
        }
        // Answers that made no record still depend on what is appended before them.
        let waiter = Waiter {
            index: state.replica.last().index,
            done,
        };
        if waiter.index <= state.replica.applied() {
            waiter.done();
        } else {
            state.waiters.push_back(waiter);
        }
        Ok(Proposed { answers, committed })
    }

    fn sequence(
        &self,
        state: &mut State,
        write: Write,
        known: &Known,
        now: BootTime,
        wall: u64,
        records: &mut Vec<Record>,
    ) -> Result<Sequenced, Error> {
        let existed: Vec<bool> = (write.changes.iter())
            .map(|change| {
                needs_prior(&change.kind)
                    && self.is_present(state, &change.key, known).unwrap_or(false)
            })
            .collect();
        let pure_delete = write
            .changes
            .iter()
            .all(|change| change.kind == ChangeKind::Delete);
        if pure_delete && !existed.contains(&true) {
            // Nothing changes, so nothing is logged; the master's word is still needed.
            state.replica.confirm(now).map_err(not_master)?;
            return Ok(Sequenced {
                version: state.clock.last(),
                existed,
            });
        }
        let position = state.replica.propose(now).map_err(not_master)?;
        let record = state.record(position, Payload::Write(write), wall);
        let version = record.version;
        state.note_appended(&record);
        state.pending.push_back(record.clone());
        records.push(record);
        Ok(Sequenced { version, existed })
    }

    /// Whether the node knows of every key whose prior state the write's answer tells.
    fn resident(&self, state: &State, write: &Write, known: &Known) -> bool {
        (write.changes.iter())
            .filter(|change| needs_prior(&change.kind))
            .all(|change| self.is_present(state, &change.key, known).is_some())
    }

    /// Whether a key is there in the appended state; `None` if only the store can tell.
    fn is_present(&self, state: &State, key: &ItemKey, known: &Known) -> Option<bool> {
        if let Some(appended) = state.appended.get(key) {
            return Some(appended.present);
        }
        match self.storage.get(key.as_bytes()) {
            Residence::Found(item) => {
                let wall = Version::from_millis(self.clock.wall_millis());
                let now = state.clock.last().max(wall);
                Some(item.expires.is_none_or(|at| at > now))
            }
            Residence::Absent => Some(false),
            // The generation is read after memory was asked: while it stands, nothing that
            // memory held has gone to the store since `known` was loaded.
            Residence::Unknown if known.generation == self.storage.generation() => {
                known.present.get(key).copied()
            }
            Residence::Unknown => None,
        }
    }

    /// Whether only the store can tell if a key is there.
    pub(crate) fn is_unknown(&self, key: &ItemKey) -> bool {
        let nothing = Known {
            generation: self.storage.generation(),
            present: HashMap::new(),
        };
        self.is_present(&self.lock(), key, &nothing).is_none()
    }

    /// Takes out the records that a commit lets be applied.
    pub(crate) fn release(&self, up_to: Index) -> Vec<Record> {
        let mut state = self.lock();
        let mut records = Vec::new();
        while state
            .pending
            .front()
            .is_some_and(|record| record.position.index <= up_to)
        {
            records.extend(state.pending.pop_front());
        }
        records
    }

    /// Takes in that released records are applied: memory tells what they changed from here
    /// on, and whoever waited for them may be answered once the cache is told.
    pub(crate) fn applied(&self, records: &[Record], up_to: Index) -> Vec<Waiter> {
        let mut state = self.lock();
        for record in records {
            for change in record.changes() {
                let index = state
                    .appended
                    .get(&change.key)
                    .map(|appended| appended.index);
                if index == Some(record.position.index) {
                    state.appended.remove(&change.key);
                }
            }
        }
        let mut nothing = Vec::new();
        state
            .replica
            .step(self.clock.boot_time(), Event::Applied(up_to), &mut nothing);
        assert!(nothing.is_empty(), "applying commands nothing");
        let mut waiters = Vec::new();
        while state
            .waiters
            .front()
            .is_some_and(|waiter| waiter.index <= up_to)
        {
            waiters.extend(state.waiters.pop_front());
        }
        waiters
    }
}

/// Whether the answer tells if the key was there before.
pub(crate) const fn needs_prior(kind: &ChangeKind) -> bool {
    matches!(kind, ChangeKind::Delete)
}

fn not_master(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotMaster => Error::new(Code::NotMaster, "this node is not the cluster's master"),
    }
}

impl State {
    fn record(&mut self, position: Position, payload: Payload, wall_millis: u64) -> Record {
        let version = self.clock.tick(wall_millis);
        Record {
            position,
            commit: self.replica.commit(),
            version,
            payload,
        }
    }

    fn note_appended(&mut self, record: &Record) {
        for change in record.changes() {
            let present = matches!(change.kind, ChangeKind::Put { .. });
            let appended = Appended {
                index: record.position.index,
                present,
            };
            self.appended.insert(change.key.clone(), appended);
        }
    }

    /// Undoes what a frame appended that the log did not take: the last position and the
    /// number of pending records are as they were `before`.
    fn take_back(&mut self, (last, pending): (Position, usize)) {
        self.replica.retract(last);
        self.pending.truncate(pending);
        self.appended.clear();
        let pending = std::mem::take(&mut self.pending);
        pending.iter().for_each(|record| self.note_appended(record));
        self.pending = pending;
    }
}
