//! Gives every write its index in the log, its version and its answer.
//!
//! One lock guards the replication machine and the *appended state*: what keys will hold
//! once everything appended is committed, and which requests will have been applied.
//! Conditions, `existed` and retried requests are judged against that state. An answer that
//! depends on one of its records waits for that record's commit (REP-APPLY).
//!
//! Checksums and copies are made outside of the lock. Readers don't take it: whether this node
//! may act as master is an atomic, and so is the cluster clock. The driver takes it at each event,
//! so nobody holds it for long: a frame's judgement and a step of the applier are bounded.

mod own_records;
mod proofs;
mod replicating;
mod uncommitted;
mod unproven;
mod waiters;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU8};

use tierkv_protocol::{
    platform_time::others::{TimeAnswer, TimeQuestion},
    replication::{Command, Event, Mastership, Moment as MachineMoment, Refusal, Replica},
};
use tierkv_storage::{Appended, Effects, LogRoom, Outcome, Residence, Storage, StorageError};
use tierkv_types::{
    BootTime, Code, Error, HybridClock, Index, ItemKey, Payload, Position, Record, RequestId,
    RequestName, Version, Write, WriteRequest, limits::MAX_REQUEST_LEAD,
};
use tokio::{sync::watch, time::Instant};

use self::{
    proofs::{Standing, Vouched},
    uncommitted::is_behind,
    waiters::Waiters,
};
pub(crate) use self::{replicating::NextAppend, waiters::Settling};
use crate::{
    freshness::Freshness,
    judgement::{Need, PriorValue, Priors, judge, needed, remembered},
    ownership::Owned,
    platform_clock::PlatformClock,
    proposal::{Answer, PendingAnswers, Proposal, Rows, Sequenced, Verdicts},
    rules::{Rule, Rules},
    steadiness::Steadiness,
};

/// The sequencer of one data node.
pub(crate) struct Sequencer {
    state: Mutex<State>,
    /// The cluster clock. It is ticked only under the lock, so that versions are in the order
    /// of the log.
    cluster_clock: HybridClock,
    /// What this node may do as a master, as of the last event: one of [`Standing`].
    standing: AtomicU8,
    /// The last vouched round, for reads that wait for a proof of mastership.
    vouched: watch::Sender<Vouched>,
    /// What reads without a proof go by, as of the last event.
    freshness: Freshness,
    steadiness: Steadiness,
    /// The last applied index, for reads that wait for one.
    applied: watch::Sender<Index>,
    /// Whether writes wait until earlier ones are committed ([`uncommitted`]).
    is_behind: watch::Sender<bool>,
    /// Changes when there may be something to send to the other members.
    news: watch::Sender<()>,
    storage: Arc<Storage>,
    /// The input of the cluster clock.
    time: Arc<PlatformClock>,
    owned: Arc<Owned>,
    rules: Rules,
}

struct State {
    replica: Replica,
    appended: Appended,
    /// The last appended record that was released to be applied.
    released: Index,
    /// The last that was applied. The machine counts it later, when the driver reports it.
    applied: Index,
    waiters: Waiters,
}

/// One moment on each clock that judging needs.
#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    /// Platform time, in milliseconds.
    platform: u64,
}

/// The records of some proposals, to be logged together.
struct Batch {
    records: Vec<Arc<Record>>,
    /// What the log still takes before writers have to wait.
    room: LogRoom,
    /// Set if the last proposal was not taken: the bytes of its record, for which there is no room.
    unfit: Option<u64>,
}

/// The answer to a proposal, and the last appended record that it depends on; zero: none.
struct Judgement {
    answer: Answer,
    depends_on: Index,
}

impl Sequencer {
    /// `tail`: the records at the end of the log that the store does not hold yet; `seen`: no
    /// version in the log is above it.
    pub(crate) fn new(
        replica: Replica,
        seen: Version,
        tail: Vec<Arc<Record>>,
        storage: Arc<Storage>,
        time: Arc<PlatformClock>,
        owned: Arc<Owned>,
    ) -> Self {
        Self::with_rules(replica, seen, tail, storage, time, owned, Rules::default())
    }

