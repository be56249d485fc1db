//! Routes to a scripted data node whose presence lapses: it stays in service while it answers
//! (COORD-PRESENCE).

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tierkv_coordination::{
    ConfigStore, GroupMembership, Membership, MemoryCoordination,
    directory::{self, DATA_NODES, PLACEMENT, Presence},
};
use tierkv_harness::poll_until;
use tierkv_protocol::{
    placement::{PlacementMap, WeightedCluster},
    replication::{ClusterState, Listed},
};
use tierkv_rpc::{
    AddressedChannel, Answered, CallError, FrameHandler, Multiplexer, Replies, StatusStream,
    answer_frames, channel, incoming,
    proto::{
        internal::{
            CompareTimesReply, CompareTimesRequest, CountReply, CountRequest, InspectRequest,
            InspectResponse, Reply, ReplyFrame, RequestFrame, ScanReply, ScanRequest,
            SurveyRequest, Vouch, VouchReply, WatchReply, WatchRequest,
            data_node_server::{DataNode, DataNodeServer},
            reply, request,
            server_coordinator_client::ServerCoordinatorClient,
        },
        v1::{self, ClusterStatus, MemberStatus},
    },
    serve_builder,
    tiers::{ToServerCoordinator, reply, reply_weight},
};
use tierkv_server_coordinator::{ServerCoordinator, ServerCoordinatorSettings};
use tierkv_types::{ClusterId, Code, Epoch, LogId, NodeId, NodeRole, PlatformId};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);

/// A scripted master, which answers questions and reports its role.
struct Played {
    presence: Presence,
    /// Whether it answers nothing, like a process that is stopped.
    is_silent: AtomicBool,
}

impl FrameHandler for Played {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        let answers = frame.requests.iter().map(|request| {
            // Its process id as its round shows which process answered.
            let answer = VouchReply {
                round: u64::from(self.presence.pid),
                ..VouchReply::default()
            };
            reply(request.id, Ok(reply::Kind::Vouch(answer)))
        });
        replies.send(answers.collect()).await;
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

struct Door {
    played: Arc<Played>,
    /// Streams go on while this lives.
    stop: watch::Sender<bool>,
}

#[tonic::async_trait]
impl DataNode for Door {
    type ExchangeStream = Answered<Played>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        request: Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (frames, stop) = (request.into_inner(), self.stop.subscribe());
        let answers = answer_frames(frames, Arc::clone(&self.played), None, 64, None, stop);
        Ok(Response::new(answers))
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("nobody scans here"))
    }

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<CountReply>, Status> {
        Err(Status::unimplemented("nobody counts here"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
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
        let Played {
            presence,
            is_silent,
        } = &*self.played;
        if is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(InspectResponse {
            host: presence.host.clone(),
            pid: presence.pid,
            incarnation: presence.incarnation,
            role: v1::NodeRole::from(NodeRole::Master).into(),
            ..InspectResponse::default()
        }))
    }
}

/// A channel to a coordinator.
fn to(coordinator: &ServerCoordinator) -> AddressedChannel {
    let channel = channel(&coordinator.address().to_string()).unwrap();
    AddressedChannel::new(channel, coordinator.name())
}

/// Starts a process of a data node, with this process id.
async fn play(pid: u32) -> (Arc<Played>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let presence = Presence {
        pid,
        ..Presence::of_this_process(address)
    };
    let played = Arc::new(Played {
        presence,
        is_silent: AtomicBool::new(false),
    });
    let service = DataNodeServer::new(Door {
        played: Arc::clone(&played),
        stop: watch::Sender::new(false),
    });
    let serving = tokio::spawn(async move {
        let server = serve_builder().add_service(service);
        server
            .serve_with_incoming(incoming(listener))
            .await
            .unwrap();
    });
    (played, serving)
}

fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}

/// The state in which `node` is master and only member.
fn state(epoch: u64, node: &str) -> ClusterState {
    let node = NodeId::new(node).unwrap();
    let listed = Listed {
        node: node.clone(),
        log_id: LogId(1),
    };
    ClusterState::new(Epoch(epoch), node.clone(), vec![listed], vec![node])
}

/// A server coordinator over one cluster whose master is `n1`.
struct Stage {
    coordination: Arc<MemoryCoordination>,
    coordinator: ServerCoordinator,
}

impl Stage {
    async fn new() -> Self {
        let coordination = MemoryCoordination::ephemeral();
        let map = PlacementMap::initial(vec![WeightedCluster {
            id: cluster(),
            weight: 1,
        }]);
        let map = map.unwrap().encode();
        let founded = coordination.put_if_absent(PLACEMENT, map).await.unwrap();
        assert!(founded.won().is_some());
        let settings = ServerCoordinatorSettings::new(PlatformId(1), NodeId::new("s1").unwrap());
        let coordinator = ServerCoordinator::start(settings, coordination.clone());
        Self {
            coordinator: coordinator.await.unwrap(),
            coordination,
        }
    }

