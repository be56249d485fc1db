//! Truncation of the log itself: power cuts at every step, and what the disk runs short of.

use tierkv_harness::poll_until;

use super::*;
use crate::disk::Tear;

/// Power cuts for each step, with other losses.
const CUTS: u64 = 24;

/// A record of an epoch that is not committed: it carries the commit index 0, which a log that is
/// cut anywhere must carry.
fn loose(epoch: u64, index: u64, length: usize) -> Arc<Record> {
    let mut record = put(epoch, index, "key", length);
    record.commit = Index::ZERO;
    Arc::new(record)
}

fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

async fn truncate(log: &Log, after: Position) -> Result<(), TruncateError> {
    let truncated = log.truncate(after, Version::ZERO)?;
    match deadline(truncated).await {
        Ok(done) => done,
        Err(_) => Err(StorageError::Closed.into()),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let question = || async { holds().then_some(()) };
    let answer = poll_until(Duration::from_secs(20), question).await;
    assert!(answer.is_some(), "it never came that {what}");
}

/// Lengths of values: records within a sector, over a few, over many; and one after the other.
const SHAPES: [&[usize]; 4] = [&[60], &[420], &[1_500], &[1_500, 10, 700, 3_000, 200]];

fn records_of(shape: &[usize], count: u64) -> Vec<Arc<Record>> {
    (1..=count)
        .zip(shape.iter().cycle())
        .map(|(index, length)| loose(1, index, *length))
        .collect()
}

fn segments(disk: &TestDisk) -> usize {
    let files = disk.files();
    let is_segment = |path: &&std::path::PathBuf| path.extension().is_some();
    files.iter().filter(is_segment).count()
}

/// What a log is after a power cut at a call to the disk that a truncation makes.
struct Survivor {
    tail: Vec<Arc<Record>>,
    /// Whether the truncation ended before the cut.
    is_cut: bool,
}

fn survivor(
    all: &[Arc<Record>],
    after: Position,
    sync: WalSync,
    calls: u64,
    seed: u64,
    tear: Tear,
) -> Result<Survivor, StorageError> {
    let disk = TestDisk::default();
    let place = LogPlace {
        sync,
        ..place(&disk)
    };
    let (log, mut writer, _, failure) = make(&disk, place.clone(), Blocking::Here);
    for some in all.chunks(5) {
        log.append(some.to_vec()).unwrap();
        while writer.step() == Turn::Busy {}
    }
    assert_eq!(
        Some(*log.durable().borrow()),
        all.last().map(|record| record.position)
    );
    disk.cut_after(calls);
    let mut truncated = log.truncate(after, Version::ZERO).unwrap();
    while writer.step() == Turn::Busy {}
    let is_cut = truncated.try_recv().is_ok();
    assert_ne!(is_cut, failure.get().is_some());
    let disk = disk.crash(seed, tear);
    let place = LogPlace {
        disk: Arc::new(disk),
        ..place
    };
    let tail = scan(&place, Index::ZERO)?.unwrap().tail;
    // A second start finds the same: the first one has cleaned up.
    assert_eq!(scan(&place, Index::ZERO)?.unwrap().tail, tail);
    Ok(Survivor { tail, is_cut })
}

/// Wherever the power fails during a truncation, the log is a prefix of what it was, and ends at
/// the cut or after it; once the truncation is reported, it ends there.
fn check_power_cuts(sync: WalSync, tear: Tear) {
    for shape in SHAPES {
        let all = records_of(shape, 24);
        // Every place: in the active segment, in older ones, at the borders of segments.
        for after in 0..24_usize {
            let position = at(u64::from(after > 0), after as u64);
            let mut calls = 1;
            loop {
                let mut is_cut = false;
                for seed in 0..CUTS {
                    let when = format!("{shape:?} after {after}, {calls} calls, seed {seed}");
                    let survivor = survivor(&all, position, sync, calls, seed, tear);
                    let survivor = survivor.unwrap_or_else(|error| panic!("{when}: {error}"));
                    let end = survivor.tail.len();
                    assert_eq!(survivor.tail, all[..end], "{when}");
                    assert!(end >= after, "{when}: {end}");
                    is_cut = survivor.is_cut;
                    assert!(!is_cut || end == after, "{when}: {end}");
                }
                if is_cut {
                    break;
                }
                calls += 1;
            }
            assert!(calls > 2, "after {after}, no step was cut off");
        }
    }
}

#[test]
fn a_power_cut_during_a_truncation_leaves_a_prefix_when_writes_are_torn() {
    check_power_cuts(WalSync::Always, Tear::InOrder);
}

#[test]
fn a_power_cut_during_a_truncation_leaves_a_prefix_when_writes_are_reordered() {
    check_power_cuts(WalSync::Always, Tear::AnyOrder);
}

#[test]
fn a_power_cut_during_a_truncation_leaves_a_prefix_of_a_log_that_syncs_late() {
    let late = WalSync::Interval(Duration::from_secs(3_600));
    check_power_cuts(late, Tear::InOrder);
}

/// Whatever is cut off is gone from the files, and what is written then takes its place.
#[tokio::test]
async fn a_log_continues_at_any_cut_and_nothing_of_the_old_end_is_left() {
    for after in 0..=24_usize {
        let disk = TestDisk::default();
        let (log, ..) = open(&disk);
        let all = records_of(SHAPES[3], 24);
        log.append(all.clone()).unwrap();
        written(&log, 24).await;
        let epoch = u64::from(after > 0);
        truncate(&log, at(epoch, after as u64)).await.unwrap();
        assert_eq!(*log.durable().borrow(), at(epoch, after as u64));
        assert_eq!(log.retention().segments(), segments(&disk));
        let kept: u64 = (all[..after].iter())
            .map(|record| record::encoded_len(record) as u64)
            .sum();
        let files = disk.files();
        let files = files.iter().filter(|path| path.extension().is_some());
        let contents: Vec<Vec<u8>> = files.map(|path| disk.content(path).unwrap()).collect();
        let used: usize = (contents.iter())
            .map(|content| {
                assert_eq!(content.len() as u64, SEGMENT);
                let last = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                // An empty segment's header ends with zeros.
                last.max(64) - 64
            })
            .sum();
        assert_eq!(used as u64, kept, "after {after}");

        // Of a lower epoch than some that went, and with versions of records that went.
        let next: Vec<Arc<Record>> = (after as u64 + 1..=after as u64 + 30)
            .map(|index| loose(1, index, 300))
            .collect();
        log.append(next.clone()).unwrap();
        written(&log, after as u64 + 30).await;
        drop(log);
        let expected: Vec<Arc<Record>> = all[..after].iter().cloned().chain(next).collect();
        assert_eq!(open(&disk).1.tail, expected, "after {after}");
    }
}

#[tokio::test]
async fn a_place_that_is_not_in_the_log_is_refused_and_nothing_is_cut() {
    let disk = TestDisk::default();
    let (log, ..) = open(&disk);
    let mut all = records_of(&[300], 20);
    all.extend((21..=40).map(|index| loose(3, index, 300)));
    log.append(all.clone()).unwrap();
    written(&log, 40).await;
    for other in [
        at(1, 41),
        at(3, 41),
        at(2, 40),
        at(1, 21),
        at(3, 20),
        at(2, 5),
        at(1, 0),
    ] {
        let refused = truncate(&log, other).await.unwrap_err();
        assert!(
            matches!(refused, TruncateError::Unknown(position) if position == other),
            "{refused}"
        );
        assert!(refused.to_string().contains("compare the logs"));
    }
    // At the end there is nothing to do.
    truncate(&log, at(3, 40)).await.unwrap();
    drop(log);
    assert_eq!(open(&disk).1.tail, all);
}

/// LOG-SPACE: a truncation needs no space, and no descriptor but that of the log.
#[tokio::test]
async fn a_full_disk_and_used_up_descriptors_do_not_hinder_a_truncation() {
    let disk = TestDisk::default();
    let (log, writer, _, failure) = make(&disk, place(&disk), Blocking::Here);
    log.run(writer).unwrap();
    let all = records_of(&[300], 60);
    log.append(all.clone()).unwrap();
    // On return the thread has also allocated what comes next.
    truncate(&log, at(1, 60)).await.unwrap();
    disk.set_space(Some(0));
    disk.set_descriptors(Some(disk.open_files()));
    for after in [58, 30, 29, 3] {
        truncate(&log, at(1, after)).await.unwrap();
        log.append(vec![loose(1, after + 1, 300)]).unwrap();
        written(&log, after + 1).await;
    }
    assert!(failure.get().is_none());
    disk.set_space(None);
    disk.set_descriptors(None);
    // Enough for several segments, so the reserve is there again.
    let more: Vec<Arc<Record>> = (5..=50).map(|index| loose(4, index, 300)).collect();
    log.append(more.clone()).unwrap();
    written(&log, 50).await;
    drop(log);
    let expected: Vec<Arc<Record>> = all[..4].iter().cloned().chain(more).collect();
    assert_eq!(open(&disk).1.tail, expected);
}

/// A batch that waits for space is given up as far as it is cut off, and waits on otherwise.
#[tokio::test]
async fn a_truncation_ends_the_wait_for_space() {
    let disk = TestDisk::default();
    let (log, _, failure) = open(&disk);
    disk.set_space(Some(0));
    let all = records_of(&[300], 40);
    log.append(all.clone()).unwrap();
    // Some of the batch is written, the rest needs a segment.
    until("the log is short of space", || {
        log.queue().shortage().is_some()
    })
    .await;
    log.append(vec![loose(1, 41, 10)]).unwrap_err();
    truncate(&log, at(1, 5)).await.unwrap();
    assert_eq!(log.queue().bytes(), 0);
    assert_eq!(log.durable().borrow().index, Index(5));

    // A record that is not written can't be the end before there is space for it.
    let more: Vec<Arc<Record>> = (6..=40).map(|index| loose(2, index, 300)).collect();
    disk.set_space(None);
    until("the log has space", || log.queue().shortage().is_none()).await;
    // The next segment is allocated; there is no space for others.
    disk.set_space(Some(0));
    log.append(more.clone()).unwrap();
    until("the log is short again", || {
        log.queue().shortage().is_some()
    })
    .await;
    let waits = log.truncate(at(2, 38), Version::ZERO).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), truncate(&log, at(2, 39))).await;
    let early = early.unwrap().unwrap_err();
    assert!(matches!(
        early,
        TruncateError::Storage(StorageError::Truncating)
    ));
    disk.set_space(None);
    deadline(waits).await.unwrap().unwrap();
    assert_eq!(*log.durable().borrow(), at(2, 38));
    assert!(failure.get().is_none());
    drop(log);
    let expected: Vec<Arc<Record>> = (all[..5].iter().cloned())
        .chain(more[..33].iter().cloned())
        .collect();
    assert_eq!(open(&disk).1.tail, expected);
}

