//! Watches report every committed change exactly once and in order, also when the platform is
//! killed.
//!
//! Writers put, delete and let expire many keys while clients watch overlapping prefixes. The
//! platform is killed and started again, and the clients resume from their tokens. The reported
//! changes must match the acknowledged writes.

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
    watcher::{Change, PATIENCE, Watcher},
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
/// Acknowledged writes of a round before the platform is killed.
const ACKNOWLEDGED_A_ROUND: u64 = 1_500;
const ROUNDS: u64 = 3;
/// A time to live that passes during the test.
const TTL_MS: u64 = 400;

/// The watched prefixes, which overlap, each with the key after which its watch stops.
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
    /// Acknowledged writes, by key: the version, and the value or `None`.
    acknowledged: BTreeMap<String, Vec<(u64, Option<Bytes>)>>,
    /// Writes of unknown outcome: the values that were sent, and the keys that were deleted.
    open_values: BTreeSet<Bytes>,
    open_deletes: BTreeSet<String>,
}

/// The keys of a writer; each prefix of the watchers covers some of them.
fn keys(writer: u64) -> Vec<String> {
    let group = ["a", "b", "ab"][usize::try_from(writer % 3).unwrap()];
    (0..KEYS_A_WRITER)
        .map(|key| format!("{group}/{}/{writer}-{key}", key % 2))
        .collect()
}

/// Writes until `ending` is set or the platform cannot be reached.
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
            // Not applied; the platform is down.
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

/// Watches until the key `last` is reported; `platform` has the current address.
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
async fn every_change_is_reported_once_even_if_the_platform_is_killed() {
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
    // This watch opens now, reads nothing during the writes and kills, and resumes at the end.
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
    check_expiry_is_reported(&platform, &client).await;
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

    let all = &watchers[0].changes;
    check(all, &written);
    let everybody = (PREFIXES.iter().zip(&watchers)).chain([(&PREFIXES[0], &resting)]);
    for ((prefix, last), watcher) in everybody {
        assert_eq!(
            up_to(&watcher.changes, "", last),
            up_to(all, prefix, last),
            "the watcher of {prefix:?} received other changes"
        );
    }
    println!("{} events", all.values().map(Vec::len).sum::<usize>());
    assert!(platform.stop().await.unwrap().success());
}

/// Runs all writers and kills the platform after enough acknowledged writes. Returns what they
/// wrote, and the number of acknowledged writes.
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

/// Waits until a watch has reported the write of a key and its expiry.
async fn check_expiry_is_reported(platform: &TierKv, client: &Client) {
    let (key, value) = ("a/1/expiring-last", "short");
    let mut expiring = Watcher::new(NAMESPACE, key);
    expiring.open(platform.grpc()).await.unwrap();
    let ttl = PutOptions {
        ttl: Some(Duration::from_millis(TTL_MS)),
        ..PutOptions::default()
    };
    client.put_with(key, value, ttl).await.unwrap();
    while expiring.changes.values().map(Vec::len).sum::<usize>() < 2 {
        expiring.read().await.unwrap();
    }
}

/// The changes of a prefix up to the key `last`, after which its watcher stops reading. Later
/// changes are expiries.
fn up_to(
    changes: &BTreeMap<Bytes, Vec<Change>>,
    prefix: &str,
    last: &str,
) -> BTreeMap<Bytes, Vec<Change>> {
    let end = changes[last.as_bytes()][0].version;
    let changes = changes
        .iter()
        .filter(|(key, _)| key.starts_with(prefix.as_bytes()));
    let changes = changes.map(|(key, changes)| {
        let changes: Vec<Change> = (changes.iter().filter(|change| change.version <= end))
            .cloned()
            .collect();
        (key.clone(), changes)
    });
    changes.filter(|(_, changes)| !changes.is_empty()).collect()
}

