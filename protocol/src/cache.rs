//! The rules of cache entries.
