//! Signals: full memory does not delay a stop, a second signal ends it at once, and SIGHUP stops
//! the platform unless it is ignored.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tierkv::{Client, Code, Consistency, ReadOptions};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::metrics::counter;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout for a stop on a busy machine. The drain, the last checkpoint and the store have
/// limits of 13 s together.
const STOP_LIMIT: Duration = Duration::from_secs(25);
const WRITERS: u64 = 64;
/// Large enough that few values fill the memory for pinned entries.
const VALUE_BYTES: usize = 200_000;

fn set(pairs: &[&str]) -> Options {
    Options {
        arguments: (pairs.iter())
            .flat_map(|pair| ["--set".to_owned(), (*pair).to_owned()])
            .collect(),
        ..Options::default()
    }
}

async fn client(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_with_full_memory_stops_in_order_and_keeps_everything() {
    let options = set(&[
        "memory.pinned_max_bytes=1 MiB",
        "store.checkpoint_bytes=1 MiB",
        "wal.segment_bytes=4 MiB",
    ]);
    let mut platform = TierKv::start(options).await.unwrap();
    let acknowledged: Arc<Vec<AtomicU64>> =
        Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = client(&platform).await;
        let acknowledged = Arc::clone(&acknowledged);
        writers.spawn(async move {
            for turn in 1.. {
                let mut value = vec![0; VALUE_BYTES];
                value[..8].copy_from_slice(&u64::to_le_bytes(turn));
                if let Err(error) = client.put(format!("writer-{writer}"), value).await {
                    assert!(
                        matches!(
                            error.code(),
                            Code::Unavailable | Code::OutcomeUnknown | Code::DeadlineExceeded
                        ),
                        "{error:?}"
                    );
                    return;
                }
                let at = usize::try_from(writer).unwrap();
                acknowledged[at].store(turn, Ordering::Release);
            }
        });
    }
    let waited = poll_until(PATIENCE, || async {
        let waits = counter(platform.rest(), "tierkv_write_waits_total").await;
        (waits.ok()? > 0.0).then_some(())
    });
    waited.await.expect("memory was never full");
    let end = platform.process().stop(STOP_LIMIT).await.unwrap();
    assert!(end.success(), "{end}");
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }

    platform.restart().await.unwrap();
    let client = client(&platform).await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let found = client.get_with(format!("writer-{writer}"), latest).await;
        let value = found.unwrap().value;
        let turn = value.map_or(0, |value| {
            u64::from_le_bytes(value[..8].try_into().unwrap())
        });
        let acknowledged = acknowledged.load(Ordering::Acquire);
        assert!(
            turn == acknowledged || turn == acknowledged + 1,
            "writer {writer}: turn {acknowledged} was acknowledged, the key has turn {turn}"
        );
    }
}

fn signal(platform: &TierKv, signal: &str) {
    let pid = platform.pid().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[tokio::test]
async fn sighup_stops_the_platform() {
    // The tests themselves may run under `nohup`.
    let surroundings = Surroundings::default().wrap(["env", "--default-signal=HUP"]);
    let options = Options {
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    client(&platform).await.put("k", "v").await.unwrap();
    signal(&platform, "-HUP");
    let process = platform.process();
    let ended = process.wait_until("end", PATIENCE, |process| process.status());
    assert_eq!(ended.await.unwrap().code(), Some(0));
    platform.restart().await.unwrap();
    let found = client(&platform).await.get("k").await.unwrap();
    assert_eq!(found.value.unwrap(), "v");
}

/// `nohup` starts a process in this way.
#[tokio::test]
async fn an_ignored_sighup_does_not_stop_the_platform() {
    let surroundings = Surroundings::default().wrap(["env", "--ignore-signal=HUP"]);
    let options = Options {
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let client = client(&platform).await;
    signal(&platform, "-HUP");
    for turn in 0..100 {
        client.put("k", turn.to_string()).await.unwrap();
    }
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test]
async fn a_second_signal_ends_the_platform_at_once() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    // An incomplete request delays the drain that the first signal begins.
    let mut half = TcpStream::connect(platform.rest()).await.unwrap();
    half.write_all(b"PUT /v1/kv/default/k HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nv")
        .await
        .unwrap();
    signal(&platform, "-TERM");
    // Once its listeners are closed, it has received the first signal.
    let grpc = platform.grpc().to_owned();
    let draining = poll_until(PATIENCE, || async {
        TcpStream::connect(&grpc).await.is_err().then_some(())
    });
    draining.await.expect("the platform still listens");
    let began = Instant::now();
    signal(&platform, "-TERM");
    let end = platform
        .process()
        .wait_until("end", PATIENCE, |process| process.status())
        .await
        .unwrap();
    // The drain alone would take 2 s from the first signal and end with exit status 0.
    assert_eq!(end.code(), Some(2), "after {:?}", began.elapsed());
}
