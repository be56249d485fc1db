//! Both ends of a framed stream over real connections: [`Multiplexer`] against a peer that answers
//! through [`answer_frames`], with answers scripted by each test.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use tierkv_harness::poll_until;
use tierkv_rpc::{
    Answered, CallError, FrameHandler, Multiplexer, Replies, StatusStream, answer_frames, channel,
    incoming,
    proto::internal::{
        CompareTimesReply, CompareTimesRequest, CountReply, CountRequest, InspectRequest,
        InspectResponse, Read, ReadReply, Reply, ReplyFrame, Request, RequestFrame, ScanReply,
        ScanRequest, WatchReply, WatchRequest,
        data_node_client::DataNodeClient,
        data_node_server::{DataNode, DataNodeServer},
        reply, request,
    },
    serve_builder,
    session::FRAME_SLACK,
    tiers::{ToDataNode, reply, reply_weight},
};
use tierkv_types::{
    Code, Error,
    limits::{FRAME_BYTES, MAX_REQUEST_BYTES},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Timeout of anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Operations of one stream that the peer works on at once.
const PEER_IN_FLIGHT: usize = 64;

type Playing = Pin<Box<dyn Future<Output = ()> + Send>>;
type Play = dyn Fn(Vec<Request>, Replies<Reply>) -> Playing + Send + Sync;

/// The answering peer; the test scripts what it does with each frame.
struct Peer {
    play: Box<Play>,
    requests: AtomicUsize,
    largest_frame: AtomicUsize,
}

impl FrameHandler for Peer {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        self.requests
            .fetch_add(frame.requests.len(), Ordering::SeqCst);
        self.largest_frame
            .fetch_max(frame.encoded_len(), Ordering::SeqCst);
        (self.play)(frame.requests, replies.clone()).await;
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

impl Peer {
    fn new<F>(play: impl Fn(Vec<Request>, Replies<Reply>) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Arc::new(Self {
            play: Box::new(move |requests, replies| Box::pin(play(requests, replies))),
            requests: AtomicUsize::new(0),
            largest_frame: AtomicUsize::new(0),
        })
    }

    /// A peer that answers every request with its own key, once the gate is open.
    fn echoing(gate: &watch::Sender<bool>) -> Arc<Self> {
        let gate = gate.subscribe();
        Self::new(move |requests, replies| {
            let mut gate = gate.clone();
            async move {
                tokio::spawn(async move {
                    // A dropped gate counts as open.
                    drop(gate.wait_for(|open| *open).await);
                    replies.send(requests.iter().map(echo).collect()).await;
                });
            }
        })
    }

    async fn until_requests(&self, count: usize) {
        let there = poll_until(PATIENCE, || async {
            (self.requests.load(Ordering::SeqCst) >= count).then_some(())
        });
        there.await.expect("the requests arrive");
    }
}

struct Door {
    peer: Arc<Peer>,
    stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl DataNode for Door {
    type ExchangeStream = Answered<Peer>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (peer, stop) = (Arc::clone(&self.peer), self.stop.clone());
        let stream = answer_frames(request.into_inner(), peer, None, PEER_IN_FLIGHT, None, stop);
        Ok(Response::new(stream))
    }

    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn scan(
        &self,
        _: tonic::Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("nobody scans here"))
    }

    async fn count(&self, _: tonic::Request<CountRequest>) -> Result<Response<CountReply>, Status> {
        Err(Status::unimplemented("nobody counts here"))
    }

    async fn watch(
        &self,
        _: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }

    async fn compare_times(
        &self,
        _: tonic::Request<CompareTimesRequest>,
    ) -> Result<Response<CompareTimesReply>, Status> {
        Err(Status::unimplemented("nobody compares times here"))
    }

    async fn inspect(
        &self,
        _: tonic::Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(InspectResponse::default()))
    }
}

