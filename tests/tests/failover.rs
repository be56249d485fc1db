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
    time::{Duration, Instant},
};

use rand::Rng;
use rustix::process::Signal;
use tierkv::Code;
use tierkv_harness::poll_until;
use tierkv_tests::{
    choices,
    flood::Flood,
    history::Workload,
    many_processes::cluster,
    trial::{CLUSTER, NODES, PATIENCE, Trial},
};

const WRITERS: usize = 8;
/// Clients that read and write a few keys, whose history must be linearizable.
const REGISTER_USERS: usize = 4;
/// Timeout of a write: longer than a failover takes.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How soon writes must go on after a fault, on a machine that has other work. A failover takes
/// about F, which is 1 s.
const WRITES_GO_ON: Duration = Duration::from_secs(15);
/// How long a process stands still: longer than F.
const STANDSTILL: Duration = Duration::from_secs(3);
/// Acknowledged writes that show that the cluster is at work.
const SOME: u64 = 200;

/// Waits for more acknowledged writes; returns how long that took.
async fn more(trial: &Trial, flood: &Flood, when: &str) -> Duration {
    trial.more(flood, SOME, WRITES_GO_ON, when).await
}

/// Ends the writers, and reads everything that was ever written.
async fn check(trial: &mut Trial, flood: Flood, when: &str) {
    let some = flood.end().await;
    let unexplained = some.unexplained_failures();
    assert!(unexplained.is_empty(), "{when}: {unexplained:?}");
    trial.check(some, when).await;
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

/// The processes that a fault is about.
async fn victims(trial: &Trial, fault: Fault) -> Vec<String> {
    match fault {
        Fault::MasterDies | Fault::MasterStandsStill | Fault::MasterEnds => {
            vec![trial.master().await]
        }
        Fault::ReplicaDies | Fault::ReplicaStandsStill | Fault::ReplicaLosesItsDisk => {
            vec![trial.replicas().await.swap_remove(0)]
        }
        Fault::TwoDie => vec![trial.master().await, trial.replicas().await.swap_remove(0)],
        Fault::AllDie => NODES.map(str::to_owned).to_vec(),
    }
}

/// Begins a fault.
async fn begin(trial: &mut Trial, fault: Fault, victims: &[String]) {
    for victim in victims {
        match fault {
            Fault::MasterStandsStill | Fault::ReplicaStandsStill => {
                trial.platform.signal(victim, Signal::STOP).unwrap();
            }
            Fault::MasterEnds => trial.platform.terminate(victim).await.unwrap(),
            _ => trial.platform.kill9(victim).await.unwrap(),
        }
    }
}

/// Ends a fault.
fn end(trial: &mut Trial, fault: Fault, victims: &[String]) {
    for victim in victims {
        match fault {
            Fault::MasterStandsStill | Fault::ReplicaStandsStill => {
                trial.platform.signal(victim, Signal::CONT).unwrap();
                continue;
            }
            Fault::ReplicaLosesItsDisk => trial.platform.wipe(victim).unwrap(),
            _ => {}
        }
        trial.platform.restart(victim).unwrap();
    }
}

/// Plays a fault under writers and readers, and checks that no promise is broken.
async fn play(trial: &mut Trial, fault: Fault, round: usize) {
    let when = format!("round {round}, {fault:?}");
    let registers = trial
        .client
        .in_namespace(&format!("round-{round}"))
        .unwrap();
    let workload = Workload::start(from_ref(&registers), REGISTER_USERS, round as u64);
    let flood = trial.writers(WRITERS);
    more(trial, &flood, &when).await;
    let victims = victims(trial, fault).await;
    let began = Instant::now();
    begin(trial, fault, &victims).await;
    if fault.is_outlasted() {
        let pause = more(trial, &flood, &when).await;
        println!("{when}: {SOME} writes {pause:?} after it began, with {victims:?}");
        tokio::time::sleep_until((began + STANDSTILL).into()).await;
    }
    end(trial, fault, &victims);
    let pause = more(trial, &flood, &when).await;
    println!("{when}: {SOME} writes {pause:?} after it ended");
    let history = workload.end(&registers).await.unwrap();
    if let Err(broken) = history.check() {
        panic!("{when}: {broken}\n{}", trial.logs());
    }
    check(trial, flood, &when).await;
    trial.in_sync(&when).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_whichever_processes_die_or_stand_still() {
    let mut trial = Trial::start(WRITE_LIMIT).await;
    trial.in_sync("at the start").await;
    for (round, fault) in FAULTS.into_iter().enumerate() {
        play(&mut trial, fault, round).await;
    }
    // Then in any order.
    let mut choices = choices::seeded();
    for round in 0..rounds() {
        let fault = FAULTS[choices.random_range(0..FAULTS.len())];
        play(&mut trial, fault, FAULTS.len() + round).await;
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
    let mut trial = Trial::start(WRITE_LIMIT).await;
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
    let flood = trial.writers(WRITERS);
    more(&trial, &flood, "after the others are back").await;
    check(&mut trial, flood, "after the others are back").await;
    trial.in_sync("after the others are back").await;
    trial.platform.stop().await.unwrap();
}

/// Further faults: `TIERKV_FAILOVER_ROUNDS`.
fn rounds() -> usize {
    let rounds = env::var("TIERKV_FAILOVER_ROUNDS");
    rounds.map_or(0, |rounds| rounds.parse().unwrap())
}
