use std::{
    collections::HashMap,
    slice::from_ref,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::*;

/// A map that loses or damages the chosen values.
#[derive(Clone, Default)]
struct Map {
    records: Arc<Mutex<HashMap<Vec<u8>, Bytes>>>,
    writes: Arc<Mutex<u64>>,
    refuses_writes: bool,
}

impl Target for Map {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        tokio::task::yield_now().await;
        Ok(Answer {
            value: self.records.lock().unwrap().get(key).cloned(),
            cached: true,
        })
    }

    async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
        if self.refuses_writes {
            return Err(Failure("full".to_owned()));
        }
        tokio::task::yield_now().await;
        *self.writes.lock().unwrap() += 1;
        self.records.lock().unwrap().insert(key.to_vec(), value);
        Ok(())
    }
}

fn plan(operations: Operations) -> Plan {
    Plan {
        shape: Shape::Trace,
        keys: 100,
        distribution: Distribution::Zipfian,
        operations,
        check: Check::Content,
        tasks: 4,
        duration: Duration::from_millis(50),
        seed: 3,
    }
}

#[tokio::test]
async fn loaded_records_are_read_and_checked() {
    let map = Map::default();
    let plan = plan(Operations::Mixed { writes: 0.25 });
    let loaded = load(from_ref(&map), &plan).await.unwrap();
    assert_eq!(loaded.operations, 100);
    assert_eq!(map.records.lock().unwrap().len(), 100);

    let outcome = drive(from_ref(&map), &plan).await.unwrap();
    assert_eq!((outcome.failures, &outcome.first_failure), (0, &None));
    assert_eq!(outcome.latencies.len(), outcome.operations);
    assert!(outcome.elapsed >= plan.duration);
    assert!(outcome.latency(0.5) <= outcome.latency(1.0));
    let writes = *map.writes.lock().unwrap() - 100;
    assert_eq!(outcome.cached + writes, outcome.operations);
    let quarter = outcome.operations / 4;
    assert!(
        writes.abs_diff(quarter) <= quarter / 5 + 8,
        "{writes} of {}",
        outcome.operations
    );
}

#[tokio::test]
async fn wrong_and_missing_values_are_failures() {
    let map = Map::default();
    let plan = plan(Operations::Reads);
    let missing = drive(from_ref(&map), &plan).await.unwrap();
    assert_eq!(missing.operations, 0);
    assert!(missing.failures > 0);
    let words = missing.first_failure.unwrap().to_string();
    assert!(words.contains("no value was found of key"), "{words}");

    load(from_ref(&map), &plan).await.unwrap();
    let other = Shape::Trace.value(1_000, 1);
    for value in map.records.lock().unwrap().values_mut() {
        value.clone_from(&other);
    }
    let wrong = drive(from_ref(&map), &plan).await.unwrap();
    assert_eq!(wrong.operations, 0);
    let by_length = Plan {
        check: Check::Length,
        ..plan
    };
    assert_eq!(drive(from_ref(&map), &by_length).await.unwrap().failures, 0);
}

#[tokio::test]
async fn refused_writes_are_counted_and_end_a_load() {
    let full = Map {
        refuses_writes: true,
        ..Map::default()
    };
    let plan = plan(Operations::Writes);
    assert_eq!(
        load(from_ref(&full), &plan).await.unwrap_err(),
        Failure("full".to_owned())
    );
    // Without this bound, a target that fails at once would never yield its thread.
    let outcome = drive(from_ref(&full), &plan).await.unwrap();
    assert_eq!(outcome.operations, 0);
    assert!(outcome.failures > 0);
    assert!(drive::<Map>(&[], &plan).await.is_err());
}
