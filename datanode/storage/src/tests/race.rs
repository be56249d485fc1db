//! Reads during checkpoints: no reader sees an older value again, or misses a stored entry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::{MemoryLimits, RealDisk, Residence, WalSync};

const KEYS: u64 = 16;
const ROUNDS: u64 = 1_500;

/// Every key is written again and again, in turns with deletes of odd ones, while checkpoints
/// run without a pause and clean entries are evicted at once. Each reader checks memory and
/// store against the changes that were applied before its read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_never_go_back_while_checkpoints_run() {
    for max_bytes in [1, 1 << 20] {
        let dir = TempDir::new().unwrap();
        let settings = StorageSettings {
            segment_bytes: 1 << 20,
            memory: MemoryLimits {
                max_bytes,
                ..MemoryLimits::default()
            },
            sync: WalSync::Never,
            ..settings(dir.path())
        };
        let (storage, _) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
        // Round number of the last applied change of each key.
        let applied: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let done = Arc::new(AtomicBool::new(false));

        let checkpoints = tokio::spawn({
            let (storage, done) = (Arc::clone(&storage), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Acquire) {
                    storage.checkpoint().await.unwrap();
                }
            }
        });
        let readers = (0..3).map(|_| {
            let (storage, done) = (Arc::clone(&storage), Arc::clone(&done));
            let applied = Arc::clone(&applied);
            tokio::spawn(async move {
                let keys: Vec<ItemKey> = (0..KEYS).map(|nth| key(&format!("k{nth}"))).collect();
                let mut reads = 0_u64;
                while !done.load(Ordering::Acquire) {
                    let before: Vec<u64> = applied.iter().map(load).collect();
                    let found = storage.load(&keys).await.unwrap();
                    let after: Vec<u64> = applied.iter().map(load).collect();
                    for (nth, found) in found.iter().enumerate() {
                        check(nth, found.as_ref(), before[nth], after[nth]);
                        let before = load(&applied[nth]);
                        if let Residence::Found(item) = storage.get(keys[nth].as_bytes()) {
                            check(nth, Some(&item), before, load(&applied[nth]));
                        }
                    }
                    reads += 1;
                }
                reads
            })
        });
        let readers: Vec<_> = readers.collect();

        for round in 1..=ROUNDS {
            let nth = round % KEYS;
            let value = is_value(nth, round).then(|| Bytes::from(round.to_string()));
            let name = format!("k{nth}");
            commit(&storage, vec![record(1, round, vec![change(&name, value)])]).await;
            applied[usize::try_from(nth).unwrap()].store(round, Ordering::Release);
        }
        done.store(true, Ordering::Release);
        checkpoints.await.unwrap();
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
        storage.close().await.unwrap();
    }
}

/// A record is in the store completely or not at all, and the store has exactly the records up
/// to its applied index, while another thread applies records without a pause.
#[tokio::test]
async fn a_checkpoint_falls_between_two_records() {
    let dir = TempDir::new().unwrap();
    let settings = StorageSettings {
        segment_bytes: 1 << 20,
        sync: WalSync::Never,
        ..settings(dir.path())
    };
    let (storage, _) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
    let names: Vec<String> = (0..8).map(|nth| format!("k{nth}")).collect();
    let keys: Vec<ItemKey> = names.iter().map(|name| key(name)).collect();
    let value = || Some(Bytes::from_static(b"v"));
    let records: Vec<Record> = (1..=40_000)
        .map(|index| {
            record(
                1,
                index,
                names.iter().map(|name| change(name, value())).collect(),
            )
        })
        .collect();
    let last = records[records.len() - 1].position.index;
    for some in records.chunks(500) {
        storage.room().await;
        storage.append(some.to_vec()).unwrap();
    }
    durable(&storage, last).await;
    let applying = std::thread::spawn({
        let storage = Arc::clone(&storage);
        move || records.chunks(3).for_each(|some| storage.apply(some))
    });
    let mut checkpoints = 0;
    while storage.report().stored < last {
        storage.checkpoint().await.unwrap();
        let stored = storage.report().stored.0;
        let rows = storage.core.store.get_many(&keys).await.unwrap();
        for row in rows {
            let version = row.map_or(0, |item| item.version.to_bits());
            assert_eq!(version, stored * 10);
        }
        checkpoints += 1;
    }
    applying.join().unwrap();
    assert!(checkpoints > 1, "nothing was applied meanwhile");
    storage.close().await.unwrap();
}

fn load(applied: &AtomicU64) -> u64 {
    applied.load(Ordering::Acquire)
}

/// Whether the change of key `nth` in `round` puts a value, or deletes it.
fn is_value(nth: u64, round: u64) -> bool {
    nth.is_multiple_of(2) || (round / KEYS).is_multiple_of(2)
}

/// The item found must be the state after some round between the last one applied before the
/// read and one past the last applied after it (applied, but not published yet).
fn check(nth: usize, found: Option<&Item>, before: u64, after: u64) {
    let nth = nth as u64;
    match found {
        Some(item) => {
            let round = item.version.to_bits() / 10;
            assert_eq!(item.value, round.to_string().as_bytes());
            assert!(
                round >= before && round <= after + KEYS,
                "key {nth} showed round {round}, {before} was applied before the read"
            );
        }
        None => {
            let deleted = (before..=after + KEYS)
                .filter(|round| round % KEYS == nth || *round == before)
                .any(|round| round == 0 || !is_value(nth, round));
            assert!(deleted, "key {nth} vanished after round {before}");
        }
    }
}
