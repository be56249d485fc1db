//! Receives a master's state and installs it in this node's directory.
//!
//! The directory's old state is given up only once the header of the transfer is there, which the
//! source sends when it has read and verified its whole state; so a source that can't be reached, or
//! whose state is damaged, costs nothing. Whenever it ends before its end, by an error, a crash, or
//! because it is cancelled, the directory has the old state, nothing, or all of the new one.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::stream::{Stream, StreamExt};
use tierkv_protocol::replication::Process;
use tierkv_rpc::proto::{
    internal::{SnapshotHeader, SnapshotPart, snapshot_part::Kind},
    status::detail,
};
use tierkv_storage::{
    Cursor, Disk, Installation, StorageError, StorageSettings, Unusable, set_aside,
};
use tierkv_types::{Clock, ClusterId, Epoch, Error, Index, LogId, Position, TimeReading, Version};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::{digest::Digest, log_bytes::LogAssembler};

/// A transfer of which nothing comes for so long is over.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the first part may take. Before it the source takes a checkpoint, and reads and verifies
/// its whole store. This node's engine runs meanwhile, and a lost connection ends the wait.
const HEADER_PATIENCE: Duration = Duration::from_secs(3_600);
/// How long the directory may stay locked by the engine that used it before: its store is closed
/// once the last checkpoint is written.
pub(crate) const UNLOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is tried again meanwhile.
pub(crate) const UNLOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why a snapshot could not be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The source refused, or ended the transfer.
    #[error("the master sends no snapshot: {0}")]
    Refused(String),
    /// Nothing came.
    #[error("nothing came from the master for {0:?}")]
    Late(Duration),
    /// What came is not a whole snapshot of that master.
    #[error("what the master sent can't be used: {0}")]
    Unsound(String),
    /// The directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Where a snapshot is installed, and who must send it.
pub(crate) struct Target {
    pub(crate) cluster: ClusterId,
    pub(crate) source: Process,
    pub(crate) settings: StorageSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
}

/// A snapshot that is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// The id of the new log.
    pub(crate) log_id: LogId,
    /// The last record of the snapshot.
    pub(crate) cut: Position,
    /// The master's platform time, on this machine's clocks: from there the next engine goes on
    /// (CLOCK-STEADY).
    pub(crate) time: TimeReading,
}

/// A transfer whose header is there: the source has a whole state and sends it.
pub(crate) struct Transfer<S> {
    cut: Cursor,
    log_from: Position,
    time: TimeReading,
    /// The term in which the master began it.
    epoch: Epoch,
    /// Everything after the header.
    parts: Pin<Box<S>>,
}

