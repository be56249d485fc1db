//! What is accepted has its space, whatever happens to the disk afterwards (LOG-SPACE).

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Bytes of records that a segment takes.
const SPACE: u64 = SEGMENT - SEGMENT_HEADER_BYTES;
/// How long an append that was refused waits for a change, at most.
const RETRY: Duration = Duration::from_millis(20);
/// Steps of one run, and runs.
const STEPS: u64 = 200;
const RUNS: u64 = 20;

fn bytes_of(records: &[Arc<Record>]) -> u64 {
    let sizes = records.iter().map(|record| record::encoded_len(record));
    sizes.sum::<usize>() as u64
}

/// A record whose frame has so many bytes.
fn sized(index: u64, bytes: u64) -> Arc<Record> {
    let empty = record::encoded_len(&put(1, index, "key", 0)) as u64;
    let record = Arc::new(put(
        1,
        index,
        "key",
        usize::try_from(bytes - empty).unwrap(),
    ));
    assert_eq!(bytes_of(std::slice::from_ref(&record)), bytes);
    record
}

/// Before half of the segment is full, the next one is not allocated. Then come more records at
/// once than the rest of the segment holds.
#[tokio::test]
async fn records_that_come_together_before_a_shortage_is_known_are_refused() {
    for (set, is_expected) in shortages() {
        let disk = TestDisk::default();
        let (log, _, failure) = open(&disk);
        append_allocated(&log, vec![sized(1, SPACE / 2 - 100)])
            .await
            .unwrap();
        written(&log, 1).await;
        set(&disk, true);
        let many: Vec<_> = (2..12).map(|index| sized(index, SPACE / 10)).collect();
        let early = log.append_into(many.clone(), Target::Allocated);
        assert!(matches!(early, Err(StorageError::Growing)), "{early:?}");
        let refused = append_allocated(&log, many.clone()).await.unwrap_err();
        assert!(is_expected(&refused), "{refused}");
        // What the segment still holds is written meanwhile.
        append_allocated(&log, many[..2].to_vec()).await.unwrap();
        written(&log, 3).await;
        set(&disk, false);
        let accepted = async {
            while append_allocated(&log, many[2..].to_vec()).await.is_err() {
                let _ = tokio::time::timeout(RETRY, log.queue().shorter.notified()).await;
            }
        };
        deadline(accepted).await;
        written(&log, 11).await;
        assert!(failure.get().is_none());
    }
}

/// A record that needs the next segment is not held up until half of this one is full.
#[tokio::test]
async fn the_next_segment_is_allocated_when_a_large_record_needs_it() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    for index in 1..=20 {
        let records = vec![sized(index, SPACE * 2 / 3)];
        append_allocated(&log, records).await.unwrap();
    }
    written(&log, 20).await;
    assert_eq!(log.retention().segments(), 20);
}

/// Records before one that waits for space are reported durable.
#[tokio::test]
async fn what_waits_for_space_keeps_nothing_before_it_waiting() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    disk.set_space(Some(0));
    log.append(vec![
        sized(1, SPACE / 3),
        sized(2, SPACE / 3),
        sized(3, SPACE),
    ])
    .unwrap();
    written(&log, 2).await;
    assert_eq!(log.durable().borrow().index, Index(2));
    disk.set_space(None);
    written(&log, 3).await;
}

type Shortage = (fn(&TestDisk, bool), fn(&StorageError) -> bool);

/// The resources that a log can run short of.
fn shortages() -> [Shortage; 2] {
    [
        (
            |disk, is_short| disk.set_space(is_short.then_some(0)),
            |error| matches!(error, StorageError::NoSpace { .. }),
        ),
        (
            |disk, is_short| disk.set_descriptors(is_short.then_some(0)),
            |error| matches!(error, StorageError::NoDescriptors { .. }),
        ),
    ]
}

/// Random records, alone and together, while shortages come and go: whatever was accepted becomes
/// durable without waiting for the end of a shortage.
#[tokio::test]
async fn what_is_accepted_becomes_durable_during_a_shortage() {
    let (mut refusals, mut segments) = (0, 0);
    for seed in 0..RUNS {
        let mut random = StdRng::seed_from_u64(seed);
        let (set, is_expected) = shortages()[usize::from(seed % 2 == 1)];
        let disk = TestDisk::default();
        let (log, _, failure) = open(&disk);
        let mut last = 0;
        for _ in 0..STEPS {
            if random.random_bool(0.05) {
                set(&disk, random.random_bool(0.5));
            }
            let count = random.random_range(1..=8);
            let records: Vec<_> = (1..=count)
                .map(|step| sized(last + step, random.random_range(200..=SPACE / count)))
                .collect();
            match append_allocated(&log, records).await {
                Ok(()) => last += count,
                // Another segment became short of space between the wait and the append.
                Err(StorageError::Growing) => {}
                Err(error) => {
                    assert!(is_expected(&error), "seed {seed}: {error}");
                    refusals += 1;
                }
            }
            if random.random_bool(0.3) {
                written(&log, last).await;
            }
        }
        written(&log, last).await;
        assert!(failure.get().is_none());
        segments += log.retention().segments();
        drop(log);
        set(&disk, false);
        assert_eq!(open(&disk).1.last().index, Index(last), "seed {seed}");
    }
    assert!(refusals > 200 && segments > 200, "{refusals} {segments}");
}
