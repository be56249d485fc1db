//! The trait of the cache tier.

use std::{future::Future, time::Duration};

use thiserror::Error;
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::{ClusterId, limits::MAX_VALUE_BYTES};

use crate::key::CacheKey;

/// How long a lease lives (CACHE-LEASE). Afterwards its fill is refused, and the next reader can
/// win a lease.
pub const LEASE_LIFE: Duration = Duration::from_secs(3);

/// Largest entry, key and overhead included. The fill of a larger one is refused.
pub const MAX_ENTRY_BYTES: usize = MAX_VALUE_BYTES + 4 * 1024;

/// The right to fill one key once, until it expires or the key is deleted.
///
/// A lookup that missed wins it; it is valid only in the cache that issued it.
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

/// The result of a lookup of one key.
#[derive(Debug)]
pub struct Found {
    /// The cluster's mark in the key's node, read *before* the entry. `None` if the node has none
    /// or can't be reached: then no entry may be used.
    pub mark: Option<Mark>,
    /// The state of the key.
    pub state: State,
}

/// The state of one key in its cache node.
#[derive(Debug)]
pub enum State {
    /// There is an entry; the reader decides whether it may be used.
    Entry(Entry),
    /// There is no entry, and this lookup won the right to fill it: read from the data node, then
    /// fill or release.
    Leased(Lease),
    /// There is no entry, and no lease to win: another reader is filling the key, or the node has
    /// as many leases as it allows. Wait a little, then read from the data node, and don't fill.
    Busy,
    /// The node can't be reached: read from the data node, and don't fill.
    Unreachable,
}

/// The result of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The entry was stored. It may be evicted at once.
    Stored,
    /// It was not stored: the lease is gone (expired, or its key deleted), the entry is too large,
    /// or the node is down. The value may still be used as the answer.
    Refused,
}

/// A cache node did not confirm a delete or a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a cache node did not confirm the operation; retry it")]
pub struct Undelivered;

/// The report of one cache node, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node's name.
    pub node: String,
    /// Whether the node answers.
    pub up: bool,
    /// The number of keys that this process looked up there.
    pub lookups: u64,
    /// How many of those were found.
    pub hits: u64,
    /// The number of its entries.
    pub entries: u64,
    /// The bytes of its entries.
    pub bytes: u64,
}

/// The cache tier.
///
/// Every method is cancel-safe: a dropped call may or may not have had its effect, and never undoes
/// that of other calls.
pub trait Cache: Send + Sync + 'static {
    /// Looks up keys of one cluster. For each, the mark of `cluster` in the key's node is read
    /// first, then the entry; a miss tries to win the lease (CACHE-LEASE).
    ///
    /// `results` is cleared, then filled in the order of `keys`; its memory is reused. A missing
    /// key that is given twice is leased once and busy once.
    fn lookup(
        &self,
        cluster: &ClusterId,
        keys: &[CacheKey<'_>],
        results: &mut Vec<Found>,
    ) -> impl Future<Output = ()> + Send;

    /// Stores `entry`, if `lease` is still the key's current one (CACHE-LEASE). The entry must come
    /// from a confirmed read that was sent after the lease was won (CACHE-CONFIRM).
    fn fill(
        &self,
        key: CacheKey<'_>,
        lease: Lease,
        entry: Entry,
    ) -> impl Future<Output = Fill> + Send;

    /// Returns a lease without filling, so that others can win one at once.
    fn release(&self, key: CacheKey<'_>, lease: Lease) -> impl Future<Output = ()> + Send;

    /// Removes entries and leases; returns once every cache node has confirmed (CACHE-DELETE).
    /// Deleting absent entries succeeds.
    ///
    /// # Errors
    /// [`Undelivered`] if a node did not confirm; some keys may be deleted. Until a retry succeeds,
    /// no mark may be written whose index covers the change of one of these keys (CACHE-MARK).
    fn delete(&self, keys: &[CacheKey<'_>])
    -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// Writes a cluster's mark in every node. A node keeps its mark if that has a higher epoch, or
    /// a higher round of the same epoch (CACHE-MARK).
    ///
    /// # Errors
    /// [`Undelivered`] if a node did not confirm.
    fn write_mark(
        &self,
        cluster: &ClusterId,
        mark: Mark,
    ) -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// A cluster's mark in every node, by node name. `None` for a node that has none or can't be
    /// reached.
    fn read_marks(
        &self,
        cluster: &ClusterId,
    ) -> impl Future<Output = Vec<(String, Option<Mark>)>> + Send;

    /// Whether the cache may hold entries or leases from the time of an earlier master, whose
    /// deletes may not have been delivered. If so, a new master withholds its marks until such
    /// entries are too old to be used (CACHE-REDELIVER).
    fn holds_anything(&self) -> impl Future<Output = bool> + Send;

    /// The name of a key's node, as in [`Cache::nodes`].
    fn node_of(&self, key: CacheKey<'_>) -> &str;

    /// The reports of all nodes, for operators.
    fn nodes(&self) -> impl Future<Output = Vec<NodeReport>> + Send;
}