impl<S> Transfer<S> {
    /// The term in which the master began it.
    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Target {
    /// Takes the parts of a transfer and installs what they hold.
    ///
    /// # Errors
    /// [`ReceiveError`]; the directory then has its old state or none.
    #[cfg(test)]
    pub(crate) async fn receive(
        &self,
        parts: impl Stream<Item = Result<SnapshotPart, Status>> + Send,
    ) -> Result<Installed, ReceiveError> {
        let transfer = self.begun(parts).await?;
        self.install(transfer).await
    }

    /// Waits for the header of a transfer, and checks it. The directory may be in use.
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing is changed.
    pub(crate) async fn begun<S>(&self, parts: S) -> Result<Transfer<S>, ReceiveError>
    where
        S: Stream<Item = Result<SnapshotPart, Status>> + Send,
    {
        let mut parts = Box::pin(parts);
        let header = match next(&mut parts, HEADER_PATIENCE).await? {
            Some(Kind::Header(header)) => header,
            Some(_) | None => return Err(unsound("it does not begin with a header")),
        };
        let (cut, log_from) = self.check(&header)?;
        Ok(Transfer {
            cut,
            log_from,
            time: self.time_of(&header),
            epoch: Epoch(header.epoch),
            parts,
        })
    }

    /// Installs what a transfer holds, as soon as the directory is unlocked.
    ///
    /// # Errors
    /// [`ReceiveError`]; the directory then has its old state or none.
    pub(crate) async fn install<S>(&self, transfer: Transfer<S>) -> Result<Installed, ReceiveError>
    where
        S: Stream<Item = Result<SnapshotPart, Status>> + Send,
    {
        let Transfer {
            cut,
            log_from,
            time,
            parts,
            ..
        } = transfer;
        let mut installation = self.begin(cut, log_from).await?;
        match fill(&mut installation, parts).await {
            Ok(()) => Ok(Installed {
                log_id: installation.finish().await?,
                cut: cut.position,
                time,
            }),
            Err(error) => {
                installation.abandon().await;
                Err(error)
            }
        }
    }

    /// Where the snapshot and its log end and begin.
    fn check(&self, header: &SnapshotHeader) -> Result<(Cursor, Position), ReceiveError> {
        let Process { node, incarnation } = &self.source;
        let is_of_source = header.cluster == self.cluster.as_str()
            && header.node == node.as_str()
            && header.incarnation == incarnation.0;
        if !is_of_source {
            return Err(unsound(format!(
                "it is of node {} of cluster {}, process {:016x}, and {} of cluster {} was asked",
                header.node, header.cluster, header.incarnation, self.source, self.cluster
            )));
        }
        let cut = Cursor {
            position: position(header.cut_epoch, header.cut_index),
            version: Version::from_bits(header.cut_version),
        };
        Ok((cut, position(header.log_epoch, header.log_index)))
    }

    fn time_of(&self, header: &SnapshotHeader) -> TimeReading {
        TimeReading {
            platform_millis: header.platform_time_ms,
            boot_time: self.clock.boot_time(),
            boot: self.clock.boot(),
            wall_millis: self.clock.wall_millis(),
            is_synchronised: self.clock.is_synchronised(),
        }
    }

    /// Begins the installation, as soon as the directory is unlocked. What can't even be emptied is
    /// set aside.
    async fn begin(&self, cut: Cursor, log_from: Position) -> Result<Installation, StorageError> {
        let deadline = Instant::now() + UNLOCK_PATIENCE;
        let mut is_set_aside = false;
        loop {
            let (settings, disk) = (self.settings.clone(), Arc::clone(&self.disk));
            match Installation::begin(settings, disk, cut, log_from).await {
                Err(StorageError::Locked { .. }) if Instant::now() < deadline => {
                    sleep(UNLOCK_PAUSE).await;
                }
                Err(error) if error.unusable().is_some() && !is_set_aside => {
                    tracing::warn!(
                        %error,
                        "the old data can't be used, and is set aside before the snapshot is \
                         installed"
                    );
                    let (settings, disk) = (self.settings.clone(), Arc::clone(&self.disk));
                    set_aside(settings, disk, Unusable::Store).await?;
                    is_set_aside = true;
                }
                begun => return begun,
            }
        }
    }
}

/// Takes everything after the header.
async fn fill<S>(
    installation: &mut Installation,
    mut parts: Pin<Box<S>>,
) -> Result<(), ReceiveError>
where
    S: Stream<Item = Result<SnapshotPart, Status>>,
{
    let (mut digest, mut log) = (Digest::default(), LogAssembler::default());
    loop {
        match next(&mut parts, RECEIVE_PATIENCE).await? {
            Some(Kind::Piece(piece)) => {
                digest.piece(&piece);
                installation.take(piece).await?;
            }
            Some(Kind::Log(part)) => {
                let records = log.take(&part).map_err(unsound)?;
                digest.log(&part, records.len());
                installation.take_records(records).await?;
            }
            Some(Kind::End(end)) => {
                let received = digest.end();
                if end != received || !log.is_empty() {
                    return Err(unsound(format!(
                        "the master sent {end:?}, and {received:?} came"
                    )));
                }
                return Ok(());
            }
            Some(Kind::Header(_)) => return Err(unsound("it has two headers")),
            None => return Err(unsound("it ends before its end")),
        }
    }
}

/// The next part; `None` at the end of the stream.
async fn next<S>(parts: &mut Pin<Box<S>>, patience: Duration) -> Result<Option<Kind>, ReceiveError>
where
    S: Stream<Item = Result<SnapshotPart, Status>>,
{
    match in_time(parts.next(), patience).await? {
        None => Ok(None),
        Some(Ok(SnapshotPart { kind: Some(kind) })) => Ok(Some(kind)),
        Some(Ok(SnapshotPart { kind: None })) => Err(unsound(
            "a part of it is of a kind that this release does not have: upgrade this node",
        )),
        Some(Err(status)) => Err(refused(&status)),
    }
}

/// Waits for the source, but not for ever.
async fn in_time<T>(
    answer: impl Future<Output = T>,
    patience: Duration,
) -> Result<T, ReceiveError> {
    let answered = timeout(patience, answer).await;
    answered.map_err(|_| ReceiveError::Late(patience))
}

/// Waits until the source has answered the call, before it sends anything.
pub(crate) async fn called<T>(
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, ReceiveError> {
    let answered = in_time(call, HEADER_PATIENCE).await?;
    answered.map_err(|status| refused(&status))
}

/// A status of the source, or of the way to it.
fn refused(status: &Status) -> ReceiveError {
    ReceiveError::Refused(match detail(status) {
        Some(Error { message, .. }) => message.into_owned(),
        None => status.to_string(),
    })
}

fn unsound(what: impl Into<String>) -> ReceiveError {
    ReceiveError::Unsound(what.into())
}

const fn position(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}
