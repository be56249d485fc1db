//! The small tables, slots and hashes, changed without the store.

use tierkv_types::{Epoch, Index, Slot};

use super::*;
use crate::{ItemHash, Row, Table, state::epoch_row};

const STORE: &str = "/n/store";
const ME: Incarnation = Incarnation(1);

fn item() -> Item {
    Item {
        version: Version::from_bits(5),
        expires: None,
        value: Bytes::from_static(b"value"),
    }
}

fn key() -> ItemKey {
    ItemKey::new("n", b"key").unwrap()
}

/// A closed store with two rows of small tables and one item.
async fn filled() -> TestDisk {
    let test_disk = TestDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(test_disk.clone());
    let store = open(&disk, Path::new(STORE)).await.unwrap();
    store.claim(ME).await.unwrap();
    let other = Row {
        table: Table::from_number(2),
        key: Bytes::from_static(b"other"),
        value: Some(Bytes::from_static(b"value")),
    };
    let batch = CheckpointBatch {
        changes: vec![(key(), Entry::Value(item()))],
        rows: vec![epoch_row(Epoch(1), Index(1)), other],
        ..CheckpointBatch::default()
    };
    store.checkpoint(ME, batch).await.unwrap();
    store.close().await;
    test_disk
}

#[tokio::test]
async fn a_row_that_is_changed_lost_added_or_moved_is_missed() {
    let filled = filled().await;
    for (sql, words) in [
        (
            "DELETE FROM state_row WHERE table_number = 2",
            "small tables",
        ),
        ("DELETE FROM state_row", "small tables"),
        ("UPDATE state_row SET value = x'00'", "the row of key"),
        (
            "UPDATE state_row SET table_number = table_number + 1",
            "the row of key",
        ),
        (
            "UPDATE state_row SET key = x'00' WHERE table_number = 2",
            "the row of key \\x00 in table 2",
        ),
        (
            "UPDATE state_row SET checksum = checksum + 1",
            "the row of key",
        ),
        (
            "UPDATE meta SET row_sum = x'00000000000000000000000000000000'",
            "the row of meta",
        ),
        ("UPDATE meta SET row_sum = x''", "the row of meta"),
        ("DELETE FROM meta", "small tables"),
    ] {
        let disk: Arc<dyn Disk> = Arc::new(filled.fork());
        tamper(&disk, Path::new(STORE), sql).await;
        let found = examine(&disk, Path::new(STORE), WalSync::Always)
            .await
            .unwrap();
        assert!(matches!(found, StoreFound::Damaged(_)), "{sql}: {found:?}");
        let store = open(&disk, Path::new(STORE)).await.unwrap();
        let refused = store.claim(ME).await.unwrap_err();
        assert!(
            matches!(refused, StorageError::Damaged { .. }),
            "{sql}: {refused}"
        );
        assert!(refused.to_string().contains(words), "{sql}: {refused}");
        store.close().await;
    }
}

/// A checkpoint that replaces a row reads it first, so it does not hide a damaged row.
#[tokio::test]
async fn a_damaged_row_is_not_replaced() {
    let disk: Arc<dyn Disk> = Arc::new(filled().await);
    let store = open(&disk, Path::new(STORE)).await.unwrap();
    let claimed = store.claim(ME).await.unwrap();
    tamper(
        &disk,
        Path::new(STORE),
        "UPDATE state_row SET value = x'00'",
    )
    .await;
    let batch = CheckpointBatch {
        rows: claimed.rows,
        ..CheckpointBatch::default()
    };
    let refused = store.checkpoint(ME, batch).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
    store.close().await;
}

#[tokio::test]
async fn an_item_has_its_slot_and_hash_and_neither_may_change() {
    let filled = filled().await;
    for sql in [
        "UPDATE item SET slot = (slot + 1) % 4096",
        "UPDATE item SET hash = zeroblob(16)",
    ] {
        let disk: Arc<dyn Disk> = Arc::new(filled.fork());
        let store = open(&disk, Path::new(STORE)).await.unwrap();
        let mut connection = store.reader().await.unwrap();
        let stored: (Vec<u8>, u16, Vec<u8>) = sqlx::query_as("SELECT key, slot, hash FROM item")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        drop(connection);
        let bytes = key().as_bytes().to_vec();
        let slot = Slot::of(&bytes).number();
        let hash = ItemHash::of(&bytes, &item()).as_bytes().to_vec();
        assert_eq!(stored, (bytes, slot, hash));

        assert_eq!(store.scrub(None, 10).await.unwrap().damage.len(), 0);
        tamper(&disk, Path::new(STORE), sql).await;
        let refused = store.get_many(&[key()]).await.unwrap_err();
        assert!(
            matches!(refused, StorageError::Damaged { .. }),
            "{sql}: {refused}"
        );
        assert_eq!(store.scrub(None, 10).await.unwrap().damage.len(), 1);
        store.close().await;
        let found = examine(&disk, Path::new(STORE), WalSync::Always)
            .await
            .unwrap();
        let StoreFound::Usable { damaged_rows, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(damaged_rows, 1);
    }
}
