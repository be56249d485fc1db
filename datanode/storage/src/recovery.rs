//! Recovery at a start: checks that store, log and node state agree.
//!
//! The store holds the effects of all records up to its applied index; the log must hold
//! every record after it. If they do not agree, the start is refused with an error, because
//! acknowledged writes may be missing. In one case the start continues, under a new log id
//! (REP-LOGID): the log is missing, or ends before what the store holds. The node is then not
//! a member of its cluster until it is readmitted.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use tierkv_types::{
    Epoch, EpochTable, Index, LogId, OwnedSlots, Position, Record, TimeReading, Version,
};

use crate::{
    StorageError,
    log::{LogFound, LogPlace, SEGMENT_HEADER_BYTES, SegmentHeader, scan},
    node_state::NodeState,
    state::{Progress, slots_from_rows},
    store::{StoreMeta, StoreState},
    stored_time,
};

/// The store's file in a node's directory.
pub(crate) const STORE_FILE: &str = "store.sqlite";

/// The state of storage when it was opened.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The log's id; a new one if the log was created or given up (REP-LOGID).
    pub log_id: LogId,
    /// The last record of the log.
    pub last: Position,
    /// The highest index known to be committed: the highest that a record carries, or the
    /// store's applied index if that is higher.
    pub commit: Index,
    /// The last record whose effect the store holds; memory is empty.
    pub applied: Index,
    /// The highest version seen anywhere.
    pub clock: Version,
    /// The platform time that was stored last, if any.
    pub time: Option<TimeReading>,
    /// The records after `applied`, in order. They are not applied.
    pub tail: Vec<Arc<Record>>,
    /// Each epoch's first index, over the whole history.
    pub epochs: EpochTable,
    /// The slots that the cluster owns as of `applied`.
    pub owned: OwnedSlots,
    /// The highest epoch promised.
    pub promised: Epoch,
    /// The highest cluster state seen.
    pub cluster_state: Option<Bytes>,
}

/// Reads the log and checks it against the store. Creates or replaces the log where that is
/// safe. Blocks.
pub(crate) fn recover(
    place: &mut LogPlace,
    node_state: &NodeState,
    state: &StoreState,
    store_path: &Path,
) -> Result<(LogFound, Recovered), StorageError> {
    let meta = &state.meta;
    let mut found = scan(place, meta.applied.index)?;
    if let Some(log) = &found {
        check_identity(log, node_state, meta, store_path)?;
        if log.last().index < meta.applied.index {
            tracing::error!(
                log_ends = %log.last(),
                store_holds = %meta.applied,
                "the log ends before what the store holds; it is replaced by one with a new id"
            );
            place.remove_all()?;
            found = None;
        }
    } else if meta.applied.index > Index::ZERO {
        tracing::error!(
            store_holds = %meta.applied,
            "the log is missing; a new one with a new id starts after what the store holds"
        );
    }
    let mut log = match found {
        Some(log) => log,
        None => begin(place, node_state, meta)?,
    };
    place.log_id = log.log_id;
    check_overlap(&log, meta)?;
    let facts = node_state.facts().unwrap_or_default();
    let mut progress = state.progress(store_path)?;
    for record in &log.tail {
        let advanced = progress.advance(record.position, record.version);
        advanced.map_err(|broken| {
            StorageError::damaged(&log.segments[0].path, 0, broken.to_string())
        })?;
    }
    let recovered = Recovered {
        log_id: log.log_id,
        last: log.last(),
        commit: log.commit.max(meta.applied.index),
        applied: meta.applied.index,
        clock: log.progress.clock.max(meta.clock),
        time: stored_time::read(&*place.disk, node_state.dir())?,
        tail: std::mem::take(&mut log.tail),
        epochs: progress.epochs,
        owned: slots_from_rows(&state.rows, store_path)?,
        promised: facts.promised,
        cluster_state: facts.cluster_state,
    };
    Ok((log, recovered))
}

/// Creates a log with a new id after what the store holds.
pub(crate) fn begin(
    place: &mut LogPlace,
    node_state: &NodeState,
    meta: &StoreMeta,
) -> Result<LogFound, StorageError> {
    // Zero stands for "none" in a fresh store.
    place.log_id = LogId(rand::random::<u64>().max(1));
    // The id is stored before a file has it, because a segment of another id is damage.
    node_state.set_log_id(place.log_id)?;
    let header = SegmentHeader {
        log_id: place.log_id,
        number: 1,
        first: meta.applied.index.next(),
        previous_epoch: meta.applied.epoch,
        clock: meta.clock,
    };
    let names = place.open_names()?;
    let segment = place.begin(place.set_aside(&mut None)?, header, &*names)?;
    Ok(LogFound {
        log_id: place.log_id,
        segments: vec![segment.close()],
        offset: SEGMENT_HEADER_BYTES,
        before: meta.applied,
        progress: Progress {
            position: meta.applied,
            ..Progress::default()
        },
        commit: Index::ZERO,
        tail: Vec::new(),
    })
}

/// Checks that log, node state and store belong to the same node.
fn check_identity(
    log: &LogFound,
    node_state: &NodeState,
    meta: &StoreMeta,
    store_path: &Path,
) -> Result<(), StorageError> {
    let Some(facts) = node_state.facts() else {
        return Err(StorageError::damaged(
            &node_state.path(),
            0,
            "the file is missing, so this node's promise is unknown",
        ));
    };
    if facts.log_id != log.log_id {
        return Err(StorageError::damaged(
            &node_state.path(),
            16,
            format!(
                "the node's log is {}, its files are of log {}",
                facts.log_id, log.log_id
            ),
        ));
    }
    // A new log's id is written to the store before its first record.
    let has_records = log.last() != log.before;
    if has_records && meta.log_id != log.log_id && meta.log_id != LogId::default() {
        return Err(StorageError::Damaged {
            file: store_path.to_owned(),
            place: "the row of meta".into(),
            what: format!(
                "the store is of log {}, the log is {}",
                meta.log_id, log.log_id
            ),
        });
    }
    Ok(())
}

/// Checks that the log continues exactly after what the store holds.
pub(crate) fn check_overlap(log: &LogFound, meta: &StoreMeta) -> Result<(), StorageError> {
    let first = &log.segments[0];
    if log.before.index > meta.applied.index {
        return Err(StorageError::damaged(
            &first.path,
            0,
            format!(
                "the log begins with record {}, but the store ends with record {}",
                first.header.first, meta.applied
            ),
        ));
    }
    let begun = log.progress.epochs.of(meta.applied.index);
    let epoch = begun.unwrap_or(log.before.epoch);
    if epoch != meta.applied.epoch {
        return Err(StorageError::damaged(
            &first.path,
            0,
            format!(
                "record {} is of epoch {epoch} in the log, of epoch {} in the store",
                meta.applied.index, meta.applied.epoch
            ),
        ));
    }
    Ok(())
}

/// The location of a node's log.
pub(crate) fn place(disk: &Arc<dyn crate::Disk>, settings: &crate::StorageSettings) -> LogPlace {
    LogPlace {
        disk: Arc::clone(disk),
        dir: settings.dir.join("log"),
        log_id: LogId::default(),
        segment_bytes: settings.segment_bytes,
        sync: settings.sync,
    }
}
