//! Calls to the server coordinators: to the elected primary, or to any other that can be reached
//! (TXN-ROUTE).

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tierkv_coordination::{
    Coordination, CoordinationError, Leader, Watched,
    directory::{PRIMARY, Presence, SERVER_COORDINATORS},
};
use tierkv_rpc::{
    Background, CallError, Follower, last_attempt,
    proto::internal::{reply, request},
    tiers::{Peer, ToServerCoordinator},
};
use tierkv_types::{Code, Error};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

/// How long an operation that reached no coordinator waits for a change of the peers before a
/// retry.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The live server coordinators, the primary first.
type Peers = Arc<Vec<Peer<ToServerCoordinator>>>;

/// Sends operations to the server coordinators.
#[derive(Clone)]
pub(crate) struct Below {
    peers: watch::Receiver<Peers>,
}

impl Below {
    /// Follows the election in the background.
    pub(crate) async fn follow(
        coordination: &dyn Coordination,
        background: &mut Background,
    ) -> Result<Self, CoordinationError> {
        let follower = PeersFollower {
            leader: coordination.observe_leader(PRIMARY).await?,
            members: coordination.observe(SERVER_COORDINATORS).await?,
            known: HashMap::new(),
            publish: watch::Sender::default(),
        };
        let peers = follower.publish.subscribe();
        background.follow(follower).await;
        Ok(Self { peers })
    }

    /// The coordinator to ask first.
    pub(crate) fn first(&self) -> Result<Peer<ToServerCoordinator>, Error> {
        self.peer(0)
    }

    /// The coordinator of an attempt: the primary first, then the others.
    pub(crate) fn peer(&self, turn: usize) -> Result<Peer<ToServerCoordinator>, Error> {
        let peers = self.peers.borrow();
        let peer = peers.get(turn % peers.len().max(1));
        peer.cloned().ok_or_else(nobody)
    }

    /// Sends a read down; it is retried, also at other coordinators, until `deadline`.
    pub(crate) async fn ask(
        &self,
        kind: request::Kind,
        deadline: Instant,
    ) -> Result<reply::Kind, Error> {
        self.call(&kind, deadline, CallError::for_read).await
    }

    /// Sends a write down; it is retried only while it certainly had no effect.
    pub(crate) async fn write(
        &self,
        kind: &request::Kind,
        deadline: Instant,
    ) -> Result<reply::Kind, Error> {
        self.call(kind, deadline, CallError::for_write).await
    }

    async fn call(
        &self,
        kind: &request::Kind,
        deadline: Instant,
        meaning: fn(CallError) -> Error,
    ) -> Result<reply::Kind, Error> {
        self.each(deadline, move |peer| async move {
            peer.call(kind.clone(), deadline).await.map_err(meaning)
        })
        .await
    }

    /// Calls `ask` with one coordinator after the other, the primary first, until one succeeds or
    /// fails with another error than `Unavailable`, or until the deadline is near.
    pub(crate) async fn each<T, F>(
        &self,
        deadline: Instant,
        ask: impl Fn(Peer<ToServerCoordinator>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut news = self.peers.clone();
        let last_attempt = last_attempt(deadline);
        let mut turn = 0;
        loop {
            let peers = Arc::clone(&news.borrow_and_update());
            let failure = match peers.get(turn % peers.len().max(1)) {
                None => nobody(),
                Some(peer) => match ask(peer.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
            };
            turn += 1;
            let again = failure.code == Code::Unavailable;
            if !again || Instant::now() >= last_attempt {
                return Err(failure);
            }
            if turn >= peers.len() {
                wait_for_news(&mut news).await;
            }
        }
    }
}

/// Waits until the peers change, at most [`RETRY_PAUSE`]; for exactly that long once nothing can
/// change them any more.
async fn wait_for_news(news: &mut watch::Receiver<Peers>) {
    let again = Instant::now() + RETRY_PAUSE;
    if let Ok(Err(_)) = timeout_at(again, news.changed()).await {
        sleep_until(again).await;
    }
}

fn nobody() -> Error {
    Error::unavailable("no server coordinator can be reached; try again")
}

/// One server coordinator.
struct PeerEntry {
    address: String,
    peer: Peer<ToServerCoordinator>,
}

struct PeersFollower {
    leader: Watched<Option<Leader>>,
    members: Watched<BTreeMap<String, Bytes>>,
    known: HashMap<String, PeerEntry>,
    publish: watch::Sender<Peers>,
}

impl Follower for PeersFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "server coordinators"
    }

    async fn apply(&mut self) {
        let peers = self.peers();
        self.publish.send_replace(peers);
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        tokio::select! {
            biased;
            changed = self.leader.changed() => changed,
            changed = self.members.changed() => changed,
        }
    }
}

impl PeersFollower {
    /// The peers that coordination lists now; connections to those that remain are kept.
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
                .is_none_or(|known| known.address != address);
            if moved && let Some(peer) = connect(&address) {
                self.known.insert(node.clone(), PeerEntry { address, peer });
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
                .map(|node| self.known[node].peer.clone())
                .collect(),
        )
    }
}

fn connect(address: &str) -> Option<Peer<ToServerCoordinator>> {
    Peer::new(address)
        .inspect_err(|error| tracing::error!(%error, "a server coordinator's address is invalid"))
        .ok()
}
