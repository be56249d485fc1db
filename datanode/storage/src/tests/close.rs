//! Closing while the store does not keep up.

use async_trait::async_trait;
use tempfile::TempDir;
use tierkv_types::Incarnation;
use tokio::{sync::Semaphore, time::Instant};

use super::*;
use crate::{
    RealDisk, StorageError, Store,
    store::{
        CheckpointBatch,
        delegate::{Around, Wrapped},
    },
};

/// How long closing may wait for the last checkpoint here.
const LITTLE: Duration = Duration::from_millis(50);

/// A store whose checkpoints each wait for a permit.
#[derive(Debug)]
struct Slow {
    store: Arc<dyn Store>,
    permits: Arc<Semaphore>,
}

#[async_trait]
impl Around for Slow {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        self.permits.acquire().await.unwrap().forget();
        self.store.checkpoint(incarnation, batch).await
    }
}

#[tokio::test]
async fn a_checkpoint_that_never_ends_holds_no_close_up_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    // The one of a new log.
    let permits = Arc::new(Semaphore::new(1));
    let around = |store| -> Arc<dyn Store> {
        let permits = Arc::clone(&permits);
        Arc::new(Wrapped(Slow { store, permits }))
    };
    let settings = StorageSettings {
        pinned_limit_bytes: 1,
        ..settings(dir.path())
    };
    let disk = Arc::new(RealDisk);
    let (storage, _) = Storage::open_with(settings.clone(), disk.clone(), around)
        .await
        .unwrap();
    let records = vec![record(1, 1, vec![]), put(1, 2, "a", 5), put(1, 3, "b", 6)];
    commit(&storage, records.clone()).await;
    // Memory is full, and a writer waits.
    let writer = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move {
            storage.room().await;
            storage.append(vec![put(1, 4, "c", 1)])
        }
    });
    let began = Instant::now();
    deadline(storage.close_within(LITTLE)).await.unwrap();
    assert!(began.elapsed() >= LITTLE);
    let refused = deadline(writer).await.unwrap();
    assert!(matches!(refused, Err(StorageError::Closed)), "{refused:?}");

    let (storage, found) = Storage::open(settings, disk).await.unwrap();
    assert_eq!(found.last, records[2].position);
    assert_eq!(found.tail, shared(&records), "nothing was stored");
    storage.apply(&found.tail);
    let keys = [key("a"), key("b"), key("c")];
    Model::of(&records)
        .check(&storage, &keys, "after restart")
        .await;
    storage.close().await.unwrap();
}
