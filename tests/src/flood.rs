//! Many tasks that write new keys, the outcome of each write, and a check that the platform
//! kept its promises.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tierkv::{Client, Code, Consistency, Error, ReadOptions};
use tokio::{sync::watch, task::JoinSet};

use crate::ledger::{Attempt, Kind};

/// Backoff of a writer after a refused write.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(5);
/// Keys read at once.
const KEYS_A_READ: usize = 100;
/// Reads under way at once.
const READS_AT_ONCE: usize = 16;

/// What a write may end with while processes die, stand still or can't reach each other.
const FAILURES_OF_FAULTS: [Code; 3] = [
    Code::Unavailable,
    Code::OutcomeUnknown,
    Code::DeadlineExceeded,
];

/// One record. Its key and its value are made from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// The length of its value.
    pub value_bytes: u32,
}

impl Record {
    /// Its key.
    #[must_use]
    pub fn key(self) -> String {
        format!("record-{:029}", self.number)
    }

    /// Its value; no two records share one.
    #[must_use]
    pub fn value(self) -> Bytes {
        let attempt = Attempt {
            number: self.number,
            kind: Kind::Put(self.value_bytes),
            born_ms: 0,
        };
        attempt.value().unwrap_or_default()
    }
}

/// The outcome of a write, as reported to its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Applied at this version.
    Acknowledged(u64),
    /// Not applied.
    Refused(Code),
    /// Applied or not: the answer was lost.
    Unknown,
}

/// Every record that was sent, with the outcome of its write.
#[derive(Clone, Debug, Default)]
pub struct Written(BTreeMap<Record, WriteOutcome>);

impl Written {
    /// How many were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let outcomes = self.0.values();
        outcomes
            .filter(|outcome| matches!(outcome, WriteOutcome::Acknowledged(_)))
            .count()
    }

    /// How many were refused, by code, and how many outcomes are unknown, as
    /// `OutcomeUnknown`.
    #[must_use]
    pub fn failures(&self) -> HashMap<Code, usize> {
        let mut failures = HashMap::new();
        for outcome in self.0.values() {
            let code = match outcome {
                WriteOutcome::Acknowledged(_) => continue,
                WriteOutcome::Refused(code) => *code,
                WriteOutcome::Unknown => Code::OutcomeUnknown,
            };
            *failures.entry(code).or_default() += 1;
        }
        failures
    }

    /// The failures that no fault of processes or lines explains: while a master is lost, a write may
    /// be refused or late, or its outcome unknown.
    #[must_use]
    pub fn unexplained_failures(&self) -> HashMap<Code, usize> {
        let mut failures = self.failures();
        failures.retain(|code, _| !FAILURES_OF_FAULTS.contains(code));
        failures
    }

    /// Adds the records of another flood.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Reads every record with `consistency`. An acknowledged record must be there at its
    /// version, a refused one must be absent, and one of unknown outcome is either whole or
    /// absent.
    ///
    /// # Errors
    /// A text that lists each broken promise.
    pub async fn check(&self, client: &Client, consistency: Consistency) -> Result<(), String> {
        let options = ReadOptions {
            consistency,
            ..ReadOptions::default()
        };
        let all: Vec<(Record, WriteOutcome)> =
            self.0.iter().map(|(of, outcome)| (*of, *outcome)).collect();
        let mut reading = JoinSet::new();
        let mut broken = Vec::new();
        for chunk in all.chunks(KEYS_A_READ) {
            if reading.len() >= READS_AT_ONCE
                && let Some(read) = reading.join_next().await
            {
                broken.extend(read.unwrap_or_else(|panic| vec![panic.to_string()]));
            }
            reading.spawn(check_some(client.clone(), chunk.to_vec(), options));
        }
        broken.extend(reading.join_all().await.into_iter().flatten());
        if broken.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} broken promises:\n{}",
            broken.len(),
            broken.join("\n")
        ))
    }
}

