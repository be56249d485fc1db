//! The lives of one node, from a seed.

use std::path::Path;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_types::{OwnedSlots, SLOT_COUNT, SlotRun, SlotTable};

use super::script::{Broken, Script, Step};
use crate::{
    EvictionPolicy, Problem, Recovered, Repair, Residence, Storage, StorageError, StorageSettings,
    TruncateError,
    disk::{Tear, TestDisk},
    tests::*,
};

const LIVES: usize = 3;
/// Steps of a life that no power cut ends.
const STEPS: usize = 40;
/// The power fails after one of so many calls to the disk.
const CALLS: u64 = 500;
const KEYS: usize = 10;
/// The same for a recovery, which takes fewer.
const RECOVERY_CALLS: u64 = 60;
/// Time between two records, by their versions: a request is forgotten after sixty.
const PACE_MILLIS: u64 = 2_000;
const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// Returns an error if a rule does not hold.
macro_rules! rule {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// How often nodes had to be recovered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recoveries {
    pub(crate) all: u64,
    /// The number of recoveries in which the power failed.
    pub(crate) cut: u64,
}

pub(crate) struct Lives {
    script: Script,
    random: StdRng,
    disk: TestDisk,
    settings: StorageSettings,
    /// The largest value that is written, in bytes.
    largest: usize,
    keys: Vec<ItemKey>,
    /// The records that could have been seen, and those appended after them.
    log: Vec<Record>,
    /// The last records acknowledged, and applied in this life.
    acknowledged: usize,
    applied: usize,
    /// The last record that is applied, or that a later one shows as committed: it is never cut
    /// off.
    committed: usize,
    /// The keys' state after everything appended, and after everything applied.
    appended_state: Model,
    applied_state: Model,
    promised: u64,
    epoch: u64,
    /// Requests born before this millisecond may be forgotten.
    horizon: u64,
    /// Requests that were appended, never acknowledged and are gone.
    lost: Vec<RequestId>,
    requests: u64,
    recoveries: Recoveries,
}

