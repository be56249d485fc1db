//! `kill -9` of a busy node: acknowledged writes survive whole, versions only grow, and a write
//! that is sent again is applied once.
//!
//! The log's segments are tiny and checkpoints are frequent, so that most kills happen during
//! a rotation or a checkpoint; some kills wait for one. The rounds share one data folder and
//! one set of ledgers. A round writes until a random number of writes is acknowledged, kills
//! the platform, kills some of the following starts too, reads every key, and sends some writes
//! again, most of those whose answers were lost among them. `TIERKV_KILL_ROUNDS` sets the number
//! of rounds; `TIERKV_KILL_SEED` repeats the random choices of a run, but not the scheduling of
//! its tasks.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::{Client, Code, Consistency, ReadOptions};
use tierkv_harness::{DataFolder, Options, Process, Surroundings, TierKv, poll_until};
use tierkv_tests::{
    binary,
    choices::{rounds, seeded},
    disk_work::{Done, Moment, Work},
    ledger::{Answer, Attempt, Kind, Ledger, Sight},
    named::{NamedWrites, now_ms},
};
use tokio::{sync::watch, task::JoinSet};

/// The default of `TIERKV_KILL_ROUNDS`.
const ROUNDS: u64 = 20;
/// Acknowledged writes before a kill.
const ACKNOWLEDGED_A_ROUND: u64 = 1_000;
/// A random number up to this is added.
const MORE_ACKNOWLEDGED: u64 = 1_500;
const WRITERS: usize = 64;
const KEYS_A_WRITER: usize = 16;
/// Keys in one batch read: their values must fit one answer.
const KEYS_A_READ: usize = 100;
/// A record must fit a segment.
const SEGMENT_BYTES: u64 = 64 << 10;
const LARGEST_VALUE: u32 = 48_000;
/// The log keeps only this many bytes of stored records, so that segments are soon removed.
const LOG_BYTES: u64 = 512 << 10;
/// A checkpoint begins with this many bytes to store, or this long after the last one.
const CHECKPOINT_BYTES: u64 = 32 << 10;
const CHECKPOINT_INTERVAL_MS: u64 = 10;
/// Required before a kill, so that it hits a busy node.
const ROTATIONS_A_ROUND: u64 = 20;
const CHECKPOINTS_A_ROUND: u64 = 10;
/// Times to live: the short ones may pass before the key is read, the long one never does.
const SHORTEST_TTL_MS: u64 = 100;
const SHORT_TTL_MS: u64 = 2_000;
const LONG_TTL_MS: u64 = 3_600_000;
/// The greatest age of a write that is sent again; the platform remembers requests for 2 min.
const REMEMBERED_MS: u64 = 100_000;
/// Timeout for the writes of a round.
const PATIENCE: Duration = Duration::from_secs(120);
/// Timeout of an operation; long, because the machine may be busy.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A starting platform is killed at most this long after its start.
const LATEST_START_KILL: Duration = Duration::from_millis(400);
const NAMESPACE: &str = "kill";

