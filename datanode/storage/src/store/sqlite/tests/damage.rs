//! A flipped byte anywhere is found, with file and place, or has no effect.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_types::{Epoch, Index, LogId, Position};

use super::*;
use crate::{Row, Table, state::epoch_row, store::StoreState};

const STORE: &str = "/n/store";
const WAL: &str = "/n/store-wal";
const KEYS: u64 = 60;
const CHECKPOINTS: u64 = 3;
/// How many damaged disks are opened at once.
const TASKS: usize = 4;

fn key(number: u64) -> ItemKey {
    ItemKey::new("n", format!("key-{number:04}").as_bytes()).unwrap()
}

/// One more than there are: it must stay absent.
fn keys() -> Vec<ItemKey> {
    (0..=KEYS).map(key).collect()
}

fn item(number: u64, checkpoint: u64) -> Item {
    // The first value is longer than a page.
    let length = if number == 0 { 9_000 } else { 150 };
    Item {
        version: Version::from_bits(checkpoint * 1_000 + number),
        expires: None,
        value: Bytes::from(vec![u8::try_from(number + checkpoint).unwrap(); length]),
    }
}

/// A key's item after all checkpoints: each after the first writes some keys again.
/// No checkpoint changes the shape of the tree, so that no page is free and each is read.
fn expected() -> Vec<Option<Item>> {
    let held = (0..KEYS).map(|number| {
        let last = (1..=CHECKPOINTS).rev().find(|nth| writes(*nth, number));
        last.map(|nth| item(number, nth))
    });
    held.chain([None]).collect()
}

fn writes(checkpoint: u64, number: u64) -> bool {
    checkpoint == 1 || number > 0 && number.is_multiple_of(checkpoint + 1)
}

fn meta(checkpoint: u64) -> StoreMeta {
    StoreMeta {
        log_id: LogId(7),
        applied: Position {
            epoch: Epoch(1),
            index: Index(checkpoint),
        },
        clock: Version::from_bits(checkpoint * 2_000),
    }
}

/// The small tables after a checkpoint, which writes all of them.
fn rows(checkpoint: u64) -> Vec<Row> {
    vec![
        epoch_row(Epoch(1), Index(1)),
        Row {
            table: Table::from_number(7),
            key: Bytes::from_static(b"key"),
            value: Some(Bytes::from(vec![u8::try_from(checkpoint).unwrap(); 50])),
        },
    ]
}

/// The store's state after all checkpoints.
fn state() -> StoreState {
    StoreState {
        meta: meta(CHECKPOINTS),
        rows: rows(CHECKPOINTS),
    }
}

async fn filled(disk: &TestDisk) -> SqliteStore {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = open(&disk, Path::new(STORE)).await.unwrap();
    store.claim(Incarnation(1)).await.unwrap();
    for nth in 1..=CHECKPOINTS {
        let written = (0..KEYS).filter(|number| writes(nth, *number));
        let batch = CheckpointBatch {
            meta: meta(nth),
            rows: rows(nth),
            changes: written
                .map(|number| (key(number), Entry::Value(item(number, nth))))
                .collect(),
            ..CheckpointBatch::default()
        };
        store.checkpoint(Incarnation(1), batch).await.unwrap();
    }
    store
}

/// Opens the store of a disk and reads everything in it.
async fn read_all(disk: TestDisk) -> Result<(StoreState, Vec<Option<Item>>), StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let store = open(&disk, Path::new(STORE)).await?;
    let read = async {
        let meta = store.claim(Incarnation(2)).await?;
        let found = store.get_many(&keys()).await?;
        read_every_page(&store).await?;
        Ok((meta, found))
    };
    let read = read.await;
    store.close().await;
    read
}

/// Makes SQLite also read the trees without keys of the test.
async fn read_every_page(store: &SqliteStore) -> Result<(), StorageError> {
    store.outcomes().await?;
    store.oldest_tombstone().await?;
    store.expired(Version::from_bits(1), 1).await?;
    let mut connection = store.reader().await?;
    for sql in [
        "SELECT count(*) FROM tombstone NOT INDEXED",
        "SELECT count(*) FROM outcome NOT INDEXED",
        "SELECT count(*) FROM outcome WHERE newest > 0",
    ] {
        let counted = sqlx::query(sql).fetch_one(&mut *connection).await;
        store.explained(counted.map_err(|error| failure(&store.path, "read", error)))?;
    }
    Ok(())
}

