//! A scrub finds damage that no read meets.

use tempfile::TempDir;

use super::*;
use crate::{StorageError, disk::TestDisk};

const FAST: u64 = u64::MAX;

#[tokio::test]
async fn a_scrub_reads_all_and_finds_damage_with_its_place() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let kept = StorageSettings {
        log_retention: Duration::from_secs(600),
        ..settings(dir.path())
    };
    let opened = Storage::open(kept, Arc::new(disk.clone())).await;
    let (storage, _) = opened.unwrap();
    for index in 1..=100 {
        commit(&storage, vec![put(1, index, &format!("k{index}"), 1_000)]).await;
    }
    storage.checkpoint().await.unwrap();
    let sound = storage.scrub(FAST).await.unwrap();
    assert!(sound.damage.is_empty(), "{:?}", sound.damage);
    assert_eq!(sound.rows, 100);
    assert_eq!(sound.segments + 1, storage.report().segments);
    assert!(sound.records > 80 && sound.records < 100);

    let record = |nth: usize| 64 + nth * tierkv_types::record::encoded_len(&put(1, 1, "k1", 1_000));
    let segment = dir.path().join("log/00000000000000000002.log");
    disk.damage(&segment, record(3) + 200, &[0]);
    let end = disk.content(&segment).unwrap().len() - 1;
    let other = dir.path().join("log/00000000000000000004.log");
    disk.damage(&other, end, &[7]);
    let found = storage.scrub(FAST).await.unwrap();
    let places: Vec<(String, String)> = (found.damage.iter())
        .map(|damage| match damage {
            StorageError::Damaged { file, place, .. } => {
                (file.display().to_string(), place.clone())
            }
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(places.len(), 2, "{places:?}");
    assert_eq!(places[0].0, segment.display().to_string());
    assert!(places[0].1.starts_with("offset "));
    assert_eq!(places[1].0, other.display().to_string());
    storage.close().await.unwrap();
}
