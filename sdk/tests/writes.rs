//! The outcome of writes at coordinators that refuse, stay silent or break, as the test scripts
//! them.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

mod played;

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tierkv::{
    Client, Code, Condition, PutOptions, Write,
    rpc::proto::v1::{
        IncrementResponse, WriteResponse, WriteResult, condition, session_answer::Answer,
        session_operation::Operation,
    },
};
use tokio::net::TcpListener;

use crate::played::{Act, PLATFORM_TIME, Played, Plot, id_of, put_answer};

/// How much later than its deadline an operation may end on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Checks that all operations have the same id, and returns it.
fn one_id(asked: &[Operation]) -> tierkv::rpc::proto::v1::RequestId {
    let id = id_of(&asked[0]);
    for operation in asked {
        assert_eq!(id_of(operation), id, "a retry is the same write");
    }
    id
}

fn request_id_of(error: &tierkv::Error) -> Vec<u8> {
    error
        .request_id()
        .expect("an id to retry with")
        .random
        .to_vec()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let played = Played::new(|number, _| match number {
        0 | 2 => Act::Break,
        1 => Act::Refuse(Code::OutcomeUnknown),
        _ => put_answer(7),
    });
    let client = played.client().await;
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    let asked = played.asked();
    assert_eq!(asked.len(), 4);
    one_id(&asked);
}

#[tokio::test]
async fn another_coordinator_is_asked_under_the_same_id() {
    let breaking = Played::new(|_, _| Act::Break);
    let silent = Played::new(|_, _| Act::Ignore);
    let answering = Played::new(|_, _| put_answer(7));
    let client = Client::builder()
        .address(breaking.address.to_string())
        .address(silent.address.to_string())
        .address(answering.address.to_string())
        .in_order()
        .timeout(Duration::from_secs(4))
        .connect()
        .await
        .unwrap();
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    let asked = [breaking.asked(), silent.asked(), answering.asked()].concat();
    assert_eq!(asked.len(), 3);
    one_id(&asked);
    // A coordinator that failed is left alone.
    for _ in 0..20 {
        client.put("key", "value").await.unwrap();
    }
    let counts = [&breaking, &silent, &answering].map(|played| played.asked().len());
    assert_eq!(counts, [1, 1, 21]);
}

/// A coordinator that answers the first operation late, as `first`, and all others as `rest`.
fn late(after: Duration, first: Act, rest: Act) -> Played {
    Played::new(move |number, _| match number {
        0 => {
            // It has a thread of its own.
            std::thread::sleep(after);
            first.clone()
        }
        _ => rest.clone(),
    })
}