/// A peer in its own runtime, so that it can die with all its connections.
struct Served {
    address: SocketAddr,
    /// Ends its streams in order.
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl Served {
    async fn new(peer: &Arc<Peer>) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), peer).await
    }

    async fn at(address: SocketAddr, peer: &Arc<Peer>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let stop = shut();
        let door = Door {
            peer: Arc::clone(peer),
            stop: stop.subscribe(),
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let service = DataNodeServer::new(door);
            let served = serve_builder()
                .add_service(service)
                .serve_with_incoming(incoming(listener));
            served.await.unwrap();
        });
        Self {
            address: receiver.await.unwrap(),
            stop,
            runtime: Some(runtime),
        }
    }

    /// A caller with one stream to it.
    fn caller(&self, max_in_flight: usize) -> Multiplexer<ToDataNode> {
        Multiplexer::new(
            vec![channel(&self.address.to_string()).unwrap()],
            max_in_flight,
        )
    }

    /// Ends it as a killed process ends; returns once its sockets are closed.
    async fn die(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .unwrap();
        self.address
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn read(key: impl Into<Bytes>) -> request::Kind {
    request::Kind::Read(Read {
        item_key: key.into(),
        ..Read::default()
    })
}

fn key_of(request: &Request) -> Bytes {
    match &request.kind {
        Some(request::Kind::Read(read)) => read.item_key.clone(),
        other => panic!("not a read: {other:?}"),
    }
}

fn value(id: u64, value: Bytes) -> Reply {
    let found = ReadReply {
        found: true,
        value,
        ..ReadReply::default()
    };
    reply(id, Ok(reply::Kind::Read(found)))
}

fn echo(request: &Request) -> Reply {
    value(request.id, key_of(request))
}

fn open() -> watch::Sender<bool> {
    watch::Sender::new(true)
}

fn shut() -> watch::Sender<bool> {
    watch::Sender::new(false)
}

async fn ask(
    caller: &Multiplexer<ToDataNode>,
    key: impl Into<Bytes>,
    within: Duration,
) -> Result<Bytes, CallError> {
    match caller.call(read(key), Instant::now() + within).await? {
        reply::Kind::Read(found) => Ok(found.value),
        other => panic!("not an answer to a read: {other:?}"),
    }
}

/// Sends a read in the background.
fn asking(
    tasks: &mut JoinSet<Result<Bytes, CallError>>,
    caller: &Multiplexer<ToDataNode>,
    key: String,
) {
    let caller = caller.clone();
    tasks.spawn(async move { ask(&caller, key, PATIENCE).await });
}

const SOON: Duration = Duration::from_millis(150);

#[tokio::test]
async fn answers_find_their_callers_in_any_order() {
    const CALLS: usize = 700;
    let held = Arc::new(Mutex::new(Vec::new()));
    let peer = Peer::new(move |requests, replies| {
        let held = Arc::clone(&held);
        async move {
            let all = {
                let mut held = held.lock().unwrap();
                held.extend(
                    requests
                        .into_iter()
                        .map(|request| (request, replies.clone())),
                );
                if held.len() < CALLS {
                    return;
                }
                std::mem::take(&mut *held)
            };
            // The last is answered first.
            tokio::spawn(async move {
                for (request, replies) in all.into_iter().rev() {
                    replies.send(vec![echo(&request)]).await;
                }
            });
        }
    });
    let served = Served::new(&peer).await;
    let address = served.address.to_string();
    let channels = vec![channel(&address).unwrap(), channel(&address).unwrap()];
    let caller: Multiplexer<ToDataNode> = Multiplexer::new(channels, CALLS);
    let calls = (0..CALLS).map(|n| {
        let caller = &caller;
        async move {
            let answer = ask(caller, n.to_string(), PATIENCE).await.unwrap();
            assert_eq!(answer, n.to_string());
        }
    });
    join_all(calls).await;
    assert_eq!(peer.requests.load(Ordering::SeqCst), CALLS);
}

#[tokio::test]
async fn the_peers_own_word_is_handed_on() {
    let peer = Peer::new(|requests, replies| async move {
        let refusals = requests.into_iter().map(|request| {
            let error = Error::new(Code::NotMaster, "ask elsewhere");
            reply(request.id, Err(error))
        });
        replies.send(refusals.collect()).await;
    });
    let served = Served::new(&peer).await;
    let error = ask(&served.caller(8), "k", PATIENCE).await.unwrap_err();
    let expected = Error::new(Code::NotMaster, "ask elsewhere");
    assert_eq!(error, CallError::Refused(expected.clone()));
    assert_eq!(error.for_write(), expected);
}

#[tokio::test]
async fn a_call_that_was_sent_and_not_answered_in_time_is_lost() {
    let gate = shut();
    let peer = Peer::echoing(&gate);
    let served = Served::new(&peer).await;
    let caller = served.caller(8);
    let asked = Instant::now();
    let error = ask(&caller, "k", SOON).await.unwrap_err();
    assert!(asked.elapsed() >= SOON);
    let CallError::Lost(lost) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(lost.code, Code::DeadlineExceeded);
    assert_eq!(error.for_write().code, Code::OutcomeUnknown);
    // The late answer is discarded, and the stream goes on.
    gate.send_replace(true);
    assert_eq!(ask(&caller, "next", PATIENCE).await.unwrap(), "next");
}

#[tokio::test]
async fn a_call_whose_stream_never_opened_is_unsent() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let caller: Multiplexer<ToDataNode> = Multiplexer::new(vec![channel(&address).unwrap()], 8);
    let (asked, time) = (Instant::now(), Duration::from_secs(2));
    let error = ask(&caller, "k", time).await.unwrap_err();
    // Early enough that it can still be passed on as certain.
    let waited = asked.elapsed();
    assert!(waited > time / 2 && waited < time, "{waited:?}");
    let CallError::Unsent(unsent) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(unsent.code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_peer_that_was_never_there_leaves_calls_unsent() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let caller: Multiplexer<ToDataNode> = Multiplexer::new(vec![channel(&address).unwrap()], 8);
    let error = ask(&caller, "k", PATIENCE).await.unwrap_err();
    let CallError::Unsent(unsent) = &error else {
        panic!("{error:?}");
    };
    // Nothing was done: the caller may retry, also a write.
    assert_eq!(unsent.code, Code::Unavailable);
    assert_eq!(error.for_write().code, Code::Unavailable);
}

#[tokio::test]
async fn a_peer_that_dies_loses_calls_and_is_found_again() {
    let gate = shut();
    let holding = Peer::echoing(&gate);
    let served = Served::new(&holding).await;
    let caller = served.caller(8);
    let mut calls = JoinSet::new();
    for n in 0..4 {
        asking(&mut calls, &caller, n.to_string());
    }
    holding.until_requests(4).await;
    let address = served.die().await;
    for outcome in calls.join_all().await {
        assert!(matches!(&outcome, Err(CallError::Lost(_))), "{outcome:?}");
    }
    let error = ask(&caller, "k", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, CallError::Unsent(_)), "{error:?}");

    let _served = Served::at(address, &Peer::echoing(&open())).await;
    let answered = poll_until(PATIENCE, || async {
        ask(&caller, "k", PATIENCE).await.ok()
    });
    assert_eq!(answered.await.expect("the stream opens again"), "k");
}

