//! A tail returns every applied record once and in order, from memory or files, or an error.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::{
    Cursor, RealDisk, StorageError, Tail, TailError, WalSync,
    disk::{Tear, TestDisk},
    tail::STRETCH_BYTES,
};

/// A log that keeps everything, in segments of `segment_bytes`.
async fn keeping(dir: &Path, disk: &TestDisk, segment_bytes: u64) -> Arc<Storage> {
    let settings = StorageSettings {
        log_retention: Duration::from_secs(3_600),
        segment_bytes,
        ..settings(dir)
    };
    let opened = Storage::open(settings, Arc::new(disk.clone())).await;
    let (storage, found) = opened.unwrap();
    if !found.tail.is_empty() {
        storage.apply(&found.tail);
    }
    storage
}

fn puts(indices: std::ops::RangeInclusive<u64>, length: usize) -> Vec<Record> {
    let put = |index| put(1, index, &format!("k{index}"), length);
    indices.map(put).collect()
}

fn after(record: &Record) -> Option<Cursor> {
    Some(Cursor::of(record))
}

/// Reads up to the record of an index.
async fn read(tail: &mut Tail, up_to: u64) -> Vec<Record> {
    let mut records = Vec::new();
    while tail.cursor().position.index < Index(up_to) {
        let stretch = deadline(tail.read()).await.unwrap();
        let before = records.len();
        records.extend(stretch.records().cloned());
        assert!(records.len() > before, "a stretch has at least one record");
        assert_eq!(tail.cursor(), Cursor::of(records.last().unwrap()));
    }
    records
}

#[tokio::test]
async fn a_tail_gets_what_is_applied_from_now_on() {
    let dir = TempDir::new().unwrap();
    let storage = keeping(dir.path(), &TestDisk::default(), 16 << 10).await;
    let records = puts(1..=9, 100);
    commit(&storage, records[..3].to_vec()).await;
    let mut tail = storage.tail(None).await.unwrap();
    assert_eq!(Some(tail.cursor()), after(&records[2]));
    let early = tokio::time::timeout(Duration::from_millis(20), tail.ready()).await;
    assert!(early.is_err(), "there is nothing to read yet");

    // A record that is appended and durable but not applied is not returned.
    storage.append(records[3..5].to_vec()).unwrap();
    durable(&storage, Index(5)).await;
    let early = tokio::time::timeout(Duration::from_millis(20), tail.read()).await;
    assert!(early.is_err(), "nothing more is applied yet");
    storage.apply(&records[3..5]);
    assert_eq!(read(&mut tail, 5).await, records[3..5]);
    commit(&storage, records[5..].to_vec()).await;
    assert_eq!(read(&mut tail, 9).await, records[5..]);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_tail_goes_on_from_any_record_over_many_segments_and_a_restart() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let storage = keeping(dir.path(), &disk, 16 << 10).await;
    // Sixteen records fill a segment.
    let records = puts(1..=200, 900);
    for some in records.chunks(7) {
        commit(&storage, some.to_vec()).await;
    }
    storage.checkpoint().await.unwrap();
    assert!(storage.report().segments > 10);
    storage.close().await.unwrap();

    // Memory is empty now.
    let storage = keeping(dir.path(), &disk.kill(), 16 << 10).await;
    let mut from_the_start = storage.tail(Some(Cursor::default())).await.unwrap();
    assert_eq!(read(&mut from_the_start, 200).await, records);
    for first in (0..200).rev() {
        let mut tail = storage.tail(after(&records[first])).await.unwrap();
        assert_eq!(read(&mut tail, 200).await, records[first + 1..], "{first}");
    }
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_record_larger_than_what_is_read_at_once_comes_whole() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let storage = keeping(dir.path(), &disk, 4 << 20).await;
    let lengths = [10, STRETCH_BYTES - 60, 2 * STRETCH_BYTES, 1, 3 << 20, 5];
    let records: Vec<Record> = (1..)
        .zip(lengths)
        .map(|(index, length)| put(1, index, "k", length))
        .collect();
    let mut live = storage.tail(None).await.unwrap();
    commit(&storage, records.clone()).await;
    assert_eq!(read(&mut live, 6).await, records);
    let storage = {
        storage.close().await.unwrap();
        keeping(dir.path(), &disk.kill(), 4 << 20).await
    };
    let mut tail = storage.tail(Some(Cursor::default())).await.unwrap();
    assert_eq!(read(&mut tail, 6).await, records);
    storage.close().await.unwrap();
}

