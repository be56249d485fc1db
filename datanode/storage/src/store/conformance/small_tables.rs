//! Rows of small tables.

use bytes::Bytes;
use tierkv_types::Incarnation;

use super::{ME, StoreBackend, batch, granted, meta, state};
use crate::{Row, Table, store::CheckpointBatch};

fn row(table: u8, key: &[u8], value: Option<&[u8]>) -> Row {
    Row {
        table: Table::from_number(table),
        key: Bytes::copy_from_slice(key),
        value: value.map(Bytes::copy_from_slice),
    }
}

/// Writes rows, and returns what the store has after it was opened again.
async fn after_writing(
    backend: &dyn StoreBackend,
    name: &str,
    index: u64,
    rows: &[Row],
) -> Vec<Row> {
    let store = backend.open(name).await;
    granted(store.claim(ME).await);
    let batch = CheckpointBatch {
        rows: rows.to_vec(),
        ..batch(index, Vec::new())
    };
    granted(store.checkpoint(ME, batch).await);
    store.close().await;
    let store = backend.open(name).await;
    let found = granted(store.claim(ME).await);
    assert_eq!(found.meta, meta(index));
    store.close().await;
    found.rows
}

pub(super) async fn rows_of_small_tables_are_what_checkpoints_made_of_them(
    backend: &dyn StoreBackend,
) {
    let written = async |index, rows: &[Row]| after_writing(backend, "rows", index, rows).await;
    let long = [0xAB; Row::MAX_KEY_BYTES];
    let first = [
        row(9, b"b", Some(b"one")),
        row(9, b"", Some(b"")),
        row(0, b"b", Some(b"two")),
        row(255, &long, Some(&[7; 10_000])),
        row(9, b"a\0", Some(b"three")),
    ];
    // They come back by table and key, the shorter first; a value may be empty.
    let sorted = [2, 1, 4, 0, 3].map(|at: usize| first[at].clone());
    assert_eq!(written(1, &first).await, sorted);
    assert_eq!(written(2, &[]).await, sorted);
    // Replaced, removed, removed though it was never there, and added.
    let second = [
        row(9, b"b", Some(b"other")),
        row(0, b"b", None),
        row(7, b"b", None),
        row(9, b"", None),
        row(9, b"c", Some(b"four")),
    ];
    let expected = [
        row(9, b"a\0", Some(b"three")),
        row(9, b"b", Some(b"other")),
        row(9, b"c", Some(b"four")),
        first[3].clone(),
    ];
    assert_eq!(written(3, &second).await, expected);
    let gone = expected.clone().map(|row| Row { value: None, ..row });
    assert_eq!(written(4, &gone).await, []);
    assert_eq!(written(5, &first).await, sorted);

    // Who may not write changes none of them.
    let paused = backend.open("rows").await;
    granted(paused.claim(Incarnation(1)).await);
    let store = backend.open("rows").await;
    granted(store.claim(Incarnation(2)).await);
    let batch = CheckpointBatch {
        rows: gone.to_vec(),
        ..batch(6, Vec::new())
    };
    let refused = paused.checkpoint(Incarnation(1), batch).await;
    assert!(refused.is_err(), "a paused process wrote");
    let found = granted(store.claim(Incarnation(3)).await);
    assert_eq!(found, state(5, &sorted));
    paused.close().await;
    store.close().await;
}

pub(super) async fn many_rows_change_in_one_checkpoint(backend: &dyn StoreBackend) {
    let written = async |index, rows: &[Row]| after_writing(backend, "many", index, rows).await;
    let numbered = |number: u32, value: &[u8]| row(3, &number.to_be_bytes(), Some(value));
    let first: Vec<Row> = (0..2_345).map(|number| numbered(number, b"one")).collect();
    let reversed: Vec<Row> = first.iter().rev().cloned().collect();
    assert_eq!(written(1, &reversed).await, first);
    let second = (0..3_000).map(|number| match number % 3 {
        0 => numbered(number, b"two"),
        1 => row(3, &number.to_be_bytes(), None),
        _ => numbered(number, b"one"),
    });
    let second: Vec<Row> = second.collect();
    let expected = second.iter().filter(|row| row.value.is_some()).cloned();
    assert_eq!(written(2, &second).await, expected.collect::<Vec<_>>());
}
