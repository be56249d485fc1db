//! The store has only the configured faults, and one run for each seed.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use tierkv_coordination::{ConfigStore, Coordination, Watch};

use super::*;
use crate::simulation::scheduler::Scheduler;

const KEY: &str = "clusters/c1";

const FAULTY: CoordinationFaults = CoordinationFaults {
    unavailable: 10,
    unknown: 40,
    old: 40,
    pace: Pace {
        steps: 4,
        late: 20,
        late_millis: 30,
    },
    turn_millis: 10,
};

/// The observations of a run.
#[derive(Debug, Default, PartialEq)]
struct Sightings {
    answers: BTreeSet<String>,
    went_back: bool,
    landed_after_its_sender: bool,
}

/// Lives that swap all the time, a watcher and reads, over a faulty store.
fn swaps(seed: u64) -> (u64, Sightings) {
    let mut scheduler = Scheduler::new(seed);
    let trace = scheduler.trace().clone();
    let store = FaultyCoordination::new(seed, KEY.to_owned(), None, FAULTY, trace.clone());
    let seen = Rc::new(RefCell::new(Sightings::default()));
    scheduler.spawn("coordination", "store", Arc::clone(&store).run());
    scheduler.spawn("watcher", "watcher", watching(&store, &seen));
    for life in 1..6 {
        scheduler.spawn("life", "swaps", swapping(&store, life, &seen));
        (0..60).for_each(|_| {
            if !scheduler.step() {
                scheduler.advance(1);
            }
        });
        scheduler.kill_group("life");
        let left = store.state().in_flight.len();
        let before = store.state().history.len();
        (0..100).for_each(|_| {
            scheduler.settle();
            scheduler.advance(1);
        });
        seen.borrow_mut().landed_after_its_sender |=
            left > 0 && store.state().history.len() > before;
    }
    let history = store.state().history.clone();
    let revisions: Vec<Revision> = history.iter().map(revision_of).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
    let proposals = store.proposals();
    assert!(proposals.iter().all(|made| (1..6).contains(&made.life)));
    for record in history.iter().flatten() {
        let is_proposed = proposals.iter().any(|made| made.value == record.value);
        assert!(is_proposed, "a record that nobody proposed");
    }
    store.set_faults(CoordinationFaults::NONE);
    (0..200).for_each(|_| {
        scheduler.settle();
        scheduler.advance(1);
    });
    assert!(store.state().in_flight.is_empty(), "a swap never landed");
    let client = store.client(9);
    let newest = scheduler.complete("reader", "reads", async move { client.get(KEY).await });
    assert_eq!(newest.unwrap(), store.newest());
    let mut watchers = store.state().watchers.clone();
    watchers.retain(|watcher| watcher.receiver_count() > 0);
    assert!(!watchers.is_empty());
    for watcher in watchers {
        assert_eq!(**watcher.borrow(), store.newest(), "COORD-WATCH");
    }
    drop(scheduler);
    (trace.hash(), Rc::into_inner(seen).unwrap().into_inner())
}

async fn watch(store: &FaultyCoordination) -> Watched<Option<Versioned>> {
    loop {
        match store.follow(0) {
            Ok(watched) => return watched,
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

fn watching(
    store: &Arc<FaultyCoordination>,
    seen: &Rc<RefCell<Sightings>>,
) -> impl Future<Output = ()> + use<> {
    let (store, seen) = (Arc::clone(store), Rc::clone(seen));
    async move {
        let mut watched = watch(&store).await;
        let mut newest = Revision::default();
        while watched.changed().await.is_ok() {
            let revision = revision_of(&watched.current());
            seen.borrow_mut().went_back |= revision < newest;
            newest = newest.max(revision);
        }
    }
}

fn swapping(
    store: &Arc<FaultyCoordination>,
    life: u64,
    seen: &Rc<RefCell<Sightings>>,
) -> impl Future<Output = ()> + use<> {
    let client: Arc<dyn Coordination> = store.client(life);
    let seen = Rc::clone(seen);
    async move {
        for round in 0_u64.. {
            let Ok(record) = client.get(KEY).await else {
                continue;
            };
            let value = Bytes::from(format!("{life}.{round}"));
            let swapped = match record {
                None => client.put_if_absent(KEY, value).await,
                Some(record) => client.compare_and_swap(KEY, record.revision, value).await,
            };
            let answer = match swapped {
                Ok(Swap::Won(_)) => "won".to_owned(),
                other => format!("{other:?}"),
            };
            seen.borrow_mut().answers.insert(answer);
        }
    }
}

#[test]
fn one_seed_is_one_run_and_the_seeds_see_every_fault() {
    let mut all = Sightings::default();
    for seed in 0..60 {
        let (hash, seen) = swaps(seed);
        if seed < 10 {
            let again = swaps(seed);
            assert_eq!((hash, &seen), (again.0, &again.1));
        }
        all.answers.extend(seen.answers);
        all.went_back |= seen.went_back;
        all.landed_after_its_sender |= seen.landed_after_its_sender;
    }
    assert!(all.went_back && all.landed_after_its_sender, "{all:?}");
    let answers: Vec<&str> = all.answers.iter().map(String::as_str).collect();
    let has = |start: &str| answers.iter().any(|answer| answer.starts_with(start));
    assert!(
        ["won", "Ok(Lost)", "Err(OutcomeUnknown", "Err(Unavailable"]
            .into_iter()
            .all(has),
        "{answers:?}"
    );
}

#[test]
fn what_the_driver_never_asks_is_refused_in_clear_words() {
    let mut scheduler = Scheduler::new(1);
    let trace = scheduler.trace().clone();
    let store = FaultyCoordination::new(1, KEY.to_owned(), None, CoordinationFaults::NONE, trace);
    let client = store.client(1);
    let (other, groups) = scheduler.complete("one", "asks", async move {
        let other = client.watch("another").await.map(drop);
        let client: Arc<dyn Coordination> = client;
        (other, client.list("nodes").await.map(drop))
    });
    assert!(matches!(other, Err(CoordinationError::InvalidArgument(_))));
    assert!(matches!(groups, Err(CoordinationError::Unavailable(_))));
}
