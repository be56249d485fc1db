//! Writes: conditions, increments, previous values, and retried requests.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_rpc::proto::internal::{ReadReply, WriteReply};
use tierkv_storage::StorageSettings;
use tierkv_types::{
    Clock, Code, Condition, ConditionKind, Error, ItemKey, Operation, OperationKind, RequestName,
    Slot, Version, WriteRequest, limits::MAX_VALUE_BYTES,
};
use tokio::time::{Instant, sleep};

use crate::stage::{DEADLINE, Stage, existed, key, put, request_id};

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_says_whether_the_key_was_there_also_when_only_the_store_knows() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    stage.put(&key("a"), "one").await;
    stage.put(&key("b"), "one").await;
    let delete = |item| stage.change(item, OperationKind::Delete);
    let (a, b) = (key("a"), key("b"));
    assert_eq!(existed(&delete(&a).await.unwrap()), [true]);
    assert_eq!(existed(&delete(&a).await.unwrap()), [false]);
    let read = stage.read(&a).await.unwrap();
    assert!(
        !read.found && read.version > 0,
        "absence is known up to a version"
    );
    stage.stop().await;

    // Memory is empty now.
    let stage = Stage::ready(dir.path()).await;
    let deleted = stage.change(&a, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&deleted), [false]);
    let deleted = stage.change(&b, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&deleted), [true]);
    stage.stop().await;
}

/// The answer to a retry.
fn replayed(first: &WriteReply) -> WriteReply {
    WriteReply {
        replayed: true,
        ..first.clone()
    }
}

/// I8, and over a restart too: outcomes come from the store and from the log's tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_applied_once_whenever_it_is_repeated() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (a, b) = (key("a"), key("b"));
    let (writing, deleting, missing) = (request_id(0), request_id(0), request_id(0));
    let first = stage.write(&a, put("one", None), writing).await.unwrap();
    let second = stage.put(&a, "two").await;
    let again = stage.write(&a, put("one", None), writing).await;
    assert_eq!(again.unwrap(), replayed(&first), "it was applied again");
    let other = stage.write(&a, put("other", None), writing).await;
    assert_eq!(other.unwrap_err().code, Code::InvalidArgument);

    let deleted = stage
        .write(&a, OperationKind::Delete, deleting)
        .await
        .unwrap();
    assert_eq!(existed(&deleted), [true]);
    let absent = stage
        .write(&b, OperationKind::Delete, missing)
        .await
        .unwrap();
    assert_eq!(existed(&absent), [false]);
    stage.put(&a, "three").await;
    stage.put(&b, "three").await;
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let again = stage.write(&a, OperationKind::Delete, deleting).await;
    assert_eq!(again.unwrap(), replayed(&deleted));
    let again = stage.write(&b, OperationKind::Delete, missing).await;
    assert_eq!(again.unwrap(), replayed(&absent));
    let again = stage.write(&a, put("one", None), writing).await;
    assert_eq!(again.unwrap(), replayed(&first));
    for item in [&a, &b] {
        let read = stage.read(item).await.unwrap();
        assert_eq!(&read.value[..], b"three");
        assert!(read.version > second);
    }
    stage.stop().await;
}

/// A forgotten request must be refused, else it could be applied again (TXN-IDS).
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_another_time_are_refused() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    for age_millis in [121_000, -15_000] {
        let refused = stage
            .write(&a, put("x", None), request_id(age_millis))
            .await;
        assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
    }
    assert!(!stage.read(&a).await.unwrap().found);
    for age_millis in [110_000, -5_000] {
        let taken = stage
            .write(&a, put("x", None), request_id(age_millis))
            .await;
        assert!(taken.is_ok());
    }
    stage.stop().await;
}

/// An idempotency key of an attempt that a coordinator received so long ago.
fn keyed(stage: &Stage, hash: u8, ago: Duration) -> RequestName {
    let ago = u64::try_from(ago.as_millis()).unwrap();
    RequestName::Key {
        random: [hash; 16],
        received_millis: stage.clock.wall_millis() - ago,
    }
}

