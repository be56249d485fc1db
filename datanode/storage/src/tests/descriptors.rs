//! No file can be opened for a while: open files keep working, other work fails with an error.

use futures::future::try_join_all;
use tempfile::TempDir;
use tierkv_types::ItemRange;

use super::*;
use crate::{MemoryLimits, StorageError, disk::TestDisk};

fn is_short(error: &StorageError) -> bool {
    matches!(error, StorageError::NoDescriptors { .. }) && error.is_passing()
}

/// Commits records from `next` on; returns the refused one and the error.
async fn until_refused(storage: &Storage, mut next: u64) -> (u64, StorageError) {
    loop {
        storage.room().await;
        let record = put(1, next, "k22", 1_000);
        match storage.append(vec![record.clone()]) {
            Ok(queued) => drop(queued),
            Err(error) => return (next, error),
        }
        durable(storage, Index(next)).await;
        storage.apply(&[record]);
        next += 1;
        assert!(next < 100, "the segment never became full");
    }
}

#[tokio::test]
async fn what_is_open_goes_on_and_the_rest_is_refused_until_files_can_be_opened() {
    let (dir, disk) = (TempDir::new().unwrap(), TestDisk::default());
    let settings = StorageSettings {
        // Reads go to the store.
        memory: MemoryLimits {
            max_bytes: 1,
            ..settings(dir.path()).memory
        },
        ..settings(dir.path())
    };
    let opened = Storage::open(settings, Arc::new(disk.clone())).await;
    let (storage, _) = opened.unwrap();
    let names: Vec<String> = (1..=20).map(|index| format!("k{index}")).collect();
    for (index, name) in (1..).zip(&names) {
        commit(&storage, vec![put(1, index, name, 100)]).await;
    }
    storage.checkpoint().await.unwrap();

    disk.set_descriptors(Some(0));
    let keys: Vec<ItemKey> = names.iter().map(|name| key(name)).collect();
    let reads = keys
        .iter()
        .map(|key| storage.load(std::slice::from_ref(key)));
    let found = deadline(try_join_all(reads)).await.unwrap();
    assert!(found.iter().all(|items| items[0].is_some()));
    let range = ItemRange::of_prefix("test", b"k").unwrap();
    assert!(is_short(
        &storage.snapshot(range.clone()).await.unwrap_err()
    ));
    assert!(is_short(
        &storage.promise(Epoch(9), None).await.unwrap_err()
    ));
    assert!(is_short(&storage.scrub(u64::MAX).await.unwrap_err()));
    // What is written down goes into the store, as long as the log's file has room.
    commit(&storage, vec![put(1, 21, "k21", 100)]).await;
    storage.checkpoint().await.unwrap();
    let (next, refused) = until_refused(&storage, 22).await;
    assert!(is_short(&refused), "{refused}");

    disk.set_descriptors(None);
    let taken = async {
        while storage.append(vec![put(1, next, "k22", 1_000)]).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    deadline(taken).await;
    durable(&storage, Index(next)).await;
    storage.apply(&[put(1, next, "k22", 1_000)]);
    storage.promise(Epoch(9), None).await.unwrap();
    assert!(storage.snapshot(range).await.is_ok());
    storage.close().await.unwrap();
    drop(storage);
    let (storage, recovered) = open(dir.path(), disk).await;
    assert_eq!(
        (recovered.last.index, recovered.promised),
        (Index(next), Epoch(9))
    );
    assert!(storage.load(&[key("k21")]).await.unwrap()[0].is_some());
}
