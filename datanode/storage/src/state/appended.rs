//! The appended state: the effects of log records that are not applied yet.
//!
//! Conditions, retried requests and `existed` are judged against it, so that writes do not
//! wait for the commits of earlier writes (REP-APPLY).

use std::{collections::VecDeque, sync::Arc};

use hashbrown::{HashMap, hash_map::EntryRef};
use tierkv_types::{Index, ItemKey, Record, record::encoded_len};

use super::{effects::Effects, outcome::Outcome};
use crate::Entry;

/// Bytes of memory that a record takes besides its contents, with its entries here: about.
const RECORD_MEMORY: u64 = 512;

/// The records that are appended and not applied, and their effects. A suffix can be dropped,
/// if the log did not take it or a new master does not have it.
#[derive(Debug, Default)]
pub struct Appended {
    records: VecDeque<Arc<Record>>,
    /// For each changed key, its entry after the last change.
    entries: HashMap<ItemKey, (Index, Entry)>,
    /// The outcome of each request, by the random part of its id.
    outcomes: HashMap<[u8; 16], (Index, Outcome)>,
    /// The last record that changes the slots of the cluster, and the version of their map.
    owned: Option<(Index, u64)>,
    /// The memory of all records.
    bytes: u64,
}

impl Appended {
    /// Adds the next record.
    ///
    /// # Panics
    /// If it is not the one after the last.
    pub fn push(&mut self, record: Arc<Record>) {
        let index = record.position.index;
        assert!(
            self.last().is_none_or(|last| last.next() == index),
            "record {} is appended out of order",
            record.position
        );
        self.note(&record);
        self.bytes += memory_of(&record);
        self.records.push_back(record);
    }

    fn note(&mut self, record: &Record) {
        let index = record.position.index;
        let effects = Effects::of(record);
        for (key, entry) in effects.entries() {
            self.entries.insert(key.clone(), (index, entry));
        }
        if let Some((id, outcome)) = effects.outcome() {
            self.outcomes.insert(id.random, (index, outcome));
        }
        if let Some(owned) = effects.owned {
            self.owned = Some((index, owned.version));
        }
    }

    /// Drops every record after `last`, as if it had never been pushed.
    pub fn truncate(&mut self, last: Index) {
        let kept = self
            .records
            .partition_point(|record| record.position.index <= last);
        if kept == self.records.len() {
            return;
        }
        self.records.truncate(kept);
        self.entries.clear();
        self.outcomes.clear();
        self.owned = None;
        // Entries hidden by the dropped records must show again, so the rest is added anew.
        let records = std::mem::take(&mut self.records);
        self.bytes = records.iter().map(|record| memory_of(record)).sum();
        records.iter().for_each(|record| self.note(record));
        self.records = records;
    }

    /// Removes the first record: it is applied, and its effects are visible elsewhere.
    ///
    /// # Panics
    /// If the first record is another one.
    pub fn pop(&mut self, applied: &Record) {
        let first = self.records.pop_front();
        assert!(
            first.is_some_and(|first| first.position == applied.position),
            "record {} is applied out of order",
            applied.position
        );
        self.bytes -= memory_of(applied);
        let index = applied.position.index;
        let effects = Effects::of(applied);
        for change in effects.changes {
            if let EntryRef::Occupied(last) = self.entries.entry_ref(&change.key)
                && last.get().0 == index
            {
                last.remove();
            }
        }
        if let Some(id) = effects.request()
            && let EntryRef::Occupied(last) = self.outcomes.entry_ref(&id.random)
            && last.get().0 == index
        {
            last.remove();
        }
        if self.owned.is_some_and(|(last, _)| last == index) {
            self.owned = None;
        }
    }

    /// The version of the placement map by which the last of the records changes the slots of the
    /// cluster; `None` if none does.
    #[must_use]
    pub fn owned_version(&self) -> Option<u64> {
        self.owned.map(|(_, version)| version)
    }

