//! The data node: serves reads, commits writes, invalidates the cache.
