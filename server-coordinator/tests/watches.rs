//! A watch over two scripted clusters whose nodes break it again and again.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::stream::{StreamExt, unfold};
use tierkv_coordination::{
    ConfigStore, GroupMembership, Membership, MemoryCoordination, Swap,
    directory::{self, DATA_NODES, PLACEMENT, Presence},
};
use tierkv_harness::poll_until;
use tierkv_protocol::{
    placement::{PlacementMap, WeightedCluster},
    replication::{ClusterState, Listed},
};
use tierkv_rpc::{
    AddressedChannel, Answered, FrameHandler, Replies, StatusStream, channel, incoming,
    proto::{
        internal::{
            CompareTimesReply, CompareTimesRequest, CountReply, CountRequest, InspectRequest,
            InspectResponse, Reply, ReplyFrame, RequestFrame, ScanReply, ScanRequest,
            WatchPosition, WatchReply, WatchRequest, WatchedChange,
            data_node_server::{DataNode, DataNodeServer},
            server_coordinator_client::ServerCoordinatorClient,
        },
        status::{read_error, to_status},
    },
    serve_builder,
};
use tierkv_server_coordinator::{ServerCoordinator, ServerCoordinatorSettings};
use tierkv_types::{ClusterId, Code, Epoch, Error, LogId, NodeId, PlatformId};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);

/// How a scripted node ends a stream after some replies.
#[derive(Clone, Copy, Debug)]
enum Break {
    Refuse(Code),
    End,
}

const BREAKS: [Break; 4] = [
    Break::Refuse(Code::NotMaster),
    Break::Refuse(Code::Unavailable),
    Break::Refuse(Code::StaleEpoch),
    Break::End,
];

/// A scripted master of a cluster; it supports only watches.
struct Played {
    cluster: String,
    /// The number of records in its log. Record n has two changes of version n, each sent in its
    /// own reply.
    written: watch::Sender<u64>,
    /// A stream breaks after this many replies; 0: never.
    breaks_after: AtomicU64,
    opened: AtomicU64,
    /// The positions at which streams were opened.
    asked: Mutex<Vec<Option<u64>>>,
    /// The error of streams opened from now on.
    refusal: Mutex<Option<Code>>,
}

impl Played {
    /// The reply with the nth change of all.
    fn reply(&self, nth: u64, has_change: bool) -> WatchReply {
        let index = nth.div_ceil(2);
        let change = WatchedChange {
            item_key: format!("n\0{}", self.cluster).into(),
            version: index,
            value: None,
            expires: 0,
        };
        WatchReply {
            changes: has_change.then_some(change).into_iter().collect(),
            position: Some(WatchPosition {
                cluster: self.cluster.clone(),
                epoch: 1,
                index,
                version: index,
                changes_told: u32::from(!nth.is_multiple_of(2)),
            }),
        }
    }
}

struct Door(Arc<Played>);

/// Never answers: no test needs it.
struct Mute;

