//! The conformance suite of [`Cache`]: every backend passes it; the cases follow the protocol's
//! rules.
//!
//! A backend's integration test implements [`Backend`] and passes it to
//! [`cache_conformance!`](crate::cache_conformance!), which makes one test of each case. Reading
//! order: this file, then the cases: [`leases`], [`deletes`], [`entries`], [`marks`], [`storm`].

pub mod deletes;
pub mod entries;
pub mod leases;
pub mod marks;
pub mod storm;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tierkv_protocol::cache::{AbsentEntry, Entry, Mark, ValueEntry};
use tierkv_types::{ClusterId, Epoch, Index, Round, Version};

use crate::{Cache, CacheKey, Fill, Found, Lease, State};

/// Creates caches for the suite and controls their time.
pub trait Backend: Send + Sync {
    /// The backend.
    type Cache: Cache;

    /// An empty cache that shares no entries with other cases.
    fn cache(&self) -> impl Future<Output = Self::Cache> + Send;

    /// Advances the time of this backend's caches by at least `by`.
    fn advance(&self, by: Duration) -> impl Future<Output = ()> + Send;
}

/// Makes one test of every case of the suite, each with its own backend.
#[macro_export]
macro_rules! cache_conformance {
    ($backend:expr) => {
        $crate::cache_conformance! { @cases $backend;
            leases::one_lookup_wins_the_lease,
            leases::one_of_many_concurrent_lookups_wins,
            leases::a_key_named_twice_is_leased_once,
            leases::only_the_live_token_fills,
            leases::a_lease_fills_one_key_only,
            leases::an_abandoned_lease_expires,
            leases::a_released_lease_is_free_at_once,
            leases::a_release_does_not_touch_the_next_lease,
            deletes::a_delete_removes_the_entry,
            deletes::a_delete_revokes_the_lease,
            deletes::a_delete_lets_others_win,
            deletes::a_delete_of_nothing_succeeds,
            deletes::many_keys_are_deleted_at_once,
            entries::a_filled_entry_comes_back,
            entries::an_absence_comes_back,
            entries::an_empty_value_is_a_value,
            entries::values_up_to_the_limit_come_back,
            entries::a_too_large_entry_is_refused,
            entries::another_slot_revision_is_another_key,
            entries::any_key_bytes_are_kept_apart,
            entries::many_keys_come_back_in_order,
            entries::an_expired_value_is_a_miss,
            entries::an_entry_lives_five_minutes,
            entries::nodes_report_what_they_hold,
            entries::holdings_are_reported,
            marks::marks_are_read_with_the_entries,
            marks::a_mark_never_goes_back,
            marks::marks_of_clusters_are_apart,
            marks::marks_are_read_by_node,
            storm::no_fill_survives_a_delete_that_came_after_its_read,
        }
    };
    (@cases $backend:expr; $($module:ident :: $case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $crate::conformance::$module::$case(&$backend).await;
            }
        )*
    };
}

/// The revision in cases where it does not matter.
const REVISION: u64 = 1;

fn cluster() -> ClusterId {
    ClusterId::new("c1").expect("c1 is a name")
}

fn key(item: &[u8]) -> CacheKey<'_> {
    CacheKey {
        item,
        slot_revision: REVISION,
    }
}

fn value(version: u64, value: impl Into<Bytes>) -> Entry {
    Entry::Value(ValueEntry {
        version: Version::from_bits(version),
        expires: None,
        filled: Version::from_millis(1_000_000),
        value: value.into(),
    })
}

fn absent(version: u64) -> Entry {
    Entry::Absent(AbsentEntry {
        version: Version::from_bits(version),
        filled: Version::from_millis(1_000_000),
    })
}

fn mark(epoch: u64, round: u64) -> Mark {
    Mark {
        epoch: Epoch(epoch),
        round: Round(round),
        index: Index(round),
    }
}

async fn look_up(cache: &impl Cache, keys: &[CacheKey<'_>]) -> Vec<Found> {
    let mut results = Vec::new();
    cache.lookup(&cluster(), keys, &mut results).await;
    assert_eq!(results.len(), keys.len(), "one result for each key");
    results
}

async fn state(cache: &impl Cache, item: &[u8]) -> State {
    let found = look_up(cache, &[key(item)]).await.pop();
    found.expect("one result for one key").state
}

/// Misses `item` and wins its lease.
async fn win(cache: &impl Cache, item: &[u8]) -> Lease {
    match state(cache, item).await {
        State::Leased(lease) => lease,
        other => panic!("expected to win the lease, got {other:?}"),
    }
}

/// Misses `item`, wins its lease and fills it.
async fn store(cache: &impl Cache, item: &[u8], entry: Entry) {
    let lease = win(cache, item).await;
    assert_eq!(cache.fill(key(item), lease, entry).await, Fill::Stored);
}

async fn expect_entry(cache: &impl Cache, item: &[u8], expected: &Entry) {
    match state(cache, item).await {
        State::Entry(entry) => assert_eq!(&entry, expected),
        other => panic!("expected an entry, got {other:?}"),
    }
}

async fn expect_busy(cache: &impl Cache, item: &[u8]) {
    let state = state(cache, item).await;
    assert!(matches!(state, State::Busy), "expected busy, got {state:?}");
}

async fn delete(cache: &impl Cache, item: &[u8]) {
    assert_eq!(cache.delete(&[key(item)]).await, Ok(()));
}
