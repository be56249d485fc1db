//! The cache tier: one trait, its backends, and the suite that each of them passes.
//!
//! A cache answers reads that bear some staleness; it is never authoritative and may lose
//! anything at any time but a delete it confirmed. What may be answered from it is decided
//! by the rules of [`tierkv_protocol::cache`]; this crate only stores.
//!
//! Reading order: [`tier`] (the trait), [`key`] (what is stored under which key), then the
//! backends: [`embedded`] (in one process).

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
pub mod key;
pub mod tier;

pub use embedded::EmbeddedCache;
pub use key::CacheKey;
pub use tier::{
    Cache, Fill, Found, LEASE_LIFE, Lease, MAX_ENTRY_BYTES, NodeReport, State, Undelivered,
};