#[tokio::test]
async fn a_peer_that_stops_answers_what_it_read() {
    let gate = shut();
    let peer = Peer::echoing(&gate);
    let served = Served::new(&peer).await;
    let caller = served.caller(8);
    let mut calls = JoinSet::new();
    for n in 0..4 {
        asking(&mut calls, &caller, n.to_string());
    }
    peer.until_requests(4).await;
    served.stop.send_replace(true);
    // Later frames are not read: they may be lost, but never half done.
    let error = ask(&caller, "late", SOON).await.unwrap_err();
    assert!(matches!(&error, CallError::Lost(_)), "{error:?}");
    gate.send_replace(true);
    let answers = calls.join_all().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(peer.requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn no_more_than_the_bound_is_in_flight() {
    const BOUND: usize = 4;
    let gate = shut();
    let peer = Peer::echoing(&gate);
    let served = Served::new(&peer).await;
    let caller = served.caller(BOUND);
    let mut calls = JoinSet::new();
    for n in 0..3 * BOUND {
        asking(&mut calls, &caller, n.to_string());
    }
    peer.until_requests(BOUND).await;
    let error = ask(&caller, "one too many", SOON).await.unwrap_err();
    let CallError::Unsent(refused) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert_eq!(peer.requests.load(Ordering::SeqCst), BOUND);
    gate.send_replace(true);
    let answers = calls.join_all().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(peer.requests.load(Ordering::SeqCst), 3 * BOUND);
}

#[tokio::test]
async fn a_caller_that_goes_away_costs_nothing() {
    const BOUND: usize = 2;
    let gate = shut();
    let peer = Peer::echoing(&gate);
    let served = Served::new(&peer).await;
    let caller = served.caller(BOUND);
    for turn in 1..=20 {
        gate.send_replace(false);
        let mut calls = JoinSet::new();
        for n in 0..BOUND {
            asking(&mut calls, &caller, format!("abandoned-{n}"));
        }
        peer.until_requests(turn * (BOUND + 1) - 1).await;
        calls.shutdown().await;
        gate.send_replace(true);
        // A leftover place or answer would make this wait, or get another call's answer.
        let key = format!("turn-{turn}");
        assert_eq!(ask(&caller, key.clone(), PATIENCE).await.unwrap(), key);
    }
}

#[tokio::test]
async fn many_large_operations_go_in_several_frames() {
    const BYTES: usize = 300 << 10;
    let peer = Peer::echoing(&open());
    let served = Served::new(&peer).await;
    let caller = served.caller(64);
    let calls = (0..40_u8).map(|n| {
        let caller = &caller;
        async move {
            let key = vec![n; BYTES];
            assert_eq!(ask(caller, key.clone(), PATIENCE).await.unwrap(), key);
        }
    });
    join_all(calls).await;
    let largest = peer.largest_frame.load(Ordering::SeqCst);
    assert!(
        largest <= FRAME_BYTES + FRAME_SLACK,
        "a frame of {largest} bytes"
    );
    // One larger than a frame is sent alone; one over the limit is not sent.
    let key = vec![7; 2 * FRAME_BYTES];
    assert_eq!(ask(&caller, key.clone(), PATIENCE).await.unwrap(), key);
    let error = ask(&caller, vec![7; MAX_REQUEST_BYTES + 1], PATIENCE).await;
    let Err(CallError::Unsent(refused)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(refused.code, Code::ResourceExhausted);
}

/// A stream without a multiplexer: the test sees its frames.
async fn raw(served: &Served) -> (mpsc::Sender<RequestFrame>, Streaming<ReplyFrame>) {
    let (frames, outbound) = mpsc::channel(1);
    let mut client = DataNodeClient::new(channel(&served.address.to_string()).unwrap());
    let answers = client.exchange(ReceiverStream::new(outbound)).await;
    (frames, answers.unwrap().into_inner())
}

fn frame(ids: std::ops::Range<u64>, key: &Bytes) -> RequestFrame {
    RequestFrame {
        requests: ids
            .map(|id| Request {
                id,
                timeout_ms: 0,
                kind: Some(read(key.clone())),
            })
            .collect(),
    }
}

#[tokio::test]
async fn answers_larger_than_a_frame_are_split() {
    const LARGE: u64 = 20;
    let peer = Peer::new(|requests, replies| async move {
        let answers = requests.into_iter().map(|request| {
            let bytes = match request.id {
                LARGE => 2 * FRAME_BYTES,
                _ => 200 << 10,
            };
            value(request.id, vec![0; bytes].into())
        });
        // All at once: the stream must split them into frames.
        replies.send(answers.collect()).await;
    });
    let served = Served::new(&peer).await;
    let (frames, mut answers) = raw(&served).await;
    frames.send(frame(0..40, &Bytes::new())).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 40 {
        let frame = answers.message().await.unwrap().unwrap();
        let is_large = frame.replies[0].id == LARGE;
        assert!(frame.encoded_len() <= FRAME_BYTES + FRAME_SLACK || is_large);
        assert!(!is_large || frame.replies.len() == 1);
        ids.extend(frame.replies.into_iter().map(|reply| reply.id));
    }
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_not_read_either() {
    const FRAMES: u64 = 4_096;
    const ANSWER_BYTES: usize = 64 << 10;
    /// Far more than the stream's window and queues hold, and far less than all.
    const MOST_ANSWERED: usize = 512;
    let peer = Peer::new(|requests, replies| async move {
        let answer = |request: Request| value(request.id, vec![0; ANSWER_BYTES].into());
        replies
            .send(requests.into_iter().map(answer).collect())
            .await;
    });
    let served = Served::new(&peer).await;
    let (frames, mut answers) = raw(&served).await;
    let key = Bytes::from(vec![0; 16 << 10]);
    let mut sent = 0;
    while sent < FRAMES {
        let sending = frames.send(frame(sent..sent + 1, &key));
        // When no frame leaves for this long, nothing moves any more.
        match timeout(Duration::from_secs(2), sending).await {
            Ok(gone) => gone.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < FRAMES, "the peer took everything");
    let handled = peer.requests.load(Ordering::SeqCst);
    assert!(
        handled < MOST_ANSWERED,
        "{handled} answers wait for a client that reads none"
    );
    // Nothing was dropped: once the client reads, everything sent is answered.
    drop(frames);
    let mut answered = 0;
    while let Some(frame) = answers.message().await.unwrap() {
        answered += frame.replies.len();
    }
    assert_eq!(answered as u64, sent);
}

#[tokio::test]
async fn the_peer_limits_operations_in_progress() {
    let gate = shut();
    let under_way = Arc::new(AtomicUsize::new(0));
    let (gated, counted) = (gate.subscribe(), Arc::clone(&under_way));
    let peer = Peer::new(move |requests, replies| {
        let (mut gate, under_way) = (gated.clone(), Arc::clone(&counted));
        async move {
            let Some(mut permits) = replies.admit(requests.len()).await else {
                return;
            };
            under_way.fetch_add(requests.len(), Ordering::SeqCst);
            tokio::spawn(async move {
                drop(gate.wait_for(|open| *open).await);
                for request in &requests {
                    replies.send(vec![echo(request)]).await;
                    permits.answered(1);
                }
            });
        }
    });
    let served = Served::new(&peer).await;
    let (frames, mut answers) = raw(&served).await;
    let key = Bytes::from_static(b"k");
    for n in 0..PEER_IN_FLIGHT as u64 {
        // The transport buffers small frames, so sending never waits here.
        frames.send(frame(2 * n..2 * n + 2, &key)).await.unwrap();
    }
    // The frame after the limit is read and waits to be admitted; no later one is read.
    peer.until_requests(PEER_IN_FLIGHT + 2).await;
    assert_eq!(under_way.load(Ordering::SeqCst), PEER_IN_FLIGHT);
    gate.send_replace(true);
    drop(frames);
    let mut answered = 0;
    while let Some(frame) = answers.message().await.unwrap() {
        answered += frame.replies.len();
    }
    assert_eq!(answered, 2 * PEER_IN_FLIGHT);
}
