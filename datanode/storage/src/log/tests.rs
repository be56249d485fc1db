mod cut;
mod retention;
mod space;

use std::{path::Path, time::Duration};

use tierkv_types::{Epoch, LogId, Payload, Version, record};

use super::*;
use crate::{
    WalSync,
    blocking::Blocking,
    disk::{Disk, TestDisk},
    failure::Failure,
    tests::{deadline, put, shared},
};

const SEGMENT: u64 = 4096;

fn place(disk: &TestDisk) -> LogPlace {
    LogPlace {
        disk: Arc::new(disk.clone()),
        dir: "/log".into(),
        log_id: LogId(9),
        segment_bytes: SEGMENT,
        sync: WalSync::Always,
    }
}

/// Opens the log, creating it if there is none.
fn open(disk: &TestDisk) -> (Log, LogFound, Arc<Failure>) {
    open_at(disk, place(disk))
}

fn open_at(disk: &TestDisk, place: LogPlace) -> (Log, LogFound, Arc<Failure>) {
    let (log, writer, found, failure) = make(disk, place, Blocking::Threads);
    log.run(writer).unwrap();
    (log, found, failure)
}

/// A log whose writer is not running.
fn make(
    disk: &TestDisk,
    place: LogPlace,
    blocking: Blocking,
) -> (Log, LogWriter, LogFound, Arc<Failure>) {
    let found = scan(&place, Index::ZERO).unwrap().unwrap_or_else(|| {
        let header = SegmentHeader {
            log_id: place.log_id,
            number: 1,
            first: Index(1),
            previous_epoch: Epoch::ZERO,
            clock: Version::ZERO,
        };
        let names = place.open_names().unwrap();
        let spare = place.set_aside(&mut None).unwrap();
        place.begin(spare, header, &*names).unwrap();
        scan(&place, Index::ZERO).unwrap().unwrap()
    });
    let failure = Arc::new(Failure::new());
    let (log, writer) = Log::new(LogStart {
        rules: Rules {
            segment_bytes: place.segment_bytes,
            retention: Duration::ZERO,
            limit_bytes: u64::MAX,
        },
        epochs: found.progress.epochs.clone(),
        files: found.clone().open(&place).unwrap(),
        place,
        last: found.last(),
        clock: found.progress.clock,
        failure: Arc::clone(&failure),
        lock: Arc::from(disk.lock(Path::new("/lock")).unwrap().unwrap()),
        blocking,
    });
    (log, writer, found, failure)
}

fn records(from: u64, to: u64) -> Vec<Arc<Record>> {
    let records = (from..=to).map(|index| put(1, index, "key", 200));
    records.map(Arc::new).collect()
}

async fn written(log: &Log, index: u64) {
    let mut durable = log.durable().clone();
    let wait = durable.wait_for(|at| at.index.0 >= index);
    deadline(wait).await.unwrap();
}

/// Waits for room, then appends as records of clients are.
async fn append_allocated(log: &Log, records: Vec<Arc<Record>>) -> Result<(), StorageError> {
    let sizes = records
        .iter()
        .map(|record| record::encoded_len(record) as u64);
    let bytes = sizes.sum();
    let has_room = async {
        loop {
            let changed = log.queue().shorter.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if log.queue().reached(bytes).is_none() {
                break;
            }
            changed.await;
        }
    };
    deadline(has_room).await;
    log.append_into(records, Target::Allocated).map(drop)
}

async fn filled(disk: &TestDisk, to: u64) {
    let (log, ..) = open(disk);
    log.append(records(1, to)).unwrap();
    written(&log, to).await;
}

#[tokio::test]
async fn records_come_back_in_order_over_many_segments() {
    let disk = TestDisk::default();
    filled(&disk, 50).await;
    let (log, found, _) = open(&disk);
    assert_eq!(found.tail, records(1, 50));
    assert_eq!(found.last().index, Index(50));
    let epochs: Vec<_> = found.progress.epochs.iter().collect();
    assert_eq!(epochs, [(Epoch(1), Index(1))]);
    assert!(log.retention().segments() > 3);
    log.append(records(51, 60)).unwrap();
    written(&log, 60).await;
    drop(log);
    assert_eq!(open(&disk).1.tail, records(1, 60));
}

#[tokio::test]
async fn what_is_queued_together_is_synced_together() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    let before = disk.syncs();
    // Less than half a segment, after which space for the next one is synced, too.
    log.append(records(1, 5)).unwrap();
    written(&log, 5).await;
    assert_eq!(disk.syncs() - before, 1);
}

