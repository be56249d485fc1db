//! Power cuts at random moments, from seeds: afterwards all acknowledged records are there, and
//! none that was never written.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    StorageError,
    disk::{Tear, TestDisk},
};

const SEEDS: u64 = 300;
const LIVES: usize = 4;
/// The node's directory.
const DIR: &str = "/node";

/// One node living several lives, each ended by a power cut.
struct Life {
    random: StdRng,
    disk: TestDisk,
    /// The records that could have been seen, and those appended after them.
    log: Vec<Record>,
    acknowledged: usize,
    promised: u64,
    epoch: u64,
}

impl Life {
    /// Opens, checks that all acknowledged records survived, and continues from there.
    async fn wake(&mut self, seed: u64) -> Arc<Storage> {
        let (storage, found) = open(Path::new(DIR), self.disk.clone()).await;
        let survived = usize::try_from(found.last.index.0).unwrap();
        assert!(
            survived >= self.acknowledged,
            "I1: seed {seed} lost acknowledged records: {survived} of {}",
            self.acknowledged
        );
        assert!(survived <= self.log.len(), "seed {seed} made records up");
        let applied = usize::try_from(found.applied.0).unwrap();
        assert_eq!(
            found.tail,
            shared(&self.log[applied..survived]),
            "seed {seed}"
        );
        assert!(
            found.promised.0 >= self.promised,
            "seed {seed} lost a promise"
        );
        self.log.truncate(survived);
        storage.apply(&found.tail);
        let keys: Vec<ItemKey> = (0..8).map(|nth| key(&format!("k{nth}"))).collect();
        let model = Model::of(&self.log);
        model
            .check(&storage, &keys, &format!("in seed {seed}"))
            .await;
        self.acknowledged = survived;
        self.promised = found.promised.0;
        self.epoch = self.promised + 1;
        storage
    }

    async fn live(&mut self, storage: &Storage, largest: usize) {
        if storage.promise(Epoch(self.epoch), None).await.is_ok() {
            self.promised = self.epoch;
        }
        for _ in 0..self.random.random_range(0..12) {
            let records: Vec<Record> = (0..self.random.random_range(1..6))
                .map(|_| {
                    let name = format!("k{}", self.random.random_range(0..8));
                    let length = self.random.random_range(0..largest);
                    let value = self.random.random_bool(0.8);
                    // All bytes differ, so that a lost sector does not look like another one.
                    let bytes: Bytes = (0..length).map(|_| self.random.random()).collect();
                    let index = self.log.len() as u64 + 1;
                    let mut record = record(
                        self.epoch,
                        index,
                        vec![change(&name, value.then_some(bytes))],
                    );
                    // The records that this node has acknowledged so far.
                    record.commit = Index(self.acknowledged as u64);
                    self.log.push(record.clone());
                    record
                })
                .collect();
            storage.append(records).unwrap();
            if self.random.random_bool(0.6) {
                durable(storage, Index(self.log.len() as u64)).await;
                storage.apply(&self.log[self.acknowledged..]);
                self.acknowledged = self.log.len();
            }
            if self.random.random_bool(0.2) {
                storage.checkpoint().await.unwrap();
            }
        }
    }
}

async fn lives(seed: u64, tear: Tear, largest: usize) {
    let mut life = Life {
        random: StdRng::seed_from_u64(seed),
        disk: TestDisk::default(),
        log: Vec::new(),
        acknowledged: 0,
        promised: 0,
        epoch: 1,
    };
    for _ in 0..LIVES {
        let storage = life.wake(seed).await;
        life.live(&storage, largest).await;
        let cut = life.random.random();
        life.disk = life.disk.crash(cut, tear);
        // The old process ended with the power; here its tasks must end too.
        drop(storage);
    }
    life.wake(seed).await.close().await.unwrap();
}

/// Runs a scenario for every seed, a few at a time.
async fn for_all_seeds(tear: Tear, largest: usize) {
    let mut running = tokio::task::JoinSet::new();
    for seed in 0..SEEDS {
        if running.len() >= 8 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(lives(seed, tear, largest));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_torn_writes() {
    for_all_seeds(Tear::InOrder, 3_000).await;
}

/// Sectors of one write may reach the disk in any order. Records here have at most two sectors.
/// Of a longer one, the first and last sector can survive without the middle, which is damage by
/// LOG-TORN and refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_reordered_writes() {
    for_all_seeds(Tear::AnyOrder, 400).await;
}

/// The other side of that rule: such a record is refused with its place, and if it was
/// acknowledged it is never cut.
#[tokio::test]
async fn a_record_with_a_hole_is_refused_not_guessed_about() {
    let dir = Path::new(DIR);
    let disk = TestDisk::default();
    let (storage, _) = open(dir, disk.clone()).await;
    commit(&storage, vec![put(1, 1, "k", 2_000)]).await;
    let disk = disk.crash(0, Tear::InOrder);
    drop(storage);
    let segment = dir.join("log/00000000000000000001.log");
    disk.damage(&segment, 512, &[0; 512]);
    let refused = Storage::open(settings(dir), Arc::new(disk)).await;
    let refused = refused.err().unwrap();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    let words = refused.to_string();
    assert!(
        words.contains("offset 64") && words.contains("00000001.log"),
        "{words}"
    );
}
