//! CACHE-LEASE: one reader wins the right to fill.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Backend, expect_busy, expect_entry, key, look_up, store, value, win};
use crate::{Cache, Fill, LEASE_LIFE, State, conformance};

/// Added at the end of a lease, for clocks that tick in seconds.
const TICK: Duration = Duration::from_secs(1);

/// The first lookup of a missing key is leased, the next is busy.
pub async fn one_lookup_wins_the_lease(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"k").await;
    expect_busy(&cache, b"k").await;
    let entry = value(1, "v");
    assert_eq!(
        cache.fill(key(b"k"), lease, entry.clone()).await,
        Fill::Stored
    );
    expect_entry(&cache, b"k", &entry).await;
}

/// Of many lookups at once exactly one is leased, and all others are busy.
pub async fn one_of_many_concurrent_lookups_wins(backend: &impl Backend) {
    let cache = Arc::new(backend.cache().await);
    for round in 0..50_u32 {
        let item: Arc<[u8]> = round.to_be_bytes().into();
        let mut lookups = JoinSet::new();
        for _ in 0..16 {
            let (cache, item) = (cache.clone(), item.clone());
            lookups.spawn(async move { conformance::state(&*cache, &item).await });
        }
        let mut winners = 0;
        for state in lookups.join_all().await {
            match state {
                State::Leased(_) => winners += 1,
                State::Busy => {}
                other => panic!("expected a lease or busy, got {other:?}"),
            }
        }
        assert_eq!(winners, 1, "winners in round {round}");
    }
}

/// A lookup with the same key twice wins one lease.
pub async fn a_key_named_twice_is_leased_once(backend: &impl Backend) {
    let cache = backend.cache().await;
    let found = look_up(&cache, &[key(b"k"), key(b"k")]).await;
    let leased = |state: &State| matches!(state, State::Leased(_));
    assert_eq!(found.iter().filter(|found| leased(&found.state)).count(), 1);
}

/// A token that was used, or of an earlier lease, fills nothing.
pub async fn only_the_live_token_fills(backend: &impl Backend) {
    let cache = backend.cache().await;
    let first = win(&cache, b"k").await;
    backend.advance(LEASE_LIFE + TICK).await;
    let second = win(&cache, b"k").await;
    let old = value(1, "old");
    assert_eq!(cache.fill(key(b"k"), first, old).await, Fill::Refused);
    expect_busy(&cache, b"k").await;
    let new = value(2, "new");
    assert_eq!(
        cache.fill(key(b"k"), second, new.clone()).await,
        Fill::Stored
    );
    expect_entry(&cache, b"k", &new).await;
}

/// A lease of one key does not fill another.
pub async fn a_lease_fills_one_key_only(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"a").await;
    assert_eq!(
        cache.fill(key(b"b"), lease, value(1, "v")).await,
        Fill::Refused
    );
    let _free = win(&cache, b"b").await;
}

/// An abandoned lease expires, and its late fill is refused.
pub async fn an_abandoned_lease_expires(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"k").await;
    backend.advance(LEASE_LIFE + TICK).await;
    assert_eq!(
        cache.fill(key(b"k"), lease, value(1, "v")).await,
        Fill::Refused
    );
    store(&cache, b"k", value(2, "w")).await;
}

/// After a winner releases its lease, the next lookup wins one.
pub async fn a_released_lease_is_free_at_once(backend: &impl Backend) {
    let cache = backend.cache().await;
    let lease = win(&cache, b"k").await;
    cache.release(key(b"k"), lease).await;
    store(&cache, b"k", value(1, "v")).await;
}

/// A late release removes neither the next winner's lease nor its entry.
pub async fn a_release_does_not_touch_the_next_lease(backend: &impl Backend) {
    let cache = backend.cache().await;
    let first = win(&cache, b"k").await;
    conformance::delete(&cache, b"k").await;
    let second = win(&cache, b"k").await;
    cache.release(key(b"k"), first).await;
    expect_busy(&cache, b"k").await;
    let entry = value(1, "v");
    assert_eq!(
        cache.fill(key(b"k"), second, entry.clone()).await,
        Fill::Stored
    );
    expect_entry(&cache, b"k", &entry).await;
}