    /// A key's entry and the index of the record that makes it; `None` if none changes the key.
    #[must_use]
    pub fn entry(&self, key: &ItemKey) -> Option<&(Index, Entry)> {
        self.entries.get(key)
    }

    /// A request's outcome and the index of its record; `None` if none applies it.
    #[must_use]
    pub fn outcome(&self, random: &[u8; 16]) -> Option<&(Index, Outcome)> {
        self.outcomes.get(random)
    }

    /// The records after `after` and up to `up_to`.
    pub fn between(&self, after: Index, up_to: Index) -> impl Iterator<Item = &Arc<Record>> {
        let end = |index: Index| {
            self.records
                .partition_point(move |record| record.position.index <= index)
        };
        let (start, end) = (end(after), end(up_to));
        self.records.range(start..end.max(start))
    }

    /// About the memory that the records take, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The index of the last record, if there is any.
    #[must_use]
    pub fn last(&self) -> Option<Index> {
        self.records.back().map(|record| record.position.index)
    }
}

fn memory_of(record: &Record) -> u64 {
    encoded_len(record) as u64 + RECORD_MEMORY
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tierkv_types::{
        Change, ChangeKind, Epoch, OwnedSlots, Payload, Position, RequestId, Version, Write,
    };

    use super::*;

    const KEYS: u8 = 4;

    fn key(number: u8) -> ItemKey {
        ItemKey::new("n", &[number]).unwrap()
    }

    fn record(index: u64, changed: &[u8]) -> Arc<Record> {
        let changes = changed.iter().map(|number| Change {
            key: key(*number),
            kind: match number % 2 {
                0 => ChangeKind::Delete { existed: true },
                _ => ChangeKind::Increment {
                    number: 7,
                    expires: None,
                },
            },
        });
        Arc::new(Record {
            position: Position {
                epoch: Epoch(1),
                index: Index(index),
            },
            commit: Index::ZERO,
            version: Version::from_bits(index),
            payload: match changed {
                [] => Payload::Own(OwnedSlots {
                    version: index,
                    ..OwnedSlots::default()
                }),
                _ => Payload::Write(Write {
                    request: RequestId {
                        birth_millis: 1,
                        random: [index.to_le_bytes()[0]; 16],
                    },
                    fingerprint: 1,
                    changes: changes.collect(),
                }),
            },
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Truncate(u64),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => vec(0..KEYS, 0..3).prop_map(|mut keys| {
                keys.sort_unstable();
                keys.dedup();
                Step::Push(keys)
            }),
            1 => (0_u64..4).prop_map(Step::Truncate),
            2 => Just(Step::Pop),
        ]
    }

    proptest! {
        /// Whatever was pushed, dropped and applied: it is as if only what is left had been.
        #[test]
        fn it_is_what_its_records_make(steps in vec(step(), 0..40)) {
            let mut appended = Appended::default();
            let mut left: VecDeque<Arc<Record>> = VecDeque::new();
            let mut last = 0;
            for step in steps {
                match step {
                    Step::Push(keys) => {
                        last += 1;
                        left.push_back(record(last, &keys));
                        appended.push(record(last, &keys));
                    }
                    Step::Truncate(count) => {
                        let dropped = count.min(left.len() as u64);
                        last -= dropped;
                        left.retain(|record| record.position.index.0 <= last);
                        appended.truncate(Index(last));
                    }
                    Step::Pop => {
                        if let Some(first) = left.pop_front() {
                            appended.pop(&first);
                        }
                    }
                }
                let mut fresh = Appended::default();
                left.iter().for_each(|record| fresh.push(Arc::clone(record)));
                prop_assert_eq!(&appended.records, &fresh.records);
                prop_assert_eq!(&appended.entries, &fresh.entries);
                prop_assert_eq!(&appended.outcomes, &fresh.outcomes);
                prop_assert_eq!(appended.owned_version(), fresh.owned_version());
                let all: VecDeque<_> = appended.between(Index::ZERO, Index(last)).cloned().collect();
                prop_assert_eq!(all, left.clone());
            }
        }
    }
}
