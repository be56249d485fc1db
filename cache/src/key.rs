//! Cache keys (CACHE-KEY).

/// What an entry is stored under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKey<'a> {
    /// The item key's canonical bytes.
    pub item: &'a [u8],
    /// The placement revision at which the key's slot last moved: what was cached while
    /// another cluster owned the slot is never found again.
    pub slot_revision: u64,
}
