//! Gives every write its place in the log, its version and its answer.
//!
//! One lock guards the replication machine, the cluster clock and the *appended state*:
//! what keys will hold once everything appended is committed, and which requests will have
//! been applied. Conditions, `existed` and repeated requests are judged against that state,
//! and an answer that depends on it waits for its commit (REP-APPLY).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierkv_protocol::replication::{Command, Event, Mastership, Refusal, Replica};
use tierkv_storage::{Entry, Outcome, Residence, Storage};
use tierkv_types::{
    BootTime, Change, ChangeKind, Clock, Code, Error, HybridClock, Index, ItemKey, Payload,
    Position, Record, RequestId, Version, Write, WriteRequest, limits::MAX_REQUEST_LEAD,
};
use tokio::{sync::oneshot, time::Instant};

use crate::judgement::{Effect, Need, Prior, Priors, judge, needed, remembered};

/// The sequencer of one data node.
pub(crate) struct Sequencer {
    state: Mutex<State>,
    storage: Arc<Storage>,
    clock: Arc<dyn Clock>,
}

struct State {
    replica: Replica,
    clock: HybridClock,
    /// Appended and not yet applied, in index order: as long as neither memory nor the
    /// remembered requests tell what they do, it is told from here.
    pending: VecDeque<Record>,
    /// Up to where pending records were given out to be applied.
    released: Index,
    /// For each key with a pending change: the last such change's index, and what it leaves.
    appended: HashMap<ItemKey, Appended>,
    /// What pending records will have answered, by the requests they apply.
    answered: HashMap<RequestId, Outcome>,
    /// Who waits for which index, in index order.
    waiters: VecDeque<Waiter>,
}

struct Appended {
    index: Index,
    leaves: Prior,
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
    pub(crate) write: WriteRequest,
    pub(crate) deadline: Instant,
}

/// What the store said of keys that memory does not know.
pub(crate) struct Known {
    /// The store's generation before it was asked.
    pub(crate) generation: u64,
    /// What each key holds.
    pub(crate) priors: Priors,
}

