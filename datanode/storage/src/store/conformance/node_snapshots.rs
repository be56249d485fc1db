//! Snapshots of a whole store, and their installation.

use bytes::Bytes;
use tierkv_types::{Epoch, Incarnation, Index, ItemKey, RequestId, Version};

use super::{ME, StoreBackend, batch, granted, item, key, meta, state};
use crate::{
    Entry, Outcome, Row, StorageError, Table,
    piece::{Piece, Totals},
    state::epoch_row,
    store::{CheckpointBatch, Store, StoreMeta, StoreNodeSnapshot, StoreState},
};

/// The content of a store.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    meta: StoreMeta,
    entries: Vec<(ItemKey, Entry)>,
    outcomes: Vec<(RequestId, Outcome)>,
    rows: Vec<Row>,
}

/// Reads a snapshot to its end.
async fn all(mut snapshot: Box<dyn StoreNodeSnapshot>) -> Content {
    let mut content = Content {
        meta: snapshot.meta().clone(),
        ..Content::default()
    };
    let (mut totals, mut ends) = (Totals::default(), Vec::new());
    while let Some(piece) = granted(snapshot.next().await) {
        match Piece::decode(&piece) {
            Some(Piece::Entries(some)) => content.entries.extend(some),
            Some(Piece::Outcomes(some)) => content.outcomes.extend(some),
            Some(Piece::Rows(some)) => content.rows.extend(some),
            Some(Piece::End(end)) => {
                ends.push(end);
                continue;
            }
            None => panic!("{piece:?} is no piece"),
        }
        assert_eq!(ends, [], "there are pieces after the end");
        totals.digest(&piece);
    }
    content
        .entries
        .iter()
        .for_each(|(_, entry)| totals.entry(entry));
    totals.outcomes = content.outcomes.len() as u64;
    totals.rows = content.rows.len() as u64;
    assert_eq!(ends, [totals], "the end does not count what was before it");
    content
}

fn outcome(nth: u8) -> (RequestId, Outcome) {
    let id = RequestId {
        birth_millis: u64::from(nth) * 1_000,
        random: [nth; 16],
    };
    let outcome = Outcome {
        version: Version::from_bits(u64::from(nth) << 20),
        fingerprint: u32::from(nth),
        existed: [nth.is_multiple_of(2), true].into_iter().collect(),
        numbers: vec![i64::from(nth); usize::from(nth % 3)],
    };
    (id, outcome)
}

fn row(table: u8, key: &'static [u8], value: &'static [u8]) -> Row {
    Row {
        table: Table::from_number(table),
        key: Bytes::from_static(key),
        value: Some(Bytes::from_static(value)),
    }
}

/// A key of another namespace, before or after those of [`key`].
fn elsewhere(namespace: &str) -> ItemKey {
    let Ok(key) = ItemKey::new(namespace, b"\xFF") else {
        unreachable!("the key keeps the rules");
    };
    key
}