impl FrameHandler for Mute {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, _: RequestFrame, _: &Replies<Reply>) {}

    fn weight(_: &Reply) -> usize {
        0
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

#[tonic::async_trait]
impl DataNode for Door {
    type ExchangeStream = Answered<Mute>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        _: Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("nobody reads here"))
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("nobody scans here"))
    }

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<CountReply>, Status> {
        Err(Status::unimplemented("nobody counts here"))
    }

    async fn compare_times(
        &self,
        _: Request<CompareTimesRequest>,
    ) -> Result<Response<CompareTimesReply>, Status> {
        Err(Status::unimplemented("nobody compares times here"))
    }

    async fn inspect(
        &self,
        _: Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(InspectResponse::default()))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let played = Arc::clone(&self.0);
        let positions = request.into_inner().positions;
        assert!(positions.iter().all(|at| at.cluster == played.cluster));
        let asked = positions.first().map(|position| position.index);
        played.asked.lock().unwrap().push(asked);
        let opened = played.opened.fetch_add(1, Ordering::SeqCst);
        if let Some(code) = *played.refusal.lock().unwrap() {
            return Err(to_status(&Error::new(code, "as the test wants it")));
        }
        let how = BREAKS[usize::try_from(opened).unwrap() % BREAKS.len()];
        // Some streams break before their first reply.
        if played.breaks_after.load(Ordering::SeqCst) > 0 && opened % 5 == 4 {
            return Err(to_status(&Error::new(Code::NotMaster, "not any more")));
        }
        let mut written = played.written.subscribe();
        let whole = 2 * asked.unwrap_or(*written.borrow_and_update());
        let is_within = positions.first().is_some_and(|at| at.changes_told > 0);
        let at = whole - u64::from(is_within);
        let replies = unfold(Some((played, written, at, 0)), move |state| async move {
            let (played, mut written, at, sent) = state?;
            let breaks_after = played.breaks_after.load(Ordering::SeqCst);
            if breaks_after > 0 && sent == breaks_after {
                return match how {
                    Break::Refuse(code) => {
                        Some((Err(to_status(&Error::new(code, "a break"))), None))
                    }
                    Break::End => None,
                };
            }
            if sent == 0 {
                return Some((Ok(played.reply(at, false)), Some((played, written, at, 1))));
            }
            written.wait_for(|written| 2 * *written > at).await.ok()?;
            // Every seventh record is of another prefix.
            let record = (at + 1).div_ceil(2);
            let reply = played.reply(at + 1, !record.is_multiple_of(7));
            Some((Ok(reply), Some((played, written, at + 1, sent + 1))))
        });
        Ok(Response::new(replies.boxed()))
    }
}

/// A server coordinator over scripted clusters.
struct Stage {
    coordination: Arc<MemoryCoordination>,
    coordinator: ServerCoordinator,
    played: BTreeMap<String, Arc<Played>>,
    serving: Vec<JoinHandle<()>>,
    memberships: Vec<Membership>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

/// A channel to a coordinator.
fn to(coordinator: &ServerCoordinator) -> AddressedChannel {
    let channel = channel(&coordinator.address().to_string()).unwrap();
    AddressedChannel::new(channel, coordinator.name())
}

fn map(clusters: &[&str]) -> PlacementMap {
    let clusters = clusters.iter().map(|id| WeightedCluster {
        id: ClusterId::new(id).unwrap(),
        weight: 1,
    });
    PlacementMap::initial(clusters.collect()).unwrap()
}

impl Stage {
    async fn new(clusters: &[&str]) -> Self {
        let coordination = MemoryCoordination::ephemeral();
        let founded = coordination.put_if_absent(PLACEMENT, map(clusters).encode());
        assert!(founded.await.unwrap().won().is_some());
        let settings = ServerCoordinatorSettings::new(PlatformId(1), NodeId::new("s1").unwrap());
        let coordinator = ServerCoordinator::start(settings, coordination.clone());
        let mut stage = Self {
            coordinator: coordinator.await.unwrap(),
            coordination,
            played: BTreeMap::new(),
            serving: Vec::new(),
            memberships: Vec::new(),
        };
        for cluster in clusters {
            stage.play(cluster).await;
        }
        stage
    }

