//! Records and their compare-and-swap.

use std::collections::BTreeSet;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Backend, within};
use crate::{
    CoordinationError, Revision, Swap, Versioned,
    limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES},
};

const SWAPPERS: usize = 8;
const WINS_EACH: u64 = 10;

/// Only the first creation of a record wins, and its value stays.
pub async fn a_record_is_created_once(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "config/created-once";
    assert_eq!(store.get(key).await, Ok(None));
    let won = store
        .put_if_absent(key, Bytes::from_static(b"first"))
        .await
        .expect("a creation")
        .won()
        .expect("the first creation wins");
    assert_eq!(
        store
            .put_if_absent(key, Bytes::from_static(b"second"))
            .await,
        Ok(Swap::Lost)
    );
    let expected = Versioned {
        value: Bytes::from_static(b"first"),
        revision: won,
    };
    assert_eq!(store.get(key).await, Ok(Some(expected)));
}

/// A swap with a wrong revision changes nothing; nor does a swap of an absent record. An empty
/// value is a value.
pub async fn a_swap_needs_the_revision_it_expects(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "config/swapped";
    let value = Bytes::from_static(b"value");
    assert_eq!(
        store
            .compare_and_swap(key, Revision(1), value.clone())
            .await,
        Ok(Swap::Lost),
        "there is no record to swap"
    );
    let created = won(store.put_if_absent(key, value.clone()).await);
    let swapped = won(store.compare_and_swap(key, created, Bytes::new()).await);
    assert!(swapped > created);
    for stale in [created, Revision(0), Revision(swapped.0 + 1)] {
        assert_eq!(
            store.compare_and_swap(key, stale, value.clone()).await,
            Ok(Swap::Lost)
        );
    }
    let expected = Versioned {
        value: Bytes::new(),
        revision: swapped,
    };
    assert_eq!(store.get(key).await, Ok(Some(expected)));
}

/// A delete needs the right revision; a record created again is a new one, also for swappers that
/// saw the old one.
pub async fn a_delete_needs_the_revision_it_expects(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "config/deleted";
    let value = Bytes::from_static(b"the same");
    assert_eq!(store.delete(key, Revision(1)).await, Ok(Swap::Lost));
    let first = won(store.put_if_absent(key, value.clone()).await);
    assert_eq!(
        store.delete(key, Revision(first.0 + 1)).await,
        Ok(Swap::Lost)
    );
    let deleted = won(store.delete(key, first).await);
    assert!(deleted > first);
    assert_eq!(store.get(key).await, Ok(None));
    assert_eq!(store.delete(key, first).await, Ok(Swap::Lost));
    let second = won(store.put_if_absent(key, value.clone()).await);
    assert!(second > deleted);
    assert_eq!(
        store.compare_and_swap(key, first, value).await,
        Ok(Swap::Lost)
    );
}

