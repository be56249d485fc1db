//! Tests of storage as a whole.

mod close;
mod crash;
mod descriptors;
mod format;
mod hold;
mod installation;
mod node_snapshot;
mod node_state_model;
mod race;
mod repair;
mod restart;
mod retention;
mod scrub;
mod set_aside;
mod simulation;
mod snapshot;
mod tail;
mod truncation;
mod upgrade;

use std::{collections::BTreeMap, future::Future, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tierkv_types::{
    Change, ChangeKind, Epoch, Index, ItemKey, Payload, Position, Record, RequestId, Version, Write,
};

use crate::{Cursor, Disk, Effects, Entry, Item, Outcome, Recovered, Storage, StorageSettings};

/// Waits for what must come soon.
pub(crate) async fn deadline<T>(wait: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("it did not come in time")
}

pub(crate) fn record(epoch: u64, index: u64, changes: Vec<Change>) -> Record {
    let mut random = [3; 16];
    random[..8].copy_from_slice(&index.to_le_bytes());
    let request = RequestId {
        birth_millis: index,
        random,
    };
    Record {
        position: Position {
            epoch: Epoch(epoch),
            index: Index(index),
        },
        // As if each record were committed before the next one is created.
        commit: Index(index - 1),
        version: Version::from_bits(index * 10),
        payload: if changes.is_empty() {
            Payload::Noop
        } else {
            Payload::Write(Write {
                request,
                fingerprint: 1,
                changes,
            })
        },
    }
}

pub(crate) fn key(name: &str) -> ItemKey {
    ItemKey::new("test", name.as_bytes()).unwrap()
}

pub(crate) fn change(name: &str, value: Option<Bytes>) -> Change {
    Change {
        key: key(name),
        kind: match value {
            Some(value) => ChangeKind::Put {
                value,
                expires: None,
            },
            None => ChangeKind::Delete { existed: true },
        },
    }
}

/// A record that puts one value of `length` bytes.
pub(crate) fn put(epoch: u64, index: u64, name: &str, length: usize) -> Record {
    record(
        epoch,
        index,
        vec![change(name, Some(vec![0xAB; length].into()))],
    )
}

fn settings(dir: &Path) -> StorageSettings {
    StorageSettings {
        segment_bytes: 16 << 10,
        // Checkpoints come when a test asks for them.
        checkpoint_interval: Duration::from_secs(3_600),
        // The log keeps no records that the store has.
        log_retention: Duration::ZERO,
        ..StorageSettings::new(dir)
    }
}

pub(crate) async fn open(dir: &Path, disk: impl Disk) -> (Arc<Storage>, Recovered) {
    Storage::open(settings(dir), Arc::new(disk)).await.unwrap()
}

/// Records as storage returns them.
pub(crate) fn shared(records: &[Record]) -> Vec<Arc<Record>> {
    records.iter().cloned().map(Arc::new).collect()
}

/// The request that a record applies, and its outcome.
fn outcome_of(record: &Record) -> Option<(RequestId, Outcome)> {
    Effects::of(record).outcome()
}

async fn durable(storage: &Storage, index: Index) {
    let mut durable = storage.durable();
    deadline(durable.wait_for(|at| at.index >= index))
        .await
        .unwrap();
}

/// Appends, waits and applies, as a single node does.
async fn commit(storage: &Storage, records: Vec<Record>) {
    storage.room().await;
    storage.append(records.clone()).unwrap();
    durable(storage, records.last().unwrap().position.index).await;
    storage.apply(&records);
}

/// What the keys hold after some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(BTreeMap<ItemKey, Item>);

impl Model {
    fn apply(&mut self, record: &Record) {
        for change in Effects::of(record).changes {
            match Entry::of(&change.kind, record.version) {
                Entry::Value(item) => {
                    self.0.insert(change.key.clone(), item);
                }
                Entry::Tombstone(_) => {
                    self.0.remove(&change.key);
                }
            }
        }
    }

    fn of(records: &[Record]) -> Self {
        let mut model = Self::default();
        records.iter().for_each(|record| model.apply(record));
        model
    }

    async fn check(&self, storage: &Storage, keys: &[ItemKey], when: &str) {
        let found = storage.load(keys).await.unwrap();
        for (key, found) in keys.iter().zip(found) {
            assert_eq!(found.as_ref(), self.0.get(key), "{key:?} {when}");
        }
    }
}