/// TXN-KEYS: the master makes the birth, which is kept in its store and in its log's tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_applied_once_over_restarts_too() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    let named = |stage: &Stage| keyed(stage, 1, Duration::ZERO);
    let attempts = (0..50).map(|_| stage.write(&a, increment(2), named(&stage)));
    let answers = futures::future::join_all(attempts).await;
    let answers: Vec<WriteReply> = answers.into_iter().map(Result::unwrap).collect();
    let first = answers.iter().find(|answer| !answer.replayed).unwrap();
    let others = answers.iter().filter(|answer| answer.replayed);
    assert!(others.clone().all(|other| *other == replayed(first)));
    assert_eq!((numbers(first), others.count()), (vec![2], 49));

    let other = stage.write(&a, increment(3), named(&stage)).await;
    assert_eq!(other.unwrap_err().code, Code::AlreadyExists);
    let stage_of_next = async |stage: Stage| {
        stage.stop().await;
        Stage::ready(dir.path()).await
    };
    let mut stage = stage;
    for _ in 0..2 {
        stage = stage_of_next(stage).await;
        let again = stage.write(&a, increment(2), named(&stage)).await;
        assert_eq!(again.unwrap(), replayed(first));
        let other = stage.write(&a, increment(3), named(&stage)).await;
        assert_eq!(other.unwrap_err().code, Code::AlreadyExists);
    }
    assert_eq!(value(&stage, &a).await.as_deref(), Some(&b"2"[..]));
    stage.stop().await;
}

/// TXN-KEYS: a refused request is not remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_write_was_refused_is_free() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    stage.put(&a, "no number").await;
    let named = || keyed(&stage, 1, Duration::ZERO);
    let refused = stage.write(&a, increment(1), named()).await;
    assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
    let other = stage.write(&a, put("5", None), named()).await.unwrap();
    assert!(!other.replayed);
    assert_eq!(value(&stage, &a).await.as_deref(), Some(&b"5"[..]));
    stage.stop().await;
}

/// TXN-KEYS: a key is remembered for two minutes after its first arrival. An attempt that took
/// longer is refused, because the key may be forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_remembered_for_two_minutes() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    let add = async |ago: Duration| stage.write(&a, increment(1), keyed(&stage, 1, ago)).await;
    let first = add(Duration::ZERO).await.unwrap();
    // It need not have come quickly.
    stage.clock.advance(Duration::from_secs(115));
    let again = add(Duration::from_secs(110)).await.unwrap();
    assert_eq!(again, replayed(&first));

    stage.clock.advance(Duration::from_secs(10));
    let limit = Instant::now() + DEADLINE;
    let anew = loop {
        let answer = add(Duration::ZERO).await.unwrap();
        if !answer.replayed {
            break answer;
        }
        assert_eq!(answer, replayed(&first));
        assert!(Instant::now() < limit, "it is never forgotten");
        sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(numbers(&anew), [2]);
    let other = keyed(&stage, 2, Duration::from_secs(121));
    let late = stage.write(&a, increment(1), other).await.unwrap_err();
    assert_eq!(late.code, Code::DeadlineExceeded, "{late}");
    assert_eq!(value(&stage, &a).await.as_deref(), Some(&b"2"[..]));
    stage.stop().await;
}

/// TXN-KEYS: an arrival in the future would count as late only after more than two minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_received_in_the_future() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    let ahead = |seconds: u64| RequestName::Key {
        random: [1; 16],
        received_millis: stage.clock.wall_millis() + seconds * 1_000,
    };
    let refused = stage.write(&a, increment(1), ahead(20)).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    assert_eq!(value(&stage, &a).await, None);
    let added = stage.write(&a, increment(1), ahead(5)).await.unwrap();
    assert!(!added.replayed);
    // A request that was applied is answered whenever its retry was received.
    let again = stage.write(&a, increment(1), ahead(20)).await;
    assert_eq!(again.unwrap(), replayed(&added));
    stage.stop().await;
}

fn increment(delta: i64) -> OperationKind {
    OperationKind::Increment { delta }
}

fn numbers(answer: &WriteReply) -> Vec<i64> {
    answer.results.iter().map(|result| result.number).collect()
}

fn write(
    conditions: Vec<(&ItemKey, ConditionKind)>,
    operations: Vec<(&ItemKey, OperationKind)>,
) -> WriteRequest {
    let conditions = conditions.into_iter().map(|(key, kind)| Condition {
        key: key.clone(),
        kind,
    });
    let operations = operations.into_iter().map(|(key, kind)| Operation {
        key: key.clone(),
        kind,
    });
    WriteRequest {
        name: request_id(0).into(),
        conditions: conditions.collect(),
        operations: operations.collect(),
        return_previous: false,
    }
}