/// Flips bits of every byte of `file`, one byte after the other, and returns in how many cases
/// the store noticed it.
async fn flip_each_byte(whole: &TestDisk, file: &'static str) -> usize {
    let bytes = whole.content(Path::new(file)).unwrap();
    let mut random = StdRng::seed_from_u64(bytes.len() as u64);
    let mut running = tokio::task::JoinSet::new();
    let mut noticed = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if running.len() >= TASKS {
            noticed += usize::from(running.join_next().await.unwrap().unwrap());
        }
        let disk = whole.fork();
        let mask: u8 = 1 << random.random_range(0..8);
        disk.damage(Path::new(file), at, &[byte ^ mask]);
        running.spawn(async move {
            match read_all(disk).await {
                Ok(read) => {
                    let is_right = read == (state(), expected());
                    assert!(is_right, "byte {at} of {file} changes what is read");
                    false
                }
                Err(StorageError::Damaged {
                    file: found, place, ..
                }) => {
                    assert_eq!(found, Path::new(file), "byte {at}");
                    let offset = place.strip_prefix("offset ").unwrap_or_else(|| {
                        panic!("byte {at} of {file} is found at {place}");
                    });
                    let offset: usize = offset.parse().unwrap();
                    assert!(offset <= at, "byte {at} of {file} is found at {place}");
                    true
                }
                Err(error) => panic!("byte {at} of {file}: {error}"),
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        noticed += usize::from(ended.unwrap());
    }
    noticed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_the_database_is_served_nor_makes_a_row_absent() {
    let disk = TestDisk::default();
    filled(&disk).await.close().await;
    assert_eq!(disk.content(Path::new(WAL)), None);
    let bytes = disk.content(Path::new(STORE)).unwrap().len();
    assert!(bytes >= 6 * 4096, "the tree has no inner page");
    assert_eq!(read_all(disk.fork()).await.unwrap(), (state(), expected()));
    // Every page is read, so every byte counts.
    assert_eq!(flip_each_byte(&disk, STORE).await, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_the_write_ahead_file_takes_a_checkpoint_back() {
    let disk = TestDisk::default();
    let store = filled(&disk).await;
    let left_behind = disk.fork();
    store.close().await;
    let bytes = left_behind.content(Path::new(WAL)).unwrap().len();
    // All but the seal at the end.
    let noticed = flip_each_byte(&left_behind, WAL).await;
    assert_eq!(noticed, bytes - vfs::seal::SEAL_BYTES);
}

#[tokio::test]
async fn a_frame_that_changes_while_the_store_is_open_is_not_served_nor_folded_back() {
    let disk = TestDisk::default();
    let store = filled(&disk).await;
    let whole = disk.content(Path::new(STORE)).unwrap();
    let bytes = disk.content(Path::new(WAL)).unwrap();
    for page in (32 + 24..bytes.len() - 4096).step_by(4120) {
        disk.damage(Path::new(WAL), page + 4000, &[bytes[page + 4000] ^ 4]);
    }
    let refused = store.get_many(&keys()).await.unwrap_err();
    let words = refused.to_string();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{words}");
    assert!(words.contains("store-wal is damaged at offset"), "{words}");
    store.close().await;
    assert_eq!(disk.content(Path::new(STORE)).unwrap(), whole);
    assert!(disk.content(Path::new(WAL)).is_some());
}

#[tokio::test]
async fn a_page_that_was_never_written_or_is_elsewhere_is_damage() {
    let disk = TestDisk::default();
    filled(&disk).await.close().await;
    let bytes = disk.content(Path::new(STORE)).unwrap();
    let pages = bytes.len() / 4096;
    for page in 1..pages {
        let at = page * 4096;
        let other = (page % (pages - 1) + 1) * 4096;
        let moved = bytes[other..other + 4096].to_vec();
        for content in [vec![0; 4096], moved] {
            let disk = disk.fork();
            disk.damage(Path::new(STORE), at, &content);
            let refused = read_all(disk).await.err();
            let refused = refused.unwrap_or_else(|| panic!("page {page} is not missed"));
            let words = refused.to_string();
            assert!(matches!(refused, StorageError::Damaged { .. }), "{words}");
        }
    }
}