    pub(crate) fn with_rules(
        replica: Replica,
        seen: Version,
        tail: Vec<Arc<Record>>,
        storage: Arc<Storage>,
        time: Arc<PlatformClock>,
        owned: Arc<Owned>,
        rules: Rules,
    ) -> Self {
        let mut appended = Appended::default();
        tail.into_iter().for_each(|record| appended.push(record));
        let seen = match rules.lack(Rule::VersionsAboveSeen) {
            true => Version::ZERO,
            false => seen,
        };
        Self {
            state: Mutex::new(State {
                replica,
                appended,
                released: Index::ZERO,
                applied: Index::ZERO,
                waiters: Waiters::default(),
            }),
            cluster_clock: HybridClock::starting_above(seen),
            standing: AtomicU8::new(Standing::None as u8),
            vouched: watch::Sender::default(),
            freshness: Freshness::default(),
            steadiness: Steadiness::default(),
            applied: watch::Sender::default(),
            is_behind: watch::Sender::default(),
            news: watch::Sender::default(),
            storage,
            time,
            owned,
            rules,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a broken invariant, and the driver halts the process. Until
        // then the state is as the panicking step left it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps the machine with an event; appends its commands to `commands`.
    pub(crate) fn step(&self, event: Event, commands: &mut Vec<Command>) {
        let is_tick = matches!(event, Event::Tick);
        let mut state = self.lock();
        let moment = self.machine_moment(&state);
        state.replica.step(moment, event, commands);
        self.publish(&state);
        self.log_slots(&mut state);
        // Also before it may act: a founder must have the platform's time before its first write.
        let in_sync = state.replica.mastership().map(|term| {
            let listed = term.record().in_sync.iter().filter(|_| is_tick);
            listed.map(|listed| listed.node.clone()).collect::<Vec<_>>()
        });
        drop(state);
        if let Some(in_sync) = in_sync {
            self.news.send_replace(());
            if is_tick {
                self.time.draw(&in_sync);
            }
        }
    }

    /// Now, on the clocks that the machine needs.
    fn machine_moment(&self, state: &State) -> MachineMoment {
        // A replica's time is not the cluster's before it has heard the master, and a founder's may
        // be set back. What the cluster clock has kept stays, and others acknowledge it.
        let is_settled = state.replica.mastership().is_some() && !self.time.is_founding();
        MachineMoment {
            now: self.time.boot_time(),
            clock: match is_settled {
                true => self.now(),
                false => self.cluster_clock.last(),
            },
        }
    }

    /// This node has lost its mastership: the outcome of writes that are not committed is unknown.
    pub(crate) fn stepped_down(&self) {
        self.lock().waiters.give_up();
    }

    /// Answers a coordinator's question for the cluster's time, as soon as this node has mastership
    /// (CLOCK-STEADY).
    ///
    /// # Errors
    /// `NotMaster` if it has not.
    pub(crate) fn compare_times(
        &self,
        question: Option<&TimeQuestion>,
    ) -> Result<TimeAnswer, Error> {
        let is_master = self.lock().replica.mastership().is_some();
        match is_master {
            true => Ok(self.time.compare(question)),
            false => Err(not_master(Refusal::NotMaster)),
        }
    }

    /// Looks at the machine, under the lock, at this boot time.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Replica, BootTime) -> T) -> T {
        let now = self.time.boot_time();
        look(&self.lock().replica, now)
    }

    /// The last position of the log, the commit index, and the mastership if this node is master.
    pub(crate) fn standing(&self) -> (Position, Index, Option<Mastership>) {
        let state = self.lock();
        let replica = &state.replica;
        (
            replica.last(),
            replica.commit(),
            replica.mastership().cloned(),
        )
    }

    /// The cluster's time now. Takes no lock.
    pub(crate) fn now(&self) -> Version {
        if self.time.is_founding() {
            // The time may be set back, so the cluster clock does not keep it.
            let platform = Version::from_millis(self.time.millis());
            return self.cluster_clock.last().max(platform);
        }
        self.cluster_clock.now(self.time.millis())
    }

    /// The cluster's time now, as far as this node knows it; `None` before a founder's first write,
    /// as it may be set back.
    pub(crate) fn settled_now(&self) -> Option<Version> {
        if self.time.is_founding() {
            return None;
        }
        Some(match self.is_acting() {
            true => self.now(),
            // A replica does not move the cluster clock.
            false => self.cluster_clock.last(),
        })
    }

    /// Judges writes, in order. Each is refused, gets its index in the log, or is returned:
    /// because what its keys hold is neither in memory nor in `rows`, or because the log has no
    /// room for it. How much a write logs is known only once it is judged: a touch logs its key's
    /// value. Those with an index are logged together.
    pub(crate) fn propose(&self, proposals: Vec<Proposal>, rows: &Rows) -> Verdicts {
        // Before the time is read, so that the clock does not step between version and expiry.
        self.time.settle();
        let boot_time = self.time.boot_time();
        let moment = Moment {
            now: Instant::now(),
            platform: self.time.millis_at(boot_time),
        };
        let mut verdicts = Verdicts::default();
        let mut judgements = Vec::with_capacity(proposals.len());
        let mut state = self.lock();
        // Under the lock: frames that waited for room together must not fill it together.
        let mut batch = Batch {
            records: Vec::with_capacity(proposals.len()),
            room: self.storage.log_room(),
            unfit: None,
        };
        let before = state.replica.last();
        for proposal in proposals {
            if proposal.deadline <= moment.now {
                judgements.push(Judgement::late(&proposal));
                continue;
            }
            if batch.room.is_full() || is_behind(&state) {
                verdicts.waiting.push(proposal);
                continue;
            }
            match self.priors(&state, &proposal.write, rows) {
                Some(priors) => {
                    let copy = (!batch.room.fits_any()).then(|| proposal.clone());
                    let judgement = self.judge(&mut state, proposal, &priors, moment, &mut batch);
                    match batch.unfit.take().zip(copy) {
                        Some((bytes, proposal)) => {
                            verdicts.waiting.push(proposal);
                            verdicts.waiting_bytes = verdicts.waiting_bytes.max(bytes);
                        }
                        None => judgements.push(judgement),
                    }
                }
                None => verdicts.unknown.push(proposal),
            }
        }
        let queued = self.storage.append_allocated(batch.records);
        if let Err(error) = &queued {
            // The log takes all records or none, and it took none.
            if !self.rules.lack(Rule::RefusedTakenBack) {
                state.take_back(before);
            }
            for judgement in &mut judgements {
                judgement.lose_after(before.index, error);
            }
        }
        self.sort(&mut state, before.index, judgements, &mut verdicts);
        self.publish_behind(&state);
        // Wakes the log and the senders to the members after the lock is released.
        drop(state);
        drop(queued);
        self.news.send_replace(());
        verdicts
    }

    /// Groups answers by the record that they wait for. Records after `before` were logged
    /// together, so answers that depend on one of them wait for the last.
    fn sort(
        &self,
        state: &mut State,
        before: Index,
        judgements: Vec<Judgement>,
        verdicts: &mut Verdicts,
    ) {
        let (applied, last) = (state.applied, state.replica.last().index);
        let mut waiting: Vec<(Index, Vec<Answer>)> = Vec::new();
        for Judgement { answer, depends_on } in judgements {
            if depends_on <= applied || self.rules.lack(Rule::AnswersWait) {
                // The keys of the first attempt may not be deleted from the cache yet.
                let is_repeated = answer.result.as_ref().is_ok_and(|it| it.replayed);
                match is_repeated
                    .then(|| state.waiters.wait_for_applied())
                    .flatten()
                {
                    Some(committed) => verdicts.pending.push(PendingAnswers {
                        answers: vec![answer],
                        committed,
                    }),
                    None => verdicts.settled.push(answer),
                }
                continue;
            }
            let index = if depends_on > before {
                last
            } else {
                depends_on
            };
            match waiting.iter_mut().find(|(other, _)| *other == index) {
                Some((_, answers)) => answers.push(answer),
                None => waiting.push((index, vec![answer])),
            }
        }
        for (index, answers) in waiting {
            verdicts.pending.push(PendingAnswers {
                answers,
                committed: state.waiters.wait(index),
            });
        }
    }

    /// Judges one write by what its keys hold, and gives it its index.
    fn judge(
        &self,
        state: &mut State,
        proposal: Proposal,
        priors: &Priors,
        moment: Moment,
        batch: &mut Batch,
    ) -> Judgement {
        let (id, deadline) = (proposal.id, proposal.deadline);
        let mut depends_on = Index::ZERO;
        let result = self.sequence(state, proposal, priors, moment, batch, &mut depends_on);
        let answer = Answer {
            id,
            deadline,
            result,
        };
        Judgement { answer, depends_on }
    }

    /// The answer to a write; its record, if it is to be logged, goes to `batch`. `depends_on` is
    /// set to that record's index, else to the index of the last appended record that the answer
    /// depends on.
    fn sequence(
        &self,
        state: &mut State,
        proposal: Proposal,
        priors: &Priors,
        moment: Moment,
        batch: &mut Batch,
        depends_on: &mut Index,
    ) -> Result<Sequenced, Error> {
        let (write, fingerprint) = (proposal.write, proposal.fingerprint);
        // Also for a refusal: only a master may give one.
        let is_master = state.replica.confirm();
        if !self.rules.lack(Rule::MasterJudges) {
            is_master.map_err(not_master)?;
        }
        if let Some((index, outcome)) = self.outcome(state, write.name.random()) {
            *depends_on = index;
            return repeated(&write, fingerprint, &outcome);
        }
        let clock = self.cluster_clock.now(moment.platform);
        if !self.rules.lack(Rule::BirthsChecked) {
            check_age(&write.name, clock)?;
        }
        let appended = self.appended(state);
        let entries = needed(&write).filter_map(|(key, _)| appended?.entry(key));
        *depends_on = entries.map(|(index, _)| *index).max().unwrap_or_default();
        let request = born(&write.name, clock);
        let judged = judge(write, clock, |key, need| {
            match appended.and_then(|it| it.entry(key)) {
                Some((_, entry)) => Ok(entry.item()),
                None => priors.get(key).map_or(Ok(None), |prior| prior.item(need)),
            }
        })?;
        let version = self.cluster_clock.tick(moment.platform);
        let (changes, effects) = judged.at(version);
        let payload = Payload::Write(Write {
            request,
            fingerprint,
            changes,
        });
        // Before it has an index: the log would refuse the whole batch with it.
        let bytes = self.storage.check_record(&payload);
        let bytes = bytes.map_err(|error| error.to_error())?;
        if !batch.room.take(bytes) {
            batch.unfit = Some(bytes);
            return Err(StorageError::Growing.to_error());
        }
        let position = state.replica.propose().map_err(not_master)?;
        *depends_on = position.index;
        let record = state.append(position, version, payload);
        batch.records.push(record);
        Ok(Sequenced {
            version,
            effects,
            replayed: false,
        })
    }

    /// The appended state, which writes are judged against.
    fn appended<'a>(&self, state: &'a State) -> Option<&'a Appended> {
        (!self.rules.lack(Rule::JudgedByAppended)).then_some(&state.appended)
    }

    /// The outcome of a request that was applied or appended, and the index of its record; zero
    /// if it was applied (TXN-IDS).
    fn outcome(&self, state: &State, random: &[u8; 16]) -> Option<(Index, Outcome)> {
        if self.rules.lack(Rule::RequestsRemembered) {
            return None;
        }
        let appended = state.appended.outcome(random).cloned();
        appended.or_else(|| Some((Index::ZERO, self.storage.outcome(random)?)))
    }

    /// What the keys that a write depends on hold, without those that have an appended change.
    /// `None` if one must be read from the store. All are looked up before the write is judged,
    /// because memory may evict them at any time.
    fn priors(&self, state: &State, write: &WriteRequest, rows: &Rows) -> Option<Priors> {
        let mut priors = Priors::new();
        let appended = self.appended(state);
        for (key, need) in needed(write) {
            if appended.is_none_or(|appended| appended.entry(key).is_none()) {
                let prior = self.prior(key, need, rows)?;
                priors.entry(key.clone()).or_insert(prior);
            }
        }
        Some(priors)
    }

    /// What a key without appended changes holds; `None` if it must be read from the store.
    fn prior(&self, key: &ItemKey, need: Need, rows: &Rows) -> Option<PriorValue> {
        match self.storage.get(key.as_bytes()) {
            Residence::Found(item) => Some(PriorValue::Held(item).reduced_to(need)),
            Residence::Absent => Some(PriorValue::Absent),
            // The generation is read after the lookup in memory. If it is unchanged, no checkpoint
            // has moved anything from memory to the store since the rows were read.
            Residence::Unknown
                if rows.generation == self.storage.generation()
                    || self.rules.lack(Rule::RowsNotOvertaken) =>
            {
                rows.priors.get(key).cloned()
            }
            Residence::Unknown => None,
        }
    }

    /// The next records that a commit allows to apply: up to `most` records and changes, but for
    /// those of the last record. They stay appended until they are applied.
    pub(crate) fn release(&self, up_to: Index, most: usize) -> Vec<Arc<Record>> {
        let mut state = self.lock();
        let mut taken = 0;
        let records = state.appended.between(state.released, up_to);
        let records = records.take_while(|record| {
            let is_taken = taken < most;
            taken += 1 + Effects::of(record).changes.len();
            is_taken
        });
        let records: Vec<_> = records.cloned().collect();
        if let Some(last) = records.last() {
            state.released = last.position.index;
        }
        records
    }

    /// Removes applied records from the appended state: memory has their changes now. Answers
    /// that wait for them may be sent once the cache has deleted their keys.
    pub(crate) fn applied(&self, records: &[Arc<Record>], up_to: Index) -> Settling {
        let mut state = self.lock();
        records.iter().for_each(|record| state.appended.pop(record));
        state.applied = state.applied.max(up_to);
        self.applied.send_replace(state.applied);
        self.publish_behind(&state);
        state.waiters.applied(up_to)
    }
}

