//! A cluster of three data nodes under writers that never stop: whichever of its processes die or
//! stand still, writes go on, no acknowledged one is lost, and no read is stale.
//!
//! `TIERKV_FAILOVER_ROUNDS` (`make soak`) adds so many faults in a random order;
//! `TIERKV_KILL_SEED` repeats it.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    env,
    slice::from_ref,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use rand::Rng;
use rustix::process::Signal;
use tierkv::{Client, Code, Consistency};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::{
    choices,
    flood::{Flood, Written},
    history::Workload,
    many_processes::{all_in_sync, cluster, connect},
};

const CLUSTER: &str = "c1";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const WRITERS: usize = 8;
/// Clients that read and write a few keys, whose history must be linearizable.
const REGISTER_USERS: usize = 4;
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

/// A fault of processes of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    MasterDies,
    MasterStandsStill,
    MasterEnds,
    ReplicaDies,
    ReplicaStandsStill,
    ReplicaLosesItsDisk,
    TwoDie,
    AllDie,
}

const FAULTS: [Fault; 8] = [
    Fault::MasterDies,
    Fault::MasterStandsStill,
    Fault::ReplicaDies,
    Fault::AllDie,
    Fault::ReplicaLosesItsDisk,
    Fault::ReplicaStandsStill,
    Fault::TwoDie,
    Fault::MasterEnds,
];

impl Fault {
    /// Whether writes go on while it lasts.
    const fn is_outlasted(self) -> bool {
        !matches!(self, Self::TwoDie | Self::AllDie)
    }
}

impl Trial {
    /// The processes that a fault is about.
    async fn victims(&self, fault: Fault) -> Vec<String> {
        match fault {
            Fault::MasterDies | Fault::MasterStandsStill | Fault::MasterEnds => {
                vec![self.master().await]
            }
            Fault::ReplicaDies | Fault::ReplicaStandsStill | Fault::ReplicaLosesItsDisk => {
                vec![self.replica().await]
            }
            Fault::TwoDie => vec![self.master().await, self.replica().await],
            Fault::AllDie => NODES.map(str::to_owned).to_vec(),
        }
    }

    /// Begins a fault.
    async fn begin(&mut self, fault: Fault, victims: &[String]) {
        for victim in victims {
            match fault {
                Fault::MasterStandsStill | Fault::ReplicaStandsStill => {
                    self.platform.signal(victim, Signal::STOP).unwrap();
                }
                Fault::MasterEnds => self.platform.terminate(victim).await.unwrap(),
                _ => self.platform.kill9(victim).await.unwrap(),
            }
        }
    }

    /// Ends a fault.
    fn end(&mut self, fault: Fault, victims: &[String]) {
        for victim in victims {
            match fault {
                Fault::MasterStandsStill | Fault::ReplicaStandsStill => {
                    self.platform.signal(victim, Signal::CONT).unwrap();
                    continue;
                }
                Fault::ReplicaLosesItsDisk => self.platform.wipe(victim).unwrap(),
                _ => {}
            }
            self.platform.restart(victim).unwrap();
        }
    }

    /// Plays a fault under writers and readers, and checks that no promise is broken.
    async fn play(&mut self, fault: Fault, round: usize) {
        let when = format!("round {round}, {fault:?}");
        let registers = self.client.in_namespace(&format!("round-{round}")).unwrap();
        let workload = Workload::start(from_ref(&registers), REGISTER_USERS, round as u64);
        let flood = self.writers();
        self.more(&flood, &when).await;
        let victims = self.victims(fault).await;
        let began = Instant::now();
        self.begin(fault, &victims).await;
        if fault.is_outlasted() {
            let pause = self.more(&flood, &when).await;
            println!("{when}: {SOME} writes {pause:?} after it began, with {victims:?}");
            tokio::time::sleep_until((began + STANDSTILL).into()).await;
        }
        self.end(fault, &victims);
        let pause = self.more(&flood, &when).await;
        println!("{when}: {SOME} writes {pause:?} after it ended");
        let history = workload.end(&registers).await.unwrap();
        if let Err(broken) = history.check() {
            panic!("{when}: {broken}\n{}", self.logs());
        }
        self.check(flood, &when).await;
        self.in_sync(&when).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_whichever_processes_die_or_stand_still() {
    let mut trial = Trial::start().await;
    trial.in_sync("at the start").await;
    for (round, fault) in FAULTS.into_iter().enumerate() {
        trial.play(fault, round).await;
    }
    // Then in any order.
    let mut choices = choices::seeded();
    for round in 0..rounds() {
        let fault = FAULTS[choices.random_range(0..FAULTS.len())];
        trial.play(fault, FAULTS.len() + round).await;
    }
    trial.platform.stop().await.unwrap();
}

/// Values of writes that can't be committed, their writers, and the timeout of each.
const LARGE: u32 = 100 << 10;
const LARGE_WRITERS: usize = 128;
const SHORT_LIMIT: Duration = Duration::from_secs(1);
/// The bound of what a master takes while it can't be committed, and the part of it that shows that
/// the bound is near.
const UNCOMMITTED_LIMIT: u64 = 64 << 20;
const NEARLY: u64 = UNCOMMITTED_LIMIT / 8 * 7;
/// How long writers go on when the bound is near: several times their timeout.
const LONGER: Duration = Duration::from_secs(5);

/// With one node of three, nothing is committed. The master takes a bounded number of writes then,
/// and refuses the others for certain.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_can_t_commit_takes_a_bounded_number_of_writes() {
    let mut trial = Trial::start().await;
    trial.in_sync("at the start").await;
    let master = trial.master().await;
    let replicas: Vec<&str> = (NODES.into_iter()).filter(|it| *it != master).collect();
    for replica in &replicas {
        trial.platform.kill9(replica).await.unwrap();
    }
    let hasty = trial.client.with_timeout(SHORT_LIMIT);
    let flood = Flood::start_persistent(from_ref(&hasty), LARGE_WRITERS, &trial.numbers, LARGE);
    let uncommitted = || async {
        let seen = cluster(&trial.client, CLUSTER).await?;
        let master = seen.members.into_iter().find(|it| it.node == master)?;
        Some((master.log_index - master.commit_index) * u64::from(LARGE))
    };
    let near = poll_until(PATIENCE, || async {
        uncommitted().await.filter(|bytes| *bytes >= NEARLY)
    });
    near.await
        .expect("the master takes writes while others wait");
    tokio::time::sleep(LONGER).await;
    let bytes = uncommitted().await.unwrap();
    let some = flood.end().await;
    let failures = some.failures();
    println!("{bytes} bytes of writes wait for their commit: {failures:?}");
    assert!(bytes <= UNCOMMITTED_LIMIT + u64::from(LARGE), "{bytes}");
    assert_eq!(some.acknowledged(), 0);
    assert!(
        failures.contains_key(&Code::DeadlineExceeded),
        "{failures:?}"
    );
    trial.written.extend(some);

    for replica in &replicas {
        trial.platform.restart(replica).unwrap();
    }
    let flood = trial.writers();
    trial.more(&flood, "after the others are back").await;
    trial.check(flood, "after the others are back").await;
    trial.in_sync("after the others are back").await;
    trial.platform.stop().await.unwrap();
}

/// Further faults: `TIERKV_FAILOVER_ROUNDS`.
fn rounds() -> usize {
    let rounds = env::var("TIERKV_FAILOVER_ROUNDS");
    rounds.map_or(0, |rounds| rounds.parse().unwrap())
}
