//! Following a range of keys (COORD-WATCH).
//!
//! ```text
//!  read ─► watch from the next revision ─► publish each answer
//!    ▲                  │
//!    └── any end of it ◄┘  error, cancellation, compaction, silence
//! ```
//!
//! A watch of etcd ends for many reasons, some of them without a sign: a paused server just says
//! nothing. So every end is treated alike, by reading the newest state again at a member that
//! answers, and a watch that is silent is asked for its progress.

use std::{convert::Infallible, ops::ControlFlow, sync::Arc, time::Duration};

use etcd_client::{WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    cluster::{Cluster, Connection, MAX_ANSWER_BYTES},
    failure::{Failure, Kind},
    snapshot::{Range, Snapshot},
};
use crate::{error::CoordinationError, watch::Watched};

/// A watch that received nothing for this long asks for its progress.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
/// A watch that received nothing for this many more pauses is given up.
const SILENT_PAUSES: u32 = 2;
/// Timeout for the begin of a watch.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// The pause after a read that failed.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a watch that ended.
const WATCH_PAUSE: Duration = Duration::from_millis(50);

/// Follows the range for a listener: `shape` makes its state. The task ends with the last listener,
/// or with the store.
pub(super) async fn watched<T>(
    cluster: &Arc<Cluster>,
    range: Range,
    shape: impl Fn(&Snapshot) -> T + Send + Sync + 'static,
) -> Result<Watched<T>, CoordinationError>
where
    T: PartialEq + Send + Sync + 'static,
{
    let first = Snapshot::read(cluster, &range).await?;
    let (sender, receiver) = watch::channel(Arc::new(shape(&first)));
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        let publish = |snapshot: &Snapshot| {
            let state = shape(snapshot);
            sender.send_if_modified(|published| {
                let is_new = **published != state;
                if is_new {
                    *published = Arc::new(state);
                }
                is_new
            });
            ControlFlow::<Infallible>::Continue(())
        };
        tokio::select! {
            _ = follow(&cluster, &range, Some(first), publish) => {}
            () = sender.closed() => {}
            () = cluster.closed() => {}
        }
    });
    Ok(Watched::new(receiver))
}

/// Calls `publish` with the state of the range, and with each newer one, until it breaks. Begins
/// with `first`, or else with a read.
pub(super) async fn follow<B>(
    cluster: &Cluster,
    range: &Range,
    first: Option<Snapshot>,
    mut publish: impl FnMut(&Snapshot) -> ControlFlow<B>,
) -> B {
    let mut snapshot = match first {
        Some(first) => first,
        None => read_again(cluster, range).await,
    };
    loop {
        if let ControlFlow::Break(end) = publish(&snapshot) {
            return end;
        }
        match watch_once(cluster, range, &mut snapshot, &mut publish).await {
            ControlFlow::Break(end) => return end,
            ControlFlow::Continue(failure) => {
                let reason = failure.words;
                tracing::debug!(reason, "a watch of etcd ended, reading again");
            }
        }
        sleep(WATCH_PAUSE).await;
        snapshot = read_again(cluster, range).await;
    }
}

/// Reads until it works.
async fn read_again(cluster: &Cluster, range: &Range) -> Snapshot {
    let mut is_reported = false;
    loop {
        match Snapshot::read(cluster, range).await {
            Ok(snapshot) => {
                if is_reported {
                    tracing::info!("etcd answers again, watches go on");
                }
                return snapshot;
            }
            Err(error) if is_reported => {
                tracing::debug!(%error, "a watch of etcd still waits");
            }
            Err(error) => {
                is_reported = true;
                tracing::warn!(%error, "a watch of etcd was interrupted and waits");
            }
        }
        sleep(READ_PAUSE).await;
    }
}

