//! What every store must do, as a suite that each backend's tests run.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::{
    Epoch, Incarnation, Index, ItemKey, ItemRange, LogId, Position, RequestId, Version,
};

use super::{CheckpointBatch, Store, StoreMeta, StoreSnapshot};
use crate::{Entry, Item, Outcome, StorageError};

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
    tombstones_stay_until_they_are_forgotten(backend).await;
    expired_keys_are_found_in_their_order(backend).await;
    a_snapshot_keeps_what_was_there(backend).await;
    a_snapshot_is_of_its_range_in_the_order_of_keys(backend).await;
    a_snapshot_hands_out_about_as_much_as_is_asked(backend).await;
    a_snapshot_counts_what_has_not_expired(backend).await;
    outcomes_stay_until_their_requests_are_behind_the_horizon(backend).await;
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
        epochs: [(Epoch(1), Index(1)), (Epoch(3), Index(2))]
            .into_iter()
            .collect(),
    }
}

fn batch(index: u64, changes: Vec<(ItemKey, Option<Item>)>) -> CheckpointBatch {
    let entry = |item: Option<Item>| match item {
        Some(item) => Entry::Value(item),
        None => Entry::Tombstone(Version::from_bits(index)),
    };
    CheckpointBatch {
        meta: meta(index),
        changes: (changes.into_iter())
            .map(|(key, item)| (key, entry(item)))
            .collect(),
        ..CheckpointBatch::default()
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
    other.meta.epochs = [(Epoch(1), Index(1)), (Epoch(4), Index(9))]
        .into_iter()
        .collect();
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

async fn tombstones_stay_until_they_are_forgotten(backend: &dyn StoreBackend) {
    let store = backend.open("tombstones").await;
    granted(store.claim(ME).await);
    assert_eq!(granted(store.oldest_tombstone().await), None);
    let written = vec![(key(1), Some(item(3, b"one")))];
    granted(store.checkpoint(ME, batch(3, written)).await);
    for index in [4, 5, 6] {
        let deleted = vec![(key(index), None), (key(index + 10), None)];
        granted(store.checkpoint(ME, batch(index, deleted)).await);
    }
    let oldest = granted(store.oldest_tombstone().await);
    assert_eq!(oldest, Some(Version::from_bits(4)));
    // Of the batch's own tombstones, too, those go that are old enough.
    let mut forgetting = batch(7, vec![(key(7), None)]);
    forgetting.forgotten = Some(Version::from_bits(5));
    granted(store.checkpoint(ME, forgetting).await);
    let oldest = granted(store.oldest_tombstone().await);
    assert_eq!(oldest, Some(Version::from_bits(6)));
    let mut forgetting = batch(8, vec![(key(8), None)]);
    forgetting.forgotten = Some(Version::from_bits(8));
    granted(store.checkpoint(ME, forgetting).await);
    assert_eq!(granted(store.oldest_tombstone().await), None);
    let found = granted(store.get_many(&[key(1), key(4)]).await);
    assert_eq!(found, vec![Some(item(3, b"one")), None]);
    store.close().await;
}

async fn expired_keys_are_found_in_their_order(backend: &dyn StoreBackend) {
    let store = backend.open("expired").await;
    granted(store.claim(ME).await);
    let expiring = |version: u64, expires: Option<u64>| Item {
        expires: expires.map(Version::from_bits),
        ..item(version, b"for a while")
    };
    let changes = vec![
        (key(1), Some(expiring(11, Some(300)))),
        (key(2), Some(expiring(12, Some(100)))),
        (key(3), Some(expiring(13, Some(200)))),
        (key(4), Some(expiring(14, Some(i64::MAX.cast_unsigned())))),
        (key(5), Some(expiring(15, None))),
    ];
    granted(store.checkpoint(ME, batch(1, changes)).await);
    let found = async |now: u64, limit: usize| {
        let found = granted(store.expired(Version::from_bits(now), limit).await);
        let found = found.into_iter();
        found
            .map(|(key, version)| (key, version.to_bits()))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(99, 10).await, vec![]);
    assert_eq!(found(100, 10).await, vec![(key(2), 12)]);
    assert_eq!(found(200, 10).await, vec![(key(2), 12), (key(3), 13)]);
    let all = vec![(key(2), 12), (key(3), 13), (key(1), 11)];
    assert_eq!(found(5_000, 10).await, all);
    assert_eq!(found(5_000, 2).await, all[..2]);
    let changes = vec![(key(2), None), (key(3), Some(expiring(20, None)))];
    granted(store.checkpoint(ME, batch(2, changes)).await);
    assert_eq!(found(5_000, 10).await, all[2..]);
    store.close().await;
}

fn range(prefix: &[u8]) -> ItemRange {
    let Ok(range) = ItemRange::of_prefix("suite", prefix) else {
        unreachable!("the prefix keeps the rules");
    };
    range
}

/// All that a snapshot has, asked for in pieces of `bytes`.
async fn all(mut snapshot: Box<dyn StoreSnapshot>, bytes: usize) -> Vec<(ItemKey, Item)> {
    let mut found = Vec::new();
    loop {
        let some = granted(snapshot.next(bytes).await);
        if some.is_empty() {
            return found;
        }
        found.extend(some);
    }
}

async fn a_snapshot_keeps_what_was_there(backend: &dyn StoreBackend) {
    let store = backend.open("snapshot").await;
    granted(store.claim(ME).await);
    let first = [
        (key(1), Some(item(1, b"one"))),
        (key(2), Some(item(1, b"one"))),
    ];
    granted(store.checkpoint(ME, batch(1, first.to_vec())).await);
    let (before, counted) = (
        granted(store.snapshot(&range(b"")).await),
        granted(store.snapshot(&range(b"")).await),
    );
    let second = vec![
        (key(1), None),
        (key(2), Some(item(2, b"two"))),
        (key(3), Some(item(2, b"two"))),
    ];
    granted(store.checkpoint(ME, batch(2, second)).await);
    let after = granted(store.snapshot(&range(b"")).await);
    let held = |number, version, value| (key(number), item(version, value));
    let was = [held(1, 1, b"one"), held(2, 1, b"one")];
    assert_eq!(all(before, 1 << 20).await, was);
    let mut counted = counted;
    assert_eq!(granted(counted.count(Version::ZERO).await), 2);
    let is = [held(2, 2, b"two"), held(3, 2, b"two")];
    assert_eq!(all(after, 1 << 20).await, is);
    drop(counted);
    store.close().await;
}

async fn a_snapshot_is_of_its_range_in_the_order_of_keys(backend: &dyn StoreBackend) {
    let store = backend.open("ranges").await;
    granted(store.claim(ME).await);
    let named = |namespace: &str, name: &[u8]| {
        let Ok(key) = ItemKey::new(namespace, name) else {
            unreachable!("the key keeps the rules");
        };
        (key, Some(item(1, name)))
    };
    let names: [&[u8]; 7] = [b"\0", b"a", b"a\0", b"a\xFF", b"a\xFF\xFF", b"b", b"\xFF"];
    let mut changes: Vec<_> = names.iter().map(|name| named("suite", name)).collect();
    // Neighbours on either side.
    for other in ["suit", "suite-", "suite0", "suitf"] {
        changes.extend([
            named(other, b"\0"),
            named(other, b"a"),
            named(other, b"\xFF"),
        ]);
    }
    granted(store.checkpoint(ME, batch(1, changes)).await);
    let found = async |range: ItemRange| {
        let snapshot = granted(store.snapshot(&range).await);
        let found = all(snapshot, 1 << 20).await.into_iter();
        let keys = found.map(|(key, _)| key.key().to_vec());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(found(range(b"")).await, names);
    assert_eq!(found(range(b"a")).await, names[1..5]);
    assert_eq!(found(range(b"a\xFF")).await, names[3..5]);
    assert_eq!(found(range(b"\xFF")).await, names[6..]);
    assert_eq!(found(range(b"c")).await, [[0; 0]; 0]);
    let between = |start: &[u8], end: &[u8]| granted_range(ItemRange::between("suite", start, end));
    assert_eq!(found(between(b"a\0", b"b")).await, names[2..5]);
    assert_eq!(found(between(b"b", b"")).await, names[5..]);
    assert_eq!(found(between(b"b", b"b")).await, [[0; 0]; 0]);
    store.close().await;
}

fn granted_range(range: Result<ItemRange, tierkv_types::Error>) -> ItemRange {
    let Ok(range) = range else {
        unreachable!("the range keeps the rules");
    };
    range
}

async fn a_snapshot_hands_out_about_as_much_as_is_asked(backend: &dyn StoreBackend) {
    let store = backend.open("pieces").await;
    granted(store.claim(ME).await);
    // Small rows, then a few of limit size, then small ones again.
    let length = |number: u64| match number {
        1_000..1_010 => 1 << 20,
        _ => 20,
    };
    let changes = (0..2_000).map(|number| (key(number), Some(item(1, &vec![7; length(number)]))));
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    for bytes in [1, 10_000, 1 << 20] {
        let mut snapshot = granted(store.snapshot(&range(b"")).await);
        let mut keys = Vec::new();
        loop {
            let some = granted(snapshot.next(bytes).await);
            let Some((_, last)) = some.last() else {
                break;
            };
            let taken: usize = some.iter().map(|(_, item)| item.value.len()).sum();
            assert!(
                taken - last.value.len() < bytes,
                "{taken} bytes for {bytes}"
            );
            keys.extend(some.into_iter().map(|(key, _)| key));
        }
        let mut expected: Vec<ItemKey> = (0..2_000).map(key).collect();
        expected.sort();
        assert_eq!(keys, expected, "in pieces of {bytes} bytes");
    }
    store.close().await;
}

async fn a_snapshot_counts_what_has_not_expired(backend: &dyn StoreBackend) {
    let store = backend.open("counted").await;
    granted(store.claim(ME).await);
    let expiring = |expires: Option<u64>| Item {
        expires: expires.map(Version::from_bits),
        ..item(1, b"v")
    };
    let changes = (0..3_000).map(|number| match number % 3 {
        0 => (key(number), Some(expiring(None))),
        1 => (key(number), Some(expiring(Some(100 + number)))),
        _ => (key(number), Some(expiring(Some(u64::MAX)))),
    });
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    let count = async |prefix: &[u8], now: u64| {
        let mut snapshot = granted(store.snapshot(&range(prefix)).await);
        granted(snapshot.count(Version::from_bits(now)).await)
    };
    assert_eq!(count(b"", 0).await, 3_000);
    // The one that expires now is gone.
    assert_eq!(count(b"", 101).await, 2_999);
    assert_eq!(count(b"", 100 + 3_000).await, 2_000);
    assert_eq!(count(b"key-1", 0).await, 1_111);
    assert_eq!(count(b"none", 0).await, 0);
    let mut snapshot = granted(store.snapshot(&range(b"")).await);
    for count in [0, 1, 5, 1_001, 1_500] {
        // All but the first are not there.
        let keys: Vec<ItemKey> = (0..count).map(|nth| key(nth * 6_000)).collect();
        let found = snapshot.count_among(&keys, Version::ZERO).await;
        assert_eq!(granted(found), count.min(1), "of {count}");
        let keys: Vec<ItemKey> = (0..count).map(key).collect();
        let found = snapshot.count_among(&keys, Version::from_bits(5_000)).await;
        let expected = (0..count).filter(|number| number % 3 != 1).count() as u64;
        assert_eq!(granted(found), expected, "of {count}");
    }
    drop(snapshot);
    store.close().await;
}

async fn outcomes_stay_until_their_requests_are_behind_the_horizon(backend: &dyn StoreBackend) {
    let store = backend.open("outcomes").await;
    granted(store.claim(ME).await);
    let outcome = |nth: u8, birth_millis: u64| {
        let id = RequestId {
            birth_millis,
            random: [nth; 16],
        };
        let existed = (0..nth).map(|place| place % 3 == 0).collect();
        let outcome = Outcome {
            version: Version::from_bits(birth_millis << 16),
            fingerprint: u32::from(nth),
            existed,
            numbers: (0..nth % 4).map(|number| i64::from(number) - 2).collect(),
        };
        (id, outcome)
    };
    let write = async |index: u64, outcomes: &[(RequestId, Outcome)], request_horizon: u64| {
        let batch = CheckpointBatch {
            outcomes: outcomes.to_vec(),
            request_horizon,
            ..batch(index, Vec::new())
        };
        granted(store.checkpoint(ME, batch).await);
        let mut found = granted(store.outcomes().await);
        found.sort_by_key(|(id, _)| id.random);
        found
    };
    let (first, second) = ([outcome(1, 100), outcome(200, 120)], [outcome(201, 110)]);
    assert_eq!(write(1, &first, 0).await, first);
    let all = [&first[..], &second[..]].concat();
    assert_eq!(write(2, &second, 100).await, all);
    assert_eq!(write(3, &[], 120).await, first);
    assert_eq!(write(4, &[], 121).await, []);
    // Born too early for anyone to ask again.
    assert_eq!(write(5, &second, 121).await, []);
    store.close().await;
}