/// Writes three checkpoints with everything that a store can hold; returns its content.
async fn filled(store: &dyn Store) -> Content {
    // Values that expired long ago, too, and large ones.
    let mut changes: Vec<_> = (0..2_500)
        .map(|number| (key(number), Some(item(number, &[7; 40]))))
        .collect();
    changes.push((key(5_000), Some(item(3, &vec![1; 300_000]))));
    changes.push((elsewhere("a"), Some(item(4, b"first"))));
    changes.push((elsewhere("suite-"), Some(item(5, b"last"))));
    let mut expected: Vec<(ItemKey, Entry)> = (changes.iter())
        .filter_map(|(key, item)| Some((key.clone(), Entry::Value(item.clone()?))))
        .collect();
    let mut first = batch(1, changes);
    first.rows = vec![
        epoch_row(Epoch(3), Index(1)),
        row(9, b"b", b"two"),
        row(9, b"", b""),
    ];
    first.outcomes = vec![outcome(1), outcome(2)];
    granted(store.checkpoint(ME, first).await);
    // Deleted keys, some of which are there again later, and some that never were.
    let deleted = (2_000..3_000).map(|number| (key(number), None));
    let mut second = batch(2, deleted.collect());
    second.outcomes = vec![outcome(3), outcome(1)];
    granted(store.checkpoint(ME, second).await);
    let again = (2_100..2_200).map(|number| (key(number), Some(item(9, b"again"))));
    granted(store.checkpoint(ME, batch(3, again.collect())).await);
    expected.retain(|(held, _)| !(2_000..2_500).any(|number| *held == key(number)));
    expected.extend((2_000..3_000).map(|number| {
        let entry = match number {
            2_100..2_200 => Entry::Value(item(9, b"again")),
            _ => Entry::Tombstone(Version::from_bits(2)),
        };
        (key(number), entry)
    }));
    expected.sort_by(|(one, _), (other, _)| one.cmp(other));
    Content {
        meta: meta(3),
        entries: expected,
        outcomes: vec![outcome(1), outcome(2), outcome(3), outcome(1)],
        rows: vec![
            epoch_row(Epoch(3), Index(1)),
            row(9, b"", b""),
            row(9, b"b", b"two"),
        ],
    }
}

pub(super) async fn a_node_snapshot_is_everything_at_one_moment(backend: &dyn StoreBackend) {
    let store = backend.open("whole").await;
    granted(store.claim(ME).await);
    for bytes in [1, 1 << 20] {
        let empty = granted(store.node_snapshot(bytes).await);
        assert_eq!(all(empty).await, Content::default());
    }
    let expected = filled(&*store).await;
    for bytes in [1, 5_000, 1 << 20] {
        let snapshot = granted(store.node_snapshot(bytes).await);
        assert_eq!(all(snapshot).await, expected, "in pieces of {bytes}");
    }
    // What is written later is not in it, however late it is read.
    let mut snapshot = granted(store.node_snapshot(2_000).await);
    let first = granted(snapshot.next().await);
    assert!(first.is_some_and(|piece| piece.len() <= 2_000));
    let changes = (0..3_000).map(|number| match number % 2 {
        0 => (key(number), None),
        _ => (key(number), Some(item(100, b"later"))),
    });
    let mut later = batch(4, changes.collect());
    later.forgotten = Some(Version::from_bits(2));
    later.rows = vec![row(9, b"b", b"later"), row(9, b"c", b"new")];
    later.outcomes = vec![outcome(4)];
    later.request_horizon = 3_500;
    granted(store.checkpoint(ME, later).await);
    let mut pieces = 1;
    while granted(snapshot.next().await).is_some() {
        pieces += 1;
    }
    assert!(pieces > 50, "{pieces}");
    drop(snapshot);
    let now = all(granted(store.node_snapshot(5_000).await)).await;
    assert_eq!(now.meta, meta(4));
    let tombstones = now.entries.iter();
    let tombstones = tombstones.filter(|(_, entry)| entry.item().is_none());
    assert_eq!(tombstones.count(), 1_500);
    assert_eq!(now.outcomes, [outcome(4)]);
    store.close().await;
}

pub(super) async fn a_node_snapshot_keeps_its_moment(backend: &dyn StoreBackend) {
    let store = backend.open("moment").await;
    granted(store.claim(ME).await);
    let expected = filled(&*store).await;
    let snapshot = granted(store.node_snapshot(1_000).await);
    for index in 4..8 {
        let changes = (0..1_000).map(|number| (key(number), Some(item(index, b"later"))));
        granted(store.checkpoint(ME, batch(index, changes.collect())).await);
    }
    assert_eq!(all(snapshot).await, expected);
    store.close().await;
}

/// Writes a content into a store that is being installed, in several checkpoints.
async fn install(store: &dyn Store, content: &Content) {
    for entries in content.entries.chunks(700) {
        let piece = CheckpointBatch {
            changes: entries.to_vec(),
            ..CheckpointBatch::default()
        };
        granted(store.checkpoint(ME, piece).await);
    }
    let piece = CheckpointBatch {
        outcomes: content.outcomes.clone(),
        rows: content.rows.clone(),
        ..CheckpointBatch::default()
    };
    granted(store.checkpoint(ME, piece).await);
}

