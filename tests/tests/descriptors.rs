//! Many connections and few file descriptors: connections over the limit are refused, and a
//! process that runs out of descriptors refuses writes until it has some again.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::HashMap,
    process::Command,
    slice::from_ref,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tierkv::{Client, Code, Consistency};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::{
    binary,
    flood::{Flood, Written},
    http::Request,
    metrics::counter,
    resident::processor_time,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The first bytes of every HTTP/2 client: its preface, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Descriptors of the platform under test, and the limit of connections that follows from them.
const DESCRIPTORS: usize = 256;
const CONNECTIONS: f64 = 204.0;
/// Idle connections: more than there are descriptors.
const IDLE: usize = 300;
const WRITERS: usize = 16;
/// Writers whose writes together fill more than one file of the log.
const MANY_WRITERS: usize = 100;
const VALUE_BYTES: u32 = 1_500;
/// Timeout for everything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the processor time is measured, and how much of it an idle platform may use. One in
/// a busy loop uses all of it.
const LOOK: Duration = Duration::from_secs(2);
const AT_REST: Duration = Duration::from_millis(800);

/// Starts a platform that must raise its own limit to [`DESCRIPTORS`]. Its log begins a new file
/// every few writes, and keeps all files.
async fn start() -> TierKv {
    let surroundings = Surroundings::default()
        .set("TIERKV_WAL_SEGMENT_BYTES", 64 << 10)
        .wrap(["prlimit", "--nofile=150:256"]);
    let options = Options {
        arguments: vec!["--cache-mib".to_owned(), "1".to_owned()],
        surroundings,
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.timeout(PATIENCE).connect().await.unwrap()
}

async fn value_of(platform: &TierKv, metric: &str) -> f64 {
    counter(platform.rest(), metric).await.unwrap()
}

/// Writes until `more` writes were acknowledged.
async fn write(
    platform: &mut TierKv,
    client: &Client,
    numbers: &Arc<AtomicU64>,
    more: u64,
) -> Written {
    let flood = Flood::start(from_ref(client), WRITERS, numbers, VALUE_BYTES);
    let enough = poll_until(PATIENCE, || async {
        (flood.acknowledged() >= more).then_some(())
    });
    let enough = enough.await;
    let written = flood.end().await;
    platform.process().check().unwrap();
    enough.unwrap_or_else(|| panic!("writes still fail: {:?}", written.failures()));
    written
}

/// The processor time that the idle platform uses.
async fn used_at_rest(platform: &TierKv) -> Duration {
    let before = processor_time(platform.pid()).unwrap();
    sleep(LOOK).await;
    let used = processor_time(platform.pid())
        .unwrap()
        .saturating_sub(before);
    println!("{used:?} of a processor in {LOOK:?}");
    used
}

/// Whether the other end has closed the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    let read = timeout(Duration::from_millis(1), stream.read_to_end(&mut received));
    read.await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_idle_connections_than_descriptors_do_not_stop_writes() {
    let mut platform = start().await;
    let numbers = Arc::new(AtomicU64::new(1));
    let client = connect(&platform).await;
    let mut written = write(&mut platform, &client, &numbers, 100).await;
    assert!(value_of(&platform, "tierkv_descriptors_limit").await == DESCRIPTORS as f64);
    assert!(value_of(&platform, "tierkv_connections_limit").await == CONNECTIONS);

    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(platform.grpc()).await.unwrap();
        // A refused connection may be closed already.
        let _ = stream.write_all(HELLO).await;
        idle.push(stream);
    }
    let turned_away = poll_until(PATIENCE, || async {
        let refused = value_of(&platform, "tierkv_connections_refused_total").await;
        let open = value_of(&platform, "tierkv_connections").await;
        (open + refused > IDLE as f64).then_some((open, refused))
    });
    let (open, refused) = turned_away.await.expect("no connection was refused");
    println!("{open} connections, {refused} turned away");
    assert!(open <= CONNECTIONS && refused >= 96.0, "{open} {refused}");
    let descriptors = platform.process().descriptors().unwrap();
    assert!(descriptors < DESCRIPTORS, "{descriptors}");
    assert!(used_at_rest(&platform).await < AT_REST);

    // Writes continue, and the log begins new files.
    let before = value_of(&platform, "tierkv_log_segments").await;
    written.extend(write(&mut platform, &client, &numbers, 2_000).await);
    let failures = written.failures();
    assert_eq!(
        failures,
        HashMap::new(),
        "{}",
        platform.process().log_tail()
    );
    let more = poll_until(PATIENCE, || async {
        let segments = value_of(&platform, "tierkv_log_segments").await;
        (segments >= before + 30.0).then_some(segments)
    });
    println!(
        "{:?} files of the log",
        more.await.expect("the log began no new file")
    );

    let mut closed = 0;
    for stream in &mut idle {
        closed += usize::from(is_closed(stream).await);
    }
    assert!((96..IDLE).contains(&closed), "{closed} were closed");
    drop(idle);
    let gone = poll_until(PATIENCE, || async {
        let open = value_of(&platform, "tierkv_connections").await;
        (open < 20.0).then_some(())
    });
    gone.await.expect("closed connections are still counted");
    let another = connect(&platform).await;
    let kept = written.check(&another, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    assert!(platform.stop().await.unwrap().success());
}

/// Only the REST door is flooded. Its idle connections are closed after a timeout.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_works_while_the_rest_door_is_flooded_and_rest_recovers() {
    let mut platform = start().await;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(platform.rest()).await.unwrap());
    }
    let client = connect(&platform).await;
    client.put("k", "v").await.unwrap();
    // They never send a request, so the timeout for its head closes them.
    let served = poll_until(PATIENCE, || async {
        let answer = Request::new("GET", "/v1/kv/default/k").send(platform.rest());
        answer.await.ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(served.await.expect("REST does not recover").body, b"v");
    let ended = poll_until(PATIENCE, || async {
        let late = value_of(&platform, "tierkv_connection_timeouts_total").await;
        (late > 150.0).then_some(())
    });
    ended.await.expect("silent connections are not closed");
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_connection_over_the_limit_gets_an_answer_with_the_reason() {
    let surroundings = Surroundings::default().set("TIERKV_LIMITS_CONNECTIONS", 16);
    let options = Options {
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..16 {
        idle.push(TcpStream::connect(platform.rest()).await.unwrap());
    }
    let refused = poll_until(PATIENCE, || async {
        let answer = Request::new("GET", "/health/live").send(platform.rest());
        answer.await.ok().filter(|answer| answer.status != 200)
    });
    let refused = refused.await.expect("no connection is refused");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["code"], "ResourceExhausted");
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains("limits.connections"), "{detail}");
    assert!(platform.stop().await.unwrap().success());
}

/// No descriptor is left, neither for a connection nor for a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_without_descriptors_refuses_writes_and_recovers() {
    let mut platform = start().await;
    let numbers = Arc::new(AtomicU64::new(1));
    let client = connect(&platform).await;
    let mut written = write(&mut platform, &client, &numbers, 500).await;

    platform.process().limit_descriptors(10).unwrap();
    // So many that the log finds out about its next file only after it has taken writes for it.
    let flood = Flood::start(from_ref(&client), MANY_WRITERS, &numbers, VALUE_BYTES);
    let refused = poll_until(PATIENCE, || async {
        (flood.exhausted() >= 200).then_some(())
    });
    let refused = refused.await;
    let some = flood.end().await;
    platform.process().check().unwrap();
    refused.unwrap_or_else(|| panic!("nothing is refused: {:?}", some.failures()));
    let mut failures = some.failures();
    failures.remove(&Code::ResourceExhausted);
    assert_eq!(failures, HashMap::new());
    written.extend(some);
    // More than half a file of the log can hold.
    let error = client.put("one", vec![b'v'; 40_000]).await.unwrap_err();
    assert!(error.to_string().contains("descriptors"), "{error}");
    // New connections wait, and the platform does not accept in a busy loop.
    let mut knocking = Vec::new();
    for address in [platform.grpc(), platform.rest()] {
        for _ in 0..5 {
            knocking.push(TcpStream::connect(address).await.unwrap());
        }
    }
    assert!(used_at_rest(&platform).await < AT_REST);
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));

    platform.process().limit_descriptors(256).unwrap();
    let began = Instant::now();
    written.extend(write(&mut platform, &client, &numbers, 500).await);
    println!(
        "500 writes {:?} after there were descriptors again",
        began.elapsed()
    );
    drop(knocking);
    let another = connect(&platform).await;
    let kept = written.check(&another, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    let failed = value_of(&platform, "tierkv_accept_failures_total").await;
    assert!((2.0..100.0).contains(&failed), "{failed}");
    platform.kill9().unwrap();
    platform.restart().await.unwrap();
    let client = connect(&platform).await;
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    assert!(platform.stop().await.unwrap().success());
}

#[test]
fn a_start_with_too_few_descriptors_is_refused_with_a_message() {
    let output = Command::new("prlimit")
        .arg("--nofile=64:64")
        .arg(binary::tierkv().path)
        .args(["dev", "--ephemeral", "--grpc-listen", "127.0.0.1:0"])
        .args(["--rest-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(
        printed.contains("64 file descriptors") && printed.contains("ulimit -Hn"),
        "{printed}"
    );
}
