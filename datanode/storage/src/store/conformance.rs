//! What every store must do, as a suite that each backend's tests run.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::{Epoch, Incarnation, Index, ItemKey, LogId, Position, Version};

use super::{CheckpointBatch, Store, StoreMeta};
use crate::{Item, StorageError};

/// Gives the suite stores of one backend.
#[async_trait]
pub trait StoreBackend: Send + Sync {
    /// Opens the store called `name`, which is empty the first time and keeps what it
    /// held after that, also while it is still open elsewhere.
    async fn open(&self, name: &str) -> Arc<dyn Store>;
}

/// Runs every scenario of the suite.
///
/// # Panics
/// If the backend breaks a rule.
pub async fn run(backend: &dyn StoreBackend) {
    a_fresh_store_stands_at_nothing(backend).await;
    a_checkpoint_is_there_after_reopening(backend).await;
    keys_come_back_in_the_order_asked(backend).await;
    a_tombstone_removes_the_row(backend).await;
    only_the_last_claim_writes(backend).await;
    a_large_checkpoint_is_whole(backend).await;
}

const ME: Incarnation = Incarnation(u64::MAX);

fn key(number: u64) -> ItemKey {
    let Ok(key) = ItemKey::new("suite", format!("key-{number}").as_bytes()) else {
        unreachable!("the key keeps the rules");
    };
    key
}

fn item(version: u64, value: &[u8]) -> Item {
    Item {
        version: Version::from_bits(version),
        expires: version
            .is_multiple_of(2)
            .then_some(Version::from_bits(u64::MAX - version)),
        value: Bytes::copy_from_slice(value),
    }
}

fn meta(index: u64) -> StoreMeta {
    StoreMeta {
        log_id: LogId(u64::MAX - 1),
        applied: Position {
            epoch: Epoch(3),
            index: Index(index),
        },
        clock: Version::from_bits(1 << 63 | index),
        epochs: vec![(Epoch(1), Index(1)), (Epoch(3), Index(2))],
    }
}

fn batch(index: u64, changes: Vec<(ItemKey, Option<Item>)>) -> CheckpointBatch {
    CheckpointBatch {
        meta: meta(index),
        changes,
    }
}

/// Unwraps what the backend may not refuse.
#[track_caller]
fn granted<T>(done: Result<T, StorageError>) -> T {
    match done {
        Ok(done) => done,
        Err(error) => panic!("the store refused: {error}"),
    }
}

async fn a_fresh_store_stands_at_nothing(backend: &dyn StoreBackend) {
    let store = backend.open("fresh").await;
    assert_eq!(granted(store.claim(ME).await), StoreMeta::default());
    assert_eq!(granted(store.get_many(&[]).await), Vec::new());
    assert_eq!(granted(store.get_many(&[key(1)]).await), vec![None]);
    store.close().await;
}

async fn a_checkpoint_is_there_after_reopening(backend: &dyn StoreBackend) {
    let store = backend.open("reopened").await;
    granted(store.claim(ME).await);
    let changes = vec![(key(1), Some(item(7, b"")))];
    granted(store.checkpoint(ME, batch(7, changes)).await);
    let changes = vec![(key(2), Some(item(8, b"two")))];
    granted(store.checkpoint(ME, batch(8, changes)).await);
    store.close().await;

    let store = backend.open("reopened").await;
    assert_eq!(granted(store.claim(Incarnation(1)).await), meta(8));
    let found = granted(store.get_many(&[key(1), key(2)]).await);
    assert_eq!(found, vec![Some(item(7, b"")), Some(item(8, b"two"))]);

    // An epoch table of the same length but another content is replaced, too.
    let mut other = batch(9, Vec::new());
    other.meta.epochs = vec![(Epoch(1), Index(1)), (Epoch(4), Index(9))];
    granted(store.checkpoint(Incarnation(1), other.clone()).await);
    assert_eq!(granted(store.claim(Incarnation(2)).await), other.meta);
    store.close().await;
}

async fn keys_come_back_in_the_order_asked(backend: &dyn StoreBackend) {
    let store = backend.open("ordered").await;
    granted(store.claim(ME).await);
    let stored = (0..3_000).filter(|number| number % 3 != 0);
    let changes = stored.map(|number| (key(number), Some(item(number, &[7; 30]))));
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    for count in [1_u64, 2, 5, 64, 65, 1_000, 1_001, 2_500] {
        // Descending, with one asked twice.
        let asked: Vec<u64> = (0..count).rev().chain([1]).collect();
        let keys: Vec<ItemKey> = asked.iter().map(|number| key(*number)).collect();
        let found = granted(store.get_many(&keys).await);
        for (number, found) in asked.iter().zip(&found) {
            let expected = (number % 3 != 0).then(|| item(*number, &[7; 30]));
            assert_eq!(*found, expected, "key {number} of {count}");
        }
        assert_eq!(found.len(), keys.len());
    }
    store.close().await;
}

async fn a_tombstone_removes_the_row(backend: &dyn StoreBackend) {
    let store = backend.open("removed").await;
    granted(store.claim(ME).await);
    let changes = (0..100).map(|number| (key(number), Some(item(1, b"old"))));
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    let changes = (0..100).map(|number| match number % 3 {
        0 => (key(number), None),
        1 => (key(number), Some(item(2, b"new"))),
        _ => (key(number + 1_000), None),
    });
    granted(store.checkpoint(ME, batch(2, changes.collect())).await);
    let keys: Vec<ItemKey> = (0..100).map(key).collect();
    let found = granted(store.get_many(&keys).await);
    for (number, found) in found.into_iter().enumerate() {
        let expected = match number % 3 {
            0 => None,
            1 => Some(item(2, b"new")),
            _ => Some(item(1, b"old")),
        };
        assert_eq!(found, expected, "key {number}");
    }
    store.close().await;
}

/// A process that was paused and outlived its successor's start must not write.
async fn only_the_last_claim_writes(backend: &dyn StoreBackend) {
    let paused = backend.open("claimed").await;
    granted(paused.claim(Incarnation(1)).await);
    let store = backend.open("claimed").await;
    granted(store.claim(Incarnation(2)).await);
    let changes = vec![(key(1), Some(item(1, b"paused")))];
    let refused = paused.checkpoint(Incarnation(1), batch(9, changes)).await;
    assert!(
        matches!(refused, Err(StorageError::Superseded { .. })),
        "a paused process wrote: {refused:?}"
    );
    assert_eq!(granted(store.get_many(&[key(1)]).await), vec![None]);
    granted(store.checkpoint(Incarnation(2), batch(3, Vec::new())).await);
    assert_eq!(granted(store.claim(Incarnation(3)).await), meta(3));
    paused.close().await;
    store.close().await;
}

async fn a_large_checkpoint_is_whole(backend: &dyn StoreBackend) {
    let store = backend.open("large").await;
    granted(store.claim(ME).await);
    let mut changes: Vec<_> = (0..4_321)
        .map(|number| (key(number), Some(item(number, &number.to_le_bytes()))))
        .collect();
    let huge = vec![0xA5; 1 << 20];
    changes.push((key(9_999), Some(item(1, &huge))));
    granted(store.checkpoint(ME, batch(1, changes)).await);
    let keys: Vec<ItemKey> = (0..4_321).chain([9_999]).map(key).collect();
    let found = granted(store.get_many(&keys).await);
    assert!(found.iter().all(Option::is_some));
    let last = found.last().cloned().flatten();
    assert_eq!(last.map(|item| item.value), Some(Bytes::from(huge)));
    store.close().await;
}
