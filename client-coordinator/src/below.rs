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
use tierkv_types::{Code, Epoch, Error, NodeId, PlatformId};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

/// How long an operation that reached no coordinator waits for a change of the peers before a
/// retry.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a coordinator whose presence lapsed is still asked after all others, while another one
/// is present.
const LAPSED_KEPT: Duration = Duration::from_secs(600);

/// The server coordinators in the order in which they are asked: the primary, the others that are
/// present, those whose presence lapsed.
pub(crate) type Peers = Arc<Vec<Known>>;

/// A server coordinator at its last known address.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) node: String,
    pub(crate) presence: Presence,
    pub(crate) peer: Peer<ToServerCoordinator>,
    /// The epoch of its primacy, if it is primary.
    pub(crate) epoch: Option<Epoch>,
}

/// Sends operations to the server coordinators.
#[derive(Clone)]
pub(crate) struct Below {
    peers: watch::Receiver<Peers>,
}

impl Below {
    /// Follows the election in the background.
    pub(crate) async fn follow(
        platform: PlatformId,
        coordination: &dyn Coordination,
        background: &mut Background,
    ) -> Result<Self, CoordinationError> {
        let (publish, peers) = watch::channel(Peers::default());
        let leader = coordination.observe_leader(PRIMARY).await?;
        let members = coordination.observe(SERVER_COORDINATORS).await?;
        let follower = PeersFollower::new(platform, leader, members, publish);
        background.follow(follower).await;
        Ok(Self { peers })
    }

    /// The coordinator of an attempt: the primary first, then the others.
    pub(crate) fn peer(&self, turn: usize) -> Result<Peer<ToServerCoordinator>, Error> {
        let peers = self.peers.borrow();
        let peer = peers.get(turn % peers.len().max(1));
        peer.map(|known| known.peer.clone()).ok_or_else(nobody)
    }

    /// All of them, in the order in which they are asked.
    pub(crate) fn all(&self) -> Peers {
        Arc::clone(&self.peers.borrow())
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
                Some(known) => match ask(known.peer.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
            };
            turn += 1;
            // Another process at a last known address did nothing, either.
            let again = failure.code == Code::Unavailable || failure.code == Code::WrongNode;
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

/// One server coordinator, at its last known address.
struct PeerEntry {
    presence: Presence,
    peer: Peer<ToServerCoordinator>,
    /// When its presence lapsed; `None` while it is present.
    lapsed_at: Option<Instant>,
}

struct PeersFollower {
    platform: PlatformId,
    leader: Watched<Option<Leader>>,
    members: Watched<BTreeMap<String, Bytes>>,
    known: HashMap<String, PeerEntry>,
    /// Since when at least one is present.
    present_since: Option<Instant>,
    /// When the next one that lapsed is forgotten.
    forgetting_at: Option<Instant>,
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
            () = until(self.forgetting_at) => Ok(()),
        }
    }
}

impl PeersFollower {
    fn new(
        platform: PlatformId,
        leader: Watched<Option<Leader>>,
        members: Watched<BTreeMap<String, Bytes>>,
        publish: watch::Sender<Peers>,
    ) -> Self {
        Self {
            platform,
            leader,
            members,
            known: HashMap::new(),
            present_since: None,
            forgetting_at: None,
            publish,
        }
    }

    /// The known peers, in the order in which they are asked. Connections to those that remain are
    /// kept.
    fn peers(&mut self) -> Peers {
        let leader = self.leader.current();
        let primary = leader.as_ref().as_ref();
        self.update(primary);
        let epoch_of = |node: &str| {
            let elected = primary.filter(|leader| leader.candidate == node);
            elected.map(|leader| leader.epoch)
        };
        let ordered = self.ordered(primary.map(|leader| leader.candidate.as_str()));
        let known = ordered.into_iter().map(|(node, entry)| Known {
            node: node.clone(),
            presence: entry.presence.clone(),
            peer: entry.peer.clone(),
            epoch: epoch_of(node),
        });
        Arc::new(known.collect())
    }

    /// The primary, the others that are present, those that lapsed.
    fn ordered(&self, primary: Option<&str>) -> Vec<(&String, &PeerEntry)> {
        let mut nodes: Vec<(&String, &PeerEntry)> = self.known.iter().collect();
        nodes.sort_by_key(|(node, entry)| {
            let is_primary = Some(node.as_str()) == primary;
            (!is_primary, entry.lapsed_at.is_some(), (*node).clone())
        });
        nodes
    }

    /// Takes over who is present, and forgets those that lapsed long ago. One that lapsed may still
    /// answer, so it stays a last resort (COORD-PRESENCE).
    fn update(&mut self, primary: Option<&Leader>) {
        let now = Instant::now();
        let members = self.members.current();
        for (node, entry) in &mut self.known {
            if !members.contains_key(node) {
                entry.lapsed_at.get_or_insert(now);
            }
        }
        // A primary is found by its candidacy, too, should its presence have lapsed before.
        let elected = primary.filter(|leader| !members.contains_key(&leader.candidate));
        let elected = elected.map(|leader| (&leader.candidate, &leader.data, Some(now)));
        let present = members.iter().map(|(node, data)| (node, data, None));
        for (node, data, lapsed_at) in present.chain(elected) {
            let Some(presence) = Presence::decode(data) else {
                continue;
            };
            match self.known.get_mut(node) {
                Some(entry) if entry.presence == presence => {
                    // A lapsed one stays lapsed since the first time.
                    entry.lapsed_at = lapsed_at.and(entry.lapsed_at);
                }
                // Another process has the name now, so nothing leads to the earlier one.
                _ => match connect(self.platform, node, presence, lapsed_at) {
                    Some(entry) => drop(self.known.insert(node.clone(), entry)),
                    None => drop(self.known.remove(node)),
                },
            }
        }
        self.forget(primary.map(|leader| leader.candidate.as_str()), now);
    }

    /// Forgets those that lapsed long ago, but not the primary, nor anyone while nobody is present.
    fn forget(&mut self, primary: Option<&str>, now: Instant) {
        let is_one_present = self.known.values().any(|entry| entry.lapsed_at.is_none());
        self.present_since = is_one_present.then(|| self.present_since.unwrap_or(now));
        self.forgetting_at = None;
        let Some(present_since) = self.present_since else {
            return;
        };
        let forgetting_at = &mut self.forgetting_at;
        self.known.retain(|node, entry| {
            let Some(lapsed_at) = entry.lapsed_at else {
                return true;
            };
            if Some(node.as_str()) == primary {
                return true;
            }
            let at = lapsed_at.max(present_since) + LAPSED_KEPT;
            let is_kept = now < at;
            if is_kept {
                *forgetting_at = Some(forgetting_at.map_or(at, |earliest| earliest.min(at)));
            }
            is_kept
        });
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn connect(
    platform: PlatformId,
    node: &str,
    presence: Presence,
    lapsed_at: Option<Instant>,
) -> Option<PeerEntry> {
    let connect = || {
        let name = presence.process_name(platform, NodeId::new(node)?);
        Peer::new(&presence.address, &name)
    };
    let peer = connect()
        .inspect_err(|error| tracing::error!(node, %error, "a coordinator can't be reached"))
        .ok()?;
    Some(PeerEntry {
        presence,
        peer,
        lapsed_at,
    })
}

#[cfg(test)]
mod tests;