/// A tail of a reader that has part of a record begins with that record again.
#[tokio::test]
async fn a_tail_begins_with_any_record_over_many_segments_and_a_restart() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let storage = keeping(dir.path(), &disk, 16 << 10).await;
    let records = puts(1..=200, 900);
    // What is applied from now on is in memory, too.
    let follower = storage.tail(None).await.unwrap();
    for some in records.chunks(7) {
        commit(&storage, some.to_vec()).await;
    }
    let check = async |storage: &Storage, when: &str| {
        // Backwards and forwards: with and without places from earlier reads.
        for first in (0..200).rev().chain(0..200) {
            let from = Cursor::of(&records[first]);
            let mut tail = storage.tail_with(from).await.unwrap();
            assert_eq!(
                read(&mut tail, 200).await,
                records[first..],
                "{first} {when}"
            );
            let mut other = from;
            other.version = other.version.next();
            let refused = storage.tail_with(other).await.unwrap_err();
            assert!(matches!(refused, TailError::Unknown(_)), "{refused}");
        }
        let mut ahead = Cursor::of(&records[199]);
        ahead.position.index = Index(201);
        let refused = storage.tail_with(ahead).await.unwrap_err();
        assert!(matches!(refused, TailError::Unknown(_)), "{refused}");
        let none = storage.tail_with(Cursor::default()).await.unwrap_err();
        assert!(matches!(none, TailError::Trimmed(_)), "{none}");
    };
    check(&storage, "at first").await;
    drop(follower);
    storage.checkpoint().await.unwrap();
    storage.close().await.unwrap();
    let storage = keeping(dir.path(), &disk.kill(), 16 << 10).await;
    check(&storage, "after a restart").await;
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_none_of_this_log_is_refused() {
    let dir = TempDir::new().unwrap();
    let storage = keeping(dir.path(), &TestDisk::default(), 16 << 10).await;
    let records = puts(1..=40, 900);
    commit(&storage, records.clone()).await;
    let refused = async |cursor: Cursor| {
        let refused = storage.tail(Some(cursor)).await.unwrap_err();
        assert!(matches!(refused, TailError::Unknown(_)), "{refused}");
        assert_eq!(refused.to_error().code, tierkv_types::Code::TokenExpired);
    };
    // The last record of a segment stands in the next one's header: all kinds are tried.
    for record in &records {
        let mut other_version = Cursor::of(record);
        other_version.version = other_version.version.next();
        refused(other_version).await;
        let mut other_epoch = Cursor::of(record);
        other_epoch.position.epoch = Epoch(7);
        refused(other_epoch).await;
    }
    refused(Cursor::of(&put(1, 41, "k", 1))).await;
    refused(Cursor {
        version: Version::from_bits(1),
        ..Cursor::default()
    })
    .await;
    storage.close().await.unwrap();
}

/// A master names the last record of another node by its position.
#[tokio::test]
async fn a_tail_begins_after_a_position_alone() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let storage = keeping(dir.path(), &disk, 16 << 10).await;
    let mut records = puts(1..=40, 900);
    records.extend((41..=80).map(|index| put(4, index, "k", 900)));
    storage.append(records.clone()).unwrap();
    durable(&storage, Index(80)).await;
    storage.apply(&records[..70]);
    for after in (0..=70_usize).rev().chain(0..=70) {
        let last = after.checked_sub(1).map(|last| Cursor::of(&records[last]));
        let last = last.unwrap_or_default();
        let mut tail = storage.tail_after(last.position).await.unwrap();
        assert_eq!(tail.cursor(), last);
        assert_eq!(read(&mut tail, 70).await, records[after..70], "{after}");
    }
    let at = |epoch, index| Position {
        epoch: Epoch(epoch),
        index: Index(index),
    };
    for other in [
        at(1, 41),
        at(4, 40),
        at(4, 3),
        at(2, 70),
        at(4, 71),
        at(4, 90),
        at(1, 0),
    ] {
        let refused = storage.tail_after(other).await.unwrap_err();
        assert!(
            matches!(refused, TailError::Unknown(position) if position == other),
            "{refused}"
        );
    }
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_tail_that_falls_behind_what_the_log_keeps_is_told() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let (storage, _) = open(dir.path(), disk.clone()).await;
    let records = puts(1..=100, 900);
    commit(&storage, records[..2].to_vec()).await;
    let mut behind = storage.tail(None).await.unwrap();
    let mut reading = storage.tail(Some(Cursor::default())).await.unwrap();
    assert_eq!(read(&mut reading, 1).await[0], records[0]);
    // More than the history keeps, in segments that leave as soon as they are stored.
    let large = |index| put(1, index, "large", 15_000);
    for index in 3..=1_400 {
        commit(&storage, vec![large(index)]).await;
    }
    storage.checkpoint().await.unwrap();
    let few = async {
        while storage.report().segments > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    deadline(few).await;
    for tail in [&mut behind, &mut reading] {
        let refused = deadline(tail.read()).await.unwrap_err();
        assert!(matches!(refused, TailError::Trimmed(_)), "{refused}");
        assert_eq!(refused.to_error().code, tierkv_types::Code::TokenExpired);
    }
    let refused = storage.tail(after(&records[1])).await.unwrap_err();
    assert!(matches!(refused, TailError::Trimmed(_)), "{refused}");
    // The end of the log is there.
    let mut tail = storage.tail(after(&large(1_399))).await.unwrap();
    assert_eq!(read(&mut tail, 1_400).await, [large(1_400)]);
    storage.close().await.unwrap();
}

