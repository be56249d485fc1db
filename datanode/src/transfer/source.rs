//! [`SnapshotSource`]: streams a master's whole state to another node of its cluster.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{Stream, try_unfold},
};
use tierkv_protocol::cache::REDELIVERY_WINDOW;
use tierkv_rpc::{
    ProcessName,
    proto::internal::{FetchSnapshotRequest, SnapshotHeader, SnapshotPart, snapshot_part::Kind},
    stopped, stopping, until_over,
};
use tierkv_storage::{NodeSnapshot, Storage, StorageError, Tail, TailError};
use tierkv_types::{ClusterId, Code, Epoch, Error, Index, NodeId, Version};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    PART_BYTES,
    damage::Relief,
    digest::Digest,
    joiners::{Joiners, Sending},
    log_bytes::LogCutter,
};
use crate::{platform_clock::PlatformClock, sequencer::Sequencer};

/// How much of the log before its last record a snapshot brings along. A node that becomes master
/// needs it to redeliver deletes to the cache (CACHE-REDELIVER).
const LOG_WINDOW: Duration = REDELIVERY_WINDOW;
/// A transfer of which nothing is taken, or made, for so long ends: it takes disk space, and another
/// node may wait for its place.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
/// How often it counts as progress that the store is being read.
const READING_PROGRESS: Duration = Duration::from_secs(5);
/// How often it is checked that this node is still master.
const MASTER_CHECK: Duration = Duration::from_millis(200);

/// What a master sends snapshots with.
pub(crate) struct SnapshotSource {
    pub(crate) cluster: ClusterId,
    /// This process.
    pub(crate) name: ProcessName,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) time: Arc<PlatformClock>,
    pub(crate) joiners: Arc<Joiners>,
    pub(crate) relief: Relief,
}

impl SnapshotSource {
    /// Streams the node's state and the log before it, until `stop`. The first part comes once all of
    /// the state was read and verified: until then the receiver keeps what it has.
    ///
    /// # Errors
    /// `DataLoss` if the state is damaged: then this node hands mastership over, if it can. Also
    /// `NotMaster`; `InvalidArgument` if the cluster has no such node; `ResourceExhausted` while
    /// another transfer takes the place, or the disk has no space; failures of storage. The stream
    /// may end with them too, with `Unavailable` if the receiver takes too long, and with
    /// `NotMaster` once this node is not master of the same term any more.
    pub(crate) async fn fetch(
        &self,
        request: FetchSnapshotRequest,
        stop: watch::Receiver<bool>,
    ) -> Result<impl Stream<Item = Result<SnapshotPart, Error>> + Send + 'static, Error> {
        let parts = self.begin(&request, stop).await;
        let relief = self.relief.clone();
        let parts = parts.inspect_err(|error| relief.failed(error))?;
        Ok(parts.inspect(move |part| match part {
            Ok(part) => relief.is_sent(part),
            Err(error) => relief.failed(error),
        }))
    }

    async fn begin(
        &self,
        request: &FetchSnapshotRequest,
        stop: watch::Receiver<bool>,
    ) -> Result<impl Stream<Item = Result<SnapshotPart, Error>> + Send + use<>, Error> {
        let (node, epoch) = self.check(request)?;
        // Before the snapshot: the log must not lose a record between the two.
        let now = self.sequencer.now().millis();
        let window = u64::try_from(LOG_WINDOW.as_millis()).unwrap_or(u64::MAX);
        let since = Version::from_millis(now.saturating_sub(window));
        let (hold, log_from) = self.storage.hold_log_since(since);
        let snapshot = self.storage.node_snapshot(PART_BYTES).await;
        let snapshot = snapshot.map_err(|error| failed(&error))?;
        let cut = snapshot.cut();
        let log = self.storage.tail_after(log_from).await;
        let log = log.map_err(|error| unread(&error))?;
        tracing::info!(%node, cut = %cut.position, "a snapshot is sent to a node that joins");
        let (name, time) = (self.name.clone(), Arc::clone(&self.time));
        let cluster = self.cluster.to_string();
        let header = move || SnapshotHeader {
            cluster,
            node: name.node.to_string(),
            incarnation: name.incarnation.0,
            epoch: epoch.0,
            cut_epoch: cut.position.epoch.0,
            cut_index: cut.position.index.0,
            cut_version: cut.version.to_bits(),
            log_epoch: log_from.epoch.0,
            log_index: log_from.index.0,
            // The receiver takes it for the time at the header's arrival.
            platform_time_ms: time.millis(),
        };
        let sending = self.joiners.begin(node, hold, cut.position.index);
        let (parts, progress) = Parts::new(Box::new(header), snapshot, log, sending);
        let guard = Guard {
            sequencer: Arc::clone(&self.sequencer),
            epoch,
            progress,
            stop,
        };
        Ok(until_over(parts.stream(), guard.over()))
    }

    /// The node that asks, and the term in which this node may answer.
    fn check(&self, request: &FetchSnapshotRequest) -> Result<(NodeId, Epoch), Error> {
        let node = NodeId::new(&request.node)?;
        if request.cluster != self.cluster.as_str() {
            return Err(Error::new(
                Code::NotMaster,
                "this node belongs to another cluster",
            ));
        }
        let (epoch, is_of_cluster) = self
            .sequencer
            .confirm(|term| (term.epoch(), term.record().has(&node)))?;
        if !is_of_cluster || node == self.name.node {
            return Err(Error::invalid(format!(
                "cluster {} has no other node {node}, so it gets no snapshot; add the node first",
                self.cluster
            )));
        }
        Ok((node, epoch))
    }
}