/// Checks that every acknowledged write was reported, and that every other change is an expiry
/// or a write of unknown outcome.
fn check(changes: &BTreeMap<Bytes, Vec<Change>>, written: &[Written]) {
    let mut acknowledged: BTreeMap<&str, BTreeMap<u64, &Option<Bytes>>> = BTreeMap::new();
    for (key, writes) in written.iter().flat_map(|written| &written.acknowledged) {
        let of_key = acknowledged.entry(key).or_default();
        of_key.extend(writes.iter().map(|(version, value)| (*version, value)));
    }
    for (key, writes) in &acknowledged {
        let changes = &changes[key.as_bytes()];
        for (version, value) in writes {
            let at = changes.binary_search_by_key(version, |change| change.version);
            let at = at.unwrap_or_else(|_| panic!("{key} at {version} was not reported"));
            assert_eq!(&changes[at].value, *value, "{key} at {version}");
        }
    }
    let (mut expiries, mut doubtful) = (0, 0);
    for (key, changes) in changes {
        let name = std::str::from_utf8(key).unwrap();
        if name.ends_with("last") {
            continue;
        }
        for (nth, event) in changes.iter().enumerate() {
            if acknowledged[name].contains_key(&event.version) {
                continue;
            }
            let before = nth.checked_sub(1).map(|before| &changes[before]);
            let is_expiry = event.value.is_none()
                && before.is_some_and(|before| {
                    before.expires_at_ms != 0 && before.expires_at_ms <= event.version >> 16
                });
            let may_be = written.iter().any(|written| match &event.value {
                Some(value) => written.open_values.contains(value),
                None => written.open_deletes.contains(name),
            });
            assert!(is_expiry || may_be, "no writer made {event:?} of {name}");
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
async fn a_resume_token_expires_with_the_log_unless_its_watch_stays_open() {
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
        while !quiet.changes.contains_key(&b"quiet/end"[..]) {
            quiet.read().await.unwrap();
        }
        quiet
    });
    // More than memory keeps for watches and the buffers of one hold.
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
    assert!(
        resting.changes.len() < 50,
        "the slow watch received every change"
    );

    client.put("quiet/end", "").await.unwrap();
    let mut quiet = quiet.await.unwrap();
    client.put("quiet/more", "").await.unwrap();
    quiet.open(platform.grpc()).await.unwrap();
    quiet
        .until(&Bytes::from_static(b"quiet/more"))
        .await
        .unwrap();
    assert_eq!(quiet.changes.len(), 2);
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_tokens_of_other_platforms_and_invalid_ones_are_refused() {
    let (platform, other) = (
        Ephemeral::start().await.unwrap(),
        Ephemeral::start().await.unwrap(),
    );
    let connect = async |grpc: &str| Client::builder().address(grpc).connect().await.unwrap();
    let client = connect(&other.grpc).await;
    // Until its first write the log of a platform is as any other's; then its versions differ.
    client.put("first", "v").await.unwrap();
    let here = connect(&platform.grpc).await;
    here.put("first", "v").await.unwrap();
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
async fn a_watch_ends_at_its_deadline_and_when_the_platform_stops() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let mut client = KvClient::new(channel(platform.grpc()).unwrap());
    let mut request = Request::new(WatchRequest::default());
    request.set_timeout(Duration::from_millis(1_500));
    let began = Instant::now();
    let mut answers = client.watch(request).await.unwrap().into_inner();
    let ended = loop {
        match answers.message().await {
            Ok(answer) => drop(answer.expect("the watch ends with an error")),
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
async fn watches_over_the_limit_are_refused_until_others_end() {
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
    again.await.expect("no watch opens after others ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_use_little_memory_and_delay_nobody() {
    const RESTING: usize = 16;
    const WRITES: usize = 2_000;
    const VALUE_BYTES: usize = 100_000;
    const TASKS: usize = 8;
    /// Enough for pinned and clean entries, the log's buffers and the program itself.
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
            // This test's own memory must not grow with the values.
            reading.changes.clear();
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
    // A watch that did not read has missed nothing.
    let mut rested = resting.pop().unwrap();
    let mut events = 0;
    while events < WRITES {
        events += rested.read().await.unwrap();
        rested.changes.clear();
    }
    assert_eq!(events, WRITES);
    assert!(platform.stop().await.unwrap().success());
}