async fn value(stage: &Stage, item: &ItemKey) -> Option<Bytes> {
    let read = stage.read(item).await.unwrap();
    read.found.then_some(read.value)
}

fn failed(outcome: Result<WriteReply, Error>) {
    assert_eq!(outcome.unwrap_err().code, Code::ConditionFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_all_or_nothing_and_only_if_its_conditions_hold() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let absent = ConditionKind::Absent;
    let both = || vec![(&a, put("1", None)), (&b, put("2", None))];
    let first = stage.apply(write(vec![(&a, absent), (&b, absent)], both()));
    let first = first.await.unwrap();
    let read = stage.read(&b).await.unwrap();
    assert_eq!((read.version, &read.value[..]), (first.version, &b"2"[..]));

    // Neither changes if one condition fails, also one on a key that is not changed.
    failed(
        stage
            .apply(write(vec![(&c, absent), (&b, absent)], both()))
            .await,
    );
    let present = vec![(&c, ConditionKind::Present)];
    failed(
        stage
            .apply(write(present, vec![(&a, put("x", None))]))
            .await,
    );
    // A number that can't be changed takes its write with it.
    let too_far = vec![(&a, put("x", None)), (&b, increment(i64::MAX))];
    let refused = stage.apply(write(vec![], too_far)).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument);
    assert_eq!(value(&stage, &a).await.as_deref(), Some(&b"1"[..]));

    let at = |version| ConditionKind::Version(Version::from_bits(version));
    let swap = |version| write(vec![(&a, at(version))], vec![(&a, put("3", None))]);
    let second = stage.apply(swap(first.version)).await.unwrap();
    failed(stage.apply(swap(first.version)).await);
    stage.stop().await;

    // Now their values are only in the store.
    let stage = Stage::ready(dir.path()).await;
    failed(stage.apply(swap(first.version)).await);
    let third = stage.apply(swap(second.version)).await.unwrap();
    assert!(third.version > second.version);
    // One of several concurrent conditional writes is applied.
    let racing = (0..50).map(|_| stage.apply(swap(third.version)));
    let outcomes = futures::future::join_all(racing).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{outcomes:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_increment_counts_once() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (counter, text) = (key("counter"), key("text"));
    let adding = (0..200).map(|_| stage.change(&counter, increment(1)));
    let answers = futures::future::join_all(adding).await;
    let mut told: Vec<i64> = (answers.iter())
        .flat_map(|answer| numbers(answer.as_ref().unwrap()))
        .collect();
    told.sort_unstable();
    assert_eq!(told, (1..=200).collect::<Vec<i64>>());
    assert_eq!(value(&stage, &counter).await.as_deref(), Some(&b"200"[..]));

    stage.put(&text, "no number").await;
    let refused = stage.change(&text, increment(1)).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument);

    // A retry gets the same answer, also from the next process, from the store and from the tail
    // of the log.
    let (one, many) = (request_id(0), request_id(0));
    let add = stage.write(&counter, increment(-5), one).await.unwrap();
    assert_eq!(numbers(&add), [195]);
    let others = [key("x"), key("y"), key("z")];
    let operations = others.iter().map(|other| (other, increment(7))).collect();
    let mut batch = write(vec![], operations);
    batch.name = many.into();
    let added = stage.apply(batch.clone()).await.unwrap();
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let again = stage.write(&counter, increment(-5), one).await.unwrap();
    assert_eq!(again, replayed(&add));
    assert_eq!(stage.apply(batch).await.unwrap(), replayed(&added));
    let other = stage.write(&counter, increment(5), one).await.unwrap_err();
    assert_eq!(other.code, Code::InvalidArgument);
    assert_eq!(value(&stage, &counter).await.as_deref(), Some(&b"195"[..]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_keeps_the_expiry_and_a_put_clears_it() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    let hour = Some(Duration::from_secs(3_600));
    stage.change(&a, put("1", hour)).await.unwrap();
    let before = stage.read(&a).await.unwrap().expires;
    stage.change(&a, increment(1)).await.unwrap();
    let read = stage.read(&a).await.unwrap();
    assert_eq!((read.expires, &read.value[..]), (before, &b"2"[..]));
    assert!(before > 0);
    stage.put(&a, "3").await;
    assert_eq!(stage.read(&a).await.unwrap().expires, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_keeps_the_value_also_where_only_the_store_has_it() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (a, b) = (key("a"), key("b"));
    let hour = Duration::from_secs(3_600);
    let touch = |ttl| OperationKind::Touch { ttl };
    stage.put(&a, "value").await;
    stage.stop().await;

    // Memory is empty now.
    let stage = Stage::ready(dir.path()).await;
    let (id, named) = (request_id(0), touch(Some(hour)));
    let first = stage.write(&a, named.clone(), id).await.unwrap();
    let read = stage.read(&a).await.unwrap();
    let expires = Version::from_bits(first.version).after(hour);
    assert_eq!(
        (read.version, read.expires, &read.value[..]),
        (first.version, expires.to_bits(), &b"value"[..])
    );
    let absent = stage.change(&b, touch(None)).await.unwrap_err();
    assert_eq!(absent.code, Code::NotFound, "{absent}");
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let restarted = stage.read(&a).await.unwrap();
    let clock = read.clock;
    assert_eq!(ReadReply { clock, ..restarted }, read);
    let again = stage.write(&a, named, id).await.unwrap();
    assert_eq!(again, replayed(&first));
    stage.change(&a, touch(None)).await.unwrap();
    let read = stage.read(&a).await.unwrap();
    assert_eq!((read.expires, &read.value[..]), (0, &b"value"[..]));
    stage.stop().await;
}

/// A touch logs its key's value: a batch of them is bounded like the puts of one request.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_touches_at_most_what_a_request_can_put() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let large = "x".repeat(MAX_VALUE_BYTES);
    let keys: Vec<ItemKey> = (0..40).map(|nth| key(&format!("k{nth}"))).collect();
    for item in &keys {
        stage.put(item, &large).await;
    }
    let touches = |count: usize| {
        let touch = OperationKind::Touch { ttl: None };
        let operations = keys[..count].iter().map(|item| (item, touch.clone()));
        write(vec![], operations.collect())
    };
    for count in [5, 40] {
        // Nearly always in one frame: the other client's write is not affected.
        let other = key("other");
        let (refused, others) = tokio::join!(
            stage.apply(touches(count)),
            stage.change(&other, put("x", None)),
        );
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
        assert!(refused.message.contains("max_request_bytes"), "{refused}");
        others.unwrap();
    }
    stage.apply(touches(4)).await.unwrap();
    stage.stop().await;
}

/// Small requests that log large values wait for the log, like large requests. None is refused.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_touches_of_large_values_wait_for_the_log() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (large, other) = (key("large"), key("other"));
    stage.put(&large, &"x".repeat(MAX_VALUE_BYTES)).await;
    let touch = OperationKind::Touch { ttl: None };
    // Over the limit at which the log refuses records.
    let touches = (0..100).map(|_| stage.change(&large, touch.clone()));
    let others = (0..100).map(|_| stage.change(&other, increment(1)));
    let (touched, counted) = tokio::join!(
        futures::future::join_all(touches),
        futures::future::join_all(others),
    );
    for answer in touched.into_iter().chain(counted) {
        answer.unwrap();
    }
    assert_eq!(value(&stage, &other).await.as_deref(), Some(&b"100"[..]));
    let read = value(&stage, &large).await.unwrap();
    assert_eq!(read.len(), MAX_VALUE_BYTES);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_values_are_told_where_they_are_asked_for() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let version = stage.put(&a, "old").await;
    let mut asking = write(
        vec![],
        vec![
            (&a, put("new", None)),
            (&b, OperationKind::Delete),
            (&c, increment(4)),
        ],
    );
    asking.return_previous = true;
    let answer = stage.apply(asking.clone()).await.unwrap();
    let [of_a, of_b, of_c] = answer.results.as_slice() else {
        panic!("{answer:?}");
    };
    assert_eq!(of_a.previous_value.as_deref(), Some(&b"old"[..]));
    assert_eq!((of_a.existed, of_a.previous_version), (true, version));
    assert_eq!((of_b.existed, of_b.previous_value.clone()), (false, None));
    assert_eq!((of_c.existed, of_c.number), (false, 4));
    // Previous values are not remembered; the outcome is.
    let again = stage.apply(asking).await.unwrap();
    assert!(again.replayed && again.version == answer.version);
    assert_eq!(again.results[0].previous_value, None);
    assert_eq!(again.results[2].number, 4);
    stage.stop().await;
}

/// Memory evicts one key for another, and a write needs both.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_memory_does_not_hold_together_are_judged_together() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let all = || (0..).map(|number: u32| key(&format!("k{number}")));
    // Memory has 64 shards, of one record each.
    let part = |item: &ItemKey| Slot::of(item.as_bytes()).index() % 64;
    let first = key("k0");
    let mut neighbours = all().skip(1).filter(|item| part(item) == part(&first));
    let (second, third) = (neighbours.next().unwrap(), neighbours.next().unwrap());
    for item in [&first, &second, &third] {
        stage.put(item, "7").await;
    }
    let coordination = Arc::clone(&stage.coordination);
    stage.stop().await;
    let mut storage = StorageSettings::new(dir.path().join("n1"));
    storage.memory.max_records = 64;
    let stage = Stage::on(coordination, storage).await;
    stage.until_master().await;
    for resident in [&first, &second, &third] {
        assert_eq!(value(&stage, resident).await.unwrap(), "7");
        let present = [&first, &second, &third].map(|item| (item, ConditionKind::Present));
        let other = key("other");
        let asking = write(present.to_vec(), vec![(&other, put("x", None))]);
        stage.apply(asking).await.unwrap();
    }
    stage.stop().await;
}

