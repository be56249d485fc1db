//! Outcomes of requests.

use tierkv_types::{RequestId, Version};

use super::{ME, StoreBackend, batch, granted};
use crate::{Outcome, store::CheckpointBatch};

pub(super) async fn outcomes_stay_until_their_requests_are_behind_the_horizon(
    backend: &dyn StoreBackend,
) {
    let store = backend.open("outcomes").await;
    granted(store.claim(ME).await);
    let outcome = |nth: u8, birth_millis: u64| {
        let id = RequestId {
            birth_millis,
            random: [nth; 16],
        };
        let existed = (0..nth).map(|place| place % 3 == 0).collect();
        let outcome = Outcome {
            version: Version::from_bits(birth_millis << 16),
            fingerprint: u32::from(nth),
            existed,
            numbers: (0..nth % 4).map(|number| i64::from(number) - 2).collect(),
        };
        (id, outcome)
    };
    let write = async |index: u64, outcomes: &[(RequestId, Outcome)], request_horizon: u64| {
        let batch = CheckpointBatch {
            outcomes: outcomes.to_vec(),
            request_horizon,
            ..batch(index, Vec::new())
        };
        granted(store.checkpoint(ME, batch).await);
        let mut found = granted(store.outcomes().await);
        found.sort_by_key(|(id, _)| id.random);
        found
    };
    let (first, second) = ([outcome(1, 100), outcome(200, 120)], [outcome(201, 110)]);
    assert_eq!(write(1, &first, 0).await, first);
    let all = [&first[..], &second[..]].concat();
    assert_eq!(write(2, &second, 100).await, all);
    assert_eq!(write(3, &[], 120).await, first);
    assert_eq!(write(4, &[], 121).await, []);
    // Born too early for anyone to ask again.
    assert_eq!(write(5, &second, 121).await, []);
    store.close().await;
}

pub(super) async fn the_last_outcome_of_a_random_part_counts(backend: &dyn StoreBackend) {
    let store = backend.open("replaced").await;
    granted(store.claim(ME).await);
    let outcome = |random: u8, birth_millis: u64, version: u64| {
        let id = RequestId {
            birth_millis,
            random: [random; 16],
        };
        let outcome = Outcome {
            version: Version::from_bits(version),
            fingerprint: 1,
            existed: [false, true].into_iter().collect(),
            numbers: vec![i64::MIN],
        };
        (id, outcome)
    };
    let write = async |index: u64, outcomes: Vec<(RequestId, Outcome)>, request_horizon: u64| {
        let batch = CheckpointBatch {
            outcomes,
            request_horizon,
            ..batch(index, Vec::new())
        };
        granted(store.checkpoint(ME, batch).await);
        let mut found = granted(store.outcomes().await);
        found.sort_by_key(|(id, _)| id.random);
        found
    };
    // In one checkpoint, and in a later one.
    let first = vec![outcome(1, 100, 1), outcome(2, 101, 2), outcome(1, 102, 3)];
    let expected = [outcome(1, 102, 3), outcome(2, 101, 2)];
    assert_eq!(write(1, first, 0).await, expected);
    let second = vec![outcome(3, 103, 4), outcome(2, 104, 5)];
    let expected = [outcome(1, 102, 3), outcome(2, 104, 5), outcome(3, 103, 4)];
    assert_eq!(write(2, second, 0).await, expected);
    // An earlier birth replaces, too.
    let third = vec![outcome(3, 90, 6)];
    let expected = [outcome(1, 102, 3), outcome(2, 104, 5), outcome(3, 90, 6)];
    assert_eq!(write(3, third, 0).await, expected);
    assert_eq!(write(4, Vec::new(), 105).await, []);
    store.close().await;
}
