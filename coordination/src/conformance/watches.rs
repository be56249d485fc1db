//! Watches: COORD-WATCH.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    Backend,
    config::{number, won},
    within,
};
use crate::{Coordination, Revision, Swap, Versioned, Watched};

const WRITERS: u64 = 4;
const WRITES_EACH: u64 = 50;

/// A watch first returns the current state, then each later change, deletions included.
pub async fn a_watch_starts_with_the_present_state(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "watches/one";
    let mut early = store.watch(key).await.expect("a watch");
    assert_eq!(*early.current(), None);
    let created = won(store.put_if_absent(key, Bytes::from_static(b"1")).await);
    let late = store.watch(key).await.expect("a watch");
    assert_eq!(
        late.current().as_ref().as_ref().map(|it| it.revision),
        Some(created)
    );
    within("the creation", early.wait_for(|it| it.is_some()))
        .await
        .expect("the store lives");
    won(store.delete(key, created).await);
    within("the deletion", early.wait_for(|it| it.is_none()))
        .await
        .expect("the store lives");
}

/// Under many concurrent writes, a listener never sees an older state after a newer one, and ends
/// on the last state.
pub async fn a_watch_ends_on_the_newest_state(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "watches/storm";
    won(store.put_if_absent(key, Bytes::from_static(b"0")).await);
    let mut watched = store.watch(key).await.expect("a watch");
    let listener = tokio::spawn(async move {
        let mut last = Revision(0);
        loop {
            let state = watched.current();
            let seen = state.as_ref().as_ref().expect("the record is there");
            assert!(seen.revision >= last, "{} after {last}", seen.revision);
            last = seen.revision;
            if number(seen) == WRITERS * WRITES_EACH {
                return last;
            }
            watched.changed().await.expect("the store lives");
        }
    });
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = backend.coordination();
        writers.spawn(async move {
            for _ in 0..WRITES_EACH {
                increment(&*store, key).await;
            }
        });
    }
    within("the writers", writers.join_all()).await;
    let end = within("the listener", listener)
        .await
        .expect("the listener saw revisions grow");
    let last = store.get(key).await.expect("a read").expect("the record");
    assert_eq!(end, last.revision);
}

/// The same for all records under a prefix, while records come and go.
pub async fn a_prefix_watch_ends_on_the_newest_state(backend: &mut impl Backend) {
    let store = backend.coordination();
    let prefix = "watches/many/";
    let kept = "watches/many/kept";
    let stop = Arc::new(AtomicBool::new(false));
    let mut watched = store.watch_prefix(prefix).await.expect("a watch");
    assert!(watched.current().is_empty());
    let listening = tokio::spawn(listen_to_record(watched.clone(), kept, Arc::clone(&stop)));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = backend.coordination();
        let own = format!("{prefix}{writer}");
        writers.spawn(async move { write_in_turns(&*store, kept, &own).await });
    }
    within("the writers", writers.join_all()).await;
    stop.store(true, Ordering::Release);
    won(store.put_if_absent("watches/many/last", Bytes::new()).await);
    within("the listener", listening)
        .await
        .expect("the listener saw records only get newer");

    let end = within(
        "the newest state",
        watched.wait_for(|state| state.contains_key("watches/many/last")),
    )
    .await
    .expect("the store lives");
    let keys: Vec<_> = end.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "watches/many/0",
            "watches/many/1",
            "watches/many/2",
            "watches/many/3",
            "watches/many/kept",
            "watches/many/last"
        ]
    );
    for (key, record) in end.iter() {
        assert_eq!(store.get(key).await.as_ref(), Ok(&Some(record.clone())));
    }
    assert_eq!(number(&end[kept]), WRITERS * WRITES_EACH);
}

/// Watches a prefix until stopped, and checks that the record `key` only gets newer. Other records
/// are deleted meanwhile, sometimes the newest one.
async fn listen_to_record(
    mut prefix: Watched<BTreeMap<String, Versioned>>,
    key: &str,
    stop: Arc<AtomicBool>,
) {
    let mut newest = Revision(0);
    while !stop.load(Ordering::Acquire) {
        let now = prefix.current().get(key).map(|it| it.revision);
        let now = now.unwrap_or_default();
        assert!(now >= newest, "{now} after {newest}");
        newest = now;
        prefix.changed().await.expect("the store lives");
    }
}

/// Increments the record `kept` and creates the record `own`, in turns. `own` is deleted before it
/// is created again, and exists at the end.
async fn write_in_turns(store: &dyn Coordination, kept: &str, own: &str) {
    for turn in 0..WRITES_EACH {
        increment(store, kept).await;
        let created = won(store
            .put_if_absent(own, Bytes::from(turn.to_string()))
            .await);
        if turn + 1 < WRITES_EACH {
            won(store.delete(own, created).await);
        }
    }
}

/// A prefix is plain text: it covers the keys that begin with it, and no others.
pub async fn a_prefix_watch_sees_its_prefix_only(backend: &mut impl Backend) {
    let store = backend.coordination();
    for key in [
        "watches/near",
        "watches/near/a",
        "watches/near/b/c",
        "watches/near0",
        "watches/neas",
    ] {
        won(store.put_if_absent(key, Bytes::new()).await);
    }
    let keys = async |prefix: &str| -> Vec<String> {
        let watched = store.watch_prefix(prefix).await.expect("a watch");
        watched.current().keys().cloned().collect()
    };
    assert_eq!(
        keys("watches/near/").await,
        ["watches/near/a", "watches/near/b/c"]
    );
    assert_eq!(
        keys("watches/near").await,
        [
            "watches/near",
            "watches/near/a",
            "watches/near/b/c",
            "watches/near0"
        ]
    );
    assert!(keys("").await.contains(&"watches/neas".to_owned()));
}

/// Each clone is notified of a change, even if the other already was.
pub async fn clones_of_a_watch_listen_on_their_own(backend: &mut impl Backend) {
    let store = backend.coordination();
    let key = "watches/cloned";
    let mut one = store.watch(key).await.expect("a watch");
    let mut other = one.clone();
    won(store.put_if_absent(key, Bytes::new()).await);
    for watched in [&mut one, &mut other] {
        within("the change", watched.wait_for(|it| it.is_some()))
            .await
            .expect("the store lives");
    }
}

/// Adds one to the number in a record; creates the record if it is absent.
async fn increment(store: &dyn Coordination, key: &str) {
    loop {
        let swap = match store.get(key).await.expect("a read") {
            None => store.put_if_absent(key, Bytes::from_static(b"1")).await,
            Some(seen) => {
                let next = Bytes::from((number(&seen) + 1).to_string());
                store.compare_and_swap(key, seen.revision, next).await
            }
        };
        if matches!(swap.expect("a certain outcome"), Swap::Won(_)) {
            return;
        }
    }
}
