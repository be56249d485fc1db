//! Records what clients saw of some keys, and checks the record with a known checker.
//!
//! Writers and readers use a few keys at the same time; every operation is recorded with when it
//! was sent and when it was answered. A write of unknown outcome may take effect at any later time,
//! or never. Per key, the record must be linearizable (checked by `porcupine-rs`, the algorithm of
//! Wing, Gong and Lowe): so no acknowledged write is lost and no `LATEST` read is stale. A session
//! never reads behind its own write, and no increment is applied twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::{Client, Consistency, Error, ReadOptions};
use tokio::task::JoinSet;

/// Keys that are written and read.
const KEYS: usize = 48;
/// Keys that are incremented.
const COUNTERS: usize = 8;
/// One in so many operations of a writer is an increment.
const INCREMENTS: u32 = 8;
/// Time that the checker may take for one key.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// An operation on one key, with what its client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This value was written, or may have been.
    Written(u64),
    /// This value was read; `None`: the key was absent.
    Read(Option<u64>),
}

/// A register that holds a value or none.
#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = Seen;
    type Metadata = ();

    fn init() -> Option<u64> {
        None
    }

    fn step(state: &Option<u64>, operation: &Seen) -> (bool, Option<u64>) {
        match operation {
            Seen::Written(value) => (true, Some(*value)),
            Seen::Read(value) => (value == state, *state),
        }
    }
}

/// One recorded operation; times in nanoseconds since the record began.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// When it was sent.
    pub sent: i64,
    /// When it was answered; `i64::MAX`: its outcome is unknown.
    pub answered: i64,
    /// What was seen.
    pub seen: Seen,
}

/// Everything that was recorded of one round.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<usize, Vec<Recorded>>,
    /// By counter: the answers of acknowledged increments, and how many have an unknown outcome.
    counters: BTreeMap<usize, (Vec<i64>, usize)>,
    /// Promises that were broken at once.
    broken: Vec<String>,
    /// Failures by code, for people.
    failures: BTreeMap<String, usize>,
}

/// How much was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Acknowledged writes, increments among them.
    pub writes: u64,
    /// Answered reads.
    pub reads: u64,
}

impl History {
    /// Checks everything that was recorded.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn check(&self) -> Result<(), String> {
        if let Some(broken) = self.broken.first() {
            return Err(broken.clone());
        }
        for (key, recorded) in &self.keys {
            let operations: Vec<Operation<Register>> = (recorded.iter())
                .map(|operation| Operation {
                    client_id: None,
                    call_time: operation.sent,
                    return_time: operation.answered,
                    op: operation.seen,
                    metadata: None,
                })
                .collect();
            match check_operations_timeout(&operations, CHECK_TIME) {
                CheckResult::Ok => {}
                CheckResult::Illegal => {
                    return Err(format!("key {key} is not linearizable: {recorded:?}"));
                }
                CheckResult::Unknown => {
                    return Err(format!(
                        "key {key} could not be checked within {CHECK_TIME:?}: {} operations",
                        recorded.len()
                    ));
                }
            }
        }
        for (counter, (answers, unknown)) in &self.counters {
            check_counter(*counter, answers, *unknown)?;
        }
        Ok(())
    }

    /// Failures by code.
    #[must_use]
    pub const fn failures(&self) -> &BTreeMap<String, usize> {
        &self.failures
    }
}

/// Each acknowledged increment of 1 has an answer of its own, and the numbers that are left out are
/// those of increments of unknown outcome.
fn check_counter(counter: usize, answers: &[i64], unknown: usize) -> Result<(), String> {
    let distinct: BTreeSet<i64> = answers.iter().copied().collect();
    if distinct.len() != answers.len() {
        return Err(format!(
            "two increments of counter {counter} have the same answer"
        ));
    }
    let highest = distinct.last().copied().unwrap_or(0);
    let left_out = usize::try_from(highest).unwrap_or(0) - answers.len();
    if left_out > unknown {
        return Err(format!(
            "counter {counter} reached {highest} by {} acknowledged increments and {unknown} of \
             unknown outcome: one was applied twice",
            answers.len()
        ));
    }
    Ok(())
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
    reads: AtomicU64,
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
            reads: AtomicU64::new(0),
            history: Mutex::default(),
        });
        let mut running = JoinSet::new();
        for (task, client) in clients.iter().cycle().take(tasks).enumerate() {
            let actor = Actor {
                client: client.session(),
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
        Totals {
            writes: self.shared.writes.load(Ordering::Relaxed),
            reads: self.shared.reads.load(Ordering::Relaxed),
        }
    }

    /// Ends the clients once their operations are answered, and returns what they recorded.
    pub async fn end(mut self) -> History {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let mut history = self.shared.history();
        std::mem::take(&mut *history)
    }
}