/// A failure of the disk is final, as with every write of the log.
#[tokio::test]
async fn a_failed_sync_of_a_truncation_ends_the_log() {
    for (after, syncs) in [(39, 0), (39, 1), (12, 0), (12, 1)] {
        let disk = TestDisk::default();
        let (log, _, failure) = open(&disk);
        let all = records_of(&[300], 40);
        log.append(all.clone()).unwrap();
        written(&log, 40).await;
        let mut durable = log.durable().clone();
        disk.fail_syncs_after(syncs);
        let failed = truncate(&log, at(1, after)).await.unwrap_err();
        assert!(matches!(
            failed,
            TruncateError::Storage(StorageError::Closed)
        ));
        let error = deadline(failure.wait()).await;
        assert!(matches!(error, StorageError::Io { action: "sync", .. }));
        durable.mark_unchanged();
        assert!(deadline(durable.changed()).await.is_err());
        assert_eq!(durable.borrow().index, Index(40));
        assert!(log.append(vec![loose(1, after + 1, 1)]).is_err());
        drop(log);
        let found = scan(&place(&disk.crash(5, Tear::AnyOrder)), Index::ZERO);
        let tail = found.unwrap().unwrap().tail;
        assert!(tail.len() as u64 >= after);
        assert_eq!(tail, all[..tail.len()]);
    }
}

