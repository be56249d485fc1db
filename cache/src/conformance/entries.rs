//! Filled entries are found, under their own key only, until they expire.

use std::time::Duration;

use bytes::Bytes;
use tierkv_protocol::cache::{ENTRY_LIFE, Entry, ValueEntry};
use tierkv_types::{Version, limits::MAX_VALUE_BYTES};

use super::{Backend, absent, delete, expect_entry, key, look_up, mark, state, store, value, win};
use crate::{Cache, CacheKey, Fill, MAX_ENTRY_BYTES, State};

/// Every field of a value is kept.
pub async fn a_filled_entry_comes_back(backend: &impl Backend) {
    let cache = backend.cache().await;
    let entry = Entry::Value(ValueEntry {
        version: Version::from_bits(u64::MAX),
        expires: Some(Version::from_millis(1_060_000).next()),
        filled: Version::from_millis(1_000_000).next(),
        value: Bytes::from_static(b"\r\n\0END\r\n"),
    });
    store(&cache, b"k", entry.clone()).await;
    expect_entry(&cache, b"k", &entry).await;
    expect_entry(&cache, b"k", &entry).await;
}

/// A negative entry is an entry.
pub async fn an_absence_comes_back(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", absent(7)).await;
    expect_entry(&cache, b"k", &absent(7)).await;
    delete(&cache, b"k").await;
    let _missing = win(&cache, b"k").await;
}

/// An empty value is different from an absence and from a lease.
pub async fn an_empty_value_is_a_value(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", value(1, "")).await;
    expect_entry(&cache, b"k", &value(1, "")).await;
}

/// A value of the largest size is cached.
pub async fn values_up_to_the_limit_come_back(backend: &impl Backend) {
    let cache = backend.cache().await;
    let largest = value(1, vec![0xa5; MAX_VALUE_BYTES]);
    store(&cache, b"large", largest.clone()).await;
    store(&cache, b"small", value(2, "v")).await;
    expect_entry(&cache, b"large", &largest).await;
    expect_entry(&cache, b"small", &value(2, "v")).await;
}

/// An entry over the limit is refused; the key can still be filled.
pub async fn a_too_large_entry_is_refused(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"k").await;
    let large = value(1, vec![0; MAX_ENTRY_BYTES + 1]);
    assert_eq!(cache.fill(key(b"k"), lease, large).await, Fill::Refused);
    delete(&cache, b"k").await;
    store(&cache, b"k", value(2, "v")).await;
}

/// CACHE-KEY: the slot's revision is part of the key.
pub async fn another_slot_revision_is_another_key(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", value(1, "old owner")).await;
    let moved = CacheKey {
        item: b"k",
        slot_revision: super::REVISION + 1,
    };
    let mut found = look_up(&cache, &[moved]).await;
    let Some(State::Leased(lease)) = found.pop().map(|found| found.state) else {
        panic!("expected a miss at another revision");
    };
    let new = value(2, "new owner");
    assert_eq!(cache.fill(moved, lease, new).await, Fill::Stored);
    expect_entry(&cache, b"k", &value(1, "old owner")).await;
    assert_eq!(cache.delete(&[moved]).await, Ok(()));
    expect_entry(&cache, b"k", &value(1, "old owner")).await;
}

