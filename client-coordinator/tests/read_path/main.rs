//! The read path over a cluster scripted by the test: the requests it receives, its answers and
//! their timing, and its master's marks.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

mod played;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use tierkv::{Client, Consistency, ReadOptions, Source};
use tierkv_cache::{Cache, CacheKey, EmbeddedCache};
use tierkv_client_coordinator::{ClientCoordinator, ClientCoordinatorSettings, MetricsPage};
use tierkv_coordination::{
    Candidacy, ConfigStore, GroupMembership, LeaderElection, Membership, MemoryCoordination,
    directory::{PLACEMENT, PRIMARY, Presence, SERVER_COORDINATORS, cluster_state},
};
use tierkv_harness::poll_until;
use tierkv_protocol::{
    cache::Mark,
    placement::{PlacementMap, WeightedCluster},
};
use tierkv_rpc::{
    Answered, FrameHandler, Replies, StatusStream, answer_frames, channel, incoming,
    proto::{
        internal::{
            CountReply, CountRequest, ProbeRequest, ProbeResponse, Read, ReadReply, Reply,
            ReplyFrame, RequestFrame, ScanReply, ScanRequest, SlotRun, SurveyRequest,
            SurveyResponse, VouchReply, WatchReply, WatchRequest, reply, request,
            server_coordinator_server::{ServerCoordinator, ServerCoordinatorServer},
        },
        v1::{
            BatchGetRequest, GetRequest, SessionOperation, SessionRequest, kv_client::KvClient,
            session_answer::Answer, session_operation::Operation,
        },
    },
    serve_builder,
    tiers::{reply, reply_weight},
};
use tierkv_types::{
    ClusterId, Code, Epoch, Index, ItemKey, NodeId, PlatformId, Round, SystemClock, Version,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic::{Response, Status, Streaming};

use self::played::{AS_OF, Door, Played};

const DEADLINE: Duration = Duration::from_secs(20);
const MAX_STALENESS: Duration = Duration::from_millis(600);

/// A client coordinator over the scripted cluster, and a client of it.
struct Stage {
    played: Arc<Played>,
    cache: Arc<EmbeddedCache>,
    client: Client,
    tasks: Vec<JoinHandle<()>>,
    address: SocketAddr,
    coordinator: Option<ClientCoordinator>,
    coordination: Arc<MemoryCoordination>,
    _candidacy: Candidacy,
    _membership: Membership,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Stage {
    async fn new(held: Option<(u64, &'static str)>) -> Self {
        Self::with(held, |settings| {
            settings.max_staleness = MAX_STALENESS;
            settings.inquiry_interval = Duration::from_millis(20);
        })
        .await
    }

    async fn with(
        held: Option<(u64, &'static str)>,
        set: impl FnOnce(&mut ClientCoordinatorSettings),
    ) -> Self {
        let coordination = MemoryCoordination::ephemeral();
        let cluster = ClusterId::new("c1").unwrap();
        found(&coordination, cluster.clone()).await;
        let played = Arc::new(Played {
            held: Mutex::new(held.map(|(version, value)| (version, value.into()))),
            reads: AtomicUsize::new(0),
            bounds: Mutex::default(),
            open: watch::Sender::new(true),
            confirmed: AtomicBool::new(true),
            replica: Mutex::default(),
            filling: AtomicUsize::new(0),
            round: AtomicU64::new(1),
            questions: AtomicUsize::new(0),
            marking: AtomicBool::new(true),
        });
        let (presence, serving) = serve(&played).await;
        let membership = coordination
            .join(SERVER_COORDINATORS, "s1", presence.encode())
            .await
            .unwrap();
        let candidacy = coordination
            .nominate(PRIMARY, "s1", presence.encode())
            .await
            .unwrap();

        let clock = Arc::new(SystemClock);
        let cache = Arc::new(EmbeddedCache::new(1 << 20, clock.clone()));
        let marking = tokio::spawn(mark(Arc::clone(&played), Arc::clone(&cache), cluster));
        let mut settings = settings();
        set(&mut settings);
        let coordinator =
            ClientCoordinator::start(settings, coordination.clone(), Arc::clone(&cache), clock)
                .await
                .unwrap();
        let address = coordinator.grpc_address();
        let client = Client::builder().address(address.to_string());
        let client = client.connect().await.unwrap();
        wait_until_ready(&coordinator).await;
        let tasks = vec![serving, marking];
        let (_candidacy, _membership) = (candidacy, membership);
        let stage = Self {
            played,
            cache,
            client,
            tasks,
            address,
            coordinator: Some(coordinator),
            coordination,
            _candidacy,
            _membership,
        };
        // From here on an entry is a hit as soon as it is filled.
        stage.until_from_cache("another key").await;
        stage.played.reads.store(0, Ordering::SeqCst);
        stage.played.bounds.lock().unwrap().clear();
        stage
    }

    fn reads(&self) -> usize {
        self.played.reads.load(Ordering::SeqCst)
    }

    async fn wait_for_reads(&self, count: usize) {
        let limit = Instant::now() + DEADLINE;
        while self.reads() < count {
            assert!(
                Instant::now() < limit,
                "{} reads instead of {count}",
                self.reads()
            );
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn get_from_cache(&self) -> tierkv::Found {
        self.until_from_cache("key").await
    }

    /// Reads until the cache answers: this takes an answer of the master and a later mark.
    async fn until_from_cache(&self, key: &str) -> tierkv::Found {
        let limit = Instant::now() + DEADLINE;
        loop {
            let found = self.client.get(key).await.unwrap();
            if found.source == Source::Cache {
                return found;
            }
            assert!(Instant::now() < limit, "the cache never answered");
        }
    }
}

/// Assigns all slots to `cluster` in coordination, which has a state.
async fn found(coordination: &MemoryCoordination, cluster: ClusterId) {
    let record = cluster_state(&cluster);
    let founded = coordination.put_if_absent(&record, Bytes::new()).await;
    assert!(founded.unwrap().won().is_some());
    let map = PlacementMap::initial(vec![WeightedCluster {
        id: cluster,
        weight: 1,
    }]);
    let founded = coordination
        .put_if_absent(PLACEMENT, map.unwrap().encode())
        .await
        .unwrap();
    assert!(founded.won().is_some());
}

/// Serves the scripted cluster behind a server coordinator's address.
async fn serve(played: &Arc<Played>) -> (Presence, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let presence = Presence::of_this_process(listener.local_addr().unwrap().to_string());
    let service = ServerCoordinatorServer::new(Door {
        played: Arc::clone(played),
        stop: watch::Sender::new(false),
    });
    let serving = tokio::spawn(async move {
        let server = serve_builder().add_service(service);
        server
            .serve_with_incoming(incoming(listener))
            .await
            .unwrap();
    });
    (presence, serving)
}

fn settings() -> ClientCoordinatorSettings {
    let page = MetricsPage(Arc::new(String::new));
    let mut settings =
        ClientCoordinatorSettings::new(PlatformId(1), NodeId::new("cc1").unwrap(), page);
    settings.grpc_listen = "127.0.0.1:0".parse().unwrap();
    settings.rest_listen = "127.0.0.1:0".parse().unwrap();
    settings
}

async fn wait_until_ready(coordinator: &ClientCoordinator) {
    let limit = Instant::now() + DEADLINE;
    while !coordinator.is_ready() {
        assert!(Instant::now() < limit, "the scripted master never answered");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Starts rounds and writes their marks, as a master does.
async fn mark(played: Arc<Played>, cache: Arc<EmbeddedCache>, cluster: ClusterId) {
    loop {
        let round = Round(played.round.fetch_add(1, Ordering::SeqCst) + 1);
        if played.marking.load(Ordering::SeqCst) {
            let mark = Mark {
                epoch: Epoch(1),
                round,
                index: Index(1),
            };
            cache.write_mark(&cluster, mark).await.unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn item() -> ItemKey {
    ItemKey::new("default", b"key").unwrap()
}

fn session(version: u64) -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Session(version),
        ..ReadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_of_equal_misses_is_one_read_and_fills_the_cache() {
    let stage = Stage::new(Some((5, "value"))).await;
    stage.played.open.send_replace(false);
    let herd: Vec<_> = (0..200)
        .map(|_| {
            let client = stage.client.clone();
            tokio::spawn(async move { client.get("key").await.unwrap() })
        })
        .collect();
    stage.wait_for_reads(1).await;
    stage.played.open.send_replace(true);
    for found in join_all(herd).await {
        assert_eq!(found.unwrap().value.as_deref(), Some(&b"value"[..]));
    }
    assert_eq!(stage.reads(), 1);
    let found = stage.get_from_cache().await;
    assert_eq!(
        (found.version, found.value.as_deref()),
        (5, Some(&b"value"[..]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_cached_with_the_version_up_to_which_it_is_known() {
    let stage = Stage::new(None).await;
    assert_eq!(stage.client.get("key").await.unwrap().value, None);
    let found = stage.get_from_cache().await;
    assert_eq!((found.value, found.version), (None, AS_OF));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_read_is_answered_and_not_filled() {
    let stage = Stage::new(Some((5, "value"))).await;
    stage.played.confirmed.store(false, Ordering::SeqCst);
    for count in 1..=3 {
        let found = stage.client.get("key").await.unwrap();
        assert_eq!((found.source, stage.reads()), (Source::Master, count));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_a_delete_overtook_is_refused() {
    let stage = Stage::new(Some((5, "old"))).await;
    stage.played.open.send_replace(false);
    let client = stage.client.clone();
    let reader = tokio::spawn(async move { client.get("key").await.unwrap() });
    stage.wait_for_reads(1).await;
    // The key changes while its old value is on its way to the cache.
    *stage.played.held.lock().unwrap() = Some((6, "new".into()));
    let key = item();
    let cache_key = CacheKey {
        item: key.as_bytes(),
        slot_revision: 1,
    };
    stage.cache.delete(&[cache_key]).await.unwrap();
    stage.played.open.send_replace(true);
    assert_eq!(reader.await.unwrap().version, 5);
    let found = stage.client.get("key").await.unwrap();
    assert_eq!(
        (found.version, stage.reads()),
        (6, 2),
        "the old value was filled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_own_writes_through_the_cache() {
    let stage = Stage::new(Some((5, "old"))).await;
    stage.client.get("key").await.unwrap();
    assert_eq!(stage.get_from_cache().await.version, 5);
    *stage.played.held.lock().unwrap() = Some((7, "new".into()));
    assert_eq!(
        stage
            .client
            .get_with("key", session(5))
            .await
            .unwrap()
            .version,
        5
    );
    let found = stage.client.get_with("key", session(7)).await.unwrap();
    assert_eq!((found.version, found.source), (7, Source::Master));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_with_its_age_and_fills_only_with_a_proof() {
    let stage = Stage::new(Some((5, "value"))).await;
    let filling = || stage.played.filling.swap(0, Ordering::SeqCst);
    filling();
    stage.played.confirmed.store(false, Ordering::SeqCst);
    *stage.played.replica.lock().unwrap() = Some(40);
    for _ in 0..2 {
        let found = stage.client.get("key").await.unwrap();
        assert_eq!(found.source, Source::Replica);
        assert!((40..60).contains(&found.age.as_millis()), "{:?}", found.age);
        assert_eq!(
            filling(),
            1,
            "nothing was filled, so each read holds a lease"
        );
    }
    // Older than one of the readers accepts: it asks for itself.
    let strict = ReadOptions {
        max_staleness: Some(Duration::from_millis(10)),
        ..ReadOptions::default()
    };
    let reads = stage.reads();
    stage.client.get_with("key", strict).await.unwrap();
    assert_eq!((stage.reads() - reads, filling()), (2, 1));

    stage.played.confirmed.store(true, Ordering::SeqCst);
    *stage.played.replica.lock().unwrap() = Some(0);
    let found = stage.client.get("key").await.unwrap();
    assert_eq!(found.source, Source::Replica);
    assert_eq!(stage.get_from_cache().await.version, 5);
    let explained = ReadOptions {
        explain: true,
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let found = stage.client.get_with("key", explained).await.unwrap();
    assert_eq!((found.source, filling()), (Source::Replica, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_and_a_bound_of_zero_bypass_the_cache() {
    let stage = Stage::new(Some((5, "value"))).await;
    stage.client.get("key").await.unwrap();
    stage.get_from_cache().await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let now = ReadOptions {
        max_staleness: Some(Duration::ZERO),
        ..ReadOptions::default()
    };
    for options in [latest, now] {
        let found = stage.client.get_with("key", options).await.unwrap();
        assert_eq!((found.source, found.age), (Source::Master, Duration::ZERO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_marks_the_cache_is_trusted_no_longer_than_the_bound() {
    let stage = Stage::new(Some((5, "old"))).await;
    stage.client.get("key").await.unwrap();
    stage.get_from_cache().await;
    // The master can't deliver any more: its marks stop, and the key changes.
    stage.played.marking.store(false, Ordering::SeqCst);
    *stage.played.held.lock().unwrap() = Some((6, "new".into()));
    let stopped = Instant::now();
    let limit = stopped + DEADLINE;
    loop {
        let asked = Instant::now();
        let found = stage.client.get("key").await.unwrap();
        assert!(found.age <= MAX_STALENESS, "answered {:?} old", found.age);
        if found.version == 6 {
            break;
        }
        // The last mark may have been on its way when they stopped.
        let grace = Duration::from_millis(100);
        assert!(
            asked - stopped <= MAX_STALENESS + grace,
            "a stale hit outlived its bound"
        );
        assert!(Instant::now() < limit);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greater_bound_lets_hits_grow_older() {
    let stage = Stage::with(Some((5, "old")), |settings| {
        settings.max_staleness = DEADLINE;
        // Ages are kept for as many questions as are stored: 12.8 s.
        settings.inquiry_interval = Duration::from_millis(200);
    })
    .await;
    stage.client.get("key").await.unwrap();
    stage.get_from_cache().await;
    stage.played.marking.store(false, Ordering::SeqCst);
    *stage.played.held.lock().unwrap() = Some((6, "new".into()));
    let older = poll_until(DEADLINE, || async {
        let found = stage.client.get("key").await.unwrap();
        assert_eq!((found.version, found.source), (5, Source::Cache));
        (found.age > 2 * MAX_STALENESS).then_some(())
    });
    older.await.expect("an old hit is answered");
    // A read's own bound still counts.
    let own = ReadOptions {
        max_staleness: Some(MAX_STALENESS),
        ..ReadOptions::default()
    };
    let found = stage.client.get_with("key", own).await.unwrap();
    assert_eq!((found.version, found.source), (6, Source::Master));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_below_carries_the_bound_of_its_reader() {
    let stage = Stage::new(Some((5, "value"))).await;
    // Nothing is filled, so every read goes below.
    stage.played.confirmed.store(false, Ordering::SeqCst);
    let bounded = |millis| ReadOptions {
        max_staleness: Some(Duration::from_millis(millis)),
        ..ReadOptions::default()
    };
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    for options in [ReadOptions::default(), bounded(7), session(5), latest] {
        stage.client.get_with("key", options).await.unwrap();
    }
    let bounds = stage.played.bounds.lock().unwrap().clone();
    let own = u32::try_from(MAX_STALENESS.as_millis()).unwrap();
    assert_eq!(bounds, BTreeMap::from([(0, 1), (7, 1), (own, 2)]));
}

/// Sends frames made by the test over a session, without the SDK.
async fn answers_to(stage: &Stage, operations: Vec<SessionOperation>) -> Vec<Answer> {
    let count = operations.len();
    let address = stage.coordinator.as_ref().unwrap().grpc_address();
    let mut kv = KvClient::new(channel(&address.to_string()).unwrap());
    let frames = tokio_stream::iter([SessionRequest { operations }]);
    let mut frames = kv.session(frames).await.unwrap().into_inner();
    let mut answers = Vec::with_capacity(count);
    while let Some(frame) = frames.message().await.unwrap() {
        answers.extend(
            frame
                .answers
                .into_iter()
                .map(|answer| answer.answer.unwrap()),
        );
    }
    answers
}

fn operation(id: u64, operation: Operation) -> SessionOperation {
    SessionOperation {
        id,
        timeout_ms: 0,
        operation: Some(operation),
    }
}

fn is_over_the_limit(answer: &Answer) -> bool {
    let exhausted = Code::ResourceExhausted as u8;
    matches!(answer, Answer::Error(error) if error.code == i32::from(exhausted)
        && error.message.contains("max_operations"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_holds_no_more_operations_than_a_request_may() {
    let stage = Stage::new(Some((5, "value"))).await;
    let get = || {
        Operation::Get(GetRequest {
            key: "key".into(),
            ..GetRequest::default()
        })
    };
    let batch = |keys| {
        Operation::BatchGet(BatchGetRequest {
            keys: vec!["key".into(); keys],
            ..BatchGetRequest::default()
        })
    };
    let many = (0..1_003).map(|id| operation(id, get())).collect();
    let answers = answers_to(&stage, many).await;
    assert_eq!(answers.len(), 1_003);
    assert_eq!(
        answers
            .iter()
            .filter(|answer| is_over_the_limit(answer))
            .count(),
        3
    );
    // The keys of a batch count.
    let batches = vec![
        operation(0, batch(600)),
        operation(1, batch(401)),
        operation(2, get()),
    ];
    let answers = answers_to(&stage, batches).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| is_over_the_limit(answer))
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_an_answer_ends_before_it_is_gathered() {
    let stage = Stage::new(None).await;
    let value = Bytes::from(vec![7; 1 << 20]);
    *stage.played.held.lock().unwrap() = Some((5, value));
    let keys: Vec<String> = (0..500).map(|n| format!("large-{n}")).collect();
    let error = stage.client.batch_get(&keys).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("max_answer_bytes"), "{error}");
    assert!(stage.reads() < 100, "{} values were read", stage.reads());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_over_a_limit_costs_nobody_else() {
    let stage = Stage::new(Some((5, "value"))).await;
    stage.played.open.send_replace(false);
    let client = stage.client.clone();
    let reader = tokio::spawn(async move { client.get("key").await });
    stage.wait_for_reads(1).await;
    let large = vec![0; 5 << 20];
    let put = stage.client.put("large", large.clone()).await.unwrap_err();
    let get = stage.client.get(&large).await.unwrap_err();
    let codes = (put.code(), get.code());
    assert_eq!(codes, (Code::InvalidArgument, Code::InvalidArgument));
    stage.played.open.send_replace(true);
    assert_eq!(reader.await.unwrap().unwrap().version, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_under_way_and_does_not_wait_for_clients() {
    let mut stage = Stage::new(Some((5, "value"))).await;
    stage.played.open.send_replace(false);
    let client = stage.client.clone();
    let reader = tokio::spawn(async move { client.get("key").await });
    stage.wait_for_reads(1).await;
    let stopped = Instant::now();
    let stopping = tokio::spawn(stage.coordinator.take().unwrap().stop());
    // The listener closes before the last answer is sent.
    let address = stage.address;
    let shut = poll_until(DEADLINE, || async {
        TcpStream::connect(address).await.is_err().then_some(())
    });
    shut.await.expect("nobody new is let in");
    stage.played.open.send_replace(true);
    assert_eq!(reader.await.unwrap().unwrap().version, 5);
    stopping.await.unwrap();
    // Less than the time after which streams are cut.
    assert!(
        stopped.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        stopped.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_coordinator_whose_presence_lapsed_is_still_asked() {
    let stage = Stage::new(Some((5, "value"))).await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    // First without its presence, then without its office, too.
    for group in [SERVER_COORDINATORS, PRIMARY] {
        assert!(stage.coordination.expire(group, "s1"));
        for _ in 0..200 {
            let found = stage.client.get_with("key", latest).await.unwrap();
            assert_eq!(found.version, 5);
        }
    }
    assert_eq!(stage.reads(), 400);
    // The questions go on, and with them the hits.
    stage.client.get("key").await.unwrap();
    assert_eq!(stage.get_from_cache().await.version, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_cluster_is_asked_no_more_and_its_entries_are_no_hits() {
    let stage = Stage::new(Some((5, "value"))).await;
    stage.client.get("key").await.unwrap();
    stage.get_from_cache().await;
    let coordinator = stage.coordinator.as_ref().unwrap();
    let record = cluster_state(&ClusterId::new("c1").unwrap());
    let state = stage.coordination.get(&record).await.unwrap().unwrap();
    let deleted = stage.coordination.delete(&record, state.revision).await;
    assert!(deleted.unwrap().won().is_some());
    let forgotten = poll_until(DEADLINE, || async {
        (!coordinator.is_ready()).then_some(())
    });
    forgotten.await.expect("nobody is left to be ready");
    for count in 1..=3 {
        let reads = stage.reads();
        let found = stage.client.get("key").await.unwrap();
        assert_eq!(
            (found.source, stage.reads()),
            (Source::Master, reads + 1),
            "{count}"
        );
    }
    // At most those that were under way reach it.
    let questions = stage.played.questions.load(Ordering::SeqCst);
    sleep(Duration::from_millis(500)).await;
    let more = stage.played.questions.load(Ordering::SeqCst) - questions;
    assert!(more <= 1, "{more} questions after the removal");
    // Founded anew, it is asked, and its entries are hits again.
    let founded = stage.coordination.put_if_absent(&record, Bytes::new());
    assert!(founded.await.unwrap().won().is_some());
    wait_until_ready(coordinator).await;
    assert_eq!(stage.get_from_cache().await.version, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_timeout_is_cut_to_the_limit() {
    let stage = Stage::new(Some((5, "value"))).await;
    let client = Client::builder()
        .address(stage.address.to_string())
        .timeout(Duration::MAX)
        .connect()
        .await
        .unwrap();
    assert_eq!(client.get("key").await.unwrap().version, 5);
}
