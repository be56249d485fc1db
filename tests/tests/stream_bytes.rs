//! Buffered answers of streams are bounded: streams of clients that do not read are ended, and
//! other clients continue.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tierkv::rpc::proto::v1::{
    BatchGetRequest, PutRequest, ScanRequest, SessionOperation, SessionRequest, SessionResponse,
    WatchRequest, WatchResponse, kv_client::KvClient, scan_request::Selection,
    session_operation::Operation,
};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::{http::Request, resident::resident};
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
const LIMIT: usize = 32 * MIB;
/// Allowed bytes over the bound: each stream may have just added one answer.
const SLACK: usize = 20 * MIB;
const TIERS: [&str; 3] = ["client-coordinator", "server-coordinator", "datanode"];
const PATIENCE: Duration = Duration::from_secs(60);
const VALUES: usize = 12;
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
async fn client(platform: &TierKv) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", platform.grpc())).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    KvClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(20 * MIB)
}

async fn put(client: &mut KvClient<Channel>, number: usize) {
    let put = PutRequest {
        key: Bytes::from(format!("large/{number:02}")),
        value: vec![7; MIB].into(),
        ..PutRequest::default()
    };
    client.put(put).await.unwrap();
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

/// Samples the buffered bytes of each tier during `work`, and returns the maximum.
async fn most_waiting(platform: &TierKv, work: impl Future<Output = ()>) -> f64 {
    let mut most = 0.0_f64;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return most,
            () = sleep(Duration::from_millis(20)) => {
                for tier in TIERS {
                    most = most.max(metric(platform, "tierkv_stream_bytes", tier).await);
                }
            }
        }
    }
}

fn assert_bounded(most: f64) {
    println!("at most {:.1} MiB buffered in a tier", most / MIB as f64);
    #[allow(clippy::cast_precision_loss)]
    let (bound, limit) = ((LIMIT + SLACK) as f64, LIMIT as f64);
    assert!(most <= bound, "{most}");
    assert!(
        most >= limit,
        "the bound was never reached, so the test shows nothing: {most}"
    );
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

/// A session with its own connection that requests much and reads nothing.
async fn deaf_session(
    platform: &TierKv,
    keys: &[Bytes],
) -> (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>) {
    let mut client = client(platform).await;
    let (ask, asked) = mpsc::channel(64);
    let answers = client.session(ReceiverStream::new(asked)).await.unwrap();
    for id in 0..32 {
        let batch = BatchGetRequest {
            keys: keys.to_vec(),
            ..BatchGetRequest::default()
        };
        let operation = SessionOperation {
            id,
            timeout_ms: 30_000,
            operation: Some(Operation::BatchGet(batch)),
        };
        let operations = vec![operation];
        ask.send(SessionRequest { operations }).await.unwrap();
    }
    (ask, answers.into_inner())
}

/// The first `count` keys that a watch reports. It resumes if an internal connection of the
/// platform was closed.
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
        for number in 0..VALUES {
            put(&mut writer, number).await;
        }
        read.await;
    })
    .await;
    assert_bounded(most);
    let ended = metric(
        &platform,
        "tierkv_stalled_connections_total",
        "client-coordinator",
    )
    .await;
    assert!(ended >= 1.0, "{ended}");

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
    let ended = metric(
        &platform,
        "tierkv_stalled_connections_total",
        "client-coordinator",
    )
    .await;
    assert!(
        (ended - broken).abs() < f64::EPSILON,
        "{ended} were ended, {broken} broke"
    );
}

#[tokio::test]
async fn sessions_that_nobody_reads_are_ended_and_block_no_other() {
    let platform = start().await;
    let mut writer = client(&platform).await;
    for number in 0..VALUES {
        put(&mut writer, number).await;
    }
    let keys: Vec<Bytes> = (0..VALUES)
        .map(|number| Bytes::from(format!("large/{number:02}")))
        .collect();
    let mut deaf = Vec::new();
    for _ in 0..8 {
        deaf.push(deaf_session(&platform, &keys).await);
    }
    let before = resident(platform.pid()).unwrap();
    let most = most_waiting(&platform, async {
        let ended = poll_until(PATIENCE, || async {
            let name = "tierkv_stalled_connections_total";
            (metric(&platform, name, "client-coordinator").await >= 1.0).then_some(())
        });
        ended.await.expect("no session was ended");
    })
    .await;
    println!("at most {:.1} MiB buffered in a tier", most / MIB as f64);
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
