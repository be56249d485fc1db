//! The cache has the configured faults, a correct ledger, and one run for each seed.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use bytes::Bytes;
use tierkv_cache::State;
use tierkv_protocol::cache::ValueEntry;
use tierkv_types::{Epoch, Index, Round, Version};
use tokio::time::timeout;

use super::*;
use crate::simulation::{clock::MachineClock, scheduler::Scheduler};

const FAULTY: CacheFaults = CacheFaults {
    undelivered: 15,
    unanswered: 15,
    late: 15,
    late_millis: 80,
    pace: Pace {
        steps: 3,
        late: 5,
        late_millis: 20,
    },
};

/// How long the invalidator waits for an answer.
const WAIT: Duration = Duration::from_millis(40);

fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}

fn key(item: &[u8]) -> CacheKey<'_> {
    CacheKey {
        item,
        slot_revision: 1,
    }
}

fn entry(version: u64) -> Entry {
    let version = Version::from_millis(version);
    Entry::Value(ValueEntry {
        version,
        expires: None,
        filled: version,
        value: Bytes::from_static(b"x"),
    })
}

fn mark(round: u64) -> Mark {
    Mark {
        epoch: Epoch(1),
        round: Round(round),
        index: Index(round),
    }
}

struct Run {
    hash: u64,
    events: Vec<CacheEvent>,
    answers: BTreeSet<String>,
}

/// A reader that fills, an invalidator that deletes and marks.
fn use_of_it(seed: u64) -> Run {
    let mut scheduler = Scheduler::new(seed);
    let trace = scheduler.trace().clone();
    let clock = Arc::new(MachineClock::new(scheduler.time().clone(), 0));
    let cache = FaultyCache::new(seed, FAULTY, clock, trace.clone());
    let answers = Rc::new(RefCell::new(BTreeSet::new()));
    scheduler.spawn("cache", "cache", Arc::clone(&cache).run());
    let reading = Arc::clone(&cache);
    scheduler.spawn("users", "reader", async move {
        for version in 1..30 {
            let mut found = Vec::new();
            let items = [b"a", b"b"];
            let keys = items.map(|item| key(item));
            reading.lookup(&cluster(), &keys, &mut found).await;
            for (key, found) in keys.into_iter().zip(found) {
                match found.state {
                    State::Leased(lease) if version % 5 == 0 => reading.release(key, lease).await,
                    State::Leased(lease) => {
                        reading.fill(key, lease, entry(version)).await;
                    }
                    _ => {}
                }
            }
        }
    });
    let (deleting, noted) = (Arc::clone(&cache), Rc::clone(&answers));
    scheduler.spawn("users", "invalidator", async move {
        for round in 1..30 {
            let keys = [key(b"a"), key(b"b")];
            let deleted = timeout(WAIT, deleting.delete(&keys)).await;
            let marked = timeout(WAIT, deleting.write_mark(&cluster(), mark(round))).await;
            for (what, answer) in [("delete", deleted), ("mark", marked)] {
                noted.borrow_mut().insert(format!("{what} {answer:?}"));
            }
        }
    });
    while scheduler.alive("users") > 0 {
        if !scheduler.step() {
            scheduler.advance(1);
        }
    }
    drop(scheduler);
    Run {
        hash: trace.hash(),
        events: cache.take_events(),
        answers: Rc::into_inner(answers).unwrap().into_inner(),
    }
}

/// The first error in the ledger, if any.
fn check(events: &[CacheEvent]) {
    let (mut held, mut removed) = (Held::new(), BTreeSet::new());
    for event in events {
        match event {
            CacheEvent::Filled(key, version) => {
                let before = held.insert(key.clone(), *version);
                assert_eq!(before, None, "an entry was filled over another");
            }
            CacheEvent::Removed(keys) => {
                held.retain(|key, _| !keys.contains(key));
                removed.insert(keys);
            }
            CacheEvent::Refused(_) => {}
            CacheEvent::Confirmed(keys) => {
                assert!(removed.contains(keys), "confirmed and not removed");
            }
            CacheEvent::Marked(_, while_held) => assert_eq!(*while_held, held),
        }
    }
}

#[test]
fn one_seed_is_one_run_and_the_seeds_see_every_fault() {
    let (mut answers, mut late_mark, mut held_at_mark) = (BTreeSet::new(), false, false);
    for seed in 0..60 {
        let run = use_of_it(seed);
        if seed < 10 {
            let again = use_of_it(seed);
            assert_eq!((run.hash, &run.events), (again.hash, &again.events));
        }
        check(&run.events);
        let rounds: Vec<u64> = (run.events.iter())
            .filter_map(|event| match event {
                CacheEvent::Marked(mark, held) => {
                    held_at_mark |= !held.is_empty();
                    Some(mark.round.0)
                }
                _ => None,
            })
            .collect();
        late_mark |= !rounds.is_sorted();
        answers.extend(run.answers);
    }
    assert!(late_mark, "no mark arrived after a later one");
    assert!(
        held_at_mark,
        "no mark arrived at a cache that held something"
    );
    let all = ["delete", "mark"].map(|what| {
        ["Ok(Ok(()))", "Ok(Err(Undelivered))", "Err(Elapsed(()))"]
            .map(|answer| format!("{what} {answer}"))
    });
    assert_eq!(answers, all.into_iter().flatten().collect());
}

#[test]
fn without_faults_it_is_the_embedded_cache() {
    let mut scheduler = Scheduler::new(1);
    let trace = scheduler.trace().clone();
    let clock = Arc::new(MachineClock::new(scheduler.time().clone(), 0));
    let cache = FaultyCache::new(1, FAULTY, clock, trace);
    cache.set_faults(CacheFaults::NONE);
    let used = Arc::clone(&cache);
    scheduler.complete("one", "uses it", async move {
        let mut found = Vec::new();
        assert!(!used.holds_anything().await);
        used.lookup(&cluster(), &[key(b"a")], &mut found).await;
        let State::Leased(lease) = found.remove(0).state else {
            panic!("no lease");
        };
        assert_eq!(used.fill(key(b"a"), lease, entry(7)).await, Fill::Stored);
        assert!(used.holds_anything().await);
        used.write_mark(&cluster(), mark(1)).await.unwrap();
        let node = used.node_of(key(b"a")).to_owned();
        let marks = used.read_marks(&cluster()).await;
        assert_eq!(marks, [(node, Some(mark(1)))]);
        assert_eq!(used.nodes().await[0].entries, 1);
    });
    let a = CachedKey::from(&key(b"a"));
    assert_eq!(
        cache.held(),
        Held::from([(a.clone(), Version::from_millis(7))])
    );
    let deleted = Arc::clone(&cache);
    scheduler.complete("one", "deletes", async move {
        deleted.delete(&[key(b"a")]).await.unwrap();
    });
    assert!(cache.held().is_empty());
    let keys = BTreeSet::from([a]);
    let events = cache.take_events();
    assert_eq!(
        events[events.len() - 2..],
        [
            CacheEvent::Removed(keys.clone()),
            CacheEvent::Confirmed(keys)
        ]
    );
}
