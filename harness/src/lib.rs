//! Starts and stops real servers and tiers for tests and benches.
//!
//! Every server listens on free loopback ports and has its own data folder. If the caller is
//! root, servers run as the user `nobody`. Reading order: [`poll`] (waiting for a state),
//! [`folder`] (the data folder of a server), [`fixture`] (data of an earlier release),
//! [`surroundings`] (environment and wrapper of a server), [`process`] (the guard of a server
//! process), [`small_disk`] (a disk that a test can fill), [`wall_clock`] (a clock that a test
//! can set), [`port`], `health` (whether a server is ready), [`proxy`] (a line that a test can
//! disturb), [`network`] (hosts whose lines a test can cut), then the servers: [`etcd`], [`redis`],
//! [`tierkv`], `founding` (a platform's first records), [`separate_tiers`] (one process of each
//! role), [`local_cluster`] (processes of `tierkv cluster`) and [`fleet`] (the same on hosts of
//! their own).

pub mod error;
pub mod etcd;
pub mod fixture;
pub mod fleet;
pub mod folder;
mod founding;
mod health;
pub mod local_cluster;
pub mod network;
pub mod poll;
pub mod port;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod separate_tiers;
pub mod small_disk;
pub mod surroundings;
pub mod tierkv;
pub mod user;
pub mod wall_clock;

pub use error::Error;
pub use etcd::Etcd;
pub use fleet::Fleet;
pub use folder::DataFolder;
pub use local_cluster::LocalCluster;
pub use network::{Loss, Network};
pub use poll::poll_until;
pub use port::free_port;
pub use process::{Process, Program};
pub use proxy::{Line, Proxy};
pub use redis::Redis;
pub use separate_tiers::{ClusterView, SeparateTiers, TierSetup};
pub use small_disk::SmallDisk;
pub use surroundings::Surroundings;
pub use tierkv::{Options, TierKv};
pub use wall_clock::WallClock;
