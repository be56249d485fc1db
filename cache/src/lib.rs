//! The cache tier: a trait, its backends, and their conformance suite.
//!
//! A cache answers reads that accept some staleness. It is never authoritative and may lose
//! anything at any time, except a delete that it confirmed. The rules of [`tierkv_protocol::cache`]
//! decide which entries may be used; this crate only stores them.
//!
//! Reading order: [`tier`] (the trait), [`key`] (cache keys), then the backends: [`embedded`] (in
//! one process) and [`none`] (no cache).

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
pub mod key;
pub mod none;
pub mod tier;

pub use embedded::EmbeddedCache;
pub use key::CacheKey;
pub use none::NoCache;
pub use tier::{
    Cache, Fill, Found, LEASE_LIFE, Lease, MAX_ENTRY_BYTES, NodeReport, State, Undelivered,
};
