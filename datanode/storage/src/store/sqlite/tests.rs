use std::sync::Arc;

mod damage;
mod node_snapshot;
mod power;
mod state_rows;
mod upgrade;

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_types::Version;

use super::*;
use crate::{
    Entry, RealDisk,
    disk::TestDisk,
    store::{
        StoreMeta,
        conformance::{self, StoreBackend},
    },
};

struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

#[async_trait]
impl StoreBackend for Files {
    async fn open(&self, name: &str) -> Arc<dyn Store> {
        let path = self.dir.join(name);
        Arc::new(open(&self.disk, &path).await.unwrap())
    }
}

async fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<SqliteStore, StorageError> {
    SqliteStore::open(Arc::clone(disk), path, WalSync::Always).await
}

#[tokio::test]
async fn sqlite_keeps_the_rules_of_a_store() {
    let dir = TempDir::new().unwrap();
    let on_the_machine = Files {
        disk: Arc::new(RealDisk),
        dir: dir.path().to_owned(),
    };
    conformance::run(&on_the_machine).await;
    let in_memory = Files {
        disk: Arc::new(TestDisk::default()),
        dir: PathBuf::from("/stores"),
    };
    conformance::run(&in_memory).await;
}

/// Changes rows without the store; their pages get valid checksums.
pub(crate) async fn tamper(disk: &Arc<dyn Disk>, path: &Path, sql: &'static str) {
    let volume = registry::enter(disk, path, PageFormat::Checked, WalSync::Always);
    let options = connect_options(path, &volume, WalSync::Always).unwrap();
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_named_and_never_served() {
    let disk: Arc<dyn Disk> = Arc::new(TestDisk::default());
    let path = Path::new("/n/store");
    let store = open(&disk, path).await.unwrap();
    store.claim(Incarnation(1)).await.unwrap();
    let key = |name: &[u8]| ItemKey::new("n", name).unwrap();
    let item = Item {
        version: Version::from_bits(5),
        expires: None,
        value: Bytes::from_static(b"value"),
    };
    let batch = CheckpointBatch {
        meta: StoreMeta::default(),
        changes: vec![
            (key(b"good"), Entry::Value(item.clone())),
            (key(b"bad"), Entry::Value(item.clone())),
        ],
        ..CheckpointBatch::default()
    };
    store.checkpoint(Incarnation(1), batch).await.unwrap();
    tamper(
        &disk,
        path,
        "UPDATE item SET version = 6 WHERE key = x'6E00626164'",
    )
    .await;
    let refused = store.get_many(&[key(b"bad")]).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    assert!(refused.to_string().contains("n\\x00bad"), "{refused}");
    let found = store.get_many(&[key(b"good")]).await.unwrap();
    assert_eq!(found, vec![Some(item)]);

    tamper(&disk, path, "UPDATE meta SET applied_index = 7").await;
    let refused = store.claim(Incarnation(2)).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    store.close().await;
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_file_are_refused_in_words() {
    let foreign = Path::new("/n/foreign");
    let files = [(foreign.to_owned(), vec![b'x'; 10_000])];
    let disk: Arc<dyn Disk> = Arc::new(TestDisk::holding(files));
    let newer = Path::new("/n/newer");
    let store = open(&disk, newer).await.unwrap();
    store.close().await;
    tamper(&disk, newer, "PRAGMA user_version = 99").await;
    let refused = open(&disk, newer).await.unwrap_err();
    assert!(matches!(refused, StorageError::Newer { found: 99, .. }));
    assert!(refused.to_string().contains("run the newer release"));

    let refused = open(&disk, foreign).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
}

/// SQLite rolls a transaction back by itself when there is no space, and the driver does
/// not notice.
#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let disk: Arc<dyn Disk> = Arc::new(TestDisk::default());
    let store = open(&disk, Path::new("/store")).await.unwrap();
    store.claim(Incarnation(1)).await.unwrap();
    let key = ItemKey::new("n", b"large").unwrap();
    let item = Item {
        version: Version::from_bits(5),
        expires: None,
        value: Bytes::from(vec![7; 200_000]),
    };
    let batch = CheckpointBatch {
        changes: vec![(key.clone(), Entry::Value(item.clone()))],
        ..CheckpointBatch::default()
    };
    let mut writer = store.writer.acquire().await.unwrap();
    // As large as it is; the limit is the connection's.
    sqlx::raw_sql("PRAGMA max_page_count = 1")
        .execute(&mut *writer)
        .await
        .unwrap();
    drop(writer);
    let full = store.checkpoint(Incarnation(1), batch.clone()).await;
    assert!(
        matches!(full, Err(StorageError::NoSpace { .. })),
        "{full:?}"
    );
    assert_eq!(
        store.get_many(std::slice::from_ref(&key)).await.unwrap(),
        [None]
    );
    store.checkpoint(Incarnation(1), batch).await.unwrap();
    assert_eq!(store.get_many(&[key]).await.unwrap(), [Some(item)]);
    store.close().await;
}
