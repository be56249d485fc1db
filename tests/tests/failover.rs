//! A cluster of three data nodes under writers that never stop: whichever of its processes die or
//! stand still, writes go on, and no acknowledged one is lost.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    slice::from_ref,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tierkv::{Client, Code, Consistency};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::{
    flood::{Flood, Written},
    many_processes::{all_in_sync, cluster, connect},
};

const CLUSTER: &str = "c1";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const WRITERS: usize = 8;
const VALUE_BYTES: u32 = 200;
/// Timeout of a write: longer than a failover takes.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Timeout for a state that the cluster reaches after a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon writes must go on after a fault, on a machine that has other work. A failover takes
/// about F, which is 1 s.
const WRITES_GO_ON: Duration = Duration::from_secs(15);
/// How long a process stands still: longer than F.
const STANDSTILL: Duration = Duration::from_secs(3);
/// Acknowledged writes that show that the cluster is at work.
const SOME: u64 = 200;

/// The platform, and everything that was written to it.
struct Trial {
    platform: LocalCluster,
    client: Client,
    numbers: Arc<AtomicU64>,
    written: Written,
}

impl Trial {
    async fn start() -> Self {
        let platform = LocalCluster::start_replicated(1, 3).await.unwrap();
        let client = connect(&platform, WRITE_LIMIT).await.unwrap();
        Self {
            platform,
            client,
            numbers: Arc::new(AtomicU64::new(1)),
            written: Written::default(),
        }
    }

    /// The cluster's master, once it has one that answers.
    async fn master(&self) -> String {
        let master = poll_until(PATIENCE, || async {
            let seen = cluster(&self.client, CLUSTER).await?;
            let of_record = |name: &str| name == seen.master;
            let master = seen.members.iter().find(|it| of_record(&it.node));
            master.is_some_and(|it| it.reachable).then_some(seen.master)
        });
        match master.await {
            Some(master) => master,
            None => panic!("there is no master: {}", self.logs()),
        }
    }

    /// A member that is not the master.
    async fn replica(&self) -> String {
        let master = self.master().await;
        let replica = NODES.into_iter().find(|node| *node != master);
        replica.unwrap().to_owned()
    }

    fn writers(&self) -> Flood {
        Flood::start_persistent(from_ref(&self.client), WRITERS, &self.numbers, VALUE_BYTES)
    }

    /// Waits for more acknowledged writes; returns how long that took.
    async fn more(&self, flood: &Flood, when: &str) -> Duration {
        let (began, before) = (Instant::now(), flood.acknowledged());
        let more = poll_until(WRITES_GO_ON, || async {
            (flood.acknowledged() >= before + SOME).then_some(())
        });
        if more.await.is_none() {
            panic!("writes do not go on {when}: {}", self.logs());
        }
        began.elapsed()
    }

    /// Ends the writers, and reads everything that was ever written.
    async fn check(&mut self, flood: Flood, when: &str) {
        let some = flood.end().await;
        let failures = some.failures();
        println!("{when}: {} writes, {failures:?}", some.acknowledged());
        let allowed = [
            Code::Unavailable,
            Code::OutcomeUnknown,
            Code::DeadlineExceeded,
        ];
        assert!(
            failures.keys().all(|code| allowed.contains(code)),
            "{when}: {failures:?}"
        );
        self.written.extend(some);
        let kept = self.written.check(&self.client, Consistency::Latest).await;
        kept.unwrap_or_else(|broken| panic!("{when}: {broken}\n{}", self.logs()));
    }

    /// Waits until all members are in sync.
    async fn in_sync(&self, when: &str) {
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

    fn logs(&self) -> String {
        let log = |node: &&str| format!("--- {node}\n{}", self.platform.log_of(node));
        NODES.iter().map(log).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_whichever_processes_die_or_stand_still() {
    let mut trial = Trial::start().await;
    trial.in_sync("at the start").await;

    let flood = trial.writers();
    trial.more(&flood, "at the start").await;
    let master = trial.master().await;
    trial.platform.kill9(&master).await.unwrap();
    let pause = trial.more(&flood, "after the master's death").await;
    println!("{SOME} writes {pause:?} after the death of {master}");
    assert_ne!(trial.master().await, master);
    trial.check(flood, "the master died").await;
    let flood = trial.writers();
    trial.platform.restart(&master).unwrap();
    trial.more(&flood, "while the old master rejoins").await;
    trial.check(flood, "the old master rejoined").await;
    trial.in_sync("the old master rejoined").await;

    let flood = trial.writers();
    let master = trial.master().await;
    trial.platform.signal(&master, Signal::STOP).unwrap();
    let stopped = Instant::now();
    let pause = trial.more(&flood, "while the master stands still").await;
    println!("{SOME} writes {pause:?} after {master} stood still");
    tokio::time::sleep_until((stopped + STANDSTILL).into()).await;
    trial.platform.signal(&master, Signal::CONT).unwrap();
    trial.more(&flood, "after the old master goes on").await;
    trial.check(flood, "the master stood still").await;
    trial.in_sync("the master stood still").await;

    let flood = trial.writers();
    let replica = trial.replica().await;
    trial.platform.kill9(&replica).await.unwrap();
    let pause = trial.more(&flood, "after a replica's death").await;
    println!("{SOME} writes {pause:?} after the death of the replica {replica}");
    trial.platform.restart(&replica).unwrap();
    trial.more(&flood, "while the replica rejoins").await;
    trial.check(flood, "a replica died").await;
    trial.in_sync("a replica died").await;

    let flood = trial.writers();
    trial.more(&flood, "before all die").await;
    for node in NODES {
        trial.platform.kill9(node).await.unwrap();
    }
    for node in NODES {
        trial.platform.restart(node).unwrap();
    }
    let pause = trial.more(&flood, "after all died").await;
    println!("{SOME} writes {pause:?} after all were started again");
    trial.check(flood, "all died").await;
    trial.in_sync("all died").await;
    trial.platform.stop().await.unwrap();
}
