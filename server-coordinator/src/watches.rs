//! Watches over all clusters: one stream to each cluster's master, merged.
//!
//! A broken stream is opened again, from its last position, at the current master; so a failover
//! shows only as a pause. Changes of different clusters have no order. A data node is not read
//! ahead of the merged stream.
//!
//! The clusters are those that own slots: others have no changes, so a watch neither waits for them
//! nor ends with them. When a cluster gets its first slot or loses its last one, the merged stream
//! ends with `Unavailable`. Opened again from its positions, it watches a new owner from the
//! beginning of its log, and goes on with one that was an owner, so no change is missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{
    future::try_join_all,
    stream::{BoxStream, StreamExt, TryStreamExt, iter, once, select, select_all, unfold},
};
use tierkv_rpc::proto::{
    internal::{WatchPosition, WatchReply, WatchRequest, data_node_client::DataNodeClient},
    status::read_error,
};
use tierkv_rpc::session::FRAME_SLACK;
use tierkv_types::{ClusterId, Code, Epoch, Error, ItemRange, limits::MAX_ANSWER_BYTES};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Streaming;

use crate::{
    routes::Routes,
    routing::{RETRY_PAUSE, for_users, replaced},
    target::Target,
};

/// The longest pause between two attempts to reach a cluster; pauses grow up to it.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a cluster may be unreachable before the watch ends: another coordinator may reach it.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(10);

/// The replies of a watch; an error is the last one.
pub(crate) type WatchReplies = BoxStream<'static, Result<WatchReply, Error>>;

/// Starts a watch: the first replies of all clusters, a reply without a position, then changes and
/// progress as they arrive.
///
/// # Errors
/// `InvalidArgument`, `TokenExpired` for a position of a cluster that does not exist, or
/// `Unavailable` before there is a placement map. The stream may end with the errors of the data
/// nodes.
pub(crate) fn watch(
    routes: watch::Receiver<Arc<Routes>>,
    request: &WatchRequest,
) -> Result<WatchReplies, Error> {
    ItemRange::of_item_prefix(&request.prefix)?;
    let Clusters { all, owners } = clusters(&routes)?;
    let positions = positions(request, &all, &owners)?;
    let also_asked = positions
        .keys()
        .filter(|cluster| !owners.contains(*cluster));
    let mut watched: Vec<Watched> = (owners.iter().chain(also_asked))
        .map(|cluster| Watched {
            cluster: cluster.clone(),
            prefix: request.prefix.clone(),
            routes: routes.clone(),
            position: positions.get(cluster).cloned(),
            replies: None,
            epoch: Epoch::ZERO,
            has_begun: false,
            reached: Instant::now(),
        })
        .collect();
    let changed = once(owners_changed(routes, owners)).map(Err);
    let replies = once(async move {
        let mut begun = try_join_all(watched.iter_mut().map(Watched::next)).await?;
        begun.push(WatchReply::default());
        let streams = watched.into_iter().map(Watched::replies);
        Ok::<_, Error>(iter(begun.into_iter().map(Ok)).chain(select_all(streams)))
    });
    Ok(select(replies.try_flatten(), changed).boxed())
}

/// The clusters of the placement map.
struct Clusters {
    all: BTreeSet<ClusterId>,
    /// Those that own slots.
    owners: BTreeSet<ClusterId>,
}

fn clusters(routes: &watch::Receiver<Arc<Routes>>) -> Result<Clusters, Error> {
    let routes = routes.borrow();
    let placement = (routes.placement.as_ref())
        .ok_or_else(|| Error::unavailable("the platform has no placement map yet"))?;
    let all = placement.clusters.iter().map(|cluster| cluster.id.clone());
    let owners = placement.runs().iter().map(|run| run.cluster.clone());
    Ok(Clusters {
        all: all.collect(),
        owners: owners.collect(),
    })
}

/// Waits until other clusters own slots; returns the error for it.
async fn owners_changed(
    mut routes: watch::Receiver<Arc<Routes>>,
    known: BTreeSet<ClusterId>,
) -> Error {
    loop {
        if routes.changed().await.is_err() {
            // The table is no longer updated because the coordinator is stopping: that ends the
            // stream.
            std::future::pending::<()>().await;
        }
        if clusters(&routes).is_ok_and(|clusters| clusters.owners != known) {
            return Error::unavailable("a cluster joined or left; go on from the last position");
        }
    }
}