/// A segment of a process with smaller ones is made as long as the others.
#[tokio::test]
async fn a_smaller_segment_of_an_earlier_process_grows_or_waits_for_space() {
    let disk = TestDisk::default();
    filled_loosely(&disk, 60).await;
    let larger = || LogPlace {
        segment_bytes: 2 * SEGMENT,
        ..place(&disk)
    };
    let (log, ..) = open_at(&disk, larger());
    log.append(vec![loose(1, 61, 6_000)]).unwrap();
    written(&log, 61).await;
    // The removed segments of this disk give no space back.
    disk.set_space(Some(0));
    let cut = log.truncate(at(1, 13), Version::ZERO).unwrap();
    until("the log is short of space", || {
        log.queue().shortage().is_some()
    })
    .await;
    disk.set_space(None);
    deadline(cut).await.unwrap().unwrap();
    let next = loose(2, 14, 6_000);
    log.append(vec![Arc::clone(&next)]).unwrap();
    written(&log, 14).await;
    drop(log);
    let found = open_at(&disk, larger()).1;
    let mut expected = records_of(&[300], 13);
    expected.push(next);
    assert_eq!(found.tail, expected);
    for segment in &found.segments[1..] {
        let content = disk.content(&segment.path).unwrap();
        assert!(content.len() as u64 <= 2 * SEGMENT);
    }
}

async fn filled_loosely(disk: &TestDisk, to: u64) {
    let (log, ..) = open(disk);
    log.append(records_of(&[300], to)).unwrap();
    written(&log, to).await;
}
