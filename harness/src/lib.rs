//! Starts and stops real servers and tiers for tests and benches.
//!
//! Everything runs on free loopback ports, with a data folder of its own, and, when the
//! caller is root, as the user `nobody`. Reading order: [`poll`] (waiting for a state),
//! [`folder`] (where a server keeps its data), [`fixture`] (data of an earlier release),
//! [`surroundings`] (what it is started with),
//! [`process`] (the guard that no server outlives), [`small_disk`] (one that can be
//! filled), [`wall_clock`] (one that can be set), [`port`], then the servers: [`etcd`], [`redis`] and [`tierkv`].

pub mod error;
pub mod etcd;
pub mod fixture;
pub mod folder;
pub mod poll;
pub mod port;
pub mod process;
pub mod redis;
pub mod small_disk;
pub mod surroundings;
pub mod tierkv;
pub mod user;
pub mod wall_clock;

pub use error::Error;
pub use etcd::Etcd;
pub use folder::DataFolder;
pub use poll::poll_until;
pub use port::free_port;
pub use process::{Process, Program};
pub use redis::Redis;
pub use small_disk::SmallDisk;
pub use surroundings::Surroundings;
pub use tierkv::{Options, TierKv};
pub use wall_clock::WallClock;