async fn check_some(
    client: Client,
    records: Vec<(Record, WriteOutcome)>,
    options: ReadOptions,
) -> Vec<String> {
    let keys: Vec<String> = records.iter().map(|(record, _)| record.key()).collect();
    let found = match client.batch_get_with(&keys, options).await {
        Ok(found) => found,
        Err(error) => return vec![format!("{} and more: {error}", keys[0])],
    };
    let mut broken = Vec::new();
    for ((record, outcome), found) in records.into_iter().zip(found) {
        let is_whole = found.value.as_ref() == Some(&record.value());
        let is_kept = match outcome {
            WriteOutcome::Acknowledged(version) => is_whole && found.version == version,
            WriteOutcome::Refused(_) => found.value.is_none(),
            WriteOutcome::Unknown => is_whole || found.value.is_none(),
        };
        if !is_kept {
            let holds = match (&found.value, is_whole) {
                (None, _) => "nothing".to_owned(),
                (Some(_), true) => "its value".to_owned(),
                (Some(value), false) => format!("{} other bytes", value.len()),
            };
            let version = found.version;
            broken.push(format!(
                "{record:?}: {outcome:?}, but the key holds {holds} at version {version}"
            ));
        }
    }
    broken
}

/// Running writers.
pub struct Flood {
    writers: JoinSet<Written>,
    progress: Arc<Progress>,
    ending: watch::Sender<bool>,
}

#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    exhausted: AtomicU64,
}

impl Flood {
    /// Starts `writers` tasks, which share `clients` and number their records from `numbers`.
    /// A writer runs until [`Flood::end`], or until the platform cannot be reached.
    #[must_use]
    pub fn start(
        clients: &[Client],
        writers: usize,
        numbers: &Arc<AtomicU64>,
        value_bytes: u32,
    ) -> Self {
        Self::start_with(clients, writers, numbers, value_bytes, false)
    }

    /// As [`Flood::start`], but a writer goes on with its next record also after the platform could
    /// not be reached.
    #[must_use]
    pub fn start_persistent(
        clients: &[Client],
        writers: usize,
        numbers: &Arc<AtomicU64>,
        value_bytes: u32,
    ) -> Self {
        Self::start_with(clients, writers, numbers, value_bytes, true)
    }

    fn start_with(
        clients: &[Client],
        writers: usize,
        numbers: &Arc<AtomicU64>,
        value_bytes: u32,
        is_persistent: bool,
    ) -> Self {
        let progress = Arc::new(Progress::default());
        let (ending, end_signal) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in clients.iter().cycle().take(writers) {
            let writer = Writer {
                client: client.clone(),
                numbers: Arc::clone(numbers),
                value_bytes,
                is_persistent,
                progress: Arc::clone(&progress),
            };
            tasks.spawn(writer.run(end_signal.clone()));
        }
        Self {
            writers: tasks,
            progress,
            ending,
        }
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// How many writes were refused with `ResourceExhausted` so far.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        self.progress.exhausted.load(Ordering::Relaxed)
    }

    /// Lets every writer finish its current write, and returns all records with their outcomes.
    pub async fn end(self) -> Written {
        self.ending.send_replace(true);
        let mut written = Written::default();
        for some in self.writers.join_all().await {
            written.extend(some);
        }
        written
    }
}

struct Writer {
    client: Client,
    numbers: Arc<AtomicU64>,
    value_bytes: u32,
    /// Whether it goes on when the platform can't be reached.
    is_persistent: bool,
    progress: Arc<Progress>,
}

impl Writer {
    async fn run(self, ending: watch::Receiver<bool>) -> Written {
        let mut written = Written::default();
        while !*ending.borrow() {
            let record = Record {
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                value_bytes: self.value_bytes,
            };
            let result = self.client.put(record.key(), record.value()).await;
            let outcome = outcome_of(&result);
            written.0.insert(record, outcome);
            match outcome {
                WriteOutcome::Acknowledged(_) => {
                    self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                WriteOutcome::Refused(Code::Unavailable) | WriteOutcome::Unknown
                    if !self.is_persistent =>
                {
                    break;
                }
                WriteOutcome::Unknown => tokio::time::sleep(PAUSE_AFTER_REFUSAL).await,
                WriteOutcome::Refused(code) => {
                    if code == Code::ResourceExhausted {
                        self.progress.exhausted.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
                }
            }
        }
        written
    }
}

fn outcome_of(result: &Result<u64, Error>) -> WriteOutcome {
    match result {
        Ok(version) => WriteOutcome::Acknowledged(*version),
        Err(error) => match error.code() {
            Code::OutcomeUnknown => WriteOutcome::Unknown,
            code => WriteOutcome::Refused(code),
        },
    }
}