/// What will be answered once the wait is over.
pub(crate) struct Sequenced {
    pub(crate) version: Version,
    /// What each operation does, in their order.
    pub(crate) effects: Vec<Effect>,
    /// It had been applied before; what keys held then is not remembered.
    pub(crate) replayed: bool,
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
            released: Index::ZERO,
            appended: HashMap::new(),
            answered: HashMap::new(),
            waiters: VecDeque::new(),
        };
        for record in tail {
            state.take(record);
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
        let version = state.clock.tick(self.clock.wall_millis());
        let record = state.append(position, version, Payload::Noop);
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
        let Some(priors) = self.priors(&state, &proposals, known) else {
            return Err(proposals);
        };
        let before = (state.replica.last(), state.pending.len());
        let ids: Vec<RequestId> = (proposals.iter())
            .map(|proposal| proposal.write.id)
            .collect();
        let mut answers = Vec::with_capacity(proposals.len());
        let mut records = Vec::with_capacity(proposals.len());
        for Proposal { write, deadline } in proposals {
            answers.push(if deadline <= now {
                Err(Error::new(
                    Code::DeadlineExceeded,
                    "the deadline passed before the write was logged; nothing was done",
                ))
            } else {
                self.sequence(&mut state, write, &priors, boot_time, wall, &mut records)
            });
        }
        let (done, committed) = oneshot::channel();
        if let Err(error) = self.storage.append(records) {
            // The log takes all or nothing, and it took nothing: so did this node.
            state.take_back(before);
            let error = error.to_error();
            for (answer, id) in answers.iter_mut().zip(&ids) {
                let stands = match answer {
                    // Applied before, and not by a record of this frame.
                    Ok(sequenced) => sequenced.replayed && self.outcome(&state, id).is_some(),
                    // Other refusals may have been judged by what was taken back.
                    Err(refusal) => {
                        matches!(refusal.code, Code::DeadlineExceeded | Code::NotMaster)
                    }
                };
                if !stands {
                    *answer = Err(error.clone());
                }
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
        write: WriteRequest,
        priors: &Priors,
        now: BootTime,
        wall: u64,
        records: &mut Vec<Record>,
    ) -> Result<Sequenced, Error> {
        // Also a refusal is a master's word.
        state.replica.confirm(now).map_err(not_master)?;
        let (request, fingerprint) = (write.id, write.fingerprint());
        if let Some(outcome) = self.outcome(state, &request) {
            return repeated(&write, fingerprint, &outcome);
        }
        let clock = state.clock.now(wall);
        check_birth(&request, clock)?;
        let judged = judge(write, clock, |key| {
            let appended = state.appended.get(key);
            appended.map_or_else(|| priors.get(key), |appended| Some(&appended.leaves))
        })?;
        let position = state.replica.propose(now).map_err(not_master)?;
        let version = state.clock.tick(wall);
        let (changes, effects) = judged.at(version);
        let payload = Payload::Write(Write {
            request,
            fingerprint,
            changes,
        });
        records.push(state.append(position, version, payload));
        Ok(Sequenced {
            version,
            effects,
            replayed: false,
        })
    }

    /// What became, or will have become, of a request; the caller's answer waits for the
    /// commit of everything appended (TXN-IDS).
    fn outcome(&self, state: &State, id: &RequestId) -> Option<Outcome> {
        let appended = state.answered.get(id).cloned();
        appended.or_else(|| self.storage.outcome(id))
    }

    /// Appends a record that expires those of `candidates`, keys with the versions that
    /// expired, that still hold these versions. `generation` is the store's from before the
    /// candidates were looked for. Answers how many are expired.
    ///
    /// # Errors
    /// `NotMaster`, or why the log took nothing.
    pub(crate) fn expire(
        &self,
        candidates: Vec<(ItemKey, Version)>,
        generation: u64,
    ) -> Result<usize, Error> {
        let mut state = self.lock();
        let changes: Vec<Change> = (candidates.into_iter())
            .filter(|(key, version)| self.still_holds(&state, key, *version, generation))
            .map(|(key, _)| Change {
                key,
                kind: ChangeKind::Delete { existed: true },
            })
            .collect();
        let count = changes.len();
        if count > 0 {
            self.append_own(&mut state, Payload::Expire(changes))?;
        }
        Ok(count)
    }

    /// Appends a record that forgets the tombstones up to a version.
    ///
    /// # Errors
    /// `NotMaster`, or why the log took nothing.
    pub(crate) fn forget_tombstones(&self, up_to: Version) -> Result<(), Error> {
        self.append_own(&mut self.lock(), Payload::Forget { up_to })
    }

    /// Appends a record that no client asked for.
    fn append_own(&self, state: &mut State, payload: Payload) -> Result<(), Error> {
        let before = (state.replica.last(), state.pending.len());
        let position = state.replica.propose(self.clock.boot_time());
        let position = position.map_err(not_master)?;
        let version = state.clock.tick(self.clock.wall_millis());
        let record = state.append(position, version, payload);
        self.storage.append(vec![record]).map_err(|error| {
            state.take_back(before);
            error.to_error()
        })
    }

    /// Whether a key's last change in the appended state is the one of this version.
    fn still_holds(&self, state: &State, key: &ItemKey, version: Version, generation: u64) -> bool {
        if state.appended.contains_key(key) {
            return false;
        }
        match self.storage.get(key.as_bytes()) {
            Residence::Found(item) => item.version == version,
            Residence::Absent => false,
            // Nothing has gone to the store since it was asked, so it was asked rightly.
            Residence::Unknown => self.storage.generation() == generation,
        }
    }

    /// What the keys hold that matter to the proposals, but for those that have a pending
    /// change; `None` if only the store can tell of one. It is all looked up before anything
    /// is judged by it: what memory knows now it may evict in the next moment.
    fn priors(&self, state: &State, proposals: &[Proposal], known: &Known) -> Option<Priors> {
        let mut priors = Priors::new();
        for (key, need) in needs(proposals) {
            if !state.appended.contains_key(key) {
                priors.insert(key.clone(), self.prior(key, need, known)?);
            }
        }
        Some(priors)
    }

    /// What a key holds that has no pending change; `None` if only the store can tell.
    fn prior(&self, key: &ItemKey, need: Need, known: &Known) -> Option<Prior> {
        match self.storage.get(key.as_bytes()) {
            Residence::Found(item) => Some(Prior::Held(item).reduced_to(need)),
            Residence::Absent => Some(Prior::Absent),
            // The generation is read after memory was asked: while it stands, nothing that
            // memory held has gone to the store since `known` was loaded.
            Residence::Unknown if known.generation == self.storage.generation() => {
                known.priors.get(key).cloned()
            }
            Residence::Unknown => None,
        }
    }

    /// Whether only the store can tell what a key holds.
    pub(crate) fn is_unknown(&self, key: &ItemKey) -> bool {
        let is_pending = self.lock().appended.contains_key(key);
        !is_pending && self.storage.get(key.as_bytes()) == Residence::Unknown
    }

    /// The records that a commit lets be applied. They stay pending until they are.
    pub(crate) fn release(&self, up_to: Index) -> Vec<Record> {
        let mut state = self.lock();
        let released = state.released;
        state.released = released.max(up_to);
        let index = |record: &Record| record.position.index;
        (state.pending.iter())
            .skip_while(|record| index(record) <= released)
            .take_while(|record| index(record) <= up_to)
            .cloned()
            .collect()
    }

    /// Takes in that released records are applied: memory tells what they changed from here
    /// on, and whoever waited for them may be answered once the cache is told.
    pub(crate) fn applied(&self, records: &[Record], up_to: Index) -> Vec<Waiter> {
        let mut state = self.lock();
        for record in records {
            let front = state.pending.pop_front();
            assert!(
                front.is_some_and(|front| front.position == record.position),
                "record {} is applied out of its turn",
                record.position
            );
            for change in record.changes() {
                let index = state
                    .appended
                    .get(&change.key)
                    .map(|appended| appended.index);
                if index == Some(record.position.index) {
                    state.appended.remove(&change.key);
                }
            }
            if let Payload::Write(write) = &record.payload {
                state.answered.remove(&write.request);
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

/// What proposals need to know, each key once.
pub(crate) fn needs(proposals: &[Proposal]) -> HashMap<&ItemKey, Need> {
    let mut needs = HashMap::new();
    for (key, need) in proposals
        .iter()
        .flat_map(|proposal| needed(&proposal.write))
    {
        let most = needs.entry(key).or_insert(need);
        *most = need.max(*most);
    }
    needs
}

/// Answers a request that was applied before.
fn repeated(write: &WriteRequest, fingerprint: u32, outcome: &Outcome) -> Result<Sequenced, Error> {
    if outcome.fingerprint != 0 && outcome.fingerprint != fingerprint {
        return Err(Error::invalid(
            "this request id was used for another write; make a new one for each write",
        ));
    }
    Ok(Sequenced {
        version: outcome.version,
        effects: remembered(write, outcome),
        replayed: true,
    })
}

/// Whether an id is of an age at which its outcome would still be known (TXN-IDS).
fn check_birth(id: &RequestId, now: Version) -> Result<(), Error> {
    let lead = u64::try_from(MAX_REQUEST_LEAD.as_millis()).unwrap_or(u64::MAX);
    if id.birth_millis > now.millis() + lead {
        return Err(Error::invalid(
            "the request id is born in the future; its birth is in platform time, as the \
             session's greeting and every version tell it",
        ));
    }
    if id.birth_millis < RequestId::horizon(now) {
        return Err(Error::invalid(
            "the request id is over two minutes old, so whether it was applied is not known \
             any more: read the key, and make a new id (its birth is in platform time)",
        ));
    }
    Ok(())
}

fn not_master(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotMaster => Error::new(Code::NotMaster, "this node is not the cluster's master"),
    }
}

impl State {
    /// Makes the next record and takes it in.
    fn append(&mut self, position: Position, version: Version, payload: Payload) -> Record {
        let record = Record {
            position,
            commit: self.replica.commit(),
            version,
            payload,
        };
        self.take(record.clone());
        record
    }

    /// Takes in a record that is in the log, or about to be.
    fn take(&mut self, record: Record) {
        self.note_appended(&record);
        self.pending.push_back(record);
    }

    fn note_appended(&mut self, record: &Record) {
        for change in record.changes() {
            let appended = Appended {
                index: record.position.index,
                leaves: match Entry::of(&change.kind, record.version) {
                    Entry::Value(item) => Prior::Held(item),
                    Entry::Tombstone(_) => Prior::Absent,
                },
            };
            self.appended.insert(change.key.clone(), appended);
        }
        self.answered.extend(Outcome::of(record));
    }

    /// Undoes what a frame appended that the log did not take: the last position and the
    /// number of pending records are as they were `before`.
    fn take_back(&mut self, (last, pending): (Position, usize)) {
        self.replica.retract(last);
        self.pending.truncate(pending);
        self.appended.clear();
        self.answered.clear();
        let pending = std::mem::take(&mut self.pending);
        pending.iter().for_each(|record| self.note_appended(record));
        self.pending = pending;
    }
}

#[cfg(test)]
mod tests;