/// A stage whose log takes no record of over some 8 KB.
async fn with_small_records(dir: &Path) -> Stage {
    let stage = Stage::ready(dir).await;
    let coordination = Arc::clone(&stage.coordination);
    stage.stop().await;
    let storage = StorageSettings {
        segment_bytes: 8 << 10,
        ..StorageSettings::new(dir.join("n1"))
    };
    let stage = Stage::on(coordination, storage).await;
    stage.until_master().await;
    stage
}

/// A write whose record is over the limit is refused by itself: no other is refused with it, or
/// judged by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_limit_takes_no_write_with_it() {
    let dir = TempDir::new().unwrap();
    let stage = with_small_records(dir.path()).await;
    let large = put(&"x".repeat(10 << 10), None);
    for round in 0..50 {
        let item = key(&format!("key-{round}"));
        let absent = vec![(&item, ConditionKind::Absent)];
        // Nearly always in one frame.
        let (refused, judged) = tokio::join!(
            stage.change(&item, large.clone()),
            stage.apply(write(absent, vec![(&item, put("small", None))])),
        );
        assert_eq!(refused.unwrap_err().code, Code::ResourceExhausted);
        judged.unwrap();
    }
    stage.stop().await;
}

/// Writes that are refused for their size keep no other client's from being applied, once each
/// (I8).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_are_refused_take_no_increment_with_them() {
    const TASKS: usize = 8;
    const INCREMENTS: usize = 150;
    let dir = TempDir::new().unwrap();
    let stage = Arc::new(with_small_records(dir.path()).await);
    let counter = key("counter");
    let is_over = Arc::new(AtomicBool::new(false));
    let refused = tokio::spawn({
        let (stage, is_over) = (Arc::clone(&stage), Arc::clone(&is_over));
        async move {
            let large = put(&"x".repeat(10 << 10), None);
            let mut refused = 0;
            while !is_over.load(Ordering::SeqCst) {
                let outcome = stage.change(&key("large"), large.clone()).await;
                assert_eq!(outcome.unwrap_err().code, Code::ResourceExhausted);
                refused += 1;
            }
            refused
        }
    });
    let adding = (0..TASKS).map(|_| {
        let (stage, counter) = (Arc::clone(&stage), counter.clone());
        tokio::spawn(async move {
            let mut told = Vec::new();
            while told.len() < INCREMENTS {
                let id = request_id(0);
                let answer = stage.write(&counter, increment(1), id).await.unwrap();
                let again = stage.write(&counter, increment(1), id).await;
                assert_eq!(again.unwrap(), replayed(&answer));
                told.extend(numbers(&answer));
            }
            told
        })
    });
    let mut told: Vec<i64> = (futures::future::join_all(adding).await.into_iter())
        .flat_map(Result::unwrap)
        .collect();
    is_over.store(true, Ordering::SeqCst);
    assert!(refused.await.unwrap() > 0, "nothing was ever refused");
    told.sort_unstable();
    let all = i64::try_from(TASKS * INCREMENTS).unwrap();
    assert_eq!(told, (1..=all).collect::<Vec<i64>>());
    let read = value(&stage, &counter).await.unwrap();
    assert_eq!(read, all.to_string());
    Arc::into_inner(stage).unwrap().stop().await;
}
