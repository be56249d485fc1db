//! [`Trial`]: a platform with one cluster of three data nodes, a client of it, and everything that
//! was written to it.

// A helper of tests panics as they do, and the figures are for people.
#![allow(clippy::print_stdout)]

use std::{
    slice::from_ref,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tierkv::{Client, Consistency};
use tierkv_harness::{LocalCluster, poll_until};

use crate::{
    flood::{Flood, Written},
    many_processes::{all_in_sync, cluster, connect},
};

/// The cluster.
pub const CLUSTER: &str = "c1";
/// Its nodes at the start.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Timeout for a state that the cluster reaches.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The length of the writers' values.
const VALUE_BYTES: u32 = 200;

/// The platform, and everything that was written to it.
pub struct Trial {
    /// The platform.
    pub platform: LocalCluster,
    /// A client of all its client coordinators.
    pub client: Client,
    /// For the records of writers.
    pub numbers: Arc<AtomicU64>,
    /// What writers that have ended wrote.
    pub written: Written,
}

impl Trial {
    /// Starts the platform; a write has this timeout.
    ///
    /// # Panics
    /// If that fails.
    pub async fn start(write_limit: Duration) -> Self {
        let started = LocalCluster::start_replicated(1, 3).await;
        let platform = started.unwrap_or_else(|error| panic!("{error}"));
        Self::of(platform, write_limit).await
    }

    /// Of a platform that runs.
    ///
    /// # Panics
    /// If no client coordinator answers.
    pub async fn of(platform: LocalCluster, write_limit: Duration) -> Self {
        let connected = connect(&platform, write_limit).await;
        Self {
            client: connected.unwrap_or_else(|error| panic!("{error}")),
            platform,
            numbers: Arc::new(AtomicU64::new(1)),
            written: Written::default(),
        }
    }

    /// Waits until all members are in sync.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn in_sync(&self, when: &str) {
        let began = Instant::now();
        let seen = all_in_sync(&self.client, CLUSTER, PATIENCE).await;
        let seen = seen.unwrap_or_else(|state| panic!("{when}: {state}\n{}", self.logs()));
        println!(
            "{when}: in sync after {:?}, in epoch {} at record {}",
            began.elapsed(),
            seen.epoch,
            seen.members[0].commit_index
        );
    }

    /// The cluster's master, once it has one that answers.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn master(&self) -> String {
        let master = poll_until(PATIENCE, || async {
            let seen = cluster(&self.client, CLUSTER).await?;
            let mut members = seen.members.iter();
            let master = members.find(|member| member.node == seen.master);
            master.is_some_and(|it| it.reachable).then_some(seen.master)
        });
        let master = master.await;
        master.unwrap_or_else(|| panic!("there is no master: {}", self.logs()))
    }

    /// The nodes of the start that are not the master.
    pub async fn replicas(&self) -> Vec<String> {
        let master = self.master().await;
        let replicas = NODES.into_iter().filter(|node| *node != master);
        replicas.map(str::to_owned).collect()
    }

    /// So many writers, which go on also after a failure.
    #[must_use]
    pub fn writers(&self, count: usize) -> Flood {
        Flood::start_persistent(from_ref(&self.client), count, &self.numbers, VALUE_BYTES)
    }

    /// Waits for `count` more acknowledged writes; returns how long that took.
    ///
    /// # Panics
    /// If it takes longer than `within`.
    pub async fn more(&self, flood: &Flood, count: u64, within: Duration, when: &str) -> Duration {
        let (began, before) = (Instant::now(), flood.acknowledged());
        let more = poll_until(within, || async {
            (flood.acknowledged() >= before + count).then_some(())
        });
        if more.await.is_none() {
            panic!("writes do not go on {when}: {}", self.logs());
        }
        began.elapsed()
    }

    /// Adds what was written to the rest, and reads all of it.
    ///
    /// # Panics
    /// If an acknowledged write is lost, or another promise broken.
    pub async fn check(&mut self, written: Written, when: &str) {
        println!(
            "{when}: {} writes, {:?}",
            written.acknowledged(),
            written.failures()
        );
        self.written.extend(written);
        let kept = self.written.check(&self.client, Consistency::Latest).await;
        kept.unwrap_or_else(|broken| panic!("{when}: {broken}\n{}", self.logs()));
    }

    /// The logs of the nodes.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |node: &&str| format!("--- {node}\n{}", self.platform.log_of(node));
        NODES.iter().map(log).collect()
    }
}