    async fn join(&self, presence: &Presence) -> Membership {
        let joining = self.coordination.join(DATA_NODES, "n1", presence.encode());
        joining.await.unwrap()
    }

    /// Writes the cluster's state and waits until the coordinator routes by it, and so by
    /// everything that happened in coordination before.
    async fn write(&self, state: ClusterState) {
        let key = directory::cluster_state(&cluster());
        let swap = match self.coordination.get(&key).await.unwrap() {
            None => self.coordination.put_if_absent(&key, state.encode()).await,
            Some(record) => {
                let (revision, value) = (record.revision, state.encode());
                (self.coordination)
                    .compare_and_swap(&key, revision, value)
                    .await
            }
        };
        assert!(swap.unwrap().won().is_some());
        let routed = poll_until(PATIENCE, || async {
            (self.status().await?.epoch == state.epoch.0).then_some(())
        });
        routed.await.expect("the coordinator follows the record");
    }

    async fn status(&self) -> Option<ClusterStatus> {
        let channel = to(&self.coordinator);
        let mut client = ServerCoordinatorClient::new(channel);
        let survey = client.survey(SurveyRequest {}).await.unwrap().into_inner();
        survey.clusters.into_iter().next()
    }

    /// The only member, as the survey shows it.
    async fn member(&self) -> MemberStatus {
        self.status().await.unwrap().members.remove(0)
    }

    /// The process id of the master that a question reaches.
    async fn asked(&self) -> Result<u64, CallError> {
        let channel = to(&self.coordinator);
        let caller: Multiplexer<ToServerCoordinator> = Multiplexer::new(vec![channel], 8);
        let vouch = request::Kind::Vouch(Vouch {
            cluster: "c1".to_owned(),
        });
        let deadline = Instant::now() + Duration::from_secs(2);
        match caller.call(vouch, deadline).await? {
            reply::Kind::Vouch(answer) => Ok(answer.round),
            other => panic!("{other:?}"),
        }
    }
}

fn shown(member: &MemberStatus) -> (&str, &str, u32, &str) {
    let role = NodeRole::from(member.role()).name();
    (&member.address, &member.host, member.pid, role)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_presence_lapsed_stays_in_service() {
    let stage = Stage::new().await;
    let (played, _serving) = play(7).await;
    let Presence { address, host, .. } = &played.presence;
    let _lease = stage.join(&played.presence).await;
    stage.write(state(1, "n1")).await;
    assert_eq!(stage.asked().await, Ok(7));
    assert!(stage.coordination.expire(DATA_NODES, "n1"));
    stage.write(state(2, "n1")).await;
    // It answers, so it is master in the survey, too.
    assert_eq!(stage.asked().await, Ok(7));
    let member = stage.member().await;
    assert_eq!(
        shown(&member),
        (address.as_str(), host.as_str(), 7, "master")
    );
    // Once it answers no more, it is shown with its last known address.
    played.is_silent.store(true, Ordering::SeqCst);
    let member = stage.member().await;
    let unreachable = (address.as_str(), host.as_str(), 7, "unreachable");
    assert_eq!(shown(&member), unreachable);
    stage.coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_its_latest_process_only() {
    let stage = Stage::new().await;
    let (earlier, _serving) = play(7).await;
    let lease = stage.join(&earlier.presence).await;
    stage.write(state(1, "n1")).await;
    lease.leave().await.unwrap();
    let (later, _serving_later) = play(8).await;
    let _lease = stage.join(&later.presence).await;
    stage.write(state(2, "n1")).await;
    assert_eq!(stage.asked().await, Ok(8));
    // Another process at the last known address is not shown as the node.
    let mut moved = later.presence.clone();
    assert!(stage.coordination.expire(DATA_NODES, "n1"));
    moved.address.clone_from(&earlier.presence.address);
    let _lease = stage.join(&moved).await;
    stage.write(state(3, "n1")).await;
    let member = stage.member().await;
    let unreachable = (
        moved.address.as_str(),
        moved.host.as_str(),
        8,
        "unreachable",
    );
    assert_eq!(shown(&member), unreachable);
    stage.coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_forgotten_when_no_record_lists_its_node() {
    let stage = Stage::new().await;
    let (played, _serving) = play(7).await;
    let lease = stage.join(&played.presence).await;
    stage.write(state(1, "n1")).await;
    lease.leave().await.unwrap();
    stage.write(state(2, "n2")).await;
    stage.write(state(3, "n1")).await;
    let member = stage.member().await;
    assert_eq!(shown(&member), ("", "", 0, "unreachable"));
    let refused = stage.asked().await.unwrap_err().for_read();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    stage.coordinator.stop().await;
}
