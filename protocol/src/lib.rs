//! Pure state machines: events in, commands out, no I/O and no clock reads.
//!
//! The same types run in production, driven by `datanode` and the coordinators, and in
//! the seeded simulations of `tests/`. Reading order: [`replication`] (who commits),
//! [`placement`] (who owns a slot), [`cache`] (what a cache may answer), [`platform_time`] (the
//! clock).

pub mod cache;
pub mod placement;
pub mod platform_time;
pub mod replication;
