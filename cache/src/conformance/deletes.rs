//! CACHE-DELETE: a confirmed delete removes the entry and the lease.

use super::{Backend, delete, expect_entry, key, look_up, store, value, win};
use crate::{Cache, Fill, State};

/// A deleted entry is not found again.
pub async fn a_delete_removes_the_entry(backend: &impl Backend) {
    let cache = backend.cache().await;
    store(&cache, b"k", value(1, "v")).await;
    store(&cache, b"other", value(1, "v")).await;
    delete(&cache, b"k").await;
    let _missing = win(&cache, b"k").await;
    expect_entry(&cache, b"other", &value(1, "v")).await;
}

/// A fill whose lease was won before a delete is refused after it.
pub async fn a_delete_revokes_the_lease(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"k").await;
    delete(&cache, b"k").await;
    assert_eq!(
        cache.fill(key(b"k"), lease, value(1, "v")).await,
        Fill::Refused
    );
    let _missing = win(&cache, b"k").await;
}

/// After a delete, the next lookup wins a lease, and only its fill is stored.
pub async fn a_delete_lets_others_win(backend: &impl Backend) {
    let cache = backend.cache().await;
    let old = win(&cache, b"k").await;
    delete(&cache, b"k").await;
    let new = win(&cache, b"k").await;
    let entry = value(2, "new");
    assert_eq!(
        cache.fill(key(b"k"), new, entry.clone()).await,
        Fill::Stored
    );
    assert_eq!(
        cache.fill(key(b"k"), old, value(1, "old")).await,
        Fill::Refused
    );
    expect_entry(&cache, b"k", &entry).await;
}

/// Deleting an absent key succeeds.
pub async fn a_delete_of_nothing_succeeds(backend: &impl Backend) {
    let cache = backend.cache().await;
    delete(&cache, b"k").await;
    assert_eq!(cache.delete(&[]).await, Ok(()));
}

/// One call deletes all its keys, and no other.
pub async fn many_keys_are_deleted_at_once(backend: &impl Backend) {
    let cache = backend.cache().await;
    let items: Vec<[u8; 4]> = (0..200_u32).map(u32::to_be_bytes).collect();
    for item in &items {
        store(&cache, item, value(1, "v")).await;
    }
    let keys: Vec<_> = items.iter().map(|item| key(item)).collect();
    assert_eq!(cache.delete(&keys[..150]).await, Ok(()));
    for (n, found) in look_up(&cache, &keys).await.into_iter().enumerate() {
        let there = matches!(found.state, State::Entry(_));
        assert_eq!(there, n >= 150, "key {n}");
    }
}
