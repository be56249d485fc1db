//! Clients that write and read until they are ended, and record everything.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::{Client, Consistency, Error, Found, ReadOptions, Source};
use tokio::task::JoinSet;

use super::{History, Recorded, Seen};
use crate::freshness::BoundedRead;

/// Keys that are written and read.
const KEYS: usize = 48;
/// Keys that are incremented.
const COUNTERS: usize = 8;
/// Of so many operations, one is an increment, three are writes, two are `LATEST` reads, and the
/// others are `CACHED` reads.
const KINDS: u32 = 9;
const LATEST: ReadOptions = ReadOptions {
    consistency: Consistency::Latest,
    max_staleness: None,
    explain: false,
};

/// How much was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Acknowledged writes, increments among them.
    pub writes: u64,
    /// Reads answered by a cache.
    pub cache: u64,
    /// Reads answered by a replica.
    pub replica: u64,
    /// Reads answered by a master.
    pub master: u64,
}

impl Totals {
    /// Nothing was done.
    pub const NOTHING: Self = Self {
        writes: 0,
        cache: 0,
        replica: 0,
        master: 0,
    };

    /// Whether this is `least` more than at `before`, of each kind.
    #[must_use]
    pub const fn are_more_than(self, before: Self, least: Self) -> bool {
        self.writes >= before.writes + least.writes
            && self.cache >= before.cache + least.cache
            && self.replica >= before.replica + least.replica
            && self.master >= before.master + least.master
    }

    /// A third of each.
    #[must_use]
    pub const fn third(self) -> Self {
        Self {
            writes: self.writes / 3,
            cache: self.cache / 3,
            replica: self.replica / 3,
            master: self.master / 3,
        }
    }

    /// The reads, whoever answered them.
    #[must_use]
    pub const fn reads(self) -> u64 {
        self.cache + self.replica + self.master
    }
}

/// Clients that write, read and record until they are ended.
pub struct Workload {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    began: Instant,
    is_over: AtomicBool,
    /// The last value written: each is unique.
    value: AtomicU64,
    writes: AtomicU64,
    cache: AtomicU64,
    replica: AtomicU64,
    master: AtomicU64,
    history: Mutex<History>,
}

impl Workload {
    /// Starts `tasks` of writers and readers, which share `clients` evenly. `seed` chooses what they
    /// do.
    #[must_use]
    pub fn start(clients: &[Client], tasks: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            value: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            cache: AtomicU64::new(0),
            replica: AtomicU64::new(0),
            master: AtomicU64::new(0),
            history: Mutex::default(),
        });
        let mut running = JoinSet::new();
        for (task, client) in clients.iter().cycle().take(tasks).enumerate() {
            let actor = Actor {
                client: client.session(),
                stranger: client.clone(),
                shared: Arc::clone(&shared),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1_000) + task as u64),
            };
            running.spawn(actor.run());
        }
        Self {
            shared,
            tasks: running,
        }
    }

    /// How much was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let shared = &self.shared;
        Totals {
            writes: shared.writes.load(Ordering::Relaxed),
            cache: shared.cache.load(Ordering::Relaxed),
            replica: shared.replica.load(Ordering::Relaxed),
            master: shared.master.load(Ordering::Relaxed),
        }
    }

    /// Ends the clients once their operations are answered, reads every key a last time, and
    /// returns what was recorded.
    ///
    /// # Errors
    /// If a key can't be read.
    pub async fn end(mut self, client: &Client) -> Result<History, Error> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        for key in 0..KEYS {
            let sent = self.shared.now();
            let found = client.get_with(name(key), LATEST).await?;
            self.shared.record_read(key, sent, found.value.as_deref());
        }
        for counter in 0..COUNTERS {
            let found = client.get_with(counter_name(counter), LATEST).await?;
            let text = found.value.as_deref().map(String::from_utf8_lossy);
            let end = text.map_or(0, |text| text.parse().unwrap_or(i64::MAX));
            let mut history = self.shared.history();
            history.counters.entry(counter).or_default().end = end;
        }
        let mut history = self.shared.history();
        Ok(std::mem::take(&mut *history))
    }
}

