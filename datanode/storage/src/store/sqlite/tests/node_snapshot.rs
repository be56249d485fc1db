//! What a snapshot of the whole store, and an installation, cost SQLite's files.

use std::time::Duration;

use tierkv_types::ItemRange;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{piece::Piece, store::StoreNodeSnapshot};

const STORE: &str = "/n/store";
const WAL: &str = "/n/store-wal";
const ME: Incarnation = Incarnation(1);
/// Pages of the write-ahead file after which these stores write it back.
const WAL_PAGES: u32 = 12;
/// Bytes of a page with its header in the write-ahead file.
const FRAME_BYTES: usize = 4_096 + 24;
const KEYS: u64 = 400;

async fn opened(disk: &TestDisk, wal_pages: u32) -> SqliteStore {
    let disk = Arc::new(disk.clone());
    let path = Path::new(STORE);
    let store = SqliteStore::open_folding(disk, path, WalSync::Always, wal_pages).await;
    let store = store.unwrap();
    store.claim(ME).await.unwrap();
    store
}

/// Writes all of `keys` keys.
async fn write(store: &SqliteStore, keys: u64, version: u64) {
    let changes = (0..keys).map(|number| {
        let key = ItemKey::new("n", format!("key-{number:06}").as_bytes()).unwrap();
        let item = Item {
            version: Version::from_bits(version),
            expires: None,
            value: Bytes::from(vec![7; 200]),
        };
        (key, Entry::Value(item))
    });
    let batch = CheckpointBatch {
        changes: changes.collect(),
        ..CheckpointBatch::default()
    };
    store.checkpoint(ME, batch).await.unwrap();
}

fn bytes_of(disk: &TestDisk, file: &str) -> usize {
    disk.content(Path::new(file))
        .map_or(0, |content| content.len())
}

/// The versions of all values in the rest of a snapshot.
async fn versions(mut snapshot: Box<dyn StoreNodeSnapshot>) -> Vec<u64> {
    let mut versions = Vec::new();
    while let Some(piece) = snapshot.next().await.unwrap() {
        if let Some(Piece::Entries(entries)) = Piece::decode(&piece) {
            let items = entries.iter().filter_map(|(_, entry)| entry.item());
            versions.extend(items.map(|item| item.version.to_bits()));
        }
    }
    versions
}

/// However slowly it is read: once it is copied, the file starts again. A snapshot of a range,
/// whose transaction stays open, shows what happens otherwise.
#[tokio::test]
async fn the_write_ahead_file_does_not_grow_while_a_node_snapshot_is_being_read() {
    for is_whole in [true, false] {
        let disk = TestDisk::default();
        let store = opened(&disk, WAL_PAGES).await;
        write(&store, KEYS, 1).await;
        let whole = match is_whole {
            true => Some(store.node_snapshot(1_000).await.unwrap()),
            false => None,
        };
        let range = ItemRange::of_prefix("n", b"").unwrap();
        let held = match is_whole {
            true => None,
            false => Some(store.snapshot(&range).await.unwrap()),
        };
        if is_whole {
            // Its connection is returned when it is copied.
            let copied = async {
                while store.snapshots.num_idle() == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(20), copied).await.unwrap();
        }
        write(&store, KEYS, 2).await;
        let before = bytes_of(&disk, WAL);
        for version in 3..33 {
            write(&store, KEYS, version).await;
        }
        let grown = bytes_of(&disk, WAL) - before;
        if let Some(whole) = whole {
            assert!(grown < 40 * FRAME_BYTES, "{grown}");
            let all = usize::try_from(KEYS).unwrap();
            assert_eq!(versions(whole).await, vec![1; all]);
        } else {
            assert!(grown > 500 * FRAME_BYTES, "{grown}");
        }
        drop(held);
        store.close().await;
        assert!(
            !disk
                .files()
                .iter()
                .any(|file| file.ends_with("store-spool"))
        );
    }
}

#[tokio::test]
async fn a_copy_is_given_up_when_the_write_ahead_file_is_too_large() {
    let disk = TestDisk::default();
    let mut store = opened(&disk, 1_000_000).await;
    write(&store, KEYS, 1).await;
    let all = store.node_snapshot(1_000).await.unwrap();
    assert_eq!(versions(all).await.len() as u64, KEYS);
    // Everything is still in the write-ahead file.
    assert!(bytes_of(&disk, WAL) > bytes_of(&disk, STORE));
    store.held_bytes = 0;
    let mut refused = store.node_snapshot(1_000).await.unwrap();
    let refused = refused.next().await.unwrap_err();
    assert!(matches!(refused, StorageError::Exhausted { .. }));
    assert!(refused.is_passing());
    let words = refused.to_string();
    assert!(words.contains("node_snapshot_held_bytes"), "{words}");
    // The database itself may always be copied.
    store.close().await;
    let mut store = opened(&disk, 1_000_000).await;
    assert!(bytes_of(&disk, WAL) < bytes_of(&disk, STORE));
    store.held_bytes = 0;
    let all = store.node_snapshot(1_000).await.unwrap();
    assert_eq!(versions(all).await.len() as u64, KEYS);
    store.close().await;
}

/// The tables become free pages without being written.
#[tokio::test]
async fn emptying_writes_little_however_much_there_was() {
    let disk = TestDisk::default();
    let store = opened(&disk, 1_000_000).await;
    write(&store, 20_000, 1).await;
    store.close().await;
    let pages = bytes_of(&disk, STORE) / 4_096;
    assert!(pages > 1_000, "{pages}");
    let store = opened(&disk, 1_000_000).await;
    let before = bytes_of(&disk, WAL);
    store.begin_install(ME).await.unwrap();
    let written = (bytes_of(&disk, WAL) - before) / FRAME_BYTES;
    assert!(written < 50, "{written} of {pages} pages");
    // What is installed takes their place.
    write(&store, 20_000, 2).await;
    store.close().await;
    assert!(bytes_of(&disk, STORE) / 4_096 < pages + pages / 10);
}
