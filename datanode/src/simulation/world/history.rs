//! The history of the log, record by record: the order in which everything must have happened.

use std::{collections::BTreeMap, sync::Arc};

use tierkv_storage::{Effects, Item};
use tierkv_types::{Index, ItemKey, Payload, Record, Version};

use super::model;
use crate::judgement::Effect;

/// When something happened: in virtual time, and at which turn of the world.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct When {
    pub(super) millis: u64,
    pub(super) turn: u64,
}

/// The records of the log that could have been seen.
#[derive(Debug, Default)]
pub(super) struct History {
    records: Vec<Logged>,
    keys: BTreeMap<ItemKey, Vec<Left>>,
    requests: BTreeMap<[u8; 16], Vec<Index>>,
    /// When each record was applied first; those are committed.
    applied: Vec<When>,
    committed: Index,
    /// The first record of a write.
    first_write: Option<Index>,
}

#[derive(Debug)]
struct Logged {
    record: Arc<Record>,
    /// What the client is answered.
    effects: Vec<Effect>,
}

/// The state of a key after a record.
#[derive(Debug)]
struct Left {
    by: Index,
    version: Version,
    item: Option<Item>,
}

fn place(index: Index) -> usize {
    usize::try_from(index.0).unwrap()
}

impl History {
    /// The last record's index.
    pub(super) fn last(&self) -> Index {
        Index(self.records.len() as u64)
    }

    pub(super) fn record(&self, index: Index) -> &Arc<Record> {
        &self.records[place(index) - 1].record
    }

    /// What the client of a record's write is answered.
    pub(super) fn effects(&self, index: Index) -> &[Effect] {
        &self.records[place(index) - 1].effects
    }

    /// The records after `after`, in order.
    pub(super) fn after(&self, after: Index) -> impl Iterator<Item = &Arc<Record>> {
        self.records[place(after)..]
            .iter()
            .map(|logged| &logged.record)
    }

    /// Adds the next record, and the answer for its client.
    pub(super) fn push(&mut self, record: Arc<Record>, effects: Vec<Effect>) {
        let (index, version) = (record.position.index, record.version);
        assert_eq!(index, self.last().next(), "the log has a gap");
        if let Some(last) = self.records.last() {
            let last = &last.record;
            assert!(version > last.version, "I5: a version does not grow");
            assert!(
                record.position.epoch >= last.position.epoch,
                "the log's epochs go back"
            );
        }
        for change in Effects::of(&record).changes {
            let left = Left {
                by: index,
                version,
                item: model::left_by(change, version),
            };
            self.keys.entry(change.key.clone()).or_default().push(left);
        }
        if let Payload::Write(write) = &record.payload {
            let of_request = self.requests.entry(write.request.random);
            of_request.or_default().push(index);
            self.first_write.get_or_insert(index);
        }
        self.records.push(Logged { record, effects });
    }

    /// Removes the records after `last`: a crash lost them.
    pub(super) fn truncate(&mut self, last: Index) {
        self.records.truncate(place(last));
        self.first_write = self.first_write.filter(|first| *first <= last);
        for left in self.keys.values_mut() {
            left.retain(|left| left.by <= last);
        }
        for indexes in self.requests.values_mut() {
            indexes.retain(|index| *index <= last);
        }
    }

    /// Whether anything was ever written.
    pub(super) const fn has_writes(&self) -> bool {
        self.first_write.is_some()
    }

    /// The records that apply this request.
    pub(super) fn of_request(&self, random: &[u8; 16]) -> &[Index] {
        self.requests.get(random).map_or(&[], Vec::as_slice)
    }

    /// When the request of a record was born, in milliseconds of platform time.
    pub(super) fn birth(&self, index: Index) -> u64 {
        match &self.record(index).payload {
            Payload::Write(write) => write.request.birth_millis,
            other => panic!("record {index} applies no request: {other:?}"),
        }
    }

    /// The record of this version.
    pub(super) fn index_of(&self, version: Version) -> Option<Index> {
        let versions = self
            .records
            .binary_search_by_key(&version, |logged| logged.record.version);
        versions.ok().map(|place| Index(place as u64 + 1))
    }

    fn left(&self, key: &[u8], up_to: Index) -> Option<&Left> {
        let left = self.keys.get(key)?;
        let behind = left.partition_point(|left| left.by <= up_to);
        left[..behind].last()
    }

    /// What a key holds once the records up to an index are applied, expired or not.
    pub(super) fn at(&self, key: &[u8], up_to: Index) -> Option<&Item> {
        self.left(key, up_to)?.item.as_ref()
    }

    /// The last record at which the slots have this revision.
    pub(super) fn end_of_revision(&self, revision: u64) -> Index {
        let mut owns = self.records.iter().filter_map(|logged| {
            let owned = Effects::of(&logged.record).owned?;
            (owned.version > revision).then_some(logged.record.position.index)
        });
        owns.next().map_or(self.last(), |next| Index(next.0 - 1))
    }

    /// The version of a key's last change among the records up to an index.
    pub(super) fn last_change(&self, key: &[u8], up_to: Index) -> Version {
        self.left(key, up_to)
            .map_or(Version::ZERO, |left| left.version)
    }

    /// The indexes from `first` to `last` after which the state of a key of `keys` changed, as
    /// the distinct states in that range.
    pub(super) fn states(&self, keys: &[ItemKey], first: Index, last: Index) -> Vec<Index> {
        let lefts = keys.iter().filter_map(|key| self.keys.get(key)).flatten();
        let changes = lefts.map(|left| left.by);
        let mut states: Vec<Index> = changes.filter(|by| *by > first && *by <= last).collect();
        states.push(first);
        states.sort_unstable();
        states.dedup();
        states
    }

    /// Records that everything up to `index` is committed.
    pub(super) fn commit(&mut self, up_to: Index) {
        self.committed = self.committed.max(up_to);
    }

    pub(super) const fn committed(&self) -> Index {
        self.committed
    }

    /// Records that everything up to `index` is applied.
    pub(super) fn apply(&mut self, up_to: Index, now: When) {
        if self.applied.len() < place(up_to) {
            self.applied.resize(place(up_to), now);
        }
    }

    /// When a record was applied first.
    pub(super) fn applied(&self, index: Index) -> Option<When> {
        self.applied.get(place(index) - 1).copied()
    }

    /// The last record that was applied before this millisecond.
    pub(super) fn applied_before(&self, millis: u64) -> Index {
        let count = self.applied.partition_point(|when| when.millis < millis);
        Index(count as u64)
    }
}