/// The last checkpoint of an installation.
fn last(meta: StoreMeta) -> CheckpointBatch {
    CheckpointBatch {
        meta,
        rows: vec![Row::installing(false)],
        ..CheckpointBatch::default()
    }
}

fn being_installed() -> StoreState {
    StoreState {
        rows: vec![Row::installing(true)],
        ..StoreState::default()
    }
}

pub(super) async fn an_installed_store_is_the_other_one(backend: &dyn StoreBackend) {
    let store = backend.open("source").await;
    granted(store.claim(ME).await);
    let content = filled(&*store).await;
    store.close().await;

    let store = backend.open("target").await;
    granted(store.claim(ME).await);
    // It has another state, of which nothing may be left.
    let changes = (2_400..9_000).map(|number| (key(number), Some(item(50, b"old"))));
    let mut old = batch(9, changes.collect());
    old.rows = vec![row(8, b"old", b"old"), row(9, b"b", b"old")];
    old.outcomes = vec![outcome(9)];
    granted(store.checkpoint(ME, old).await);
    granted(
        store
            .checkpoint(ME, batch(10, vec![(key(9_999), None)]))
            .await,
    );

    granted(store.begin_install(ME).await);
    let found = granted(store.claim(ME).await);
    assert_eq!(found, being_installed());
    assert!(found.is_installing());
    assert_eq!(granted(store.get_many(&[key(8_000)]).await), [None]);
    assert_eq!(granted(store.outcomes().await), []);
    assert_eq!(granted(store.oldest_tombstone().await), None);
    install(&*store, &content).await;
    // Not before its end.
    store.close().await;
    let store = backend.open("target").await;
    assert!(granted(store.claim(ME).await).is_installing());
    granted(store.checkpoint(ME, last(content.meta.clone())).await);
    store.close().await;

    let store = backend.open("target").await;
    let found = granted(store.claim(ME).await);
    assert_eq!(found, state(3, &content.rows));
    assert!(!found.is_installing());
    let snapshot = granted(store.node_snapshot(1 << 20).await);
    assert_eq!(all(snapshot).await, content);
    store.close().await;
}

pub(super) async fn an_installation_begins_anew_or_ends_with_nothing(backend: &dyn StoreBackend) {
    let store = backend.open("anew").await;
    granted(store.claim(ME).await);
    let content = filled(&*store).await;
    granted(store.begin_install(ME).await);
    install(&*store, &content).await;
    granted(store.begin_install(ME).await);
    assert_eq!(granted(store.claim(ME).await), being_installed());
    granted(store.checkpoint(ME, last(StoreMeta::default())).await);
    let found = granted(store.claim(ME).await);
    assert_eq!(found, StoreState::default());
    let snapshot = granted(store.node_snapshot(1 << 20).await);
    assert_eq!(all(snapshot).await, Content::default());
    // It is like a fresh one.
    let expected = filled(&*store).await;
    let snapshot = granted(store.node_snapshot(1 << 20).await);
    assert_eq!(all(snapshot).await, expected);
    store.close().await;
}

pub(super) async fn only_the_last_claim_installs(backend: &dyn StoreBackend) {
    let paused = backend.open("replaced-by").await;
    granted(paused.claim(ME).await);
    let content = filled(&*paused).await;
    let store = backend.open("replaced-by").await;
    granted(store.claim(Incarnation(2)).await);
    let refused = paused.begin_install(ME).await;
    assert!(
        matches!(refused, Err(StorageError::Superseded { .. })),
        "a paused process emptied the store: {refused:?}"
    );
    let snapshot = granted(store.node_snapshot(1 << 20).await);
    assert_eq!(all(snapshot).await, content);
    paused.close().await;
    store.close().await;
}
