//! Timeouts of connections: for a request's head, its body, an idle connection, and the answer
//! to a ping.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use tierkv::{
    Client,
    rpc::{
        channel,
        proto::{
            status::detail,
            v1::{SessionOperation, SessionRequest, kv_client::KvClient, session_operation},
        },
    },
};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::{http::Request, metrics::counter};
use tierkv_types::Code;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(30);
const HEAD: Duration = Duration::from_millis(400);
const BODY: Duration = Duration::from_millis(700);
const IDLE: Duration = Duration::from_millis(1_500);
const PING_INTERVAL: Duration = Duration::from_millis(600);
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// The first bytes of every HTTP/2 client: its preface, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A complete request that keeps the connection open.
const GET: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn start() -> TierKv {
    let millis = |time: Duration| time.as_millis();
    let surroundings = Surroundings::default()
        .set("TIERKV_LIMITS_HEAD_TIMEOUT_MS", millis(HEAD))
        .set("TIERKV_LIMITS_BODY_TIMEOUT_MS", millis(BODY))
        .set("TIERKV_LIMITS_REST_IDLE_TIMEOUT_MS", millis(IDLE))
        .set("TIERKV_LIMITS_GRPC_PING_INTERVAL_MS", millis(PING_INTERVAL))
        .set("TIERKV_LIMITS_GRPC_PING_TIMEOUT_MS", millis(PING_TIMEOUT));
    let options = Options {
        surroundings,
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

/// Sends `bytes` over a new connection.
async fn connect(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the other end closes; returns the time that took, and the bytes received.
async fn until_closed(stream: &mut TcpStream) -> (Duration, Vec<u8>) {
    let (began, mut received) = (Instant::now(), Vec::new());
    let read = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
    // A reset closes the connection too.
    let _ = read.expect("the connection stays open");
    (began.elapsed(), received)
}

/// How many connections a door closed because of this limit.
async fn timeouts(platform: &TierKv, door: &str, limit: &str) -> f64 {
    let page = Request::new("GET", "/metrics").send(platform.rest()).await;
    let page = String::from_utf8(page.unwrap().body).unwrap();
    let series = [
        format!("tierkv_connection_timeouts_total{{door=\"{door}\",limit=\"limits.{limit}\"}} "),
        format!("tierkv_connection_timeouts_total{{limit=\"limits.{limit}\",door=\"{door}\"}} "),
    ];
    let value = page.lines().find_map(|line| {
        let mut values = series
            .iter()
            .filter_map(|series| line.strip_prefix(series.as_str()));
        values.next()?.parse().ok()
    });
    value.unwrap_or_else(|| panic!("there is no such counter:\n{page}"))
}

#[tokio::test]
async fn a_connection_whose_request_head_does_not_arrive_is_closed() {
    let platform = start().await;
    for begun in [
        &b""[..],
        b"G",
        b"GET /health/live HTTP/1.1\r\nx: y\r\n",
        // These begin like HTTP/2, which has no timeout for heads.
        b"PRI",
        b"PRINT / HTTP/1.1\r\n",
    ] {
        let mut stream = connect(platform.rest(), begun).await;
        let (took, received) = until_closed(&mut stream).await;
        assert!(
            took >= HEAD - Duration::from_millis(50) && took < IDLE,
            "{took:?}"
        );
        assert_eq!(received, b"");
    }
    // Single bytes do not extend the timeout.
    let mut stream = connect(platform.rest(), b"").await;
    let began = Instant::now();
    while stream.write_all(b"G").await.is_ok() && began.elapsed() < PATIENCE {
        sleep(HEAD / 8).await;
    }
    assert!(began.elapsed() < IDLE, "{:?}", began.elapsed());
    // The timeout of a second head begins with its first byte.
    let mut stream = connect(platform.rest(), GET).await;
    sleep(2 * HEAD).await;
    stream.write_all(b"GET /").await.unwrap();
    let (took, received) = until_closed(&mut stream).await;
    assert!(took < IDLE, "{took:?}");
    assert!(received.ends_with(b"live\n"), "{}", received.escape_ascii());
    assert!(timeouts(&platform, "rest", "head_timeout_ms").await >= 7.0);

    let mut stream = connect(platform.grpc(), b"PRI * HTTP").await;
    let (took, _) = until_closed(&mut stream).await;
    assert!(
        took >= HEAD - Duration::from_millis(50) && took < PATIENCE,
        "{took:?}"
    );
    assert!(timeouts(&platform, "grpc", "head_timeout_ms").await >= 1.0);
}

#[tokio::test]
async fn a_request_whose_body_does_not_arrive_gets_deadline_exceeded_and_changes_nothing() {
    let platform = start().await;
    let path = "/v1/kv/default/k?timeout=20s";
    let began = Instant::now();
    let request = Request::new("PUT", path).body(b"value");
    let answer = request.send_part(platform.rest(), 2, false).await.unwrap();
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["code"], "DeadlineExceeded");
    let detail = answer.json()["detail"].to_string();
    assert!(detail.contains("limits.body_timeout_ms"), "{detail}");
    assert!(began.elapsed() >= BODY - Duration::from_millis(50));
    // A body that the request does not need is not waited for.
    let request = Request::new("GET", "/health/live").body(b"what for");
    let answer = request.send_part(platform.rest(), 2, false).await.unwrap();
    assert_eq!(answer.status, 200);

    let status = half_a_put(platform.grpc()).await;
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    let error = detail_of(&status);
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.message.contains("limits.body_timeout_ms"), "{error}");
    assert!(timeouts(&platform, "rest", "body_timeout_ms").await >= 1.0);
    assert!(timeouts(&platform, "grpc", "body_timeout_ms").await >= 1.0);
    let client = Client::builder().address(platform.grpc()).connect().await;
    assert_eq!(client.unwrap().get("k").await.unwrap().value, None);
}

fn detail_of(status: &Status) -> tierkv_types::Error {
    detail(status).expect("the status carries tierkv.v1.Error")
}

/// Sends the head of a `Put` and three bytes of its message; returns the status of the answer.
async fn half_a_put(address: &str) -> Status {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/tierkv.v1.Kv/Put"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(&[0, 0, 0]), false)
        .unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_watch_is_not() {
    let platform = start().await;
    let mut watch = Request::new("GET", "/v1/watch/default?prefix=k")
        .open(platform.rest())
        .await
        .unwrap();
    let mut session = Session::open(platform.grpc()).await;
    let mut stream = connect(platform.rest(), GET).await;
    sleep(IDLE / 2).await;
    // Each request restarts the timeout.
    stream.write_all(GET).await.unwrap();
    let (took, received) = until_closed(&mut stream).await;
    assert!(
        took >= IDLE - Duration::from_millis(50) && took < PATIENCE,
        "{took:?}"
    );
    let answers = received.windows(5).filter(|five| five == b"live\n").count();
    assert_eq!(answers, 2);
    assert!(timeouts(&platform, "rest", "rest_idle_timeout_ms").await >= 1.0);

    sleep(IDLE).await;
    let client = Client::builder().address(platform.grpc()).connect().await;
    client.unwrap().put("key", "kept").await.unwrap();
    let reported = async {
        let mut all = Vec::new();
        while !all.windows(4).any(|four| four == b"kept") {
            all.extend(watch.chunk(PATIENCE).await.unwrap().unwrap());
        }
    };
    timeout(PATIENCE, reported)
        .await
        .expect("the watch was cut off");
    assert!(session.found("key").await, "the session was cut off");
}

#[tokio::test]
async fn a_client_of_http2_that_takes_its_answer_slowly_is_not_idle() {
    let platform = start().await;
    // One piece of an answer: it is handed to the connection at once.
    let value = vec![7; 256 << 10];
    let path = "/v1/kv/default/large";
    let put = Request::new("PUT", path).body(&value);
    assert_eq!(put.send(platform.rest()).await.unwrap().status, 200);

    let tcp = TcpStream::connect(platform.rest()).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}{path}", platform.rest()));
    let (response, _) = sender
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let mut body = timeout(PATIENCE, response)
        .await
        .unwrap()
        .unwrap()
        .into_body();
    let (began, mut received) = (Instant::now(), 0);
    let pause = IDLE / 5;
    while let Some(data) = timeout(PATIENCE, body.data()).await.unwrap() {
        let data = data.expect("the answer was cut off");
        received += data.len();
        // The client makes room for a part of the answer, and then waits.
        if received % (32 << 10) < data.len() {
            sleep(pause).await;
        }
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(received, value.len());
    assert!(began.elapsed() > IDLE, "{:?}", began.elapsed());
    // Without requests, the connection is idle; pings do not extend the timeout.
    let closed = timeout(PATIENCE, connection).await;
    let _ = closed.expect("the idle connection stays open");
    assert!(timeouts(&platform, "rest", "rest_idle_timeout_ms").await >= 1.0);
}

/// A session that stays open.
struct Session {
    requests: mpsc::Sender<SessionRequest>,
    answers: tonic::Streaming<tierkv::rpc::proto::v1::SessionResponse>,
}

impl Session {
    async fn open(address: &str) -> Self {
        let mut client = KvClient::new(channel(address).unwrap());
        let (requests, receiver) = mpsc::channel(1);
        let opened = client.session(ReceiverStream::new(receiver)).await;
        Self {
            requests,
            answers: opened.unwrap().into_inner(),
        }
    }

    async fn found(&mut self, key: &'static str) -> bool {
        let get = tierkv::rpc::proto::v1::GetRequest {
            key: key.into(),
            ..Default::default()
        };
        let operation = SessionOperation {
            id: 1,
            timeout_ms: 0,
            operation: Some(session_operation::Operation::Get(get)),
        };
        let frame = SessionRequest {
            operations: vec![operation],
        };
        self.requests.send(frame).await.unwrap();
        loop {
            let message = timeout(PATIENCE, self.answers.message()).await.unwrap();
            let Some(response) = message.unwrap() else {
                return false;
            };
            if let Some(answer) = response.answers.into_iter().next() {
                use tierkv::rpc::proto::v1::session_answer::Answer;
                return matches!(answer.answer, Some(Answer::Get(get)) if get.found);
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_disconnected() {
    let platform = start().await;
    let living = Client::builder().address(platform.grpc()).connect().await;
    let living = living.unwrap();
    let open = || async { counter(platform.rest(), "tierkv_connections").await };
    for address in [platform.grpc(), platform.rest()] {
        let mut stream = connect(address, HELLO).await;
        let (took, _) = until_closed(&mut stream).await;
        let least = PING_TIMEOUT;
        let most = 3 * (PING_INTERVAL + PING_TIMEOUT);
        assert!(took >= least && took < most, "{took:?}");
    }
    living.put("k", "v").await.unwrap();
    // What remains: `living` and the connection that reads the metrics.
    let left = poll_until(PATIENCE, || async {
        (open().await.ok()? < 4.0).then_some(())
    });
    left.await.expect("closed connections are still counted");
}

#[tokio::test]
async fn each_limit_has_a_metric() {
    let platform = start().await;
    let page = Request::new("GET", "/metrics").send(platform.rest()).await;
    let page = String::from_utf8(page.unwrap().body).unwrap();
    for (key, time) in [
        ("head_timeout_ms", HEAD),
        ("body_timeout_ms", BODY),
        ("rest_idle_timeout_ms", IDLE),
        ("grpc_ping_interval_ms", PING_INTERVAL),
        ("grpc_ping_timeout_ms", PING_TIMEOUT),
    ] {
        let seconds = time.as_secs_f64();
        let line = format!("tierkv_limit_seconds{{limit=\"limits.{key}\"}} {seconds}");
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    for metric in [
        "tierkv_connections{door=\"grpc\"}",
        "tierkv_connections{door=\"rest\"} 1",
        "tierkv_connections_limit ",
        "tierkv_connections_refused_total{door=\"grpc\"} 0",
        "tierkv_connections_refused_total{door=\"rest\"} 0",
        "tierkv_accept_failures_total{door=\"rest\"} 0",
        "tierkv_peer_connections{door=\"datanode\"}",
        "tierkv_peer_connections{door=\"server-coordinator\"}",
        "tierkv_peer_connections_limit ",
        "tierkv_descriptors ",
        "tierkv_descriptors_limit ",
    ] {
        assert!(
            page.lines().any(|line| line.starts_with(metric)),
            "{metric}\n{page}"
        );
    }
}