#[cfg(test)]
impl Sequencer {
    /// The replication machine as it is now.
    pub(crate) fn replica(&self) -> Replica {
        self.lock().replica.clone()
    }

    /// The records after `after` that are appended and not applied.
    pub(crate) fn appended_after(&self, after: Index) -> Vec<Arc<Record>> {
        let state = self.lock();
        let appended = state.appended.between(after, Index(u64::MAX));
        appended.cloned().collect()
    }
}

impl Judgement {
    /// The answer to a write whose deadline passed.
    fn late(proposal: &Proposal) -> Self {
        Self {
            answer: Answer {
                id: proposal.id,
                deadline: proposal.deadline,
                result: Err(Error::new(
                    Code::DeadlineExceeded,
                    "the deadline passed before the write was logged; nothing was done",
                )),
            },
            depends_on: Index::ZERO,
        }
    }

    /// Turns an answer that depends on a record after `last` into `error`: these records were
    /// not logged.
    fn lose_after(&mut self, last: Index, error: &StorageError) {
        if self.depends_on > last {
            self.answer.result = Err(error.to_error());
            self.depends_on = Index::ZERO;
        }
    }
}

/// Answers a request that was applied before.
fn repeated(write: &WriteRequest, fingerprint: u32, outcome: &Outcome) -> Result<Sequenced, Error> {
    if outcome.fingerprint != 0 && outcome.fingerprint != fingerprint {
        return Err(match write.name {
            RequestName::Id(_) => Error::invalid(
                "this request id was used for another write; make a new one for each write",
            ),
            RequestName::Key { .. } => Error::new(
                Code::AlreadyExists,
                "this idempotency key was used for another write; make a new one for each write",
            ),
        });
    }
    Ok(Sequenced {
        version: outcome.version,
        effects: remembered(write, outcome),
        replayed: true,
    })
}