/// Watches at the member that answered the read, until the watch ends or `publish` breaks.
async fn watch_once<B>(
    cluster: &Cluster,
    range: &Range,
    snapshot: &mut Snapshot,
    publish: &mut impl FnMut(&Snapshot) -> ControlFlow<B>,
) -> ControlFlow<B, Failure> {
    let mut stream = match Stream::open(cluster, range, snapshot).await {
        Ok(stream) => stream,
        Err(failure) => return ControlFlow::Continue(failure),
    };
    loop {
        let answer = match stream.next().await {
            Ok(answer) => answer,
            Err(failure) => return ControlFlow::Continue(failure),
        };
        if answer.events().is_empty() {
            continue;
        }
        snapshot.apply(answer.events());
        cluster.history.saw(snapshot.revision);
        if let ControlFlow::Break(end) = publish(snapshot) {
            return ControlFlow::Break(end);
        }
    }
}

/// A watch at one member.
struct Stream<'a> {
    cluster: &'a Cluster,
    member: usize,
    connection: Connection,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
}

impl<'a> Stream<'a> {
    /// Watches what happens after `snapshot`, at the member that it is of.
    async fn open(
        cluster: &'a Cluster,
        range: &Range,
        snapshot: &Snapshot,
    ) -> Result<Self, Failure> {
        let member = snapshot.member;
        let opened = async {
            let connection = cluster.connection(member).await?;
            let mut client = connection
                .client
                .watch_client()
                .max_decoding_message_size(MAX_ANSWER_BYTES);
            let options = range.watch_options(snapshot.revision + 1);
            let opening = client.watch(range.key(), Some(options));
            match timeout(OPEN_LIMIT, opening).await {
                Ok(Ok(stream)) => Ok((connection, stream)),
                Ok(Err(error)) => Err(Failure::of(&error, cluster.address(member))),
                Err(_) => {
                    cluster.discard(member, &connection).await;
                    Err(ended(cluster, member, "the watch did not begin in time"))
                }
            }
        };
        let (connection, stream) = opened
            .await
            .inspect_err(|_: &Failure| cluster.turn_from(member))?;
        let (requests, answers) = stream.split();
        Ok(Self {
            cluster,
            member,
            connection,
            requests,
            answers,
        })
    }

    /// The next answer. An error ends the watch.
    async fn next(&mut self) -> Result<WatchResponse, Failure> {
        for _ in 0..=SILENT_PAUSES {
            match timeout(PROGRESS_PAUSE, self.answers.message()).await {
                Ok(Ok(Some(answer))) => return self.checked(answer),
                Ok(Ok(None)) => return Err(self.ended("the watch was closed")),
                Ok(Err(error)) => {
                    self.cluster.turn_from(self.member);
                    let address = self.cluster.address(self.member);
                    return Err(Failure::of(&error, address));
                }
                Err(_) => {
                    // A member that lives answers this. If the stream is gone, the next turn
                    // finds that out.
                    let _ = self.requests.request_progress().await;
                }
            }
        }
        self.cluster.discard(self.member, &self.connection).await;
        self.cluster.turn_from(self.member);
        Err(self.ended("the watch was silent"))
    }

    fn checked(&self, answer: WatchResponse) -> Result<WatchResponse, Failure> {
        if answer.canceled() {
            let why = if answer.compact_revision() > 0 {
                "the watch fell behind a compaction".to_owned()
            } else {
                format!("the watch was cancelled: {}", answer.cancel_reason())
            };
            return Err(self.ended(&why));
        }
        if let Some(header) = answer.header() {
            let address = self.cluster.address(self.member);
            let history = &self.cluster.history;
            history.check_cluster(header.cluster_id(), address)?;
        }
        Ok(answer)
    }

    fn ended(&self, why: &str) -> Failure {
        ended(self.cluster, self.member, why)
    }
}

fn ended(cluster: &Cluster, member: usize, why: &str) -> Failure {
    let words = format!("etcd at {}: {why}", cluster.address(member));
    Failure::new(Kind::NotDone, words)
}