#[tokio::test]
async fn whole_segments_go_once_they_are_released() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    log.append(records(1, 50)).unwrap();
    written(&log, 50).await;
    let before = log.retention().segments();
    log.release(Index(30));
    log.append(records(51, 51)).unwrap();
    log.close();
    let after = log.retention().segments();
    assert!(
        after < before && after > 1,
        "{before} segments became {after}"
    );
    drop(log);
    let found = scan(&place(&disk), Index::ZERO).unwrap().unwrap();
    assert!(found.before.index <= Index(30) && found.before.index > Index(15));
    assert_eq!(found.last().index, Index(51));
}

/// A write that stopped at any byte of the last record is cut off, and the log continues there.
#[tokio::test]
async fn a_torn_tail_is_cut_at_every_byte() {
    let whole = TestDisk::default();
    filled(&whole, 5).await;
    let path = Path::new("/log/00000000000000000001.log");
    let bytes = whole.content(path).unwrap();
    let length = record::encoded_len(&records(5, 5)[0]);
    let end = usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + 5 * length;
    assert_ne!(bytes[end - 1], 0);
    for cut in 0..length {
        let disk = TestDisk::default();
        filled(&disk, 5).await;
        disk.damage(path, end - length + cut, &vec![0; length - cut]);
        let found = scan(&place(&disk), Index::ZERO).unwrap().unwrap();
        assert_eq!(found.tail, records(1, 4), "cut at {cut}");
        let cleared = disk.content(path).unwrap();
        assert_eq!(cleared.len() as u64, SEGMENT);
        assert!(cleared[end - length..].iter().all(|byte| *byte == 0));
    }
}

fn damaged_at(disk: &TestDisk) -> (String, String) {
    match scan(&place(disk), Index::ZERO) {
        Err(StorageError::Damaged { file, place, .. }) => (file.display().to_string(), place),
        other => panic!("damage was not refused: {other:?}"),
    }
}

/// Any bit of any record but the last: never cut, always refused with file and offset.
#[tokio::test]
async fn damage_before_the_end_is_refused_with_its_place() {
    let length = record::encoded_len(&records(1, 1)[0]);
    let begins = |nth: usize| usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + nth * length;
    let path = Path::new("/log/00000000000000000001.log");
    let whole = TestDisk::default();
    // The records after the damaged one show that it was committed.
    filled(&whole, 10).await;
    let bytes = whole.content(path).unwrap();
    for nth in [0, 3, 7] {
        for at in 0..length {
            let offset = begins(nth) + at;
            let disk = TestDisk::default();
            filled(&disk, 10).await;
            disk.damage(path, offset, &[bytes[offset] ^ 0x10]);
            let (file, place) = damaged_at(&disk);
            assert_eq!(file, path.display().to_string());
            assert_eq!(place, format!("offset {}", begins(nth)));
        }
    }
}

#[tokio::test]
async fn a_changed_length_or_body_of_the_last_record_is_damage_not_a_tear() {
    let length = record::encoded_len(&records(1, 1)[0]);
    let begins = usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + 4 * length;
    let path = Path::new("/log/00000000000000000001.log");
    for at in (0..4).chain([4, 8, 30, length - 5]) {
        let disk = TestDisk::default();
        filled(&disk, 5).await;
        let bytes = disk.content(path).unwrap();
        disk.damage(path, begins + at, &[bytes[begins + at] ^ 0x40]);
        assert_eq!(damaged_at(&disk).1, format!("offset {begins}"));
    }
}

#[tokio::test]
async fn a_lost_or_foreign_segment_is_refused() {
    let disk = TestDisk::default();
    filled(&disk, 50).await;
    disk.remove(Path::new("/log/00000000000000000002.log"))
        .unwrap();
    assert!(damaged_at(&disk).0.ends_with("00000000000000000001.log"));

    let disk = TestDisk::default();
    filled(&disk, 50).await;
    disk.damage(Path::new("/log/00000000000000000003.log"), 30, &[1]);
    assert_eq!(damaged_at(&disk).1, "offset 0");
}

#[tokio::test]
async fn a_failed_sync_ends_the_log_and_is_never_tried_again() {
    let disk = TestDisk::default();
    let (log, _, failure) = open(&disk);
    let mut durable = log.durable().clone();
    disk.fail_syncs_after(0);
    log.append(records(1, 1)).unwrap();
    let error = deadline(failure.wait()).await;
    assert!(matches!(error, StorageError::Io { action: "sync", .. }));
    assert!(deadline(durable.changed()).await.is_err());
    assert_eq!(durable.borrow().index, Index::ZERO);
    let syncs = disk.syncs();
    assert!(matches!(
        log.append(records(2, 2)),
        Err(StorageError::Closed)
    ));
    log.close();
    assert_eq!(disk.syncs(), syncs);
}