/// A client of both coordinators, with a timeout of 2 s: the second one is asked after 1 s.
async fn client_of(first: &Played, second: &Played) -> Client {
    Client::builder()
        .address(first.address.to_string())
        .address(second.address.to_string())
        .in_order()
        .timeout(Duration::from_secs(2))
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_refusal_that_comes_while_another_coordinator_is_asked_counts() {
    let refusal = || Act::Refuse(Code::Unavailable);
    let (late_refusal, later) = (Duration::from_millis(1_500), Duration::from_millis(1_700));
    let (first, second) = (
        late(late_refusal, refusal(), refusal()),
        late(later - late_refusal, refusal(), refusal()),
    );
    let client = client_of(&first, &second).await;
    let error = client.put("key", "value").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    let (asked, also_asked) = (first.asked(), second.asked());
    assert!(!also_asked.is_empty(), "the second one was tried");
    one_id(&[asked, also_asked].concat());

    // Without an answer of the first one, nothing is certain.
    let (first, second) = (
        Played::new(|_, _| Act::Ignore),
        Played::new(move |_, _| refusal()),
    );
    let client = client_of(&first, &second).await;
    let error = client.put("key", "value").await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(first.asked().len(), 1, "it is not asked twice");
}

#[tokio::test]
async fn an_answer_that_comes_while_another_coordinator_is_asked_is_taken() {
    let first = late(Duration::from_millis(1_300), put_answer(7), Act::Ignore);
    let second = Played::new(|_, _| Act::Ignore);
    let client = client_of(&first, &second).await;
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
    // What contradicts an attempt without an answer is settled by its answer.
    let first = late(Duration::from_millis(1_300), put_answer(8), Act::Ignore);
    let second = Played::new(|_, _| Act::Refuse(Code::ConditionFailed));
    let client = client_of(&first, &second).await;
    assert_eq!(client.put("key", "value").await.unwrap(), 8);
    assert_eq!(second.asked().len(), 1);
}

#[tokio::test]
async fn after_a_lost_attempt_no_refusal_is_definite() {
    for code in [
        Code::ConditionFailed,
        Code::InvalidArgument,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::Conflict,
    ] {
        let played = Played::new(move |number, _| match number {
            0 => Act::Break,
            _ => Act::Refuse(code),
        });
        let client = played
            .client()
            .await
            .with_timeout(Duration::from_millis(300));
        let options = PutOptions {
            condition: Some(Condition::Absent),
            ..PutOptions::default()
        };
        let error = client.put_with("key", "value", options).await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{code}: {error}");
        let asked = played.asked();
        assert!(asked.len() > 2, "{code}: the lost attempt may still arrive");
        assert_eq!(request_id_of(&error), one_id(&asked).random, "{code}");
        assert!(error.message().contains(code.name()), "{error}");
    }
}

#[tokio::test]
async fn a_write_that_was_applied_after_all_succeeds() {
    let played = Played::new(|number, _| match number {
        0 => Act::Break,
        1 | 2 => Act::Refuse(Code::ConditionFailed),
        _ => Act::Answer(Answer::Write(WriteResponse {
            version: 9,
            results: vec![WriteResult::default()],
            replayed: true,
        })),
    });
    let client = played.client().await;
    let write = Write::new().if_absent("key").put("key", "value");
    let written = client.write(write).await.unwrap();
    assert!(written.replayed);
    assert_eq!(written.version, 9);
}

#[tokio::test]
async fn before_any_attempt_was_lost_refusals_are_final() {
    for code in [
        Code::ConditionFailed,
        Code::InvalidArgument,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::DataLoss,
    ] {
        let played = Played::new(move |_, _| Act::Refuse(code));
        let client = played.client().await;
        let error = client.increment("key", 1).await.unwrap_err();
        assert_eq!((error.code(), error.request_id()), (code, None));
        assert_eq!(played.asked().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn temporary_failures_are_retried_and_then_reported() {
    let played = Played::new(|number, _| match number {
        0 => Act::Refuse(Code::Unavailable),
        1 => Act::Refuse(Code::Conflict),
        2 => Act::Answer(Answer::Increment(IncrementResponse {
            value: 5,
            version: 8,
        })),
        _ => Act::Refuse(Code::Unavailable),
    });
    let client = played.client().await;
    let incremented = client.increment("key", 5).await.unwrap();
    assert_eq!((incremented.value, incremented.version), (5, 8));
    one_id(&played.asked());
    let hurried = client.with_timeout(Duration::from_millis(200));
    let error = hurried.delete("key").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "nothing was done");
    assert!(error.is_retryable());
    assert!(played.asked().len() > 4);
}

#[tokio::test]
async fn silence_ends_at_the_deadline_with_an_unknown_outcome() {
    let played = Played::new(|_, _| Act::Ignore);
    let client = played.client().await;
    let timeout = Duration::from_millis(400);
    let began = Instant::now();
    let error = client
        .with_timeout(timeout)
        .put("key", "value")
        .await
        .unwrap_err();
    let took = began.elapsed();
    assert!(error.is_outcome_unknown(), "{error}");
    assert!(took >= timeout && took < timeout + SLACK, "{took:?}");
    assert_eq!(request_id_of(&error), one_id(&played.asked()).random);

    let began = Instant::now();
    let error = client.with_timeout(timeout).get("key").await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(
        error.code(),
        Code::DeadlineExceeded,
        "a read is not in doubt"
    );
    assert!(took >= timeout && took < timeout + SLACK, "{took:?}");
}

#[tokio::test]
async fn a_retry_by_the_id_of_an_unknown_outcome_settles_it() {
    let played = Played::new(|number, _| match number {
        0 => Act::Ignore,
        1 => put_answer(7),
        _ => Act::Refuse(Code::ConditionFailed),
    });
    let client = played.client().await;
    let hurried = client.with_timeout(Duration::from_millis(200));
    let id = (hurried.put("key", "value").await.unwrap_err())
        .request_id()
        .unwrap();
    let again = client.with_request_id(id);
    assert_eq!(again.put("key", "value").await.unwrap(), 7);
    one_id(&played.asked());
    let error = again.put("key", "value").await.unwrap_err();
    assert!(
        error.is_outcome_unknown(),
        "an earlier attempt was: {error}"
    );
    assert_eq!(error.request_id(), Some(id));
}

#[tokio::test]
async fn ids_are_born_in_the_platform_time_of_the_last_answer_and_differ() {
    const HOUR: u64 = 3_600_000;
    let time = |number: usize| match number {
        0..20 => PLATFORM_TIME,
        20..40 => PLATFORM_TIME + HOUR,
        _ => PLATFORM_TIME - HOUR,
    };
    let played = Played::with(Plot {
        // Refusals carry it, too.
        operation: Box::new(|number, _| match number % 10 {
            9 => Act::Refuse(Code::ConditionFailed),
            _ => put_answer(1),
        }),
        time: Box::new(move |number, _| time(number)),
        ..Plot::default()
    });
    let began = Instant::now();
    let client = played.client().await;
    for _ in 0..60 {
        drop(client.put("key", "value").await);
    }
    let passed = u64::try_from(began.elapsed().as_millis()).unwrap();
    let ids: Vec<_> = played.asked().iter().map(id_of).collect();
    for (number, id) in ids.iter().enumerate() {
        let last = time(number.saturating_sub(1));
        let born = last..=last + passed;
        assert!(born.contains(&id.birth_ms), "{number}: {id:?}");
    }
    let distinct: HashSet<_> = ids.iter().map(|id| id.random.clone()).collect();
    assert_eq!(distinct.len(), 60);
    assert!(distinct.iter().all(|random| random.len() == 16));
}

#[tokio::test]
async fn a_write_refused_for_its_birth_is_done_under_a_new_one() {
    const EARLIER: u64 = PLATFORM_TIME - 86_400_000;
    let played = Played::new(|_, operation| match id_of(operation).birth_ms {
        ..PLATFORM_TIME => put_answer(7),
        _ => Act::RefuseBirth(EARLIER),
    });
    let client = played.client().await;
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    let ids: Vec<_> = played.asked().iter().map(id_of).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[1].birth_ms, EARLIER);
    assert_ne!(ids[0].random, ids[1].random, "it is another request");
}

/// The coordinator's answers carry the platform's time, and one of two clusters is a day behind.
#[tokio::test]
async fn keys_of_clusters_whose_times_are_apart_are_written_in_turn_without_more_refusals() {
    const EARLIER: u64 = PLATFORM_TIME - 86_400_000;
    let played = Played::new(|_, operation| {
        let is_late_cluster = match operation {
            Operation::Put(put) => put.key.starts_with(b"late"),
            other => panic!("{other:?}"),
        };
        match (is_late_cluster, id_of(operation).birth_ms) {
            (true, PLATFORM_TIME..) => Act::RefuseBirth(EARLIER),
            (false, ..PLATFORM_TIME) => Act::RefuseBirth(PLATFORM_TIME),
            _ => put_answer(7),
        }
    });
    let client = played.client().await;
    for _ in 0..20 {
        for key in ["late", "other"] {
            assert_eq!(client.put(key, "value").await.unwrap(), 7);
        }
    }
    assert_eq!(played.asked().len(), 41, "only the first write is refused");
}

#[tokio::test]
async fn a_lost_write_gets_no_new_id_and_one_out_of_time_is_no_mistake() {
    let lost = Played::new(|number, _| match number {
        0 => Act::Break,
        _ => Act::RefuseBirth(5_000),
    });
    let client = lost.client().await;
    let error = client.put("key", "value").await.unwrap_err();
    assert!(
        error.is_outcome_unknown() && error.is_refused_for_birth(),
        "{error}"
    );
    assert_eq!(request_id_of(&error), one_id(&lost.asked()).random);

    let stubborn = Played::new(|number, _| Act::RefuseBirth(5_000 + number as u64));
    let client = stubborn.client().await;
    let hurried = client.with_timeout(Duration::from_millis(200));
    let error = hurried.put("key", "value").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.is_retryable() && error.is_refused_for_birth());
    let ids: HashSet<_> = stubborn
        .asked()
        .iter()
        .map(|asked| id_of(asked).random)
        .collect();
    assert!(ids.len() > 2 && ids.len() == stubborn.asked().len());
}

#[tokio::test]
async fn a_dead_address_costs_one_failure() {
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    // A listener that accepts connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let played = Played::new(|_, _| put_answer(7));
    let connect = |first: SocketAddr| {
        Client::builder()
            .address(first.to_string())
            .address(played.address.to_string())
            .in_order()
            .timeout(Duration::from_secs(2))
            .connect()
    };
    for first in [dead, mute.local_addr().unwrap()] {
        let began = Instant::now();
        let client = connect(first).await.unwrap();
        let connected = began.elapsed();
        assert!(connected < Duration::from_secs(2), "{connected:?}");
        let began = Instant::now();
        for _ in 0..100 {
            client.put("key", "value").await.unwrap();
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?} for all of them");
    }
}

#[tokio::test]
async fn a_batch_and_its_conditions_go_out_as_they_were_built() {
    let played = Played::new(|_, operation| {
        let Operation::Write(write) = operation else {
            panic!("{operation:?} is no batch");
        };
        let results = write.operations.iter().enumerate();
        let results = results.map(|(place, _)| WriteResult {
            existed: place == 1,
            previous_value: (place == 1).then(|| "old".into()),
            previous_version: 3,
            number: 12,
        });
        Act::Answer(Answer::Write(WriteResponse {
            version: 9,
            results: results.collect(),
            replayed: false,
        }))
    });
    let client = played.client().await;
    let write = Write::new()
        .if_absent("a")
        .if_present("b")
        .if_version("c", u64::MAX)
        .put_for("d", "value", Duration::from_millis(1_500))
        .delete("e")
        .increment("f", -3)
        .return_previous();
    let written = client.write(write).await.unwrap();
    let Operation::Write(sent) = &played.asked()[0] else {
        panic!("{:?}", played.asked());
    };
    let conditions: Vec<_> = (sent.conditions.iter())
        .map(|condition| (&condition.key[..], condition.kind.unwrap()))
        .collect();
    let expected = [
        (&b"a"[..], condition::Kind::IfAbsent(Default::default())),
        (b"b", condition::Kind::IfPresent(Default::default())),
        (b"c", condition::Kind::IfVersion(u64::MAX)),
    ];
    assert_eq!(conditions, expected);
    assert!(sent.return_previous);
    let words = format!("{:?}", sent.operations);
    for word in ["ttl_ms: 1500", "Delete", "delta: -3"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    let numbers: Vec<_> = written.changes.iter().map(|change| change.number).collect();
    assert_eq!(numbers, [None, None, Some(12)]);
    let previous = written.changes[1].previous.as_ref().unwrap();
    assert_eq!((&previous.value[..], previous.version), (&b"old"[..], 3));
    assert_eq!(written.changes[0].previous, None);
}

#[tokio::test]
async fn an_answer_to_something_else_is_no_outcome() {
    let played = Played::new(|_, _| put_answer(7));
    let client = played.client().await;
    let error = client.delete("key").await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(request_id_of(&error), id_of(&played.asked()[0]).random);
}
