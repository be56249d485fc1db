//! The content of a store in memory, in key order.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

use super::super::{CheckpointBatch, StoreMeta, StoreState};
use crate::{Entry, Item, Outcome, Row, ScrubbedRows, Table};

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
        let rows = self.rows.iter().map(|((table, key), value)| Row {
            table: *table,
            key: key.clone(),
            value: Some(value.clone()),
        });
        StoreState {
            meta: self.meta.clone(),
            rows: rows.collect(),
        }
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