    /// Starts the master of a cluster.
    async fn play(&mut self, cluster: &str) {
        let played = Arc::new(Played {
            cluster: cluster.to_owned(),
            written: watch::Sender::new(10),
            breaks_after: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            asked: Mutex::default(),
            refusal: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let presence = Presence::of_this_process(listener.local_addr().unwrap().to_string());
        let service = DataNodeServer::new(Door(Arc::clone(&played)));
        self.serving.push(tokio::spawn(async move {
            let server = serve_builder().add_service(service);
            server
                .serve_with_incoming(incoming(listener))
                .await
                .unwrap();
        }));
        let node = NodeId::new(&format!("{cluster}-n1")).unwrap();
        let joined = (self.coordination).join(DATA_NODES, node.as_str(), presence.encode());
        self.memberships.push(joined.await.unwrap());
        let listed = Listed {
            node: node.clone(),
            log_id: LogId(1),
        };
        let state = ClusterState::new(Epoch(1), node.clone(), vec![listed], vec![node]);
        let key = directory::cluster_state(&ClusterId::new(cluster).unwrap());
        let founded = self.coordination.put_if_absent(&key, state.encode());
        assert!(matches!(founded.await.unwrap(), Swap::Won(_)));
        self.played.insert(cluster.to_owned(), played);
    }

    async fn open(&self, positions: Vec<WatchPosition>) -> Result<Streaming<WatchReply>, Error> {
        let channel = to(&self.coordinator);
        let request = WatchRequest {
            prefix: "n\0".into(),
            positions,
        };
        let opened = ServerCoordinatorClient::new(channel).watch(request).await;
        Ok(opened.map_err(|status| read_error(&status))?.into_inner())
    }

    async fn watch(&self, positions: Vec<WatchPosition>) -> Watching {
        let mut watching = Watching {
            replies: self.open(positions).await.unwrap(),
            at: BTreeMap::new(),
            received: BTreeMap::new(),
        };
        while let Some(position) = next(&mut watching.replies).await.unwrap().position {
            let first = watching.at.insert(position.cluster.clone(), position);
            assert!(first.is_none(), "each cluster begins once");
        }
        assert_eq!(watching.at.len(), self.played.len());
        watching
    }
}

async fn next(replies: &mut Streaming<WatchReply>) -> Result<WatchReply, Error> {
    let reply = timeout(PATIENCE, replies.message()).await;
    let reply = reply.expect("there is no reply in time");
    let reply = reply.map_err(|status| read_error(&status))?;
    Ok(reply.expect("the watch ended without an error"))
}

/// A watch, its position in each cluster, and the versions it received.
struct Watching {
    replies: Streaming<WatchReply>,
    at: BTreeMap<String, WatchPosition>,
    received: BTreeMap<String, Vec<u64>>,
}

impl Watching {
    /// Reads until every cluster has reached a record.
    async fn until(&mut self, index: u64) {
        while self.at.values().any(|at| place(at) < (index, true)) {
            let reply = next(&mut self.replies).await.unwrap();
            let position = reply.position.unwrap();
            let received = self.received.entry(position.cluster.clone()).or_default();
            received.extend(reply.changes.iter().map(|change| change.version));
            let before = self.at.insert(position.cluster.clone(), position.clone());
            assert!(place(&before.unwrap()) < place(&position), "{position:?}");
        }
    }
}

/// The record of a position, and whether all of it was sent.
fn place(position: &WatchPosition) -> (u64, bool) {
    (position.index, position.changes_told == 0)
}

/// The versions of the changes of the prefix.
fn expected(records: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let records = records.filter(|index| !index.is_multiple_of(7));
    records.flat_map(|index| [index, index]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_go_on_where_they_were() {
    for breaks_after in 1..=4 {
        let stage = Stage::new(&["c1", "c2"]).await;
        for played in stage.played.values() {
            played.breaks_after.store(breaks_after, Ordering::SeqCst);
        }
        let mut watching = stage.watch(Vec::new()).await;
        assert!(watching.at.values().all(|position| position.index == 10));
        let last = 10 + 8 * breaks_after.saturating_sub(1);
        for played in stage.played.values() {
            played.written.send_replace(last);
        }
        watching.until(last).await;
        for (cluster, played) in &stage.played {
            let received = watching.received.get(cluster).cloned().unwrap_or_default();
            assert_eq!(received, expected(11..=last));
            let opened = poll_until(PATIENCE, || async {
                (played.opened.load(Ordering::SeqCst) > 8).then_some(())
            });
            opened.await.expect("its streams broke often");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_its_positions_and_begins_a_new_cluster_at_its_beginning() {
    let stage = Stage::new(&["c1", "c2", "c3"]).await;
    let at = |cluster: &str, index| WatchPosition {
        cluster: cluster.to_owned(),
        epoch: 1,
        index,
        version: index,
        changes_told: 0,
    };
    let mut watching = stage.watch(vec![at("c2", 4), at("c1", 10)]).await;
    watching.until(10).await;
    let received = |cluster: &str| watching.received.get(cluster).cloned().unwrap_or_default();
    assert!(received("c1").is_empty());
    assert_eq!(received("c2"), expected(5..=10));
    assert_eq!(received("c3"), expected(1..=10), "it joined since");

    let refused = async |positions| {
        let opened = stage.open(positions).await;
        opened.unwrap_err().code
    };
    assert_eq!(refused(vec![at("c4", 1)]).await, Code::TokenExpired);
    assert_eq!(refused(vec![at("C1", 1)]).await, Code::InvalidArgument);
    let twice = vec![at("c1", 1), at("c1", 2)];
    assert_eq!(refused(twice).await, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_error_ends_the_watch() {
    let stage = Stage::new(&["c1", "c2"]).await;
    for code in [Code::TokenExpired, Code::ResourceExhausted, Code::DataLoss] {
        *stage.played["c2"].refusal.lock().unwrap() = Some(code);
        let mut replies = stage.open(Vec::new()).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap_err().code, code);
    }
}

/// A watch that missed a cluster would miss its changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_joins_ends_the_watch_so_that_it_begins_again_with_it() {
    let mut stage = Stage::new(&["c1"]).await;
    let mut watching = stage.watch(Vec::new()).await;
    stage.play("c2").await;
    let mut joined = map(&["c1", "c2"]);
    joined.version += 1;
    let placement = stage.coordination.get(PLACEMENT).await.unwrap().unwrap();
    let swapped = (stage.coordination)
        .compare_and_swap(PLACEMENT, placement.revision, joined.encode())
        .await;
    assert!(matches!(swapped.unwrap(), Swap::Won(_)));
    let ended = next(&mut watching.replies).await.unwrap_err();
    assert_eq!(ended.code, Code::Unavailable);
    let positions = watching.at.into_values().collect();
    let mut again = stage.watch(positions).await;
    again.until(10).await;
    assert_eq!(again.received["c2"], expected(1..=10));
}

/// A cluster without slots has no changes, and its master may not even exist yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_slots_neither_ends_a_watch_nor_delays_one() {
    let stage = Stage::new(&["c1"]).await;
    let mut watching = stage.watch(Vec::new()).await;
    let added = map(&["c1"]).with_cluster(WeightedCluster {
        id: ClusterId::new("c2").unwrap(),
        weight: 1,
    });
    let placement = stage.coordination.get(PLACEMENT).await.unwrap().unwrap();
    let swapped = (stage.coordination)
        .compare_and_swap(PLACEMENT, placement.revision, added.encode())
        .await;
    assert!(matches!(swapped.unwrap(), Swap::Won(_)));
    // The coordinator has the new map once it accepts a position in the new cluster.
    let at = WatchPosition {
        cluster: "c2".to_owned(),
        ..WatchPosition::default()
    };
    let known = poll_until(PATIENCE, || async {
        stage.open(vec![at.clone()]).await.ok().map(drop)
    });
    known.await.expect("the coordinator has the new map");
    stage.played["c1"].written.send_replace(20);
    watching.until(20).await;
    let positions = watching.at.clone().into_values().collect();
    for positions in [Vec::new(), positions] {
        let again = stage.watch(positions).await;
        assert_eq!(again.at["c1"].index, 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_the_coordinator_stops() {
    let mut stage = Stage::new(&["c1"]).await;
    let mut watching = stage.watch(Vec::new()).await;
    let spare = ServerCoordinatorSettings::new(PlatformId(1), NodeId::new("s2").unwrap());
    let spare = ServerCoordinator::start(spare, stage.coordination.clone());
    let stopped = std::mem::replace(&mut stage.coordinator, spare.await.unwrap());
    stopped.stop().await;
    let ended = next(&mut watching.replies).await.unwrap_err();
    assert_eq!(ended.code, Code::Unavailable);
    let positions = watching.at.into_values().collect();
    stage.watch(positions).await;
}
