//! Buffered answers of streams are bounded: streams of clients that do not read, or read slowly,
//! are ended, and other clients continue.

// Test helpers panic as tests do, the figures are for people, and far below 2^53.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierkv::rpc::proto::v1::{
    BatchGetRequest, GetRequest, PutOperation, ScanRequest, SessionOperation, SessionRequest,
    SessionResponse, WatchRequest, WatchResponse, WriteOperation, WriteRequest,
    kv_client::KvClient, scan_request::Selection, session_operation::Operation, write_operation,
};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::{http::Request, resident::resident, slow_line::SlowLine};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

const MIB: usize = 1 << 20;
/// The limit of the users' doors.
const LIMIT: usize = 32 * MIB;
/// From here on, only streams that hold nothing produce answers.
const SOFT_LIMIT: usize = LIMIT / 2;
/// The limit between tiers, as a multiple of [`LIMIT`].
const PEERS_FACTOR: usize = 4;
/// Allowed bytes over a limit: each stream may have just added one answer.
const SLACK: usize = 20 * MIB;
const USERS_TIER: &str = "client-coordinator";
const PEERS_TIERS: [&str; 2] = ["server-coordinator", "datanode"];
const PATIENCE: Duration = Duration::from_secs(60);
const VALUES: usize = 12;
/// Keys of one write: nearly the largest request.
const VALUES_TOGETHER: usize = 3;
/// Keys of one answer to a slow client.
const SLOW_VALUES: usize = 6;
/// How fast slow clients read. A piece of 256 KiB takes them less than 3 s.
const SLOW_BYTES_PER_SECOND: usize = 100 << 10;
/// The longest time of an operation of another client.
const MAX_OPERATION_TIME: Duration = Duration::from_secs(1);
/// Watches whose clients do not read.
const DEAF: usize = 128;

async fn start() -> TierKv {
    let options = Options {
        surroundings: Surroundings::default().set("TIERKV_LIMITS_STREAM_BYTES", LIMIT),
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

/// A client with its own connection and a small flow-control window.
async fn client_at(address: &str) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    KvClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(20 * MIB)
}

async fn client(platform: &TierKv) -> KvClient<Channel> {
    client_at(platform.grpc()).await
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("large/{number:02}"))
}

/// Writes all keys, several with each write.
async fn write_all(client: &mut KvClient<Channel>) {
    for first in (0..VALUES).step_by(VALUES_TOGETHER) {
        let puts = (first..first + VALUES_TOGETHER).map(|number| PutOperation {
            key: key(number),
            value: vec![7; MIB].into(),
            ..PutOperation::default()
        });
        let operations = puts.map(|put| WriteOperation {
            kind: Some(write_operation::Kind::Put(put)),
        });
        let write = WriteRequest {
            operations: operations.collect(),
            ..WriteRequest::default()
        };
        client.write(write).await.unwrap();
    }
}

/// The value of a metric for a tier.
async fn metric(platform: &TierKv, name: &str, tier: &str) -> f64 {
    let page = Request::new("GET", "/metrics").send(platform.rest()).await;
    let page = String::from_utf8(page.unwrap().body).unwrap();
    let series = format!("{name}{{tier=\"{tier}\"}} ");
    let mut values = page.lines().filter_map(|line| line.strip_prefix(&series));
    let value = values.next();
    value
        .unwrap_or_else(|| panic!("there is no {series}in\n{page}"))
        .parse()
        .unwrap()
}

/// The maximum of the buffered bytes.
#[derive(Debug, Default)]
struct Most {
    users: f64,
    /// Of one door between tiers.
    peers: f64,
}

/// Samples the buffered bytes of each tier during `work`, and returns the maximum.
async fn most_waiting(platform: &TierKv, work: impl Future<Output = ()>) -> Most {
    let mut most = Most::default();
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return most,
            () = sleep(Duration::from_millis(20)) => {
                let users = metric(platform, "tierkv_stream_bytes", USERS_TIER).await;
                most.users = most.users.max(users);
                for tier in PEERS_TIERS {
                    let peers = metric(platform, "tierkv_stream_bytes", tier).await;
                    most.peers = most.peers.max(peers);
                }
            }
        }
    }
}

fn assert_bounded(most: &Most) {
    let mib = MIB as f64;
    println!(
        "at most {:.1} MiB buffered for users, {:.1} MiB for a tier",
        most.users / mib,
        most.peers / mib
    );
    assert!(most.users <= (LIMIT + SLACK) as f64, "{most:?}");
    assert!(
        most.peers <= (LIMIT * PEERS_FACTOR + SLACK) as f64,
        "{most:?}"
    );
    assert!(
        most.users >= SOFT_LIMIT as f64,
        "there always was room, so the test shows nothing: {most:?}"
    );
}