/// Whatever a log runs short of, writes fail with an error; without the shortage they succeed
/// again.
async fn check_shortage<N: From<u8>>(
    set_left: impl Fn(&TestDisk, Option<N>),
    is_expected: fn(&StorageError) -> bool,
) {
    let disk = TestDisk::default();
    let (log, _, failure) = open(&disk);
    set_left(&disk, Some(N::from(0)));
    let mut next = 1;
    let refused = loop {
        match append_allocated(&log, records(next, next)).await {
            Ok(()) => {
                written(&log, next).await;
                next += 1;
            }
            Err(error) => break error,
        }
        assert!(next < 100, "the segment never became full");
    };
    assert!(is_expected(&refused), "{refused}");
    assert!(failure.get().is_none());
    set_left(&disk, None);
    let accepted = async {
        while log.append(records(next, next)).is_err() {
            let shorter = log.queue().shorter.notified();
            let _ = tokio::time::timeout(Duration::from_millis(20), shorter).await;
        }
    };
    deadline(accepted).await;
    written(&log, next).await;
    drop(log);
    assert_eq!(open(&disk).1.tail, records(1, next));
}

/// LOG-SPACE.
#[tokio::test]
async fn a_full_disk_refuses_and_is_survived() {
    check_shortage(TestDisk::set_space, |refused| {
        matches!(refused, StorageError::NoSpace { .. })
    })
    .await;
}

/// LOG-SPACE holds for descriptors, too.
#[tokio::test]
async fn a_log_that_cannot_open_its_next_file_refuses_and_is_survived() {
    check_shortage(TestDisk::set_descriptors, |refused| {
        matches!(refused, StorageError::NoDescriptors { .. })
    })
    .await;
}

/// If other code uses all descriptors, the log continues with those it has.
#[tokio::test]
async fn a_log_needs_no_more_descriptors_than_it_began_with() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    let began_with = disk.open_files();
    disk.set_descriptors(Some(began_with));
    for next in (1..=200).step_by(5) {
        log.append(records(next, next + 4)).unwrap();
        written(&log, next + 4).await;
        assert!(disk.open_files() <= began_with);
    }
    assert!(log.retention().segments() > 10);
    drop(log);
    assert_eq!(disk.open_files(), 0);
    // As many as a start needs, however many segments there are.
    disk.set_descriptors(Some(began_with));
    assert_eq!(open(&disk).1.tail, records(1, 200));
}

#[tokio::test]
async fn records_accepted_before_the_disk_was_full_wait_for_space() {
    let disk = TestDisk::default();
    let (log, _, failure) = open(&disk);
    disk.set_space(Some(0));
    log.append(records(1, 40)).unwrap();
    // The thread notices it later: nothing may be accepted after that.
    let found_out = async {
        loop {
            let shorter = log.queue().shorter.notified();
            if log.queue().shortage().is_some() {
                break;
            }
            let _ = tokio::time::timeout(std::time::Duration::from_millis(20), shorter).await;
        }
    };
    deadline(found_out).await;
    let refused = log.append(records(41, 41));
    assert!(matches!(refused, Err(StorageError::NoSpace { .. })));
    disk.set_space(None);
    written(&log, 40).await;
    assert!(failure.get().is_none());
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_and_takes_nothing_with_it() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    let both = [put(1, 1, "a", 10), put(1, 2, "b", 5_000)];
    let refused = log.append(shared(&both));
    assert!(matches!(
        refused,
        Err(StorageError::Exhausted {
            limit: "max_record_bytes",
            ..
        })
    ));
    log.append(shared(&both[..1])).unwrap();
    written(&log, 1).await;
}

#[tokio::test]
#[should_panic(expected = "does not follow")]
async fn a_gap_is_never_written() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    let mut record = put(1, 2, "k", 1);
    record.payload = Payload::Noop;
    let _ = log.append(shared(&[record]));
}

/// A power cut may lose the sector with a record's length word and keep the rest of the record
/// in the next sector: the record was never acknowledged.
#[tokio::test]
async fn a_length_word_lost_with_its_sector_is_torn() {
    let header = usize::try_from(SEGMENT_HEADER_BYTES).unwrap();
    for left in 1..=4 {
        let first = put(1, 1, "key", 0);
        let filling = 2 * 512 - left - header - record::encoded_len(&first);
        let (first, second) = (put(1, 1, "key", filling), put(1, 2, "key", 200));
        let disk = TestDisk::default();
        let (log, ..) = open(&disk);
        log.append(shared(&[first.clone(), second])).unwrap();
        written(&log, 2).await;
        drop(log);
        let begins = header + record::encoded_len(&first);
        assert_eq!(begins % 512, 512 - left);
        let path = Path::new("/log/00000000000000000001.log");
        disk.damage(path, begins, &vec![0; left]);
        let found = scan(&place(&disk), Index::ZERO).unwrap().unwrap();
        assert_eq!(
            found.tail,
            shared(&[first]),
            "with {left} bytes before the edge"
        );
    }
}
