//! The conformance suite of stores, which each backend's tests run.

mod node_snapshots;
mod outcomes;
mod small_tables;
mod snapshots;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::{Epoch, Incarnation, Index, ItemKey, LogId, Position, Version};

use super::{CheckpointBatch, Store, StoreMeta, StoreState};
use crate::{Entry, Item, Row, StorageError, state::epoch_row};

/// Gives the suite stores of one backend.
#[async_trait]
pub trait StoreBackend: Send + Sync {
    /// Opens the store called `name`, also while it is still open elsewhere. It is empty the
    /// first time and keeps its content after that.
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
    small_tables::rows_of_small_tables_are_what_checkpoints_made_of_them(backend).await;
    small_tables::many_rows_change_in_one_checkpoint(backend).await;
    a_scrub_goes_through_all_rows_in_order(backend).await;
    a_large_checkpoint_is_whole(backend).await;
    tombstones_stay_until_they_are_forgotten(backend).await;
    expired_keys_are_found_in_their_order(backend).await;
    snapshots::a_snapshot_keeps_what_was_there(backend).await;
    snapshots::a_snapshot_is_of_its_range_in_the_order_of_keys(backend).await;
    snapshots::a_snapshot_hands_out_about_as_much_as_is_asked(backend).await;
    snapshots::a_snapshot_counts_what_has_not_expired(backend).await;
    outcomes::outcomes_stay_until_their_requests_are_behind_the_horizon(backend).await;
    outcomes::the_last_outcome_of_a_random_part_counts(backend).await;
    node_snapshots::a_node_snapshot_is_everything_at_one_moment(backend).await;
    node_snapshots::a_node_snapshot_keeps_its_moment(backend).await;
    node_snapshots::an_installed_store_is_the_other_one(backend).await;
    node_snapshots::an_installation_begins_anew_or_ends_with_nothing(backend).await;
    node_snapshots::only_the_last_claim_installs(backend).await;
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
    }
}

/// A store with these rows and the state [`meta`] of `index`.
fn state(index: u64, rows: &[Row]) -> StoreState {
    StoreState {
        meta: meta(index),
        rows: rows.to_vec(),
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

/// Unwraps a result that must not be an error.
#[track_caller]
fn granted<T>(done: Result<T, StorageError>) -> T {
    match done {
        Ok(done) => done,
        Err(error) => panic!("the store refused: {error}"),
    }
}

async fn a_fresh_store_stands_at_nothing(backend: &dyn StoreBackend) {
    let store = backend.open("fresh").await;
    assert_eq!(granted(store.claim(ME).await), StoreState::default());
    assert_eq!(granted(store.get_many(&[]).await), Vec::new());
    assert_eq!(granted(store.get_many(&[key(1)]).await), vec![None]);
    store.close().await;
}

async fn a_checkpoint_is_there_after_reopening(backend: &dyn StoreBackend) {
    let store = backend.open("reopened").await;
    granted(store.claim(ME).await);
    let changes = vec![(key(1), Some(item(7, b"")))];
    let mut first = batch(7, changes);
    first.rows = vec![epoch_row(Epoch(1), Index(1)), epoch_row(Epoch(3), Index(2))];
    granted(store.checkpoint(ME, first.clone()).await);
    let changes = vec![(key(2), Some(item(8, b"two")))];
    granted(store.checkpoint(ME, batch(8, changes)).await);
    store.close().await;

    let store = backend.open("reopened").await;
    let found = granted(store.claim(Incarnation(1)).await);
    assert_eq!(found, state(8, &first.rows));
    let found = granted(store.get_many(&[key(1), key(2)]).await);
    assert_eq!(found, vec![Some(item(7, b"")), Some(item(8, b"two"))]);

    // Of the epochs, too, any can be replaced.
    let mut other = batch(9, Vec::new());
    let gone = Row {
        value: None,
        ..epoch_row(Epoch(3), Index(2))
    };
    other.rows = vec![gone, epoch_row(Epoch(4), Index(9))];
    granted(store.checkpoint(Incarnation(1), other).await);
    let rows = [epoch_row(Epoch(1), Index(1)), epoch_row(Epoch(4), Index(9))];
    let found = granted(store.claim(Incarnation(2)).await);
    assert_eq!(found, state(9, &rows));
    store.close().await;
}

async fn a_scrub_goes_through_all_rows_in_order(backend: &dyn StoreBackend) {
    let store = backend.open("scrubbed").await;
    granted(store.claim(ME).await);
    let changes = (0..100).map(|number| (key(number), Some(item(number, &[1; 7]))));
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    let mut expected: Vec<ItemKey> = (0..100).map(key).collect();
    expected.sort();
    for limit in [1, 33, 100, 101] {
        let (mut after, mut rows, mut bytes) = (None, 0, 0);
        loop {
            let some = granted(store.scrub(after, limit).await);
            assert!(some.rows <= limit && some.damage.is_empty());
            rows += some.rows;
            bytes += some.bytes;
            let Some(last) = some.last else {
                break;
            };
            assert_eq!(last, expected[rows - 1], "in pieces of {limit}");
            after = Some(last);
        }
        let keys: usize = expected.iter().map(|key| key.as_bytes().len() + 7).sum();
        assert_eq!((rows, bytes), (100, keys as u64), "in pieces of {limit}");
    }
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
    assert_eq!(granted(store.claim(Incarnation(3)).await), state(3, &[]));
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
