use std::sync::Arc;

use bytes::Bytes;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;
use tierkv_types::Version;

use super::*;
use crate::Entry;
use crate::store::conformance::{self, StoreBackend};

struct Files(TempDir);

#[async_trait]
impl StoreBackend for Files {
    async fn open(&self, name: &str) -> Arc<dyn Store> {
        let path = self.0.path().join(name);
        Arc::new(SqliteStore::open(&path, WalSync::Always).await.unwrap())
    }
}

#[tokio::test]
async fn sqlite_keeps_the_rules_of_a_store() {
    conformance::run(&Files(TempDir::new().unwrap())).await;
}

/// Changes the file behind the store's back.
async fn tamper(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_named_and_never_served() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let store = SqliteStore::open(&path, WalSync::Always).await.unwrap();
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
        &path,
        "UPDATE item SET version = 6 WHERE key = x'6E00626164'",
    )
    .await;
    let refused = store.get_many(&[key(b"bad")]).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    assert!(refused.to_string().contains("n\\x00bad"), "{refused}");
    let found = store.get_many(&[key(b"good")]).await.unwrap();
    assert_eq!(found, vec![Some(item)]);

    tamper(&path, "UPDATE meta SET applied_index = 7").await;
    let refused = store.claim(Incarnation(2)).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    store.close().await;
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_file_are_refused_in_words() {
    let dir = TempDir::new().unwrap();
    let newer = dir.path().join("newer");
    let store = SqliteStore::open(&newer, WalSync::Always).await.unwrap();
    store.close().await;
    tamper(&newer, "PRAGMA user_version = 99").await;
    let refused = SqliteStore::open(&newer, WalSync::Always)
        .await
        .unwrap_err();
    assert!(matches!(refused, StorageError::Newer { found: 99, .. }));
    assert!(refused.to_string().contains("run the newer release"));

    let foreign = dir.path().join("foreign");
    std::fs::write(&foreign, vec![b'x'; 10_000]).unwrap();
    let refused = SqliteStore::open(&foreign, WalSync::Always)
        .await
        .unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
}
