//! Random appends, truncations, applies, checkpoints, scrubs and restarts against a model.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::Tail;

const SEEDS: u64 = 80;
const STEPS: usize = 120;

/// A node, and the log that it must have.
struct Node {
    random: StdRng,
    disk: TestDisk,
    storage: Arc<Storage>,
    log: Vec<Record>,
    applied: usize,
    epoch: u64,
    tail: Tail,
    /// The records that the tail returned.
    read: Vec<Record>,
}

#[tokio::test]
async fn any_order_of_steps_leaves_what_the_model_has() {
    for seed in 0..SEEDS {
        let disk = TestDisk::default();
        let (storage, _) = opened(&disk).await;
        let mut node = Node {
            random: StdRng::seed_from_u64(seed),
            disk,
            tail: storage.tail_after(Position::default()).await.unwrap(),
            storage,
            log: Vec::new(),
            applied: 0,
            epoch: 1,
            read: Vec::new(),
        };
        for step in 0..STEPS {
            node.step(&format!("in step {step} of seed {seed}")).await;
        }
        node.storage.close().await.unwrap();
    }
}

impl Node {
    async fn step(&mut self, when: &str) {
        match self.random.random_range(0..20) {
            0..9 => self.append(),
            9..12 => self.apply().await,
            12..16 => self.truncate(when).await,
            16 => self.storage.checkpoint().await.unwrap(),
            17 => {
                let scrubbed = self.storage.scrub(u64::MAX).await.unwrap();
                assert!(scrubbed.damage.is_empty(), "{when}: {:?}", scrubbed.damage);
            }
            _ => self.restart(when).await,
        }
        // The tail reads what is applied, wherever the log was cut after it.
        if self.random.random_bool(0.3) {
            while self.read.len() < self.applied {
                let stretch = deadline(self.tail.read()).await.unwrap();
                self.read.extend(stretch.records().cloned());
            }
            assert_eq!(self.read, self.log[..self.read.len()], "{when}");
        }
    }

    fn append(&mut self) {
        let length = [10, 300, 900, 2_500][self.random.random_range(0..4)];
        let first = self.log.len() as u64 + 1;
        let some: Vec<Record> = (first..first + self.random.random_range(1..9))
            .map(|index| loose(self.epoch, index, self.applied as u64, length))
            .collect();
        self.storage.append(some.clone()).unwrap();
        self.log.extend(some);
    }

    async fn apply(&mut self) {
        let to = self.random.random_range(self.applied..=self.log.len());
        if to > self.applied {
            durable(&self.storage, Index(to as u64)).await;
            self.storage.apply(&self.log[self.applied..to]);
            self.applied = to;
        }
    }

    async fn truncate(&mut self, when: &str) {
        let to = self.random.random_range(self.applied..=self.log.len());
        let position = position_of(&self.log, to);
        deadline(self.storage.truncate(position)).await.unwrap();
        assert_eq!(*self.storage.durable().borrow(), position, "{when}");
        self.log.truncate(to);
        // As with a new master, whose records may be of an earlier epoch than some that went.
        let least = self.log.last().map_or(1, |record| record.position.epoch.0);
        self.epoch = self.random.random_range(least..=self.epoch + 1);
    }

    /// Stops or kills the process, and starts another one.
    async fn restart(&mut self, when: &str) {
        if self.random.random_bool(0.5) {
            self.storage.close().await.unwrap();
        } else {
            durable(&self.storage, Index(self.log.len() as u64)).await;
            self.disk = self.disk.kill();
        }
        let (storage, found) = opened(&self.disk).await;
        let stored = usize::try_from(found.applied.0).unwrap();
        let last = position_of(&self.log, self.log.len());
        assert_eq!(found.last, last, "{when}");
        assert_eq!(found.tail, shared(&self.log[stored..]), "{when}");
        // What was applied is committed, so it is applied again.
        storage.apply(&self.log[stored..self.applied]);
        let last = position_of(&self.log, self.read.len());
        self.tail = storage.tail_after(last).await.unwrap();
        self.storage = storage;
    }
}