impl Lives {
    /// Runs one seed; returns how often the node had to be recovered.
    pub(crate) async fn run(seed: u64, script: Script) -> Result<Recoveries, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let policies = [
            EvictionPolicy::Lru,
            EvictionPolicy::Lfu,
            EvictionPolicy::Fifo,
            EvictionPolicy::S3Fifo,
        ];
        let mut settings = settings(Path::new("/node"));
        let smallest = if script.has_holes { 1 } else { 0 };
        settings.segment_bytes = [4, 8, 16][random.random_range(smallest..3)] << 10;
        settings.memory.policy = policies[random.random_range(0..4)];
        settings.memory.max_records = [0, 64, 1_000][random.random_range(0..3)];
        if random.random_bool(0.3) {
            settings.log_retention = Duration::from_secs(600);
        }
        let mut lives = Self {
            script,
            largest: match script.tear {
                Tear::InOrder => [100, 1_500][random.random_range(0..2)],
                Tear::AnyOrder if script.has_holes => 1_500,
                // A record of three sectors may survive with a hole in it, which is damage
                // by LOG-TORN.
                Tear::AnyOrder => 150,
            },
            random,
            disk: TestDisk::default(),
            settings,
            keys: (0..KEYS).map(|nth| key(&format!("k{nth}"))).collect(),
            log: Vec::new(),
            acknowledged: 0,
            applied: 0,
            committed: 0,
            appended_state: Model::default(),
            applied_state: Model::default(),
            promised: 0,
            epoch: 1,
            horizon: 0,
            lost: Vec::new(),
            requests: 0,
            recoveries: Recoveries::default(),
        };
        for _ in 0..LIVES {
            let calls = lives.random.random_range(1..CALLS);
            lives.disk.cut_after(calls);
            lives.live().await?;
            let cut = lives.random.random();
            lives.disk = lives.disk.crash(cut, script.tear);
        }
        lives.live().await?;
        Ok(lives.recoveries)
    }

    /// One life, to its end or to the power cut.
    async fn live(&mut self) -> Result<(), String> {
        self.sabotage();
        let Some(mut storage) = self.wake().await? else {
            return Ok(());
        };
        for _ in 0..STEPS {
            let done = match Script::step(&mut self.random) {
                Step::Append => self.append(&storage).await?,
                Step::Truncate => self.truncate(&storage).await?,
                Step::Apply => {
                    let to = self.random.random_range(self.applied..=self.acknowledged);
                    self.apply(&storage, to);
                    Ok(())
                }
                Step::Checkpoint => storage.checkpoint().await,
                Step::Read => self.read(&storage).await?,
                Step::Promise => self.promise(&storage).await,
                Step::ForgetRequests => {
                    self.forget_requests(&storage);
                    Ok(())
                }
                Step::Scrub => self.scrub(&storage).await?,
                Step::Restart => {
                    let closed = storage.close().await;
                    if closed.is_ok() {
                        let Some(again) = self.wake().await? else {
                            return Ok(());
                        };
                        storage = again;
                    }
                    closed
                }
            };
            if let Err(error) = done {
                rule!(self.disk.is_cut(), "without a power cut: {error}");
                break;
            }
        }
        // After a cut that fails; without one it must not.
        let closed = storage.close().await;
        rule!(
            closed.is_ok() || self.disk.is_cut(),
            "closing without a power cut: {closed:?}"
        );
        Ok(())
    }

    fn sabotage(&self) {
        let in_log = |path: &Path| path.starts_with("/node/log");
        match self.script.broken {
            Some(Broken::LogSync) => self
                .disk
                .ignore_syncs(move |path| in_log(path) && path != Path::new("/node/log")),
            Some(Broken::LogNames) => self
                .disk
                .ignore_syncs(|path| path == Path::new("/node/log")),
            Some(Broken::NodeStateSync) => self
                .disk
                .ignore_syncs(|path| path.to_string_lossy().contains("node-state")),
            Some(Broken::StoreSync) => self
                .disk
                .ignore_syncs(|path| path.to_string_lossy().contains("store.sqlite")),
            Some(Broken::EarlyTrim | Broken::EarlyApply) | None => {}
        }
    }

    /// Starts, and compares the content with what must be there. `None` if the power failed
    /// meanwhile.
    async fn wake(&mut self) -> Result<Option<Arc<Storage>>, String> {
        let mut opened = self.open().await;
        if matches!(opened, Err(StorageError::Damaged { .. })) && self.script.has_holes {
            match self.recover().await? {
                Ok(()) => opened = self.open().await,
                Err(_) if self.disk.is_cut() => return Ok(None),
                Err(error) => return Err(format!("the node is not recovered: {error}")),
            }
        }
        let (storage, found) = match opened {
            Ok(opened) => opened,
            Err(_) if self.disk.is_cut() => return Ok(None),
            Err(error) => return Err(format!("the node does not start: {error}")),
        };
        self.check_recovered(&found)?;
        let survived = usize::try_from(found.last.index.0).unwrap_or(usize::MAX);
        self.lose_after(survived);
        self.applied = usize::try_from(found.applied.0).unwrap_or(usize::MAX);
        self.applied_state = Model::of(&self.log[..self.applied]);
        self.acknowledged = survived;
        self.committed = self.applied;
        self.promised = found.promised.0;
        self.epoch = self.epoch.max(self.promised + 1);
        self.apply(&storage, survived);
        let keys = self.keys.clone();
        if let Err(error) = self.check_keys(&storage, &keys).await? {
            rule!(self.disk.is_cut(), "reading without a power cut: {error}");
            return Ok(None);
        }
        self.check_requests(&storage)?;
        Ok(Some(storage))
    }

    async fn open(&self) -> Result<(Arc<Storage>, Recovered), StorageError> {
        let early = self.script.broken == Some(Broken::EarlyTrim);
        let disk = Arc::new(self.disk.clone());
        let opened = Storage::open_with(self.settings.clone(), disk, |store| match early {
            true => super::broken::LateStore::over(store),
            false => store,
        });
        opened.await
    }

    /// Recovers the node's directory; in half of the cases the power fails meanwhile.
    async fn recover(&mut self) -> Result<Result<(), StorageError>, String> {
        self.recoveries.all += 1;
        if self.random.random_bool(0.5) {
            let calls = self.random.random_range(1..RECOVERY_CALLS);
            self.disk.cut_after(calls);
            if let Err(error) = self.recover_once().await? {
                rule!(self.disk.is_cut(), "recovering: {error}");
                self.recoveries.cut += 1;
            }
            let cut = self.random.random();
            self.disk = self.disk.crash(cut, self.script.tear);
        }
        self.recover_once().await
    }

    /// Recovers, and accepts the loss, which must not include acknowledged records.
    async fn recover_once(&self) -> Result<Result<(), StorageError>, String> {
        let examined = Repair::examine(self.settings.clone(), Arc::new(self.disk.clone())).await;
        let mut repair = match examined {
            Ok(repair) => repair,
            Err(error) => return Ok(Err(error)),
        };
        let findings = repair.findings();
        // The log has a hole, or its recovery was cut off.
        let is_expected = |problem| match problem {
            Problem::LogDamaged | Problem::LogForeign | Problem::LogMissing | Problem::LogShort => {
                true
            }
            Problem::LogUnsynced
            | Problem::NodeStateMissing
            | Problem::NodeStateDamaged
            | Problem::StoreDamaged
            | Problem::RowsDamaged => false,
        };
        rule!(
            findings.iter().all(|found| is_expected(found.problem)),
            "found after a power cut: {findings:?}"
        );
        let kept = usize::try_from(repair.kept().index.0).unwrap_or(usize::MAX);
        rule!(
            kept >= self.acknowledged,
            "I1: of {} acknowledged records {kept} are kept: {findings:?}",
            self.acknowledged
        );
        let repaired = match repair.carry_out().await {
            Ok(repaired) => repaired,
            Err(error) => return Ok(Err(error)),
        };
        let last = usize::try_from(repaired.last.index.0).unwrap_or(usize::MAX);
        rule!(last == kept, "{last} records were kept, not {kept}");
        Ok(Ok(()))
    }

    fn check_recovered(&self, found: &Recovered) -> Result<(), String> {
        let survived = usize::try_from(found.last.index.0).unwrap_or(usize::MAX);
        rule!(
            survived >= self.acknowledged,
            "I1: of {} acknowledged records {survived} are there",
            self.acknowledged
        );
        rule!(survived <= self.log.len(), "records were made up");
        let applied = usize::try_from(found.applied.0).unwrap_or(usize::MAX);
        rule!(
            applied <= survived && found.tail == shared(&self.log[applied..survived]),
            "the tail is not what was appended after record {applied}"
        );
        let owned = self.log[..applied].iter().rev().find_map(owned_of);
        rule!(
            found.owned == owned.cloned().unwrap_or_default(),
            "the owned slots are not those of record {applied}"
        );
        rule!(
            found.promised.0 >= self.promised,
            "promise {} became {}",
            self.promised,
            found.promised
        );
        Ok(())
    }

    fn apply(&mut self, storage: &Storage, to: usize) {
        let records = &self.log[self.applied..to];
        storage.apply(records);
        for record in records {
            self.applied_state.apply(record);
        }
        self.applied = to;
        self.committed = self.committed.max(to);
    }

    /// Checks that every key reads the state of the applied records, from memory and store.
    async fn check_keys(
        &self,
        storage: &Storage,
        keys: &[ItemKey],
    ) -> Result<Result<(), StorageError>, String> {
        let found = match storage.load(keys).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        for (key, found) in keys.iter().zip(found) {
            let expected = self.applied_state.0.get(key);
            rule!(
                found.as_ref() == expected,
                "I5: {key:?} reads {found:?} where {expected:?} was applied"
            );
            let known = match storage.get(key.as_bytes()) {
                Residence::Found(item) => Some(item),
                Residence::Absent => None,
                Residence::Unknown => continue,
            };
            rule!(
                known.as_ref() == expected,
                "memory has {known:?} for {key:?}, and {expected:?} was applied"
            );
        }
        Ok(Ok(()))
    }

    fn check_requests(&self, storage: &Storage) -> Result<(), String> {
        // The store forgets by the clock of the log, under which no master accepts them.
        let logged = self.log[..self.applied].last();
        let logged = logged.map_or(0, |record| RequestId::horizon(record.version));
        let horizon = self.horizon.max(logged);
        for (id, expected) in self.log[..self.applied].iter().filter_map(outcome_of) {
            let outcome = storage.outcome(&id.random);
            if id.birth_millis >= horizon {
                rule!(
                    outcome.as_ref() == Some(&expected),
                    "I8: request {id:?} was applied with {expected:?} and has {outcome:?}"
                );
            }
        }
        for id in &self.lost {
            let outcome = storage.outcome(&id.random);
            rule!(
                outcome.is_none(),
                "request {id:?} was never applied and has {outcome:?}"
            );
        }
        Ok(())
    }

    /// The log has lost the records after the first `kept`.
    fn lose_after(&mut self, kept: usize) {
        let gone = self.log.split_off(kept);
        let gone = gone.iter().filter_map(outcome_of).map(|(id, _)| id);
        self.lost.extend(gone);
        self.appended_state = Model::of(&self.log);
    }

    /// Cuts off records that are not committed; the next ones are those of a new master.
    async fn truncate(&mut self, storage: &Storage) -> Result<Result<(), StorageError>, String> {
        let to = self.random.random_range(self.committed..=self.log.len());
        let last = to.checked_sub(1).map(|last| self.log[last].position);
        let last = last.unwrap_or_default();
        // What is after it may survive a power cut, and need not.
        self.acknowledged = self.acknowledged.min(to);
        match deadline(storage.truncate(last)).await {
            Ok(()) => {}
            Err(TruncateError::Storage(error)) => return Ok(Err(error)),
            Err(unknown) => return Err(unknown.to_string()),
        }
        let durable = *storage.durable().borrow();
        rule!(
            durable == last,
            "the log was cut after {last}, and ends at {durable}"
        );
        self.lose_after(to);
        self.epoch += 1;
        Ok(Ok(()))
    }

    async fn append(&mut self, storage: &Storage) -> Result<Result<(), StorageError>, String> {
        if self.random.random_bool(0.6) {
            self.committed = self.acknowledged;
        }
        let records: Vec<Record> = (0..self.random.random_range(1..5))
            .map(|_| self.record())
            .collect();
        let last = records[records.len() - 1].position.index;
        if let Err(error) = storage.append(records) {
            return Ok(Err(error));
        }
        if self.script.broken == Some(Broken::EarlyApply) {
            self.apply(storage, self.log.len());
        }
        let mut durable = storage.durable();
        let failed = deadline(durable.wait_for(|at| at.index >= last))
            .await
            .is_err();
        // Durable records may have been acknowledged, whatever came after them.
        let reached = usize::try_from(durable.borrow().index.0).unwrap_or(usize::MAX);
        self.acknowledged = self.acknowledged.max(reached);
        match failed {
            true => Ok(Err(deadline(storage.failed()).await)),
            false => Ok(Ok(())),
        }
    }

    /// The next record of the log, as a master would make it.
    fn record(&mut self) -> Record {
        let index = self.log.len() as u64 + 1;
        let version = Version::from_millis(EPOCH_MILLIS + index * PACE_MILLIS).next();
        let payload = match self.random.random_range(0..20) {
            0 => Payload::Noop,
            1 => Payload::Forget {
                up_to: Version::from_millis(EPOCH_MILLIS + index * PACE_MILLIS / 2),
            },
            2 => self.expiry(),
            3 => self.own(index),
            _ => self.write(version),
        };
        let record = Record {
            position: Position {
                epoch: Epoch(self.epoch),
                index: Index(index),
            },
            commit: Index(self.committed as u64),
            version,
            payload,
        };
        self.appended_state.apply(&record);
        self.log.push(record.clone());
        record
    }

    fn own(&mut self, version: u64) -> Payload {
        let run = SlotRun {
            first: self.random.random_range(0..SLOT_COUNT),
            count: 1,
            revision: version,
        };
        Payload::Own(OwnedSlots {
            version,
            slots: SlotTable::from_runs(vec![run]).unwrap(),
        })
    }

    fn expiry(&mut self) -> Payload {
        let there: Vec<&ItemKey> = self.appended_state.0.keys().collect();
        if there.is_empty() {
            return Payload::Noop;
        }
        let key = there[self.random.random_range(0..there.len())].clone();
        let kind = ChangeKind::Delete { existed: true };
        Payload::Expire(vec![Change { key, kind }])
    }

    fn write(&mut self, version: Version) -> Payload {
        let first = self.random.random_range(0..KEYS);
        let count = self.random.random_range(1..3);
        let changes = (first..first + count).map(|nth| {
            let key = self.keys[nth % KEYS].clone();
            let kind = if self.random.random_bool(0.75) {
                let length = self.random.random_range(0..self.largest);
                ChangeKind::Put {
                    // All bytes differ, so that a lost sector does not look like another one.
                    value: (0..length).map(|_| self.random.random::<u8>()).collect(),
                    expires: self.random.random_bool(0.2).then(|| version.next()),
                }
            } else if self.random.random_bool(0.3) {
                ChangeKind::Increment {
                    number: self.random.random(),
                    expires: self.random.random_bool(0.2).then(|| version.next()),
                }
            } else {
                let existed = self.appended_state.0.contains_key(&key);
                ChangeKind::Delete { existed }
            };
            Change { key, kind }
        });
        let changes = changes.collect();
        self.requests += 1;
        let mut random = [0; 16];
        random[..8].copy_from_slice(&self.requests.to_le_bytes());
        Payload::Write(Write {
            request: RequestId {
                birth_millis: version.millis(),
                random,
            },
            fingerprint: 1,
            changes,
        })
    }

    async fn read(&mut self, storage: &Storage) -> Result<Result<(), StorageError>, String> {
        let count = self.random.random_range(1..=KEYS);
        let keys: Vec<ItemKey> = (0..count)
            .map(|_| self.keys[self.random.random_range(0..KEYS)].clone())
            .collect();
        self.check_requests(storage)?;
        self.check_keys(storage, &keys).await
    }

    async fn promise(&mut self, storage: &Storage) -> Result<(), StorageError> {
        let epoch = self.epoch + 1;
        let state = Bytes::from(vec![7; self.random.random_range(0..2_000)]);
        storage.promise(Epoch(epoch), Some(state)).await?;
        (self.promised, self.epoch) = (epoch, epoch);
        Ok(())
    }

    fn forget_requests(&mut self, storage: &Storage) {
        let Some(last) = self.log[..self.applied].last() else {
            return;
        };
        while !storage.forget_requests(last.version) {}
        self.horizon = self.horizon.max(RequestId::horizon(last.version));
    }

    async fn scrub(&self, storage: &Storage) -> Result<Result<(), StorageError>, String> {
        match storage.scrub(u64::MAX).await {
            Ok(scrubbed) => {
                rule!(
                    scrubbed.damage.is_empty() || self.disk.is_cut(),
                    "damage: {:?}",
                    scrubbed.damage
                );
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

fn owned_of(record: &Record) -> Option<&OwnedSlots> {
    match &record.payload {
        Payload::Own(owned) => Some(owned),
        _ => None,
    }
}
