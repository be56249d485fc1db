//! Watches: every committed change is told once, in order, whatever happens meanwhile.
//!
//! Writers over many keys put, delete and let expire while users watch overlapping
//! prefixes; the platform is killed in the middle and started again, and the users go on
//! from their tokens. What they were told must be what the writers were.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::{
    Client, PutOptions,
    rpc::{
        channel,
        proto::{
            status::read_error,
            v1::{WatchRequest, kv_client::KvClient},
        },
    },
};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::{
    choices::seeded,
    ephemeral::Ephemeral,
    ledger::{Attempt, Kind},
    named::{NamedWrites, now_ms},
    resident::resident,
    watcher::{PATIENCE, Told, Watcher},
};
use tierkv_types::{Code, limits::MAX_WATCHES};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tonic::Request;

const NAMESPACE: &str = "watched";
const WRITERS: u64 = 24;
const KEYS_A_WRITER: u64 = 6;
/// Acknowledged writes of a round, after which the platform is killed.
const ACKNOWLEDGED_A_ROUND: u64 = 1_500;
const ROUNDS: u64 = 3;
/// Times to live that are over while the test runs.
const TTL_MS: u64 = 400;

/// The prefixes that are watched, which overlap, and the key that a watch of each ends with.
const PREFIXES: [(&str, &str); 6] = [
    ("", "a/1/last"),
    ("a", "a/1/last"),
    ("a/", "a/1/last"),
    ("a/1", "a/1/last"),
    ("b/", "b/last"),
    ("ab/0/", "ab/0/last"),
];

/// What one writer did to its keys.
#[derive(Default)]
struct Written {
    /// What was acknowledged, by key: its version, and the value or `None`.
    acknowledged: BTreeMap<String, Vec<(u64, Option<Bytes>)>>,
    /// What may have happened: values that were sent, and whether a delete was.
    open_values: BTreeSet<Bytes>,
    open_deletes: BTreeSet<String>,
}

/// The keys of a writer; prefixes of the watchers cut through them.
fn keys(writer: u64) -> Vec<String> {
    let group = ["a", "b", "ab"][usize::try_from(writer % 3).unwrap()];
    (0..KEYS_A_WRITER)
        .map(|key| format!("{group}/{}/{writer}-{key}", key % 2))
        .collect()
}

