//! Appends, truncations, applies, tails, checkpoints and scrubs at the same time.

use std::{sync::Mutex, task::Poll};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::*;
use crate::locked;

/// The log of a replica whose masters change, as its tasks see it.
#[derive(Debug, Default)]
struct Replica {
    log: Vec<Record>,
    applied: usize,
    epoch: u64,
    truncations: u64,
}

const RECORDS: usize = 6_000;

/// One task appends, one cuts off what is not applied, one applies; tails read, and checkpoints
/// and scrubs run, while the log's thread writes.
async fn race(readers: Readers) {
    let disk = TestDisk::default();
    let (storage, _) = opened(&disk).await;
    let replica = Arc::new(Mutex::new(Replica {
        epoch: 1,
        ..Replica::default()
    }));
    let mut tasks = JoinSet::new();
    tasks.spawn(append_all(Arc::clone(&storage), Arc::clone(&replica)));
    tasks.spawn(cut_often(Arc::clone(&storage), Arc::clone(&replica)));
    tasks.spawn(apply_all(Arc::clone(&storage), Arc::clone(&replica)));
    tasks.spawn(store_and_verify(Arc::clone(&storage), Arc::clone(&replica)));
    for nth in 0..3 {
        let (storage, replica) = (Arc::clone(&storage), Arc::clone(&replica));
        tasks.spawn(async move {
            let read = match readers {
                Readers::Stay => follow(&storage).await,
                Readers::ComeAndGo => visit(&storage, nth * 50).await,
            };
            assert_eq!(read, locked(&replica).log[..read.len()]);
        });
    }
    while let Some(done) = deadline(tasks.join_next()).await {
        done.unwrap();
    }
    let replica = Arc::into_inner(replica).unwrap().into_inner().unwrap();
    assert!(replica.truncations > 20, "{}", replica.truncations);
    storage.close().await.unwrap();
    drop(storage);
    let (storage, found) = opened(&disk.kill()).await;
    let stored = usize::try_from(found.applied.0).unwrap();
    assert_eq!(found.tail, shared(&replica.log[stored..]));
    storage.close().await.unwrap();
}

fn is_over(replica: &Mutex<Replica>) -> bool {
    locked(replica).applied >= RECORDS
}

async fn append_all(storage: Arc<Storage>, replica: Arc<Mutex<Replica>>) {
    let mut random = StdRng::seed_from_u64(1);
    while !is_over(&replica) {
        storage.room().await;
        append_some(&storage, &mut locked(&replica), &mut random);
        tokio::task::yield_now().await;
    }
}

async fn cut_often(storage: Arc<Storage>, replica: Arc<Mutex<Replica>>) {
    let mut random = StdRng::seed_from_u64(2);
    while !is_over(&replica) {
        cut_some(&storage, &replica, &mut random).await;
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

async fn apply_all(storage: Arc<Storage>, replica: Arc<Mutex<Replica>>) {
    let mut random = StdRng::seed_from_u64(3);
    while !is_over(&replica) {
        apply_some(&storage, &mut locked(&replica), &mut random);
        tokio::task::yield_now().await;
    }
}

async fn store_and_verify(storage: Arc<Storage>, replica: Arc<Mutex<Replica>>) {
    while !is_over(&replica) {
        storage.checkpoint().await.unwrap();
        let scrubbed = storage.scrub(u64::MAX).await.unwrap();
        assert!(scrubbed.damage.is_empty(), "{:?}", scrubbed.damage);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_and_tails_race_truncations() {
    race(Readers::Stay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_and_tails_that_come_and_go_race_truncations() {
    race(Readers::ComeAndGo).await;
}

/// How tails read while the log is cut.
#[derive(Clone, Copy, Debug)]
enum Readers {
    /// From the records that are kept in memory.
    Stay,
    /// Mostly from the files: nothing is kept in memory while there is no tail.
    ComeAndGo,
}

async fn follow(storage: &Storage) -> Vec<Record> {
    let mut tail = storage.tail_after(Position::default()).await.unwrap();
    let mut read: Vec<Record> = Vec::new();
    while read.len() < RECORDS {
        let stretch = deadline(tail.read()).await.unwrap();
        read.extend(stretch.records().cloned());
    }
    read
}

/// Opens a tail again and again, some records before those that it read.
async fn visit(storage: &Storage, back: usize) -> Vec<Record> {
    let mut read: Vec<Record> = Vec::new();
    while read.len() < RECORDS {
        let from = read.len().saturating_sub(back);
        let again = read.split_off(from);
        let place = position_of(&read, read.len());
        let mut tail = storage.tail_after(place).await.unwrap();
        while read.len() <= from + again.len() && read.len() < RECORDS {
            let stretch = deadline(tail.read()).await.unwrap();
            read.extend(stretch.records().cloned());
        }
        assert_eq!(again, read[from..from + again.len()]);
        drop(tail);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    read
}

fn append_some(storage: &Storage, replica: &mut Replica, random: &mut StdRng) {
    // A bounded tail, so that truncations take much of it, and none for ever.
    if replica.log.len() > replica.applied + 200 {
        return;
    }
    let first = replica.log.len() as u64 + 1;
    let some: Vec<Record> = (first..first + random.random_range(1..6))
        .map(|index| {
            loose(
                replica.epoch,
                index,
                replica.applied as u64,
                random.random_range(0..600),
            )
        })
        .collect();
    match storage.append(some.clone()) {
        Ok(_) => replica.log.extend(some),
        Err(StorageError::Truncating) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn cut_some(storage: &Storage, replica: &Mutex<Replica>, random: &mut StdRng) {
    let (begun, truncation) = {
        let mut replica = locked(replica);
        let to = random.random_range(replica.applied..=replica.log.len());
        let mut truncation = Box::pin(storage.truncate(position_of(&replica.log, to)));
        let begun = begin(&mut truncation);
        replica.log.truncate(to);
        replica.epoch += 1;
        replica.truncations += 1;
        (begun, truncation)
    };
    match begun {
        Poll::Ready(done) => done.unwrap(),
        Poll::Pending => deadline(truncation).await.unwrap(),
    }
}

fn apply_some(storage: &Storage, replica: &mut Replica, random: &mut StdRng) {
    let durable = *storage.durable().borrow();
    let reached = (replica.log.iter())
        .rposition(|record| record.position == durable)
        .map_or(0, |last| last + 1);
    if reached > replica.applied {
        let to = random
            .random_range(replica.applied..=reached)
            .min(replica.applied + 20);
        storage.apply(&replica.log[replica.applied..to]);
        replica.applied = to;
    }
}
