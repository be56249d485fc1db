//! Cache keys (CACHE-KEY).

/// The key of a cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKey<'a> {
    /// The item key's canonical bytes.
    pub item: &'a [u8],
    /// The placement revision at which the key's slot last moved: entries cached under an earlier
    /// owner of the slot are never found again.
    pub slot_revision: u64,
}
