//! `kill -9` of a node that is always in the middle of something: what was acknowledged is
//! there, whole, versions only grow, and what is sent again is applied once.
//!
//! The log's segments are tiny and checkpoints follow one another, so that most kills fall
//! into a rotation or a checkpoint; some are made to. The rounds share one data folder and
//! one set of expectations. A round writes until a random number of writes was
//! acknowledged, kills the platform, kills some of the following starts as well, reads
//! every key, and sends writes again whose answers were lost, and some that were not.
//! `TIERKV_KILL_ROUNDS` says how many rounds, `TIERKV_KILL_SEED` repeats the choices of a
//! run (the interleaving is the machine's).

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

/// Rounds, unless `TIERKV_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 20;
/// Acknowledged writes before a kill.
const ACKNOWLEDGED_A_ROUND: u64 = 1_000;
/// At most this many more.
const MORE_ACKNOWLEDGED: u64 = 1_500;
const WRITERS: usize = 64;
const KEYS_A_WRITER: usize = 16;
/// Keys read at once: their values must fit one answer.
const KEYS_A_READ: usize = 100;
/// A record has to fit a segment.
const SEGMENT_BYTES: u64 = 64 << 10;
const LARGEST_VALUE: u32 = 48_000;
/// The log keeps this much of what is stored, so that segments go as fast as they come.
const LOG_BYTES: u64 = 512 << 10;
/// Checkpoints come as soon as there is this much to store, or this long after the last.
const CHECKPOINT_BYTES: u64 = 32 << 10;
const CHECKPOINT_INTERVAL_MS: u64 = 10;
/// A kill after fewer of them would show little.
const ROTATIONS_A_ROUND: u64 = 20;
const CHECKPOINTS_A_ROUND: u64 = 10;
/// Times to live: some are over before the key is read, some never in this test.
const SHORTEST_TTL_MS: u64 = 100;
const SHORT_TTL_MS: u64 = 2_000;
const LONG_TTL_MS: u64 = 3_600_000;
/// How old a write may be that is sent again: the platform remembers it for two minutes.
const REMEMBERED_MS: u64 = 100_000;
/// How long the platform may take to acknowledge a round's writes.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an operation may take: the machine may be busy with other things.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The latest moment, after its start, at which a starting platform is killed.
const LATEST_START_KILL: Duration = Duration::from_millis(400);
const NAMESPACE: &str = "kill";

/// Settings under which rotations and checkpoints never end.
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
    // Names of writes must differ from those of a run of the same seed on the same data.
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

/// Concurrent writers, each with keys of its own.
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
        let (killed, hear_kill) = watch::channel(false);
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
            writers.spawn(writer.run(hear_kill.clone()));
        }
        Self {
            writers,
            acknowledged,
            killed,
        }
    }

    /// Waits until so many writes are acknowledged, and the node has been busy enough since
    /// `began` for a kill to show something.
    async fn reach(&self, wanted: u64, platform: &TierKv, began: &Work) -> Done {
        let reached = poll_until(PATIENCE, || async {
            // A writer that ended before the kill failed; `end` tells how.
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
            let attempt = Attempt {
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                kind: kind(&mut self.choices),
                born_ms: now_ms(),
            };
            self.ledgers[at].begin(attempt);
            let written = tokio::select! {
                biased;
                written = self.writes.write(self.ledgers[at].key(), attempt) => written,
                // What is under way at the kill stays open.
                _ = killed.wait_for(|killed| *killed) => break,
            };
            match written {
                Ok(answer) => {
                    self.take(at, answer);
                    if self.choices.random_bool(0.1) {
                        // The platform may be killed meanwhile.
                        tokio::select! {
                            () = self.read_own(at) => {}
                            _ = killed.wait_for(|killed| *killed) => break,
                        }
                    }
                }
                Err(error) => match error.code {
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

    fn take(&mut self, at: usize, answer: Answer) {
        let ledger = &mut self.ledgers[at];
        assert!(
            answer.existed == Some(false) || answer.version > self.newest,
            "{}: {answer:?} was given after {} was seen (I5)",
            ledger.key(),
            self.newest
        );
        ledger.acknowledged(answer).unwrap();
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// A client sees its own writes, through the cache as well.
    async fn read_own(&mut self, at: usize) {
        let ledger = &mut self.ledgers[at];
        let options = ReadOptions {
            consistency: Consistency::Session(ledger.version()),
            ..ReadOptions::default()
        };
        let asked_ms = now_ms();
        // Where it fails, the next write tells more.
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

/// Mostly small values, some empty ones, some that nearly fill a segment.
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

/// How many writes were sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// Their answers had been lost.
    doubtful: usize,
    /// They had been answered.
    answered: usize,
}

impl std::ops::AddAssign for Again {
    fn add_assign(&mut self, more: Self) {
        self.doubtful += more.doubtful;
        self.answered += more.answered;
    }
}

/// Sends writes again under their names, each twice at once: most of those whose answers
/// were lost, and some others, over which newer ones may have gone since.
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
        // What was answered before the doubtful write comes first, and changes nothing.
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
    // This waits for no state: it is the random moment itself.
    tokio::time::sleep(choices.random_range(Duration::ZERO..=LATEST_START_KILL)).await;
    process.check().unwrap();
    process.kill9().unwrap();
}