/// Writes until `ending` says so or the platform is gone.
async fn write(
    writes: NamedWrites,
    writer: u64,
    numbers: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    ending: watch::Receiver<bool>,
    seed: u64,
) -> Written {
    let mut random = StdRng::seed_from_u64(seed);
    let keys = keys(writer);
    let mut written = Written::default();
    while !*ending.borrow() {
        let key = &keys[random.random_range(0..keys.len())];
        let length = match random.random_range(0..50) {
            0 => 100_000,
            _ => random.random_range(20..600),
        };
        let attempt = Attempt {
            number: numbers.fetch_add(1, Ordering::Relaxed),
            kind: match random.random_range(0..10) {
                0..6 => Kind::Put(length),
                6..8 => Kind::Expiring(length, TTL_MS),
                _ => Kind::Delete,
            },
            born_ms: now_ms(),
        };
        match writes.write(key, attempt).await {
            Ok(answer) => {
                let of_key = written.acknowledged.entry(key.clone()).or_default();
                of_key.push((answer.version, attempt.value()));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing happened, and nothing will until the platform is back.
            Err(error) if error.code == Code::Unavailable => break,
            Err(error) => {
                assert_eq!(error.code, Code::OutcomeUnknown, "{error}");
                match attempt.value() {
                    Some(value) => drop(written.open_values.insert(value)),
                    None => drop(written.open_deletes.insert(key.clone())),
                }
                break;
            }
        }
    }
    written
}

/// Watches until it has heard of `last`, at wherever the platform is.
fn follow(
    mut watcher: Watcher,
    last: &str,
    mut platform: watch::Receiver<String>,
) -> JoinHandle<Watcher> {
    let last = Bytes::copy_from_slice(last.as_bytes());
    tokio::spawn(async move {
        loop {
            let grpc = platform.borrow_and_update().clone();
            let ended = match watcher.open(&grpc).await {
                Ok(()) => watcher.until(&last).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else {
                return watcher;
            };
            assert_eq!(error.code, Code::Unavailable, "{error}");
            platform.changed().await.unwrap();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_also_over_kills() {
    let mut choices = seeded();
    let options = Options {
        surroundings: Surroundings::default().set("TIERKV_WAL_SEGMENT_BYTES", 256 << 10),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let (moved, place) = watch::channel(platform.grpc().to_owned());
    let mut followers = Vec::new();
    for (prefix, last) in PREFIXES {
        let mut watcher = Watcher::new(NAMESPACE, prefix);
        watcher.open(platform.grpc()).await.unwrap();
        followers.push(follow(watcher, last, place.clone()));
    }
    // One begins, reads nothing over everything that happens, and goes on at the end.
    let mut resting = Watcher::new(NAMESPACE, "");
    resting.open(platform.grpc()).await.unwrap();

    let run = rand::random();
    let numbers = Arc::new(AtomicU64::new(1));
    let mut written = Vec::new();
    for round in 1..=ROUNDS {
        let writes = NamedWrites::connect(platform.grpc(), NAMESPACE, run).unwrap();
        let (writers, acknowledged) =
            write_over_a_kill(&mut platform, &writes, &numbers, &mut choices).await;
        written.extend(writers);
        platform.restart().await.unwrap();
        moved.send_replace(platform.grpc().to_owned());
        println!("round {round}: {acknowledged} acknowledged");
    }
    let client = connect(&platform).await;
    expiry_is_told(&platform, &client).await;
    for last in ["b/last", "ab/0/last", "a/1/last"] {
        client.put(last, "last").await.unwrap();
    }
    let mut watchers = Vec::new();
    for follower in followers {
        watchers.push(follower.await.unwrap());
    }
    resting.open(platform.grpc()).await.unwrap();
    resting
        .until(&Bytes::from_static(b"a/1/last"))
        .await
        .unwrap();

    let all = &watchers[0].told;
    check(all, &written);
    let everybody = (PREFIXES.iter().zip(&watchers)).chain([(&PREFIXES[0], &resting)]);
    for ((prefix, last), watcher) in everybody {
        assert_eq!(
            up_to(&watcher.told, "", last),
            up_to(all, prefix, last),
            "the watcher of {prefix:?} was told the same"
        );
    }
    println!("{} events", all.values().map(Vec::len).sum::<usize>());
    assert!(platform.stop().await.unwrap().success());
}

/// Lets all writers write, kills the platform once enough of it is acknowledged, and returns
/// what they wrote, and how much was acknowledged by then.
async fn write_over_a_kill(
    platform: &mut TierKv,
    writes: &NamedWrites,
    numbers: &Arc<AtomicU64>,
    choices: &mut StdRng,
) -> (Vec<Written>, u64) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (end, ending) = watch::channel(false);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(
            writes.clone(),
            writer,
            Arc::clone(numbers),
            Arc::clone(&acknowledged),
            ending.clone(),
            choices.random(),
        ));
    }
    let enough = poll_until(PATIENCE, || async {
        (acknowledged.load(Ordering::Relaxed) >= ACKNOWLEDGED_A_ROUND).then_some(())
    });
    enough.await.expect("the platform writes too slowly");
    platform.kill9().unwrap();
    end.send_replace(true);
    let written = writers.join_all().await;
    (written, acknowledged.load(Ordering::Relaxed))
}

/// Expiry is told, too: that of this key, and of others that nobody wrote again.
async fn expiry_is_told(platform: &TierKv, client: &Client) {
    let (key, value) = ("a/1/expiring-last", "short");
    let mut expiring = Watcher::new(NAMESPACE, key);
    expiring.open(platform.grpc()).await.unwrap();
    let ttl = PutOptions {
        ttl: Some(Duration::from_millis(TTL_MS)),
        ..PutOptions::default()
    };
    client.put_with(key, value, ttl).await.unwrap();
    while expiring.told.values().map(Vec::len).sum::<usize>() < 2 {
        expiring.read().await.unwrap();
    }
}

/// What was told of a prefix until the watcher's last key, `last`, with which watchers end;
/// expiry goes on behind it.
fn up_to(
    told: &BTreeMap<Bytes, Vec<Told>>,
    prefix: &str,
    last: &str,
) -> BTreeMap<Bytes, Vec<Told>> {
    let end = told[last.as_bytes()][0].version;
    let told = told
        .iter()
        .filter(|(key, _)| key.starts_with(prefix.as_bytes()));
    let told = told.map(|(key, told)| {
        let told: Vec<Told> = (told.iter().filter(|told| told.version <= end))
            .cloned()
            .collect();
        (key.clone(), told)
    });
    told.filter(|(_, told)| !told.is_empty()).collect()
}

/// What was told is what was acknowledged, and what may have happened beside it.
fn check(told: &BTreeMap<Bytes, Vec<Told>>, written: &[Written]) {
    let mut acknowledged: BTreeMap<&str, BTreeMap<u64, &Option<Bytes>>> = BTreeMap::new();
    for (key, writes) in written.iter().flat_map(|written| &written.acknowledged) {
        let of_key = acknowledged.entry(key).or_default();
        of_key.extend(writes.iter().map(|(version, value)| (*version, value)));
    }
    for (key, writes) in &acknowledged {
        let told = &told[key.as_bytes()];
        for (version, value) in writes {
            let at = told.binary_search_by_key(version, |told| told.version);
            let at = at.unwrap_or_else(|_| panic!("{key} at {version} was not told"));
            assert_eq!(&told[at].value, *value, "{key} at {version}");
        }
    }
    let (mut expiries, mut doubtful) = (0, 0);
    for (key, told) in told {
        let name = std::str::from_utf8(key).unwrap();
        if name.ends_with("last") {
            continue;
        }
        for (nth, event) in told.iter().enumerate() {
            if acknowledged[name].contains_key(&event.version) {
                continue;
            }
            let before = nth.checked_sub(1).map(|before| &told[before]);
            let is_expiry = event.value.is_none()
                && before.is_some_and(|before| {
                    before.expires_at_ms != 0 && before.expires_at_ms <= event.version >> 16
                });
            let may_be = written.iter().any(|written| match &event.value {
                Some(value) => written.open_values.contains(value),
                None => written.open_deletes.contains(name),
            });
            assert!(is_expiry || may_be, "nobody wrote {event:?} of {name}");
            expiries += u64::from(is_expiry);
            doubtful += u64::from(!is_expiry);
        }
    }
    println!("{expiries} expiries, {doubtful} writes of unknown outcome");
    assert!(expiries > 0, "nothing expired");
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    let builder = builder.namespace(NAMESPACE).timeout(PATIENCE);
    builder.connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires_with_the_log_unless_its_watch_goes_on() {
    let surroundings = Surroundings::default()
        .set("TIERKV_WAL_SEGMENT_BYTES", 2 << 20)
        .set("TIERKV_WAL_MAX_BYTES", 8 << 20)
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 50);
    let options = Options {
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let client = connect(&platform).await;
    let mut quiet = Watcher::new(NAMESPACE, "quiet/");
    quiet.open(platform.grpc()).await.unwrap();
    let mut resting = Watcher::new(NAMESPACE, "");
    resting.open(platform.grpc()).await.unwrap();
    let old = quiet.token.clone();
    let quiet = tokio::spawn(async move {
        while !quiet.told.contains_key(&b"quiet/end"[..]) {
            quiet.read().await.unwrap();
        }
        quiet
    });
    // More than memory keeps for watches and what is on the way to one.
    for nth in 0..50 {
        client
            .put(format!("k{nth}"), vec![7; 1_000_000])
            .await
            .unwrap();
    }
    let mut late = Watcher::new(NAMESPACE, "quiet/");
    late.token = old;
    let refused = late.open(platform.grpc()).await.unwrap_err();
    assert_eq!(refused.code, Code::TokenExpired);
    assert!(refused.message.contains("read the keys anew"), "{refused}");
    let ended = loop {
        if let Err(ended) = resting.read().await {
            break ended;
        }
    };
    assert_eq!(ended.code, Code::TokenExpired);
    assert!(resting.told.len() < 50, "it heard of everything");

    client.put("quiet/end", "").await.unwrap();
    let mut quiet = quiet.await.unwrap();
    client.put("quiet/more", "").await.unwrap();
    quiet.open(platform.grpc()).await.unwrap();
    quiet
        .until(&Bytes::from_static(b"quiet/more"))
        .await
        .unwrap();
    assert_eq!(quiet.told.len(), 2);
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_this_platforms_are_refused() {
    let (platform, other) = (
        Ephemeral::start().await.unwrap(),
        Ephemeral::start().await.unwrap(),
    );
    let client = Client::builder()
        .address(&other.grpc)
        .connect()
        .await
        .unwrap();
    let mut watcher = Watcher::new("", "");
    watcher.open(&other.grpc).await.unwrap();
    let foreign = watcher.token.clone();
    for nth in 0..100 {
        client.put(format!("k{nth}"), "v").await.unwrap();
    }
    watcher.until(&Bytes::from_static(b"k99")).await.unwrap();
    let ahead = watcher.token.clone();
    let refused = async |token: Bytes| {
        let mut watcher = Watcher::new("", "");
        watcher.token = token;
        watcher.open(&platform.grpc).await.unwrap_err().code
    };
    assert_eq!(refused(foreign.clone()).await, Code::TokenExpired);
    assert_eq!(refused(ahead).await, Code::TokenExpired);
    let mut damaged = foreign.to_vec();
    damaged[10] ^= 1;
    assert_eq!(refused(damaged.into()).await, Code::InvalidArgument);
    assert_eq!(refused(foreign.slice(1..)).await, Code::InvalidArgument);
    assert_eq!(refused("x".into()).await, Code::InvalidArgument);

    let refused = async |namespace: &str, prefix: Vec<u8>| {
        let refused = Watcher::new(namespace, prefix).open(&platform.grpc).await;
        refused.unwrap_err().code
    };
    assert_eq!(refused("No", vec![]).await, Code::InvalidArgument);
    assert_eq!(refused("", vec![1; 1_025]).await, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_its_time_is_over_and_when_the_platform_stops() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let mut client = KvClient::new(channel(platform.grpc()).unwrap());
    let mut request = Request::new(WatchRequest::default());
    request.set_timeout(Duration::from_millis(1_500));
    let began = Instant::now();
    let mut answers = client.watch(request).await.unwrap().into_inner();
    let ended = loop {
        match answers.message().await {
            Ok(answer) => drop(answer.expect("it ends with a word")),
            Err(status) => break read_error(&status),
        }
    };
    assert_eq!(ended.code, Code::DeadlineExceeded);
    assert!(began.elapsed() >= Duration::from_millis(1_500));

    let mut watcher = Watcher::new("", "");
    watcher.open(platform.grpc()).await.unwrap();
    let watching = tokio::spawn(async move {
        loop {
            if let Err(ended) = watcher.read().await {
                return ended;
            }
        }
    });
    assert!(platform.stop().await.unwrap().success());
    assert_eq!(watching.await.unwrap().code, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_watches_are_refused_and_those_that_end_make_room() {
    let platform = Ephemeral::start().await.unwrap();
    let client = KvClient::new(channel(&platform.grpc).unwrap());
    let open = || {
        let mut client = client.clone();
        async move { client.watch(WatchRequest::default()).await }
    };
    let mut opening = JoinSet::new();
    for _ in 0..MAX_WATCHES {
        opening.spawn(open());
    }
    let watches = opening.join_all().await;
    assert!(watches.iter().all(Result::is_ok));
    let refused = read_error(&open().await.unwrap_err());
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.message.contains("max_watches"), "{refused}");
    drop(watches);
    let again = poll_until(PATIENCE, || async { open().await.ok() });
    again.await.expect("a place becomes free");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_cost_little_memory_and_hold_nobody_up() {
    const RESTING: usize = 16;
    const WRITES: usize = 2_000;
    const VALUE_BYTES: usize = 100_000;
    const TASKS: usize = 8;
    /// What it takes to hold what is not stored yet, what is stored, and what the log is
    /// about to write, and the program itself.
    const LIMIT_BYTES: u64 = 384 << 20;
    let options = Options {
        arguments: vec!["--cache-mib".to_owned(), "16".to_owned()],
        surroundings: Surroundings::default()
            .set("TIERKV_MEMORY_MAX_BYTES", 16 << 20)
            .set("TIERKV_MEMORY_PINNED_MAX_BYTES", 32 << 20)
            .set("TIERKV_STORE_CHECKPOINT_BYTES", 8 << 20),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let mut resting = Vec::new();
    for _ in 0..RESTING {
        let mut watcher = Watcher::new(NAMESPACE, "");
        watcher.open(platform.grpc()).await.unwrap();
        resting.push(watcher);
    }
    let mut reading = Watcher::new(NAMESPACE, "");
    reading.open(platform.grpc()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut events = 0;
        while events < WRITES {
            events += reading.read().await.unwrap();
            // The values are not this test's to keep.
            reading.told.clear();
        }
        events
    });
    let client = connect(&platform).await;
    let mut writers = JoinSet::new();
    for task in 0..TASKS {
        let client = client.clone();
        writers.spawn(async move {
            for nth in 0..WRITES / TASKS {
                client
                    .put(format!("{task}-{nth}"), vec![1; VALUE_BYTES])
                    .await
                    .unwrap();
            }
        });
    }
    writers.join_all().await;
    assert_eq!(reading.await.unwrap(), WRITES);
    let peak = resident(platform.pid()).unwrap().peak;
    println!("{} MiB at most", peak >> 20);
    assert!(peak < LIMIT_BYTES, "{} MiB", peak >> 20);
    // One that rested has missed nothing.
    let mut rested = resting.pop().unwrap();
    let mut events = 0;
    while events < WRITES {
        events += rested.read().await.unwrap();
        rested.told.clear();
    }
    assert_eq!(events, WRITES);
    assert!(platform.stop().await.unwrap().success());
}
