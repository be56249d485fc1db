//! Writes of ever new keys from many tasks, and what became of each.

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

/// How long a writer that was refused waits before it writes again, as a client would.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(5);
/// Keys read at once.
const KEYS_A_READ: usize = 100;
/// Reads under way at once.
const READS_AT_ONCE: usize = 16;

/// One record: its number says its key and its value.
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

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was done, at this version.
    Acknowledged(u64),
    /// It was not done.
    Refused(Code),
    /// Nobody knows.
    Unknown,
}

/// Every record that was written, and what its writer was told.
#[derive(Clone, Debug, Default)]
pub struct Written(BTreeMap<Record, Told>);

impl Written {
    /// How many were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let told = self.0.values();
        told.filter(|told| matches!(told, Told::Acknowledged(_)))
            .count()
    }

    /// How many were refused, by code, and how many outcomes are unknown, as
    /// `OutcomeUnknown`.
    #[must_use]
    pub fn failures(&self) -> HashMap<Code, usize> {
        let mut failures = HashMap::new();
        for told in self.0.values() {
            let code = match told {
                Told::Acknowledged(_) => continue,
                Told::Refused(code) => *code,
                Told::Unknown => Code::OutcomeUnknown,
            };
            *failures.entry(code).or_default() += 1;
        }
        failures
    }

    /// Adds what another flood wrote.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Reads every record as fresh as `consistency` asks: what was acknowledged is there at
    /// its version, what was refused is not, and what nobody knows is there whole or not
    /// at all.
    ///
    /// # Errors
    /// In words, each promise that is broken.
    pub async fn check(&self, client: &Client, consistency: Consistency) -> Result<(), String> {
        let options = ReadOptions {
            consistency,
            ..ReadOptions::default()
        };
        let all: Vec<(Record, Told)> = self.0.iter().map(|(of, told)| (*of, *told)).collect();
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
    records: Vec<(Record, Told)>,
    options: ReadOptions,
) -> Vec<String> {
    let keys: Vec<String> = records.iter().map(|(record, _)| record.key()).collect();
    let found = match client.batch_get_with(&keys, options).await {
        Ok(found) => found,
        Err(error) => return vec![format!("{} and more: {error}", keys[0])],
    };
    let mut broken = Vec::new();
    for ((record, told), found) in records.into_iter().zip(found) {
        let is_whole = found.value.as_ref() == Some(&record.value());
        let is_kept = match told {
            Told::Acknowledged(version) => is_whole && found.version == version,
            Told::Refused(_) => found.value.is_none(),
            Told::Unknown => is_whole || found.value.is_none(),
        };
        if !is_kept {
            let holds = match (&found.value, is_whole) {
                (None, _) => "nothing".to_owned(),
                (Some(_), true) => "it".to_owned(),
                (Some(value), false) => format!("{} other bytes", value.len()),
            };
            let version = found.version;
            broken.push(format!(
                "{record:?}: {told:?}, and there is {holds} at version {version}"
            ));
        }
    }
    broken
}

/// Writers at work.
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
    /// Starts `writers` tasks that share `clients` and take their records' numbers from
    /// `numbers`. A writer ends when it is told to, or when the platform is gone.
    #[must_use]
    pub fn start(
        clients: &[Client],
        writers: usize,
        numbers: &Arc<AtomicU64>,
        value_bytes: u32,
    ) -> Self {
        let progress = Arc::new(Progress::default());
        let (ending, hear_end) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in clients.iter().cycle().take(writers) {
            let writer = Writer {
                client: client.clone(),
                numbers: Arc::clone(numbers),
                value_bytes,
                progress: Arc::clone(&progress),
            };
            tasks.spawn(writer.run(hear_end.clone()));
        }
        Self {
            writers: tasks,
            progress,
            ending,
        }
    }

    /// Writes that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes that were refused with `ResourceExhausted` so far.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        self.progress.exhausted.load(Ordering::Relaxed)
    }

    /// Lets every writer finish the write it is at, and gathers what they were told.
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
            let outcome = self.client.put(record.key(), record.value()).await;
            let told = told(&outcome);
            written.0.insert(record, told);
            match told {
                Told::Acknowledged(_) => {
                    self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Told::Refused(Code::Unavailable) | Told::Unknown => break,
                Told::Refused(code) => {
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

fn told(outcome: &Result<u64, Error>) -> Told {
    match outcome {
        Ok(version) => Told::Acknowledged(*version),
        Err(error) => match error.code() {
            Code::OutcomeUnknown => Told::Unknown,
            code => Told::Refused(code),
        },
    }
}
