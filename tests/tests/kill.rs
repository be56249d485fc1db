//! `kill -9` under concurrent writes: what was acknowledged is there, whole, and versions
//! only grow.
//!
//! The rounds share one data folder and one set of expectations. A round writes until a
//! random number of writes was acknowledged, kills the platform at that moment (some wait
//! for the next checkpoint first), kills some of the following starts as well, and then
//! reads every key. `TIERKV_KILL_ROUNDS` says how many rounds, `TIERKV_KILL_SEED` repeats
//! the choices of a run (the interleaving is the machine's).

// Test helpers panic as tests do, and the seed must be seen.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::{Client, Code, Consistency, ReadOptions};
use tierkv_harness::{DataFolder, Options, Process, TierKv, poll_until};
use tierkv_tests::{
    binary,
    ledger::{Attempt, Kind, Ledger},
};
use tokio::{sync::watch, task::JoinSet};

/// Rounds, unless `TIERKV_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 10;
/// Acknowledged writes before a kill.
const ACKNOWLEDGED_A_ROUND: u64 = 1_000;
/// At most this many more.
const MORE_ACKNOWLEDGED: u64 = 1_500;
const WRITERS: usize = 64;
const KEYS_A_WRITER: usize = 16;
/// Keys read at once: their values must fit one answer.
const KEYS_A_READ: usize = 100;
const LARGEST_VALUE: u32 = 100_000;
/// How long the platform may take to acknowledge a round's writes, or to checkpoint.
const PATIENCE: Duration = Duration::from_secs(120);
/// The latest moment, after its start, at which a starting platform is killed.
const LATEST_START_KILL: Duration = Duration::from_millis(400);

fn from_environment(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not '{text}'")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_9() {
    let rounds = from_environment("TIERKV_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_environment("TIERKV_KILL_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}: TIERKV_KILL_SEED={seed} repeats this run's choices");
    let mut choices = StdRng::seed_from_u64(seed);
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let mut ledgers: Vec<Vec<Ledger>> = (0..WRITERS)
        .map(|writer| {
            (0..KEYS_A_WRITER)
                .map(|key| Ledger::new(format!("writer-{writer}/key-{key}")))
                .collect()
        })
        .collect();
    let numbers = Arc::new(AtomicU64::new(1));
    let mut newest = 0;
    for round in 1..=rounds {
        let storm = Storm::start(&platform, ledgers, newest, &numbers, &mut choices).await;
        let wanted = ACKNOWLEDGED_A_ROUND + choices.random_range(0..=MORE_ACKNOWLEDGED);
        storm.reach(wanted).await;
        let at_checkpoint = choices.random_bool(0.3);
        if at_checkpoint {
            next_checkpoint(platform.folder()).await;
        }
        platform.kill9().unwrap();
        let acknowledged = storm.acknowledged.load(Ordering::Relaxed);
        ledgers = storm.end().await;
        let start_kills = choices.random_range(0..=2);
        for _ in 0..start_kills {
            kill_while_starting(platform.folder(), &mut choices).await;
        }
        platform.restart().await.unwrap();
        newest = check(&platform, &mut ledgers, newest).await;
        println!(
            "round {round}: {acknowledged} acknowledged{}, killed during {start_kills} starts",
            if at_checkpoint {
                ", killed after a checkpoint"
            } else {
                ""
            }
        );
    }
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    check(&platform, &mut ledgers, newest).await;
}

/// Concurrent writers, each with keys of its own.
struct Storm {
    writers: JoinSet<Vec<Ledger>>,
    acknowledged: Arc<AtomicU64>,
    killed: watch::Sender<bool>,
}

impl Storm {
    async fn start(
        platform: &TierKv,
        ledgers: Vec<Vec<Ledger>>,
        newest: u64,
        numbers: &Arc<AtomicU64>,
        choices: &mut StdRng,
    ) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (killed, hear_kill) = watch::channel(false);
        let clients = [connect(platform).await, connect(platform).await];
        let mut writers = JoinSet::new();
        for (at, ledgers) in ledgers.into_iter().enumerate() {
            let writer = Writer {
                client: clients[at % clients.len()].clone(),
                ledgers,
                newest,
                numbers: Arc::clone(numbers),
                acknowledged: Arc::clone(&acknowledged),
                choices: StdRng::seed_from_u64(choices.random()),
            };
            writers.spawn(writer.run(hear_kill.clone()));
        }
        Self {
            writers,
            acknowledged,
            killed,
        }
    }

    async fn reach(&self, wanted: u64) {
        let reached = poll_until(PATIENCE, || async {
            // A writer that ended before the kill failed; `end` tells how.
            let all_write = self.writers.len() == WRITERS;
            let enough = self.acknowledged.load(Ordering::Relaxed) >= wanted;
            (enough || !all_write).then_some(())
        });
        reached.await.expect("the platform acknowledges too slowly");
    }

    async fn end(self) -> Vec<Vec<Ledger>> {
        self.killed.send_replace(true);
        let ledgers = self.writers.join_all().await;
        assert_eq!(ledgers.len(), WRITERS);
        ledgers
    }
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.namespace("kill").connect().await.unwrap()
}

struct Writer {
    client: Client,
    ledgers: Vec<Ledger>,
    /// The greatest version that anyone saw before this storm.
    newest: u64,
    numbers: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    choices: StdRng,
}

