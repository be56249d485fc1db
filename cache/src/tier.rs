//! The cache tier as its callers see it.

use std::{future::Future, time::Duration};

use thiserror::Error;
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::{ClusterId, limits::MAX_VALUE_BYTES};

use crate::key::CacheKey;

/// How long a lease lives (CACHE-LEASE). After that its fill is refused and the next
/// reader wins another.
pub const LEASE_LIFE: Duration = Duration::from_secs(3);

/// Largest entry, key and overhead included. A larger one passes by: its fill is refused.
pub const MAX_ENTRY_BYTES: usize = MAX_VALUE_BYTES + 4 * 1024;

/// The right to fill one key once, until it expires or the key is deleted.
///
/// It is won by a lookup that missed and belongs to the cache that gave it.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease(u64);

impl Lease {
    pub(crate) const fn new(token: u64) -> Self {
        Self(token)
    }

    pub(crate) const fn token(&self) -> u64 {
        self.0
    }
}

/// What a lookup found of one key.
#[derive(Debug)]
pub struct Found {
    /// The cluster's mark in the key's node, read *before* the entry.
    pub mark: Option<Mark>,
    /// The key itself.
    pub state: State,
}

/// One key in its cache node.
#[derive(Debug)]
pub enum State {
    /// There is an entry; whether it counts is the reader's to judge.
    Entry(Entry),
    /// There is none, and this lookup won the right to fill it: read below, then fill or
    /// release.
    Leased(Lease),
    /// There is none, and somebody else is filling it: wait a little, then read below.
    Busy,
    /// The node can't be reached: read below, and don't fill.
    Unreachable,
}

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The entry was stored. It may be evicted at once.
    Stored,
    /// It was not: the lease is gone (expired, or its key deleted), the entry is too large
    /// or the node is down. The value can be answered all the same.
    Refused,
}

/// Not every owner confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not every cache node confirmed; deliver again before a mark is written")]
pub struct Undelivered;

/// One cache node, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// Whether it answers.
    pub up: bool,
    /// Keys that this process looked up there.
    pub lookups: u64,
    /// Keys of those for which there was an entry.
    pub hits: u64,
    /// Entries it holds.
    pub entries: u64,
    /// Bytes they take.
    pub bytes: u64,
}

/// The cache tier.
///
/// Every method is cancellation-safe: a dropped call may or may not have had its effect,
/// and never costs others theirs.
pub trait Cache: Send + Sync + 'static {
    /// Looks keys of one cluster up. For each, first the mark of `cluster` in the key's
    /// node is read, then the entry; a miss tries to win the lease (CACHE-LEASE).
    ///
    /// `results` is cleared, then filled in the order of `keys`; its memory is reused. A
    /// key that is named twice and missing is leased once and busy once.
    fn lookup(
        &self,
        cluster: &ClusterId,
        keys: &[CacheKey<'_>],
        results: &mut Vec<Found>,
    ) -> impl Future<Output = ()> + Send;

    /// Stores `entry`, if `lease` is still the key's (CACHE-LEASE). The entry was read by a
    /// confirmed read that began after the lease was won (CACHE-CONFIRM).
    fn fill(
        &self,
        key: CacheKey<'_>,
        lease: Lease,
        entry: Entry,
    ) -> impl Future<Output = Fill> + Send;

    /// Gives a lease back without filling, so that others may win one at once.
    fn release(&self, key: CacheKey<'_>, lease: Lease) -> impl Future<Output = ()> + Send;

    /// Removes entries and leases, and returns when every owner confirmed (CACHE-DELETE).
    /// Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`Undelivered`] if an owner did not confirm; some keys may be deleted.
    fn delete(&self, keys: &[CacheKey<'_>])
    -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// Writes a cluster's mark in every node; one that holds a mark of a higher epoch, or
    /// of a higher round of the same, keeps it (CACHE-MARK).
    ///
    /// # Errors
    /// [`Undelivered`] if a node did not confirm.
    fn write_mark(
        &self,
        cluster: &ClusterId,
        mark: Mark,
    ) -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// A cluster's mark in every node, by node name.
    fn read_marks(
        &self,
        cluster: &ClusterId,
    ) -> impl Future<Output = Vec<(String, Option<Mark>)>> + Send;

    /// Whether entries or leases of an earlier master may be in it. If not, a new master
    /// has nothing to redeliver (CACHE-REDELIVER).
    fn holds_anything(&self) -> impl Future<Output = bool> + Send;

    /// The name of the node in which a key lives, as [`Cache::nodes`] tells it.
    fn node_of(&self, key: CacheKey<'_>) -> &str;

    /// Every node, as operators see it.
    fn nodes(&self) -> impl Future<Output = Vec<NodeReport>> + Send;
}