/// Settings that cause constant rotations and checkpoints.
fn busy() -> Surroundings {
    Surroundings::default()
        .set("TIERKV_WAL_SEGMENT_BYTES", SEGMENT_BYTES)
        .set("TIERKV_WAL_MAX_BYTES", LOG_BYTES)
        .set("TIERKV_STORE_CHECKPOINT_BYTES", CHECKPOINT_BYTES)
        .set(
            "TIERKV_STORE_CHECKPOINT_INTERVAL_MS",
            CHECKPOINT_INTERVAL_MS,
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_9() {
    let mut choices = seeded();
    let options = Options {
        surroundings: busy(),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    // Request ids must differ from those of another run with the same seed on the same data.
    let run = rand::random();
    let mut ledgers: Vec<Vec<Ledger>> = (0..WRITERS)
        .map(|writer| {
            (0..KEYS_A_WRITER)
                .map(|key| Ledger::new(format!("writer-{writer}/key-{key}")))
                .collect()
        })
        .collect();
    let numbers = Arc::new(AtomicU64::new(1));
    let mut newest = 0;
    let mut again = Again::default();
    for round in 1..=rounds(ROUNDS) {
        let began = Work::of(&platform).await.unwrap();
        let storm = Storm::start(&platform, run, ledgers, newest, &numbers, &mut choices).await;
        let wanted = ACKNOWLEDGED_A_ROUND + choices.random_range(0..=MORE_ACKNOWLEDGED);
        let done = storm.reach(wanted, &platform, &began).await;
        let moment = match choices.random_range(0..4) {
            0 => Moment::Rotation,
            1 => Moment::Checkpoint,
            _ => Moment::Any,
        };
        moment.come(platform.folder()).await.unwrap();
        platform.kill9().unwrap();
        let acknowledged = storm.acknowledged.load(Ordering::Relaxed);
        ledgers = storm.end().await;
        let start_kills = choices.random_range(0..=2);
        for _ in 0..start_kills {
            kill_while_starting(platform.folder(), &mut choices).await;
        }
        platform.restart().await.unwrap();
        newest = check(&platform, &mut ledgers, newest).await;
        again += send_again(&platform, run, &mut ledgers, &mut choices).await;
        newest = check(&platform, &mut ledgers, newest).await;
        println!(
            "round {round}: {acknowledged} acknowledged, {done}, killed at {moment:?}, and \
             during {start_kills} starts"
        );
    }
    println!("{again:?}");
    assert!(again.doubtful > 0 && again.answered > 0);
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    check(&platform, &mut ledgers, newest).await;
}

/// Concurrent writers, each with its own keys.
struct Storm {
    writers: JoinSet<Vec<Ledger>>,
    acknowledged: Arc<AtomicU64>,
    killed: watch::Sender<bool>,
}

impl Storm {
    async fn start(
        platform: &TierKv,
        run: u64,
        ledgers: Vec<Vec<Ledger>>,
        newest: u64,
        numbers: &Arc<AtomicU64>,
        choices: &mut StdRng,
    ) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (killed, kill_signal) = watch::channel(false);
        let client = connect(platform).await;
        let writes = NamedWrites::connect(platform.grpc(), NAMESPACE, run).unwrap();
        let mut writers = JoinSet::new();
        for ledgers in ledgers {
            let writer = Writer {
                client: client.clone(),
                writes: writes.clone(),
                ledgers,
                newest,
                numbers: Arc::clone(numbers),
                acknowledged: Arc::clone(&acknowledged),
                choices: StdRng::seed_from_u64(choices.random()),
            };
            writers.spawn(writer.run(kill_signal.clone()));
        }
        Self {
            writers,
            acknowledged,
            killed,
        }
    }

    /// Waits until `wanted` writes are acknowledged and the node has made enough rotations and
    /// checkpoints since `began`.
    async fn reach(&self, wanted: u64, platform: &TierKv, began: &Work) -> Done {
        let reached = poll_until(PATIENCE, || async {
            // A writer that ended before the kill has failed; `end` panics with its reason.
            let all_write = self.writers.len() == WRITERS;
            let enough = self.acknowledged.load(Ordering::Relaxed) >= wanted;
            if !enough && all_write {
                return None;
            }
            let done = Work::of(platform).await.unwrap().since(began);
            let much =
                done.rotations >= ROTATIONS_A_ROUND && done.checkpoints >= CHECKPOINTS_A_ROUND;
            (much || !all_write).then_some(done)
        });
        reached.await.expect("the platform works too slowly")
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
    let builder = builder.namespace(NAMESPACE).timeout(CLIENT_TIMEOUT);
    builder.connect().await.unwrap()
}

struct Writer {
    client: Client,
    writes: NamedWrites,
    ledgers: Vec<Ledger>,
    /// The greatest version that was read or acknowledged before this storm.
    newest: u64,
    numbers: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    choices: StdRng,
}

impl Writer {
    async fn run(mut self, mut killed: watch::Receiver<bool>) -> Vec<Ledger> {
        while !*killed.borrow() {
            let at = self.choices.random_range(0..self.ledgers.len());
            let attempt = Attempt {
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                kind: kind(&mut self.choices),
                born_ms: now_ms(),
            };
            self.ledgers[at].begin(attempt);
            let written = tokio::select! {
                biased;
                written = self.writes.write(self.ledgers[at].key(), attempt) => written,
                // A write under way at the kill stays open.
                _ = killed.wait_for(|killed| *killed) => break,
            };
            match written {
                Ok(answer) => {
                    self.take(at, answer);
                    if self.choices.random_bool(0.1) {
                        // The platform may be killed during the read.
                        tokio::select! {
                            () = self.read_own(at) => {}
                            _ = killed.wait_for(|killed| *killed) => break,
                        }
                    }
                }
                Err(error) => match error.code {
                    // It stays open: a read after the restart shows whether it was applied.
                    Code::OutcomeUnknown => break,
                    // These codes promise that nothing was applied.
                    Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
                        self.ledgers[at].refused();
                    }
                    _ => panic!("{}: {attempt:?}: {error}", self.ledgers[at].key()),
                },
            }
        }
        self.ledgers
    }

    fn take(&mut self, at: usize, answer: Answer) {
        let ledger = &mut self.ledgers[at];
        assert!(
            answer.existed == Some(false) || answer.version > self.newest,
            "{}: {answer:?} is not newer than version {}, read before (I5)",
            ledger.key(),
            self.newest
        );
        ledger.acknowledged(answer).unwrap();
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks that a client reads its own writes, through the cache too.
    async fn read_own(&mut self, at: usize) {
        let ledger = &mut self.ledgers[at];
        let options = ReadOptions {
            consistency: Consistency::Session(ledger.version()),
            ..ReadOptions::default()
        };
        let asked_ms = now_ms();
        // A failure is ignored: the next write reports it.
        if let Ok(found) = self.client.get_with(ledger.key(), options).await {
            let sight = Sight {
                value: found.value.as_deref(),
                version: found.version,
                asked_ms,
                answered_ms: now_ms(),
            };
            ledger.observe(sight).unwrap();
        }
    }
}

fn kind(choices: &mut StdRng) -> Kind {
    let length = length(choices);
    match choices.random_range(0..100) {
        0..15 => Kind::Delete,
        15..30 => Kind::Expiring(length, choices.random_range(SHORTEST_TTL_MS..=SHORT_TTL_MS)),
        30..45 => Kind::Expiring(length, LONG_TTL_MS),
        _ => Kind::Put(length),
    }
}

/// The length of a value: mostly small, sometimes 0, sometimes nearly a segment.
fn length(choices: &mut StdRng) -> u32 {
    match choices.random_range(0..100) {
        0..5 => 0,
        5..15 => choices.random_range(1..24),
        15..75 => choices.random_range(24..400),
        75..95 => choices.random_range(400..8_000),
        _ => choices.random_range(8_000..=LARGEST_VALUE),
    }
}

/// Reads every key, compares it with its ledger, and returns the greatest version so far.
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
        let asked_ms = now_ms();
        let latest = client.batch_get_with(&keys, latest).await.unwrap();
        let answered_ms = now_ms();
        let cached = client.batch_get(&keys).await.unwrap();
        for ((ledger, found), cached) in chunk.iter_mut().zip(latest).zip(cached) {
            newest = newest.max(found.version).max(ledger.version());
            let sight = Sight {
                value: found.value.as_deref(),
                version: found.version,
                asked_ms,
                answered_ms,
            };
            broken.extend(ledger.observe(sight).err());
            let expired = cached.value.is_none() && ledger.is_expiring();
            if cached.value != found.value && !expired {
                broken.push(format!("{}: the cache returns another value", ledger.key()));
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

/// How many writes were sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// Those whose answers were lost.
    doubtful: usize,
    /// Those that were answered.
    answered: usize,
}

impl std::ops::AddAssign for Again {
    fn add_assign(&mut self, more: Self) {
        self.doubtful += more.doubtful;
        self.answered += more.answered;
    }
}

/// Sends writes again with their request ids, each twice at once: most of those whose answers
/// were lost, and some that were answered and may have been overwritten since.
async fn send_again(
    platform: &TierKv,
    run: u64,
    ledgers: &mut [Vec<Ledger>],
    choices: &mut StdRng,
) -> Again {
    let writes = NamedWrites::connect(platform.grpc(), NAMESPACE, run).unwrap();
    let mut again = Again::default();
    for ledger in ledgers.iter_mut().flatten() {
        let is_young = |attempt: &Attempt| attempt.born_ms + REMEMBERED_MS > now_ms();
        // The write that was answered before the doubtful one is sent first; it changes nothing.
        let last = ledger.last().filter(|(attempt, _)| is_young(attempt));
        if let Some((attempt, answer)) = last
            && choices.random_bool(0.1)
        {
            let repeated = send_twice(&writes, ledger.key(), attempt).await;
            assert_eq!(repeated, answer, "{}: {attempt:?} (I8)", ledger.key());
            again.answered += 1;
        }
        if let Some(attempt) = ledger.doubtful().filter(is_young)
            && choices.random_bool(0.7)
        {
            let answer = send_twice(&writes, ledger.key(), attempt).await;
            ledger.repeated(answer).unwrap();
            again.doubtful += 1;
        }
    }
    again
}

async fn send_twice(writes: &NamedWrites, key: &str, attempt: Attempt) -> Answer {
    let (one, two) = tokio::join!(writes.write(key, attempt), writes.write(key, attempt));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two, "{key}: {attempt:?} has two outcomes (I8)");
    one
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
    let mut process = Process::spawn_in(&binary::tierkv(), arguments, folder, &busy()).unwrap();
    // Not a wait for a state: the platform is to be killed at a random moment.
    tokio::time::sleep(choices.random_range(Duration::ZERO..=LATEST_START_KILL)).await;
    process.check().unwrap();
    process.kill9().unwrap();
}