/// A tail that returned all of a segment does not need it any more.
#[tokio::test]
async fn a_tail_at_the_end_of_a_segment_that_left_the_log_goes_on_behind_it() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let settings = StorageSettings {
        segment_bytes: 16 << 10,
        ..settings(dir.path())
    };
    let opened = Storage::open(settings, Arc::new(disk.clone())).await;
    let (storage, _) = opened.unwrap();
    let records = puts(1..=20, 900);
    commit(&storage, records.clone()).await;
    let mut tail = storage.tail(Some(Cursor::default())).await.unwrap();
    let stretch = deadline(tail.read()).await.unwrap();
    let has = stretch.records().count();
    assert_eq!(storage.report().segments, 2);
    assert!((1..20).contains(&has), "{has} records fill a segment");
    storage.checkpoint().await.unwrap();
    let few = async {
        while storage.report().segments > 1 {
            tokio::task::yield_now().await;
        }
    };
    deadline(few).await;
    assert_eq!(read(&mut tail, 20).await, records[has..]);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn what_is_kept_in_memory_is_bounded_and_kept_only_for_readers() {
    let dir = TempDir::new().unwrap();
    let storage = keeping(dir.path(), &TestDisk::default(), 1 << 20).await;
    let bytes = || storage.core.tails.history_bytes();
    commit(&storage, puts(1..=10, 10_000)).await;
    assert_eq!(bytes(), 0, "nobody reads");
    let tail = storage.tail(None).await.unwrap();
    for first in (11..=2_410).step_by(100) {
        commit(&storage, puts(first..=first + 99, 10_000)).await;
    }
    assert!((15 << 20..=16 << 20).contains(&bytes()), "{}", bytes());
    drop(tail);
    assert_eq!(bytes(), 0);
    commit(&storage, puts(2_411..=2_420, 10_000)).await;
    assert_eq!(bytes(), 0);
    storage.close().await.unwrap();
}

/// LOG-TORN: damage is never served, wherever it is.
#[tokio::test]
async fn a_damaged_record_is_told_and_none_after_it() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::default();
    let storage = keeping(dir.path(), &disk, 16 << 10).await;
    let records = puts(1..=60, 900);
    commit(&storage, records.clone()).await;
    storage.checkpoint().await.unwrap();
    storage.close().await.unwrap();
    let segment = dir.path().join("log/00000000000000000002.log");
    let content = disk.content(&segment).unwrap();
    let second = 64 + tierkv_types::record::encoded_len(&records[16]);
    for (offset, bytes) in [
        // A value, a checksum, a length that is too small, too large, and none.
        (second + 500, vec![0xFF]),
        (second + 4, vec![0xFF; 4]),
        (second, 20_u32.to_le_bytes().to_vec()),
        (second, u32::MAX.to_le_bytes().to_vec()),
        (second, (1_u32 << 24).to_le_bytes().to_vec()),
        (second, vec![0; 4]),
        // All the rest of the segment.
        (second, vec![0; content.len() - second]),
    ] {
        let disk = disk.fork();
        disk.damage(&segment, offset, &bytes);
        let storage = keeping(dir.path(), &disk, 16 << 10).await;
        let mut tail = storage.tail(Some(Cursor::default())).await.unwrap();
        let last = records[16].position.index.0;
        assert_eq!(read(&mut tail, last).await, records[..17]);
        let refused = deadline(tail.read()).await.unwrap_err();
        let is_damage = matches!(
            refused,
            TailError::Storage(StorageError::Damaged { ref file, .. }) if *file == segment
        );
        assert!(is_damage, "{offset}: {refused}");
        // The damage is not skipped to find a record after it.
        let refused = storage.tail(after(&records[18])).await.unwrap_err();
        assert!(matches!(refused, TailError::Storage(_)), "{refused}");
        storage.close().await.unwrap();
    }
}