impl Writer {
    async fn run(mut self, mut killed: watch::Receiver<bool>) -> Vec<Ledger> {
        while !*killed.borrow() {
            let at = self.choices.random_range(0..self.ledgers.len());
            let kind = match self.choices.random_bool(0.15) {
                true => Kind::Delete,
                false => Kind::Put(length(&mut self.choices)),
            };
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let attempt = Attempt { number, kind };
            self.ledgers[at].begin(attempt);
            let written = tokio::select! {
                biased;
                written = write(&self.client, self.ledgers[at].key(), attempt) => written,
                // What is under way at the kill stays open.
                _ = killed.wait_for(|killed| *killed) => break,
            };
            match written {
                Ok((version, existed)) => {
                    let ledger = &mut self.ledgers[at];
                    if existed != Some(false) {
                        assert!(
                            version > self.newest,
                            "{}: version {version} was given after {} was seen (I5)",
                            ledger.key(),
                            self.newest
                        );
                    }
                    ledger.acknowledged(version, existed).unwrap();
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    if self.choices.random_bool(0.1) {
                        // The platform may be killed meanwhile.
                        tokio::select! {
                            () = self.read_own(at) => {}
                            _ = killed.wait_for(|killed| *killed) => break,
                        }
                    }
                }
                Err(error) => match error.code() {
                    // It stays open: whether it happened is seen after the restart.
                    Code::OutcomeUnknown => break,
                    // These promise that nothing was done.
                    Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
                        self.ledgers[at].refused();
                    }
                    _ => panic!("{}: {attempt:?}: {error}", self.ledgers[at].key()),
                },
            }
        }
        self.ledgers
    }

    /// A client sees its own writes, through the cache as well.
    async fn read_own(&self, at: usize) {
        let ledger = &self.ledgers[at];
        let options = ReadOptions {
            consistency: Consistency::Session(ledger.version()),
            ..ReadOptions::default()
        };
        // Where it fails, the next write tells more.
        if let Ok(found) = self.client.get_with(ledger.key(), options).await {
            assert!(found.version >= ledger.version(), "{}: I6", ledger.key());
            assert!(
                found.value == ledger.value(),
                "{}: not its own write",
                ledger.key()
            );
        }
    }
}

async fn write(
    client: &Client,
    key: &str,
    attempt: Attempt,
) -> Result<(u64, Option<bool>), tierkv::Error> {
    match attempt.value() {
        Some(value) => client.put(key, value).await.map(|version| (version, None)),
        None => {
            let deleted = client.delete(key).await?;
            Ok((deleted.version, Some(deleted.existed)))
        }
    }
}

/// Mostly small values, some empty ones, some far larger than a page or a frame's share.
fn length(choices: &mut StdRng) -> u32 {
    match choices.random_range(0..100) {
        0..5 => 0,
        5..15 => choices.random_range(1..24),
        15..75 => choices.random_range(24..400),
        75..95 => choices.random_range(400..8_000),
        _ => choices.random_range(8_000..=LARGEST_VALUE),
    }
}

/// Reads every key and compares it with what was promised; returns the greatest version
/// that was ever seen.
async fn check(platform: &TierKv, ledgers: &mut [Vec<Ledger>], newest: u64) -> u64 {
    let client = connect(platform).await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let mut all: Vec<&mut Ledger> = ledgers.iter_mut().flatten().collect();
    let mut newest = newest;
    let mut broken = Vec::new();
    for chunk in all.chunks_mut(KEYS_A_READ) {
        let keys: Vec<String> = chunk.iter().map(|ledger| ledger.key().to_owned()).collect();
        let latest = client.batch_get_with(&keys, latest).await.unwrap();
        let cached = client.batch_get(&keys).await.unwrap();
        for ((ledger, found), cached) in chunk.iter_mut().zip(latest).zip(cached) {
            newest = newest.max(found.version).max(ledger.version());
            let observed = ledger.observe(found.value.as_deref(), found.version);
            broken.extend(observed.err());
            if cached.value != found.value {
                broken.push(format!("{}: the cache says something else", ledger.key()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} broken promises:\n{}",
        broken.len(),
        broken.join("\n")
    );
    newest
}

/// Starts the platform on `folder` and kills it at a random moment of its start.
async fn kill_while_starting(folder: &DataFolder, choices: &mut StdRng) {
    let data = folder.data().display().to_string();
    let listen = "127.0.0.1:0";
    let arguments = [
        "dev",
        "--output",
        "json",
        "--grpc-listen",
        listen,
        "--rest-listen",
        listen,
        "--data-dir",
        &data,
    ];
    let mut process = Process::spawn(&binary::tierkv(), arguments, folder).unwrap();
    // This waits for no state: it is the random moment itself.
    tokio::time::sleep(choices.random_range(Duration::ZERO..=LATEST_START_KILL)).await;
    process.check().unwrap();
    process.kill9().unwrap();
}

/// Waits until the store changes: a checkpoint is being written, or just was.
async fn next_checkpoint(folder: &DataFolder) {
    let before = store_files(folder.data());
    assert!(
        !before.is_empty(),
        "no SQLite file in {}",
        folder.data().display()
    );
    let changed = poll_until(PATIENCE, || async {
        (store_files(folder.data()) != before).then_some(())
    });
    changed.await.expect("a checkpoint");
}

/// Every SQLite file below `folder`, its size and when it was written last.
fn store_files(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(store_files(&path));
            continue;
        }
        let name = path.display().to_string();
        let is_store = [".sqlite", ".db", ".sqlite3", "-wal"]
            .iter()
            .any(|end| name.ends_with(end));
        // A file that is just being removed has no size any more.
        if is_store && let Ok(about) = fs::metadata(&path) {
            files.insert(name, (about.len(), about.modified().unwrap()));
        }
    }
    files
}