/// The connections of users that were closed. None between tiers must have been: it carries the
/// calls of all users.
async fn closed(platform: &TierKv) -> f64 {
    let name = "tierkv_stalled_connections_total";
    for tier in PEERS_TIERS {
        let closed = metric(platform, name, tier).await;
        assert!(closed < 1.0, "{closed} connections to a {tier} were closed");
    }
    metric(platform, name, USERS_TIER).await
}

/// A watch with its own connection.
async fn watch(platform: &TierKv) -> (KvClient<Channel>, Streaming<WatchResponse>) {
    let mut client = client(platform).await;
    let watch = WatchRequest {
        prefix: "large/".into(),
        ..WatchRequest::default()
    };
    let answers = client.watch(watch).await.unwrap().into_inner();
    (client, answers)
}

/// The number of watches that were ended: reading them returns an error. The others read all
/// keys.
async fn broken(watches: &mut [(KvClient<Channel>, Streaming<WatchResponse>)]) -> f64 {
    let mut broken = 0.0;
    for (_, answers) in watches {
        let mut keys = BTreeSet::new();
        while keys.len() < VALUES {
            match timeout(PATIENCE, answers.message()).await.unwrap() {
                Ok(answer) => {
                    keys.extend(answer.unwrap().events.into_iter().map(|event| event.key));
                }
                Err(_) => {
                    broken += 1.0;
                    break;
                }
            }
        }
    }
    broken
}

/// A session with its own connection.
async fn session(address: &str) -> (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>) {
    let mut client = client_at(address).await;
    let (ask, asked) = mpsc::channel(64);
    let answers = client.session(ReceiverStream::new(asked)).await.unwrap();
    (ask, answers.into_inner())
}

fn frame(operations: impl IntoIterator<Item = Operation>) -> SessionRequest {
    let operations = (0..)
        .zip(operations)
        .map(|(id, operation)| SessionOperation {
            id,
            timeout_ms: 30_000,
            operation: Some(operation),
        });
    SessionRequest {
        operations: operations.collect(),
    }
}

fn batch_get(keys: &[Bytes]) -> SessionRequest {
    let batch = BatchGetRequest {
        keys: keys.to_vec(),
        ..BatchGetRequest::default()
    };
    frame([Operation::BatchGet(batch)])
}

/// A session with its own connection that requests much and reads nothing.
async fn deaf_session(
    platform: &TierKv,
    keys: &[Bytes],
) -> (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>) {
    let (ask, answers) = session(platform.grpc()).await;
    for _ in 0..32 {
        ask.send(batch_get(keys)).await.unwrap();
    }
    (ask, answers)
}

/// The first `count` keys that a watch reports.
async fn all_of(platform: &TierKv, count: usize) -> impl Future<Output = ()> + use<> {
    let (client, mut answers) = watch(platform).await;
    answers.message().await.unwrap().unwrap();
    async move {
        let mut keys = BTreeSet::new();
        while keys.len() < count {
            let answer = timeout(PATIENCE, answers.message()).await;
            let answer = answer.expect("the watch sends nothing").unwrap().unwrap();
            keys.extend(answer.events.into_iter().map(|event| event.key));
        }
        // The client must live as long as its stream.
        drop(client);
    }
}

#[tokio::test]
async fn watches_that_nobody_reads_are_ended_and_block_no_other() {
    let platform = start().await;
    let mut writer = client(&platform).await;
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        deaf.push(watch(&platform).await);
    }
    let read = all_of(&platform, VALUES).await;
    let most = most_waiting(&platform, async {
        write_all(&mut writer).await;
        read.await;
    })
    .await;
    assert_bounded(&most);
    let ended = poll_until(PATIENCE, || async {
        (closed(&platform).await >= 1.0).then_some(())
    });
    ended.await.expect("no watch was ended");

    // Other clients continue while some still do not read.
    let scan = ScanRequest {
        selection: Some(Selection::Prefix("large/".into())),
        ..ScanRequest::default()
    };
    let mut pages = writer.scan(scan).await.unwrap().into_inner();
    let mut found = 0;
    while let Some(page) = timeout(PATIENCE, pages.message()).await.unwrap().unwrap() {
        found += page.items.len();
    }
    assert_eq!(found, VALUES);
    let broken = broken(&mut deaf).await;
    let ended = closed(&platform).await;
    assert!(
        (ended - broken).abs() < f64::EPSILON,
        "{ended} were ended, {broken} broke"
    );
}