/// Where to start in each cluster: at the request's position; an owner without one, at the beginning
/// of the log, because it became an owner later; or now, if the request has no position at all.
fn positions(
    request: &WatchRequest,
    all: &BTreeSet<ClusterId>,
    owners: &BTreeSet<ClusterId>,
) -> Result<BTreeMap<ClusterId, WatchPosition>, Error> {
    let mut positions = BTreeMap::new();
    for position in &request.positions {
        let cluster = ClusterId::new(&position.cluster)?;
        if !all.contains(&cluster) {
            return Err(Error::new(
                Code::TokenExpired,
                format!(
                    "the token is of cluster {cluster}, which does not exist; read the keys anew, \
                     then watch from now"
                ),
            ));
        }
        if positions.insert(cluster, position.clone()).is_some() {
            return Err(Error::invalid(
                "the watch has several positions in one cluster; give one each",
            ));
        }
    }
    if !positions.is_empty() {
        for cluster in owners {
            (positions.entry(cluster.clone())).or_insert_with(|| WatchPosition {
                cluster: cluster.to_string(),
                ..WatchPosition::default()
            });
        }
    }
    Ok(positions)
}

/// The watch of one cluster.
struct Watched {
    cluster: ClusterId,
    prefix: Bytes,
    routes: watch::Receiver<Arc<Routes>>,
    /// The last position it sent; none before the first reply of a watch from now.
    position: Option<WatchPosition>,
    replies: Option<Streaming<WatchReply>>,
    /// The epoch of the master that sends them.
    epoch: Epoch,
    has_begun: bool,
    /// When the cluster last sent something, or became unreachable.
    reached: Instant,
}

impl Watched {
    fn replies(self) -> WatchReplies {
        let replies = unfold(Some(self), async |watched| {
            let mut watched = watched?;
            match watched.next().await {
                Ok(reply) => Some((Ok(reply), Some(watched))),
                Err(error) => Some((Err(error), None)),
            }
        });
        replies.boxed()
    }

    /// The next reply, from the current master.
    async fn next(&mut self) -> Result<WatchReply, Error> {
        let mut pause = RETRY_PAUSE;
        loop {
            let was_open = self.replies.is_some();
            let target = Target::Cluster(self.cluster.clone());
            if !was_open {
                self.epoch = self.routes.borrow_and_update().epoch_of(&target);
            }
            // A master that does not know that it was replaced goes on sending its position.
            let replaced = replaced(&target, self.epoch, self.routes.clone());
            let failure = tokio::select! {
                biased;
                reply = self.attempt() => match reply {
                    Ok(reply) => return Ok(reply),
                    Err(error) => error,
                },
                () = replaced => Error::unavailable("the cluster changed its master"),
            };
            self.replies = None;
            if was_open {
                self.reached = Instant::now();
            }
            let passes = failure.code.is_misrouted() || failure.code == Code::Unavailable;
            if !passes || self.reached.elapsed() > OUTAGE_PATIENCE {
                return Err(for_users(failure));
            }
            if let Ok(Err(_)) = timeout(pause, self.routes.changed()).await {
                sleep(pause).await;
            }
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    /// The next reply of the open stream; opens one if there is none.
    async fn attempt(&mut self) -> Result<WatchReply, Error> {
        loop {
            let replies = match &mut self.replies {
                Some(replies) => replies,
                None => {
                    let opened = self.open().await?;
                    self.replies.insert(opened)
                }
            };
            let reply = replies.message().await;
            let reply = reply.map_err(|status| read_error(&status))?;
            let reply = reply.ok_or_else(|| Error::unavailable("the data node ended the watch"))?;
            let position = (reply.position.as_ref())
                .filter(|position| position.cluster == self.cluster.as_str())
                .ok_or_else(|| {
                    Error::new(Code::NotMaster, "the node belongs to another cluster")
                })?;
            // A reopened stream first repeats its position: that is no news.
            let is_news = self.position.as_ref() != Some(position) || !reply.changes.is_empty();
            self.position = Some(position.clone());
            self.reached = Instant::now();
            if is_news || !self.has_begun {
                self.has_begun = true;
                return Ok(reply);
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<WatchReply>, Error> {
        let master = self.routes.borrow_and_update().of_cluster(&self.cluster)?;
        let mut client = DataNodeClient::new(master.unhurried_channel())
            .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
        let request = WatchRequest {
            prefix: self.prefix.clone(),
            positions: self.position.clone().into_iter().collect(),
        };
        let opened = client.watch(request).await;
        Ok(opened.map_err(|status| read_error(&status))?.into_inner())
    }
}