/// Keys are bytes: spaces, line ends, zeros, up to the longest.
pub async fn any_key_bytes_are_kept_apart(backend: &impl Backend) {
    let cache = backend.cache().await;
    let long = |last: u8| [vec![b'x'; 1_087], vec![last]].concat();
    let items: Vec<Vec<u8>> = [
        &b"default\0k"[..],
        b"default\0k ",
        b"default\0k\r\n",
        b"default\0K",
        b"default\0\0",
        b"default\0\xff\xfe",
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .chain([long(b'1'), long(b'2')])
    .collect();
    for (n, item) in items.iter().enumerate() {
        store(&cache, item, value(n as u64, item.clone())).await;
    }
    for (n, item) in items.iter().enumerate() {
        expect_entry(&cache, item, &value(n as u64, item.clone())).await;
    }
}

/// A lookup of many keys returns them in order, and reuses the caller's memory.
pub async fn many_keys_come_back_in_order(backend: &impl Backend) {
    let cache = backend.cache().await;
    let items: Vec<[u8; 8]> = (0..500_u64).map(u64::to_be_bytes).collect();
    for (n, item) in items.iter().enumerate().step_by(3) {
        store(&cache, item, value(n as u64, item.to_vec())).await;
    }
    let keys: Vec<_> = items.iter().rev().map(|item| key(item)).collect();
    let mut results = look_up(&cache, &keys[..1]).await;
    cache.lookup(&super::cluster(), &keys, &mut results).await;
    assert_eq!(results.len(), keys.len());
    for (n, found) in results.drain(..).rev().enumerate() {
        match found.state {
            State::Entry(entry) => assert_eq!(entry, value(n as u64, items[n].to_vec())),
            State::Leased(_) | State::Busy => assert_ne!(n % 3, 0, "key {n} is missing"),
            State::Unreachable => panic!("the node is unreachable"),
        }
    }
    results = look_up(&cache, &keys[..1]).await;
    cache.lookup(&super::cluster(), &[], &mut results).await;
    assert!(
        results.is_empty(),
        "results are cleared also when no key is asked"
    );
}

/// A value is kept at most until its expiry; then the next reader may fill again.
pub async fn an_expired_value_is_a_miss(backend: &impl Backend) {
    let cache = backend.cache().await;
    let short = Entry::Value(ValueEntry {
        version: Version::from_bits(1),
        expires: Some(Version::from_millis(1_002_000)),
        filled: Version::from_millis(1_000_000),
        value: Bytes::from_static(b"v"),
    });
    store(&cache, b"k", short).await;
    store(&cache, b"kept", value(1, "v")).await;
    backend.advance(Duration::from_secs(4)).await;
    let _missing = win(&cache, b"k").await;
    expect_entry(&cache, b"kept", &value(1, "v")).await;
}

/// No entry is kept for more than five minutes.
pub async fn an_entry_lives_five_minutes(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", value(1, "v")).await;
    backend.advance(ENTRY_LIFE + Duration::from_secs(1)).await;
    let _missing = win(&cache, b"k").await;
}

/// A node counts lookups, hits and entries.
pub async fn nodes_report_what_they_hold(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", value(1, "v")).await;
    expect_entry(&cache, b"k", &value(1, "v")).await;
    let nodes = cache.nodes().await;
    assert!(!nodes.is_empty());
    assert!(nodes.iter().all(|node| node.up && !node.node.is_empty()));
    let sum = |count: fn(&crate::NodeReport) -> u64| nodes.iter().map(count).sum::<u64>();
    assert_eq!((sum(|n| n.lookups), sum(|n| n.hits)), (2, 1));
    assert!(sum(|n| n.entries) >= 1 && sum(|n| n.bytes) >= 1);
}

/// CACHE-REDELIVER: an empty cache reports that it is empty. Entries and leases count, marks do
/// not.
pub async fn holdings_are_reported(backend: &impl Backend) {
    let cache = backend.cache().await;
    assert!(!cache.holds_anything().await);
    assert_eq!(
        cache.write_mark(&super::cluster(), mark(1, 1)).await,
        Ok(())
    );
    assert!(!cache.holds_anything().await);
    let lease = win(&cache, b"k").await;
    assert!(cache.holds_anything().await);
    assert_eq!(
        cache.fill(key(b"k"), lease, value(1, "v")).await,
        Fill::Stored
    );
    assert!(cache.holds_anything().await);
    delete(&cache, b"k").await;
    assert!(!cache.holds_anything().await);
    assert!(matches!(state(&cache, b"k").await, State::Leased(_)));
}
