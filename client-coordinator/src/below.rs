//! The way to the server coordinators: to the elected primary, or to any other that can
//! be reached (TXN-ROUTE).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tierkv_coordination::{
    Coordination, CoordinationError, Leader, Watched,
    directory::{PRIMARY, Presence, SERVER_COORDINATORS},
};
use tierkv_rpc::{
    CallError, Multiplexer, channel,
    proto::internal::{reply, request},
    tiers::ToServerCoordinator,
};
use tierkv_types::{Code, Error, limits::MAX_PEER_IN_FLIGHT};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tonic::transport::Channel;

/// Connections to one server coordinator: one serialises, so there are a few.
const CHANNELS_PER_COORDINATOR: usize = 2;
/// Questions to one server coordinator that may be under way at once.
const MAX_QUESTIONS_IN_FLIGHT: usize = 256;
/// How long an operation that reached nobody waits for news before it tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// One server coordinator.
#[derive(Clone)]
pub(crate) struct Peer {
    address: String,
    operations: Multiplexer<ToServerCoordinator>,
    /// Questions how far the cache may be believed have a stream of their own: where
    /// operations wait for places, hits must not end for want of an answer.
    questions: Multiplexer<ToServerCoordinator>,
    pub(crate) channel: Channel,
}

/// The living server coordinators, the primary first.
type Peers = Arc<Vec<Peer>>;

/// The way down.
#[derive(Clone)]
pub(crate) struct Below {
    peers: watch::Receiver<Peers>,
}

impl Below {
    /// Follows the election until `stop` says so.
    pub(crate) async fn follow(
        coordination: &dyn Coordination,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, CoordinationError> {
        let mut follower = Follower {
            leader: coordination.observe_leader(PRIMARY).await?,
            members: coordination.observe(SERVER_COORDINATORS).await?,
            known: HashMap::new(),
        };
        let (publish, peers) = watch::channel(follower.peers());
        tokio::spawn(follower.run(publish, stop));
        Ok(Self { peers })
    }

    /// The coordinator to ask first.
    pub(crate) fn first(&self) -> Result<Peer, Error> {
        self.peers.borrow().first().cloned().ok_or_else(nobody)
    }

    /// Sends a read or a question down; it is tried elsewhere and again until `deadline`.
    pub(crate) async fn ask(
        &self,
        kind: request::Kind,
        deadline: Instant,
    ) -> Result<reply::Kind, Error> {
        self.call(kind, deadline, CallError::for_read).await
    }

    /// Sends a write down; it is tried again only while it certainly had no effect.
    pub(crate) async fn write(
        &self,
        kind: request::Kind,
        deadline: Instant,
    ) -> Result<reply::Kind, Error> {
        self.call(kind, deadline, CallError::for_write).await
    }

    async fn call(
        &self,
        kind: request::Kind,
        deadline: Instant,
        meaning: fn(CallError) -> Error,
    ) -> Result<reply::Kind, Error> {
        let mut news = self.peers.clone();
        let mut turn = 0;
        loop {
            let peers = Arc::clone(&news.borrow_and_update());
            let failure = match peers.get(turn % peers.len().max(1)) {
                None => nobody(),
                Some(peer) => match peer.stream_for(&kind).call(kind.clone(), deadline).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => meaning(error),
                },
            };
            turn += 1;
            let again = failure.code == Code::Unavailable;
            if !again || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(failure);
            }
            if turn >= peers.len() {
                wait_for_news(&mut news).await;
            }
        }
    }
}

impl Peer {
    const fn stream_for(&self, kind: &request::Kind) -> &Multiplexer<ToServerCoordinator> {
        match kind {
            request::Kind::Vouch(_) => &self.questions,
            request::Kind::Read(_) | request::Kind::Write(_) => &self.operations,
        }
    }
}

/// Waits until the table of coordinators changes, at most [`RETRY_PAUSE`]; just that long
/// once nobody is left who could change it.
async fn wait_for_news(news: &mut watch::Receiver<Peers>) {
    let again = Instant::now() + RETRY_PAUSE;
    if let Ok(Err(_)) = timeout_at(again, news.changed()).await {
        sleep_until(again).await;
    }
}

fn nobody() -> Error {
    Error::unavailable("no server coordinator can be reached; try again")
}

struct Follower {
    leader: Watched<Option<Leader>>,
    members: Watched<BTreeMap<String, Bytes>>,
    known: HashMap<String, Peer>,
}

impl Follower {
    async fn run(mut self, publish: watch::Sender<Peers>, mut stop: watch::Receiver<bool>) {
        loop {
            let changed = tokio::select! {
                changed = self.leader.changed() => changed,
                changed = self.members.changed() => changed,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if changed.is_err() {
                return;
            }
            publish.send_replace(self.peers());
        }
    }

    /// The peers as coordination has them now; connections of those that stayed are kept.
    fn peers(&mut self) -> Peers {
        let members = self.members.current();
        self.known.retain(|node, _| members.contains_key(node));
        for (node, data) in members.iter() {
            let Some(Presence { address, .. }) = Presence::decode(data) else {
                continue;
            };
            let moved = self
                .known
                .get(node)
                .is_none_or(|peer| peer.address != address);
            if moved && let Some(peer) = connect(address) {
                self.known.insert(node.clone(), peer);
            }
        }
        let leader = self.leader.current();
        let primary = leader
            .as_ref()
            .as_ref()
            .map(|leader| leader.candidate.as_str());
        let mut nodes: Vec<&String> = self.known.keys().collect();
        nodes.sort_by_key(|node| (Some(node.as_str()) != primary, (*node).clone()));
        Arc::new(
            nodes
                .into_iter()
                .map(|node| self.known[node].clone())
                .collect(),
        )
    }
}

fn connect(address: String) -> Option<Peer> {
    let channels: Result<Vec<_>, Error> = (0..CHANNELS_PER_COORDINATOR)
        .map(|_| channel(&address))
        .collect();
    let channels = channels
        .inspect_err(|error| tracing::error!(%error, "a coordinator told an address of no use"))
        .ok()?;
    let channel = channels.first()?.clone();
    Some(Peer {
        address,
        operations: Multiplexer::new(channels, MAX_PEER_IN_FLIGHT),
        questions: Multiplexer::new(vec![channel.clone()], MAX_QUESTIONS_IN_FLIGHT),
        channel,
    })
}