/// The id under which a new request is remembered. A request named by an idempotency key is
/// born now.
const fn born(name: &RequestName, now: Version) -> RequestId {
    match *name {
        RequestName::Id(id) => id,
        RequestName::Key { random, .. } => RequestId {
            birth_millis: now.millis(),
            random,
        },
    }
}

/// Checks that a request is young enough for its outcome to be still remembered (TXN-IDS).
fn check_age(name: &RequestName, now: Version) -> Result<(), Error> {
    match name {
        RequestName::Id(id) => check_birth(id, now),
        // Outcomes are remembered for two minutes, so an earlier attempt's may be forgotten.
        RequestName::Key {
            received_millis, ..
        } if *received_millis < RequestId::horizon(now) => Err(Error::new(
            Code::DeadlineExceeded,
            "the write took over two minutes to reach the data node; nothing was done by this \
             attempt",
        )),
        // It would be accepted for longer than two minutes from its arrival.
        RequestName::Key {
            received_millis, ..
        } if *received_millis > latest(now) => Err(Error::unavailable(
            "the client coordinator's platform time is over ten seconds ahead of the master's; \
             nothing was done, retry",
        )),
        RequestName::Key { .. } => Ok(()),
    }
}

/// The latest time, in milliseconds, that a request may have at `now`.
fn latest(now: Version) -> u64 {
    let lead = u64::try_from(MAX_REQUEST_LEAD.as_millis()).unwrap_or(u64::MAX);
    now.millis().saturating_add(lead)
}

fn check_birth(id: &RequestId, now: Version) -> Result<(), Error> {
    if id.birth_millis > latest(now) {
        return Err(Error::birth_refused(
            now.millis(),
            "the request id is born in the future; make its birth from the platform time in the \
             session's greeting and in every answer",
        ));
    }
    if id.birth_millis < RequestId::horizon(now) {
        return Err(Error::birth_refused(
            now.millis(),
            "the request id is over two minutes old, so whether it was applied is no longer known: \
             read the key, and make a new id (its birth is in platform time)",
        ));
    }
    Ok(())
}

fn not_master(refusal: Refusal) -> Error {
    // Coordinators try again within the deadline, also while the master hands over.
    Error::new(Code::NotMaster, refusal.to_string())
}

impl State {
    /// Makes the next record and adds it to the appended state.
    fn append(&mut self, position: Position, version: Version, payload: Payload) -> Arc<Record> {
        let record = Arc::new(Record {
            position,
            commit: self.replica.commit(),
            version,
            payload,
        });
        self.appended.push(Arc::clone(&record));
        record
    }

    /// Removes the records after `last` from the appended state: the log took none of them.
    fn take_back(&mut self, last: Position) {
        self.replica.retract(last);
        self.appended.truncate(last.index);
    }
}