/// Ends a transfer that must not go on.
struct Guard {
    sequencer: Arc<Sequencer>,
    epoch: Epoch,
    /// Changes with each part that is made.
    progress: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
}

impl Guard {
    /// Waits until the transfer must end; returns the reason.
    async fn over(mut self) -> Error {
        let mut patience = Instant::now() + SEND_PATIENCE;
        loop {
            tokio::select! {
                biased;
                () = stopped(self.stop.clone()) => return stopping(),
                Ok(()) = self.progress.changed() => patience = Instant::now() + SEND_PATIENCE,
                () = sleep_until(patience) => {
                    return Error::unavailable(
                        "the transfer of the snapshot stood still for too long; fetch it anew",
                    );
                }
                () = sleep(MASTER_CHECK) => {}
            }
            match self.sequencer.confirm(|term| term.epoch()) {
                Ok(epoch) if epoch == self.epoch => {}
                Ok(_) => return other_term(),
                Err(error) => return error,
            }
        }
    }
}

/// The rest of a transfer.
pub(super) struct Parts {
    stage: Stage,
    log: LogParts,
    digest: Digest,
    sending: Sending,
    made: watch::Sender<()>,
}

/// Makes the header when it is sent.
type MakeHeader = Box<dyn FnOnce() -> SnapshotHeader + Send>;

/// What comes next.
enum Stage {
    Header(MakeHeader, NodeSnapshot),
    Pieces(NodeSnapshot),
    Log,
    Over,
}

impl Parts {
    /// A whole transfer. The returned receiver changes with each part.
    pub(super) fn new(
        header: MakeHeader,
        snapshot: NodeSnapshot,
        log: Tail,
        sending: Sending,
    ) -> (Self, watch::Receiver<()>) {
        let (made, progress) = watch::channel(());
        let last = snapshot.cut().position.index;
        let parts = Self {
            stage: Stage::Header(header, snapshot),
            log: LogParts {
                tail: log,
                last,
                cutter: LogCutter::default(),
            },
            digest: Digest::default(),
            sending,
            made,
        };
        (parts, progress)
    }