/// Records come in batches of any size while tails read, pause, end and continue at their
/// cursor, over restarts and crashes: each gets exactly the records applied, once.
#[tokio::test]
async fn any_interleaving_hands_out_each_record_once() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = TempDir::new().unwrap();
        let mut disk = TestDisk::default();
        let mut storage = keeping(dir.path(), &disk, 16 << 10).await;
        let mut written: Vec<Record> = Vec::new();
        // The number of records that each reader has, and its tail while it reads.
        let mut followers: Vec<(usize, Option<Tail>)> = (0..4).map(|_| (0, None)).collect();
        for _ in 0..120 {
            match random.random_range(0..10) {
                0..4 => {
                    let next = written.len() as u64 + 1;
                    let batch: Vec<Record> = (next..next + random.random_range(1..12))
                        .map(|index| put(1, index, "k", random.random_range(0..3_000)))
                        .collect();
                    commit(&storage, batch.clone()).await;
                    written.extend(batch);
                }
                4 => storage.checkpoint().await.unwrap(),
                5 => {
                    followers.iter_mut().for_each(|(_, tail)| *tail = None);
                    let was = storage.durable().borrow().index;
                    disk = match random.random_range(0..3) {
                        0 => {
                            storage.close().await.unwrap();
                            disk.kill()
                        }
                        1 => disk.kill(),
                        _ => disk.crash(seed, Tear::AnyOrder),
                    };
                    drop(storage);
                    storage = keeping(dir.path(), &disk, 16 << 10).await;
                    assert_eq!(storage.applied().0, was, "seed {seed}");
                }
                _ => {
                    let chosen = random.random_range(0..followers.len());
                    let (has, tail) = &mut followers[chosen];
                    if tail.is_none() {
                        let cursor = match *has {
                            0 => Cursor::default(),
                            has => Cursor::of(&written[has - 1]),
                        };
                        *tail = Some(storage.tail(Some(cursor)).await.unwrap());
                    }
                    if let Some(following) = tail
                        && *has < written.len()
                    {
                        let stretch = deadline(following.read()).await.unwrap();
                        for record in stretch.records() {
                            assert_eq!(record, &written[*has], "seed {seed}");
                            *has += 1;
                        }
                    }
                    if random.random_range(0..5) == 0 {
                        *tail = None;
                    }
                }
            }
        }
        storage.close().await.unwrap();
    }
}

/// Tails read the files while the log's thread writes, creates new segments and removes old
/// ones: they get every record or an error that they fell behind, and never a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tails_race_the_thread_that_writes_and_trims() {
    const RECORDS: u64 = 12_000;
    for retention in [Duration::from_secs(3_600), Duration::ZERO] {
        let dir = TempDir::new().unwrap();
        let settings = StorageSettings {
            log_retention: retention,
            segment_bytes: 64 << 10,
            sync: WalSync::Never,
            ..settings(dir.path())
        };
        let (storage, _) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
        // Before there are tails, so that the files must be read.
        commit(&storage, puts(1..=2_000, 500)).await;
        let followers: Vec<_> = (0..3_u64)
            .map(|nth| tokio::spawn(follow(Arc::clone(&storage), nth * 300, RECORDS)))
            .collect();
        for first in (2_001..=RECORDS).step_by(20) {
            commit(&storage, puts(first..=first + 19, 500)).await;
            if first % 100 == 1 {
                storage.checkpoint().await.unwrap();
            }
        }
        for follower in followers {
            let fell_behind = deadline(follower).await.unwrap();
            assert!(fell_behind == 0 || retention.is_zero());
        }
        storage.close().await.unwrap();
    }
}

/// Reads from the record of one index to that of another. If it fell behind it restarts at the
/// last applied record; returns how often.
async fn follow(storage: Arc<Storage>, from: u64, to: u64) -> u64 {
    let mut fell_behind = 0;
    let mut after = match from {
        0 => Some(Cursor::default()),
        from => after(&put(1, from, "k", 1)),
    };
    loop {
        let mut tail = match storage.tail(after).await {
            Ok(tail) => tail,
            Err(TailError::Trimmed(_)) => {
                fell_behind += 1;
                after = None;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut next = tail.cursor().position.index.next();
        let ended = loop {
            if next > Index(to) {
                return fell_behind;
            }
            match tail.read().await {
                Ok(stretch) => {
                    for record in stretch.records() {
                        assert_eq!(record.position.index, next);
                        next = next.next();
                    }
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(ended, TailError::Trimmed(_)), "{ended}");
        fell_behind += 1;
        after = None;
    }
}
