//! [`Noter`]: notes the node's log in coordination, so that an old copy of its data directory is
//! not believed later (REP-LOGID).

use std::{sync::Arc, time::Duration};

use tierkv_coordination::{Coordination, CoordinationError, Swap, Versioned, directory};
use tierkv_protocol::replication::Note;
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::Storage;
use tierkv_types::{ClusterId, NodeId, Position};
use tokio::sync::watch;

use crate::sequencer::Sequencer;

/// How often the log is noted.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often it is checked whether the earlier note was compared.
const WAIT: Duration = Duration::from_millis(200);

/// Why the log can't be compared with its note.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoteError {
    /// Coordination can't be asked now.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The note can't be read, or another process changes it.
    #[error("{0}")]
    Unreadable(String),
}

/// The noter of one data node.
pub(crate) struct Noter {
    cluster: ClusterId,
    node: NodeId,
    coordination: Arc<dyn Coordination>,
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    /// Whether the log was compared with its note. Before, the note must not be replaced.
    compared: watch::Receiver<bool>,
    noted: Option<Note>,
}

impl Noter {
    pub(crate) fn new(
        (cluster, node): (ClusterId, NodeId),
        coordination: Arc<dyn Coordination>,
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        compared: watch::Receiver<bool>,
    ) -> Self {
        Self {
            cluster,
            node,
            coordination,
            sequencer,
            storage,
            compared,
            noted: None,
        }
    }
}

impl Worker for Noter {
    fn name(&self) -> &'static str {
        "noter"
    }

    fn is_cancellable(&self) -> bool {
        // Coordination may take long to answer.
        true
    }

    async fn work(&mut self) -> Pace {
        if !*self.compared.borrow() {
            return Pace::Idle(WAIT);
        }
        let (_, commit, _) = self.sequencer.standing();
        let note = Note {
            log_id: self.storage.log_id(),
            commit: commit.min(self.storage.durable().borrow().index),
        };
        if self.noted.is_none_or(|noted| note.replaces(&noted)) {
            match put_note(&*self.coordination, &self.cluster, &self.node, note).await {
                Ok(()) => self.noted = Some(note),
                Err(error) => tracing::debug!(%error, "the log is not noted yet"),
            }
        }
        Pace::Idle(INTERVAL)
    }
}

/// The node's note, if there is one.
pub(crate) async fn read_note(
    coordination: &dyn Coordination,
    cluster: &ClusterId,
    node: &NodeId,
) -> Result<Option<Note>, NoteError> {
    let stored = coordination
        .get(&directory::log_note(cluster, node))
        .await?;
    let note = stored.map(|stored| Note::decode(&stored.value)).transpose();
    note.map_err(|error| NoteError::Unreadable(error.to_string()))
}

/// Replaces the node's note, unless it has the same log with a higher index already.
async fn put_note(
    coordination: &dyn Coordination,
    cluster: &ClusterId,
    node: &NodeId,
    note: Note,
) -> Result<(), NoteError> {
    let key = directory::log_note(cluster, node);
    let stored = coordination.get(&key).await?;
    let earlier = stored.as_ref().map(|stored| Note::decode(&stored.value));
    if let Some(Ok(earlier)) = earlier
        && !note.replaces(&earlier)
    {
        return Ok(());
    }
    replace_note(coordination, &key, stored, note).await
}

/// Replaces the note `stored`, whatever it says.
pub(crate) async fn replace_note(
    coordination: &dyn Coordination,
    key: &str,
    stored: Option<Versioned>,
    note: Note,
) -> Result<(), NoteError> {
    let swapped = match stored {
        None => coordination.put_if_absent(key, note.encode()).await?,
        Some(stored) => {
            coordination
                .compare_and_swap(key, stored.revision, note.encode())
                .await?
        }
    };
    match swapped {
        Swap::Won(_) => Ok(()),
        Swap::Lost => Err(NoteError::Unreadable(
            "another process noted the log at the same time".to_owned(),
        )),
    }
}

/// What an operator does about a log that lacks what was noted.
pub(crate) fn old_copy(node: &NodeId, note: &Note, last: Position) -> String {
    format!(
        "the log of node {node} ends with record {last}, but the node noted record {} of the same \
         log: the data directory is an old copy; bring the newest back, or continue with this \
         one: `tierkv admin recover --data-dir DIR`",
        note.commit
    )
}