    /// The parts, in order.
    pub(super) fn stream(self) -> impl Stream<Item = Result<SnapshotPart, Error>> + Send + 'static {
        try_unfold(self, async |mut parts| {
            let part = parts.next().await?;
            Ok(part.map(|kind| (SnapshotPart { kind: Some(kind) }, parts)))
        })
    }

    async fn next(&mut self) -> Result<Option<Kind>, Error> {
        let part = self.make().await?;
        self.made.send_replace(());
        Ok(part)
    }

    async fn make(&mut self) -> Result<Option<Kind>, Error> {
        if self.sending.is_broken() {
            return Err(Error::unavailable(
                "records after the snapshot have left the log, which went over twice \
                 wal.max_bytes; fetch another snapshot",
            ));
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Header(header, mut snapshot) => {
                verify(&self.made, &mut snapshot).await?;
                self.stage = Stage::Pieces(snapshot);
                return Ok(Some(Kind::Header(header())));
            }
            Stage::Pieces(mut snapshot) => {
                let piece = snapshot.next().await.map_err(|error| failed(&error))?;
                if let Some(piece) = piece {
                    self.digest.piece(&piece);
                    self.stage = Stage::Pieces(snapshot);
                    return Ok(Some(Kind::Piece(piece)));
                }
            }
            Stage::Log => {}
            Stage::Over => return Ok(None),
        }
        let (part, records) = self.log.next().await.map_err(|error| unread(&error))?;
        if let Some(part) = part {
            self.digest.log(&part, records);
            self.stage = Stage::Log;
            return Ok(Some(Kind::Log(part)));
        }
        self.sending.sent();
        Ok(Some(Kind::End(self.digest.end())))
    }
}

/// Waits until the snapshot is known to be whole. Changes `made` meanwhile, as nothing stands still.
async fn verify(made: &watch::Sender<()>, snapshot: &mut NodeSnapshot) -> Result<(), Error> {
    loop {
        if let Ok(verified) = timeout(READING_PROGRESS, snapshot.verified()).await {
            return verified.map_err(|error| failed(&error));
        }
        made.send_replace(());
    }
}

/// The log up to the snapshot's last record.
struct LogParts {
    tail: Tail,
    last: Index,
    cutter: LogCutter,
}

impl LogParts {
    /// The next part, and how many records were read for it; `None` at the end. Over the whole log,
    /// as many records are counted as it has.
    async fn next(&mut self) -> Result<(Option<bytes::Bytes>, usize), TailError> {
        let mut count = 0;
        while !self.cutter.is_full() && self.tail.cursor().position.index < self.last {
            let stretch = self.tail.read().await?;
            let records = stretch.records();
            for record in records.take_while(|record| record.position.index <= self.last) {
                self.cutter.add(record);
                count += 1;
            }
        }
        Ok((self.cutter.part(), count))
    }
}

fn other_term() -> Error {
    Error::new(
        Code::NotMaster,
        "this node is not master of the same term any more; fetch the snapshot anew",
    )
}

fn failed(error: &StorageError) -> Error {
    match error.is_passing() {
        true => tracing::warn!(%error, "a snapshot could not be sent to a node that joins"),
        false => tracing::error!(%error, "a snapshot could not be sent to a node that joins"),
    }
    match error {
        StorageError::Damaged { .. } => Error::new(
            Code::DataLoss,
            "stored data of the master is damaged, at a place that its log names, so it has no whole \
             state to send; it hands mastership over if another member is in sync, whose state is \
             sent then",
        ),
        _ => error.to_error(),
    }
}

fn unread(error: &TailError) -> Error {
    match error {
        TailError::Storage(error) => failed(error),
        TailError::Trimmed(_) | TailError::Unknown(_) => {
            tracing::warn!(%error, "a snapshot could not be sent to a node that joins");
            Error::unavailable(
                "the log before the snapshot has left the master's log; fetch another snapshot",
            )
        }
    }
}