/// Of concurrent swaps, exactly one replaces each revision.
pub async fn of_concurrent_swappers_exactly_one_wins_each_revision(backend: &mut impl Backend) {
    let key = "config/contended";
    let created = won(backend
        .coordination()
        .put_if_absent(key, Bytes::from_static(b"0"))
        .await);
    let mut swappers = JoinSet::new();
    for _ in 0..SWAPPERS {
        let store = backend.coordination();
        swappers.spawn(async move {
            let mut wins = Vec::new();
            while (wins.len() as u64) < WINS_EACH {
                let seen = store
                    .get(key)
                    .await
                    .expect("a read")
                    .expect("the record is there");
                let next = Bytes::from((number(&seen) + 1).to_string());
                if let Swap::Won(revision) = store
                    .compare_and_swap(key, seen.revision, next)
                    .await
                    .expect("a certain outcome")
                {
                    wins.push((seen.revision, revision));
                }
            }
            wins
        });
    }
    let wins: Vec<_> = within("the swappers", swappers.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();

    let total = SWAPPERS as u64 * WINS_EACH;
    let replaced: BTreeSet<_> = wins.iter().map(|(expected, _)| *expected).collect();
    let installed: BTreeSet<_> = wins.iter().map(|(_, revision)| *revision).collect();
    assert_eq!(
        replaced.len() as u64,
        total,
        "a revision was replaced twice"
    );
    assert_eq!(installed.len() as u64, total, "a revision was given twice");
    assert!(replaced.contains(&created));
    let last = backend
        .coordination()
        .get(key)
        .await
        .expect("a read")
        .expect("the record is there");
    assert_eq!(number(&last), total, "a swap that won was lost");
    assert_eq!(Some(&last.revision), installed.last());
}

/// Of concurrent creations, exactly one wins.
pub async fn of_concurrent_creators_exactly_one_wins(backend: &mut impl Backend) {
    let key = "config/raced-for";
    let mut creators = JoinSet::new();
    for creator in 0..SWAPPERS {
        let store = backend.coordination();
        creators.spawn(async move {
            let swap = store
                .put_if_absent(key, Bytes::from(creator.to_string()))
                .await
                .expect("a certain outcome");
            swap.won().map(|revision| (creator, revision))
        });
    }
    let winners: Vec<_> = within("the creators", creators.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    let [(winner, revision)] = winners[..] else {
        panic!("{} creations of one record won", winners.len());
    };
    let expected = Versioned {
        value: Bytes::from(winner.to_string()),
        revision,
    };
    assert_eq!(
        backend.coordination().get(key).await,
        Ok(Some(expected)),
        "the record is not the winner's"
    );
}

/// Changes of different records have different revisions, and later changes greater ones.
pub async fn revisions_grow_over_all_records(backend: &mut impl Backend) {
    let store = backend.coordination();
    let mut last = Revision(0);
    for round in 0..5 {
        for key in ["config/grow/a", "config/grow/b"] {
            let value = Bytes::from(round.to_string());
            let swap = match store.get(key).await.expect("a read") {
                None => store.put_if_absent(key, value).await,
                Some(seen) => store.compare_and_swap(key, seen.revision, value).await,
            };
            let revision = won(swap);
            assert!(revision > last, "{revision} after {last}");
            last = revision;
        }
    }
}

/// Limits are inclusive; anything over them is refused with a message and changes nothing.
pub async fn anything_over_a_limit_is_refused(backend: &mut impl Backend) {
    let store = backend.coordination();
    let longest = format!("config/{}", "k".repeat(MAX_KEY_BYTES - "config/".len()));
    let largest = Bytes::from(vec![7; MAX_VALUE_BYTES]);
    let created = won(store.put_if_absent(&longest, largest.clone()).await);
    assert_eq!(
        store
            .get(&longest)
            .await
            .map(|seen| seen.map(|it| it.value)),
        Ok(Some(largest))
    );

    let too_large = Bytes::from(vec![7; MAX_VALUE_BYTES + 1]);
    refused(store.compare_and_swap(&longest, created, too_large).await);
    for bad in ["", "a\nb", &format!("{longest}k")] {
        refused(store.get(bad).await);
        refused(store.put_if_absent(bad, Bytes::new()).await);
        refused(store.compare_and_swap(bad, created, Bytes::new()).await);
        refused(store.delete(bad, created).await);
        refused(store.watch(bad).await);
        refused(store.join(bad, "member", Bytes::new()).await);
        refused(store.join("config/limits", bad, Bytes::new()).await);
        refused(store.list(bad).await);
        refused(store.observe(bad).await);
        refused(store.nominate(bad, "candidate", Bytes::new()).await);
        refused(store.nominate("config/limits", bad, Bytes::new()).await);
        refused(store.observe_leader(bad).await);
    }
    refused(store.join("config/limits", "a/b", Bytes::new()).await);
    refused(store.nominate("config/limits", "a/b", Bytes::new()).await);
    let seen = store.get(&longest).await.expect("a read");
    assert_eq!(seen.map(|it| it.revision), Some(created));
}

fn refused<T: std::fmt::Debug>(result: Result<T, CoordinationError>) {
    match result {
        Err(CoordinationError::InvalidArgument(why)) => {
            assert!(!why.ends_with('.'), "a trailing stop: {why}");
        }
        other => panic!("not refused as an invalid argument: {other:?}"),
    }
}

/// The revision of a change that must win.
pub(super) fn won(swap: Result<Swap, CoordinationError>) -> Revision {
    match swap {
        Ok(Swap::Won(revision)) => revision,
        other => panic!("a change that should win ended in {other:?}"),
    }
}

/// The number stored as text in a record.
pub(super) fn number(record: &Versioned) -> u64 {
    std::str::from_utf8(&record.value)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("the record holds a number")
}
