//! A node's disk in the simulation: the log, its store and its small files.

use std::{collections::BTreeMap, sync::Arc};

use tierkv_types::{
    ChangeKind, Epoch, EpochTable, Index, LogId, Payload, Position, Record, Version,
};

use crate::replication::{Restored, Seen};

/// The number of keys.
pub(super) const KEYS: usize = 3;

/// What the keys hold: the version and the number of the last write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) values: [(Version, i64); KEYS],
    /// Each applied request, and the index of its record.
    pub(super) requests: BTreeMap<u64, Index>,
}

impl Content {
    pub(super) fn apply(&mut self, record: &Record) {
        if let Some((key, number)) = change_of(record) {
            self.values[key] = (record.version, number);
            self.requests
                .insert(request_of(number), record.position.index);
        }
    }
}

/// The key that a record changes, and the number it gets.
pub(super) fn change_of(record: &Record) -> Option<(usize, i64)> {
    let Payload::Write(write) = &record.payload else {
        return None;
    };
    let change = write.changes.first()?;
    let ChangeKind::Increment { number, .. } = change.kind else {
        return None;
    };
    let key = *change.key.as_bytes().last()?;
    Some((usize::from(key), number))
}

/// Each request writes a number of its own.
pub(super) const fn request_of(number: i64) -> u64 {
    number.unsigned_abs()
}

/// A log, from the record after `base` on.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) id: LogId,
    /// The state that the log begins after.
    pub(super) base: Position,
    pub(super) base_epochs: EpochTable,
    pub(super) base_content: Content,
    pub(super) base_version: Version,
    pub(super) records: Vec<Arc<Record>>,
}

impl Log {
    pub(super) fn last(&self) -> Position {
        self.records.last().map_or(self.base, |it| it.position)
    }

    pub(super) fn get(&self, index: Index) -> Option<&Arc<Record>> {
        let place = index.0.checked_sub(self.base.index.0 + 1)?;
        self.records.get(usize::try_from(place).ok()?)
    }

    pub(super) fn truncate(&mut self, last: Index) {
        let kept = last.0.saturating_sub(self.base.index.0);
        self.records
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    pub(super) fn epochs(&self) -> EpochTable {
        let mut epochs = self.base_epochs.clone();
        for record in &self.records {
            let Position { epoch, index } = record.position;
            if epochs.last().is_none_or(|(last, _)| last < epoch) {
                epochs.begin(epoch, index).expect("epochs rise");
            }
        }
        epochs
    }

    /// The highest version in it.
    pub(super) fn version(&self) -> Version {
        self.records
            .last()
            .map_or(self.base_version, |it| it.version)
    }

    /// What the keys hold after the record `index`.
    pub(super) fn content_at(&self, index: Index) -> Content {
        let mut content = self.base_content.clone();
        let records = self.records.iter();
        for record in records.take_while(|record| record.position.index <= index) {
            content.apply(record);
        }
        content
    }

    /// Forgets the records up to `index`: the store has them.
    pub(super) fn trim(&mut self, index: Index) {
        let index = index.min(self.last().index);
        if index <= self.base.index {
            return;
        }
        let content = self.content_at(index);
        let version = self.get(index).map_or(self.base_version, |it| it.version);
        let mut epochs = self.epochs();
        epochs.truncate(index);
        let count = index.0 - self.base.index.0;
        self.base = epochs.position(index);
        self.base_epochs = epochs;
        self.base_content = content;
        self.base_version = version;
        self.records.drain(..usize::try_from(count).unwrap_or(0));
    }
}

/// Everything that survives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// The log up to what is durable.
    pub(super) log: Log,
    /// The index up to which the store has everything.
    pub(super) stored: Index,
    pub(super) promised: Epoch,
    pub(super) seen: Option<Seen>,
}

impl Disk {
    pub(super) fn empty(id: LogId) -> Self {
        Self {
            log: Log {
                id,
                ..Log::default()
            },
            ..Self::default()
        }
    }

    /// What a start finds.
    pub(super) fn restored(&self) -> Restored {
        let commits = self.log.records.iter().map(|record| record.commit);
        let commit = commits.fold(self.stored, Index::max);
        Restored {
            log_id: self.log.id,
            last: self.log.last(),
            epochs: self.log.epochs(),
            commit: commit.min(self.log.last().index),
            applied: self.stored,
            promised: self.promised,
            seen: self.seen.clone(),
        }
    }
}