impl Shared {
    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX - 1)
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, key: usize, recorded: Recorded) {
        let mut history = self.history();
        history.keys.entry(key).or_default().push(recorded);
    }

    /// Counts a write as acknowledged.
    fn acknowledge(&self, key: usize, answered: i64, version: u64) {
        let mut history = self.history();
        let of_key = history.acknowledged.entry(key).or_default();
        of_key.push((answered, version));
        drop(history);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a `LATEST` read of a key.
    fn record_read(&self, key: usize, sent: i64, value: Option<&[u8]>) {
        let text = value.map(String::from_utf8_lossy);
        let value = text.map(|text| text.parse().unwrap_or(u64::MAX));
        let recorded = Recorded {
            sent,
            answered: self.now(),
            seen: Seen::Read(value),
        };
        self.record(key, recorded);
    }

    /// Records a read whose answer may be stale.
    fn record_bounded_read(&self, key: usize, sent: i64, found: &Found) {
        let read = BoundedRead {
            sent,
            age: found.age,
            version: found.value.is_some().then_some(found.version),
            source: found.source,
        };
        let mut history = self.history();
        history.bounded.entry(key).or_default().push(read);
        drop(history);
        self.count_read(found.source);
    }

    fn count_read(&self, source: Source) {
        let count = match source {
            Source::Cache => &self.cache,
            Source::Replica => &self.replica,
            Source::Master => &self.master,
            Source::Unknown => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// One client of the workload.
struct Actor {
    /// A session.
    client: Client,
    /// The same connections, without a session.
    stranger: Client,
    shared: Arc<Shared>,
    random: StdRng,
}

impl Actor {
    async fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let key = self.random.random_range(0..KEYS);
            match self.random.random_range(0..KINDS) {
                0 => self.increment().await,
                1..=3 => self.write(key).await,
                4..=5 => self.read(key).await,
                _ => self.read_cached(key).await,
            }
        }
    }

    async fn write(&mut self, key: usize) {
        let value = self.shared.value.fetch_add(1, Ordering::Relaxed) + 1;
        let sent = self.shared.now();
        let outcome = self.client.put(name(key), value.to_string()).await;
        let answered = match &outcome {
            Ok(_) => self.shared.now(),
            Err(error) if error.is_outcome_unknown() => i64::MAX,
            // Certainly not done.
            Err(error) => return self.failed(error),
        };
        let recorded = Recorded {
            sent,
            answered,
            seen: Seen::Written(value),
        };
        self.shared.record(key, recorded);
        let version = match outcome {
            Ok(version) => version,
            Err(error) => return self.failed(&error),
        };
        self.shared.acknowledge(key, answered, version);
        // This client is a session: it must see its write, or a later one.
        let sent = self.shared.now();
        match self.client.get(name(key)).await {
            Ok(found) if found.version < version => {
                let broken = format!(
                    "a session wrote version {version} of key {key} and then read {}",
                    found.version
                );
                self.shared.history().broken.push(broken);
            }
            Ok(found) => self.shared.record_bounded_read(key, sent, &found),
            Err(error) => self.failed(&error),
        }
    }

    async fn read(&mut self, key: usize) {
        let sent = self.shared.now();
        match self.client.get_with(name(key), LATEST).await {
            Ok(found) => {
                (self.shared).record_read(key, sent, found.value.as_deref());
                self.shared.count_read(found.source);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// A read that may be stale, by someone who wrote nothing.
    async fn read_cached(&mut self, key: usize) {
        let sent = self.shared.now();
        match self.stranger.get(name(key)).await {
            Ok(found) => self.shared.record_bounded_read(key, sent, &found),
            Err(error) => self.failed(&error),
        }
    }

    async fn increment(&mut self) {
        let counter = self.random.random_range(0..COUNTERS);
        let outcome = self.client.increment(counter_name(counter), 1).await;
        let mut history = self.shared.history();
        let of_it = history.counters.entry(counter).or_default();
        match outcome {
            Ok(incremented) => {
                of_it.answers.push(incremented.value);
                self.shared.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                if error.is_outcome_unknown() {
                    of_it.unknown += 1;
                }
                drop(history);
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &Error) {
        let mut history = self.shared.history();
        *history
            .failures
            .entry(error.code().to_string())
            .or_default() += 1;
    }
}

fn counter_name(counter: usize) -> String {
    format!("counter/{counter}")
}

fn name(key: usize) -> String {
    format!("register/{key:02}")
}