impl Shared {
    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX - 1)
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client of the workload.
struct Actor {
    client: Client,
    shared: Arc<Shared>,
    random: StdRng,
}

impl Actor {
    async fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let key = self.random.random_range(0..KEYS);
            match self.random.random_range(0..INCREMENTS) {
                0 => self.increment().await,
                1..=4 => self.write(key).await,
                _ => self.read(key).await,
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
        self.record(key, recorded);
        let version = match outcome {
            Ok(version) => version,
            Err(error) => return self.failed(&error),
        };
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        // This client is a session: it must see its write, or a later one.
        match self.client.get(name(key)).await {
            Ok(found) if found.version < version => {
                let broken = format!(
                    "a session wrote version {version} of key {key} and then read {}",
                    found.version
                );
                self.shared.history().broken.push(broken);
            }
            Ok(_) => {
                self.shared.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn read(&mut self, key: usize) {
        let options = ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        };
        let sent = self.shared.now();
        match self.client.get_with(name(key), options).await {
            Ok(found) => {
                let text = found.value.as_deref().map(String::from_utf8_lossy);
                let value = text.map(|text| text.parse().unwrap_or(u64::MAX));
                let recorded = Recorded {
                    sent,
                    answered: self.shared.now(),
                    seen: Seen::Read(value),
                };
                self.record(key, recorded);
                self.shared.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn increment(&mut self) {
        let counter = self.random.random_range(0..COUNTERS);
        let outcome = self.client.increment(format!("counter/{counter}"), 1).await;
        let mut history = self.shared.history();
        let (answers, unknown) = history.counters.entry(counter).or_default();
        match outcome {
            Ok(incremented) => {
                answers.push(incremented.value);
                self.shared.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                if error.is_outcome_unknown() {
                    *unknown += 1;
                }
                drop(history);
                self.failed(&error);
            }
        }
    }

    fn record(&self, key: usize, recorded: Recorded) {
        let mut history = self.shared.history();
        history.keys.entry(key).or_default().push(recorded);
    }

    fn failed(&self, error: &Error) {
        let mut history = self.shared.history();
        *history
            .failures
            .entry(error.code().to_string())
            .or_default() += 1;
    }
}

fn name(key: usize) -> String {
    format!("register/{key:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operations: &[(i64, i64, Seen)]) -> History {
        let recorded = operations.iter().map(|(sent, answered, seen)| Recorded {
            sent: *sent,
            answered: *answered,
            seen: *seen,
        });
        History {
            keys: BTreeMap::from([(1, recorded.collect())]),
            ..History::default()
        }
    }

    #[test]
    fn a_lost_write_and_a_stale_read_are_found() {
        use Seen::{Read, Written};
        let sound = of(&[
            (0, 1, Read(None)),
            (2, 3, Written(1)),
            (4, i64::MAX, Written(2)),
            (5, 6, Read(Some(1))),
            (7, 8, Read(Some(2))),
        ]);
        assert_eq!(sound.check(), Ok(()));
        let lost = of(&[(0, 1, Written(1)), (2, 3, Read(None))]);
        assert!(lost.check().is_err());
        let stale = of(&[
            (0, 1, Written(1)),
            (2, 3, Written(2)),
            (4, 5, Read(Some(1))),
        ]);
        assert!(stale.check().is_err());
        // What was read once stays: the write of unknown outcome took effect.
        let undone = of(&[
            (0, 1, Written(1)),
            (2, i64::MAX, Written(2)),
            (3, 4, Read(Some(2))),
            (5, 6, Read(Some(1))),
        ]);
        assert!(undone.check().is_err());
    }

    #[test]
    fn an_increment_that_is_applied_twice_is_found() {
        assert!(check_counter(0, &[1, 2, 4], 1).is_ok());
        assert!(check_counter(0, &[1, 2, 4], 0).is_err());
        assert!(check_counter(0, &[1, 2, 2], 5).is_err());
        assert!(check_counter(0, &[], 3).is_ok());
    }
}