#[tokio::test]
async fn sessions_that_nobody_reads_are_ended_and_block_no_other() {
    let platform = start().await;
    let mut writer = client(&platform).await;
    write_all(&mut writer).await;
    let keys: Vec<Bytes> = (0..VALUES).map(key).collect();
    let mut deaf = Vec::new();
    for _ in 0..8 {
        deaf.push(deaf_session(&platform, &keys).await);
    }
    let before = resident(platform.pid()).unwrap();
    let most = most_waiting(&platform, async {
        let ended = poll_until(PATIENCE, || async {
            (closed(&platform).await >= 1.0).then_some(())
        });
        ended.await.expect("no session was ended");
    })
    .await;
    println!("{most:?}");
    // Answers share the values of the cache, except those requested before the bound was reached.
    let after = resident(platform.pid()).unwrap();
    let grown = after.peak.saturating_sub(before.now) >> 20;
    println!("the process grew by {grown} MiB");
    assert!(grown < 512, "{grown}");

    // A client that reads is served.
    let client = tierkv::Client::builder().address(platform.grpc());
    let client = client.timeout(PATIENCE).connect().await.unwrap();
    for key in &keys {
        let read = client.get(key.clone()).await.unwrap();
        assert_eq!(read.value.unwrap().len(), MIB);
    }
    let sessions = poll_until(PATIENCE, || async {
        let page = Request::new("GET", "/metrics").send(platform.rest()).await;
        let page = String::from_utf8(page.unwrap().body).unwrap();
        let open = page
            .lines()
            .find_map(|line| line.strip_prefix("tierkv_sessions "));
        let open: f64 = open.unwrap().parse().unwrap();
        assert!(page.contains("tierkv_sessions_limit 10000\n"), "{page}");
        (open < 10.0).then_some(open)
    });
    sessions.await.expect("ended sessions are still counted");
}

#[tokio::test]
async fn one_frame_of_many_large_reads_is_bounded() {
    let platform = start().await;
    let mut writer = client(&platform).await;
    write_all(&mut writer).await;
    let gets = (0..500).map(|number| {
        Operation::Get(GetRequest {
            key: key(number % VALUES),
            ..GetRequest::default()
        })
    });
    let (ask, mut answers) = session(platform.grpc()).await;
    // Once all are in the cache, they are answered at once.
    ask.send(batch_get(&(0..VALUES).map(key).collect::<Vec<_>>()))
        .await
        .unwrap();
    let mut count = 0;
    while count < 1 {
        count += answers.message().await.unwrap().unwrap().answers.len();
    }
    let most = most_waiting(&platform, async {
        ask.send(frame(gets)).await.unwrap();
        let mut count = 0;
        while count < 500 {
            let answer = timeout(PATIENCE, answers.message()).await.unwrap();
            count += answer.unwrap().unwrap().answers.len();
            // A client that lets answers pile up, but reads.
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    println!("{most:?}");
    assert!(most.users <= (LIMIT + MIB) as f64, "{most:?}");
    assert!(
        most.users >= (SOFT_LIMIT / 2) as f64,
        "they were not cached: {most:?}"
    );
    assert!(closed(&platform).await < 1.0);
}

/// Sessions that read slowly, until they hold the soft limit.
async fn slow_sessions(platform: &TierKv, line: &SlowLine) -> Vec<mpsc::Sender<SessionRequest>> {
    let keys: Vec<Bytes> = (0..SLOW_VALUES).map(key).collect();
    let mut slow = Vec::new();
    let mut held = 0.0;
    while held < SOFT_LIMIT as f64 {
        assert!(slow.len() < LIMIT / MIB, "they hold nothing: {held}");
        let (ask, mut answers) = session(&line.address).await;
        tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
        ask.send(batch_get(&keys)).await.unwrap();
        let more = held + 2.0 * MIB as f64;
        let counted = poll_until(PATIENCE, || async {
            let now = metric(platform, "tierkv_stream_bytes", USERS_TIER).await;
            (now >= more).then_some(now)
        });
        held = counted.await.expect("the session got no answer");
        slow.push(ask);
    }
    // They take all room that there will be.
    for ask in &slow {
        for _ in 0..8 {
            ask.send(batch_get(&keys)).await.unwrap();
        }
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_read_slowly_stop_no_other_and_are_ended() {
    let platform = start().await;
    let mut writer = client(&platform).await;
    write_all(&mut writer).await;
    let user = tierkv::Client::builder().address(platform.grpc());
    let user = user.timeout(PATIENCE).connect().await.unwrap();
    let line = SlowLine::start(platform.grpc(), SLOW_BYTES_PER_SECOND)
        .await
        .unwrap();
    let _slow = slow_sessions(&platform, &line).await;
    assert!(closed(&platform).await < 1.0);
    let (began, mut longest, mut count) = (Instant::now(), Duration::ZERO, 0);
    while closed(&platform).await < 1.0 {
        assert!(began.elapsed() < PATIENCE, "no session was ended");
        let operation = Instant::now();
        user.put("small", "value").await.unwrap();
        let read = user.get("small").await.unwrap();
        assert_eq!(read.value.as_deref(), Some(&b"value"[..]));
        longest = longest.max(operation.elapsed());
        count += 1;
    }
    println!("{count} puts and gets, the longest {longest:?}");
    assert!(longest < MAX_OPERATION_TIME, "{longest:?}");
}
