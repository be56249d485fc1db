//! The content of a store in memory, in key order.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

use super::super::{CheckpointBatch, StoreMeta, StoreState};
use crate::{Entry, Item, Outcome, Row, ScrubbedRows, Table, piece::PieceWriter};

pub(super) type Items = BTreeMap<ItemKey, Item>;

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// The incarnation that may write.
    incarnation: Option<Incarnation>,
    meta: StoreMeta,
    /// Shared with snapshots, which keep the rows from their start.
    pub(super) items: Arc<Items>,
    pub(super) tombstones: BTreeMap<ItemKey, Version>,
    rows: BTreeMap<(Table, Bytes), Bytes>,
    /// One page for each checkpoint, in order. A page is removed as a whole, as in other
    /// stores.
    outcomes: Vec<Vec<(RequestId, Outcome)>>,
}

/// The items of a range, in key order.
pub(super) fn within<'a>(
    items: &'a Items,
    range: &'a ItemRange,
) -> impl Iterator<Item = (&'a ItemKey, &'a Item)> {
    let (start, end) = (&range.start()[..], &range.end()[..]);
    let bounds = (Bound::Included(start), Bound::Excluded(end));
    let items = (start < end).then(|| items.range::<[u8], _>(bounds));
    items.into_iter().flatten()
}

impl Content {
    pub(super) fn claim(&mut self, incarnation: Incarnation) -> StoreState {
        self.incarnation = Some(incarnation);
        StoreState {
            meta: self.meta.clone(),
            rows: self.rows().collect(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.rows.iter().map(|((table, key), value)| Row {
            table: *table,
            key: key.clone(),
            value: Some(value.clone()),
        })
    }

    /// Removes everything and marks the store as being installed, if `incarnation` may write;
    /// returns whether it may.
    pub(super) fn begin_install(&mut self, incarnation: Incarnation) -> bool {
        if self.incarnation != Some(incarnation) {
            return false;
        }
        let Row { table, key, value } = Row::installing(true);
        *self = Self {
            incarnation: self.incarnation,
            rows: BTreeMap::from([((table, key), value.unwrap_or_default())]),
            ..Self::default()
        };
        true
    }

    /// Everything, in pieces of about `bytes`.
    pub(super) fn pieces(&self, bytes: usize) -> (StoreMeta, VecDeque<Bytes>) {
        let mut writer = PieceWriter::new(bytes);
        let mut pieces = VecDeque::new();
        let tombstones = self.tombstones.iter();
        let mut entries: BTreeMap<&ItemKey, Entry> = tombstones
            .map(|(key, version)| (key, Entry::Tombstone(*version)))
            .collect();
        // A value hides the tombstone of its key.
        let items = self.items.iter();
        entries.extend(items.map(|(key, item)| (key, Entry::Value(item.clone()))));
        for (key, entry) in entries {
            pieces.extend(writer.entry(key.as_bytes(), &entry));
        }
        for (id, outcome) in self.outcomes.iter().flatten() {
            pieces.extend(writer.outcome(id, outcome));
        }
        for row in self.rows() {
            pieces.extend(writer.row(&row));
        }
        pieces.extend(writer.end());
        (self.meta.clone(), pieces)
    }

    /// Writes a batch if `incarnation` may write; returns whether it may.
    pub(super) fn checkpoint(&mut self, incarnation: Incarnation, batch: CheckpointBatch) -> bool {
        if self.incarnation != Some(incarnation) {
            return false;
        }
        self.meta = batch.meta;
        let items = Arc::make_mut(&mut self.items);
        for (key, entry) in batch.changes {
            match entry {
                Entry::Value(item) => {
                    items.insert(key, item);
                }
                Entry::Tombstone(version) => {
                    items.remove(&key);
                    self.tombstones.insert(key, version);
                }
            }
        }
        if let Some(up_to) = batch.forgotten {
            self.tombstones.retain(|_, version| *version > up_to);
        }
        for row in batch.rows {
            let name = (row.table, row.key);
            match row.value {
                Some(value) => self.rows.insert(name, value),
                None => self.rows.remove(&name),
            };
        }
        self.outcomes.push(batch.outcomes);
        self.outcomes.retain(|page| {
            let newest = page.iter().map(|(id, _)| id.birth_millis).max();
            newest.is_some_and(|newest| newest >= batch.request_horizon)
        });
        true
    }

    /// The last outcome of each random part.
    pub(super) fn outcomes(&self) -> Vec<(RequestId, Outcome)> {
        let written = self.outcomes.iter().flatten();
        let last: BTreeMap<[u8; 16], &(RequestId, Outcome)> =
            written.map(|outcome| (outcome.0.random, outcome)).collect();
        last.into_values().cloned().collect()
    }

    pub(super) fn expired(&self, now: Version, limit: usize) -> Vec<(ItemKey, Version)> {
        let mut expired: Vec<(Version, &ItemKey, Version)> = (self.items.iter())
            .filter_map(|(key, item)| Some((item.expires?, key, item.version)))
            .filter(|(expires, ..)| *expires <= now)
            .collect();
        expired.sort_unstable();
        let first = expired.into_iter().take(limit);
        first
            .map(|(_, key, version)| (key.clone(), version))
            .collect()
    }

    /// Counts rows like a scrub. Rows in memory are never damaged.
    pub(super) fn scrub(&self, after: Option<&ItemKey>, limit: usize) -> ScrubbedRows {
        let mut scrubbed = ScrubbedRows::default();
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.items.range::<ItemKey, _>((begin, Bound::Unbounded));
        for (key, item) in rest.take(limit) {
            scrubbed.rows += 1;
            scrubbed.bytes += (key.as_bytes().len() + item.value.len()) as u64;
            scrubbed.last = Some(key.clone());
        }
        if scrubbed.rows < limit {
            scrubbed.last = None;
        }
        scrubbed
    }
}
