//! A deck of faults on a platform of many processes, one fault a round, under clients whose every
//! operation is recorded and checked ([`tierkv_tests::history`]).
//!
//! `TIERKV_DECK_ROUNDS` (`make soak`) plays the deck several times.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and figures are for people.

use std::{
    env,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tierkv::Client;
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::history::{Totals, Workload};

/// Timeout of an operation: longer than any fault, so that few outcomes stay unknown.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// Timeout for the operations that a round needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(2);
/// How long a paused process is paused.
const PAUSE: Duration = Duration::from_secs(5);
/// How long all of etcd is away.
const OUTAGE: Duration = Duration::from_secs(15);
/// A round counts only with this much done in it.
const LEAST: Totals = Totals {
    writes: 2_000,
    reads: 500,
};
/// Of these, this much must be done while etcd is away.
const LEAST_MEANWHILE: Totals = Totals {
    writes: 200,
    reads: 200,
};
const TASKS: usize = 32;
const ETCD: [&str; 3] = ["etcd1", "etcd2", "etcd3"];

/// A fault, and how it is healed.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `SIGKILL`, and a start after a while.
    Kill(&'static str),
    /// `SIGKILL` of the primary server coordinator, whichever it is.
    KillPrimary,
    /// `SIGSTOP` for a while.
    Pause(&'static str),
    /// `SIGSTOP` of the primary server coordinator.
    PausePrimary,
    /// All of etcd is stopped for a while.
    EtcdAway,
    /// Every process is killed, and started again.
    KillAll,
}

const DECK: [Fault; 12] = [
    Fault::Kill("n1"),
    Fault::KillPrimary,
    Fault::Kill("s3"),
    Fault::Kill("cc1"),
    Fault::Kill("etcd1"),
    Fault::Pause("n2"),
    Fault::PausePrimary,
    Fault::Pause("s2"),
    Fault::Pause("cc2"),
    Fault::Pause("etcd2"),
    Fault::EtcdAway,
    Fault::KillAll,
];

async fn connect(platform: &LocalCluster) -> Client {
    let addresses = platform.addresses("client-coordinator", "grpc");
    let addressed = addresses.into_iter();
    let builder = addressed.fold(Client::builder(), |builder, it| builder.address(it));
    builder.timeout(GIVEN_UP_AFTER).connect().await.unwrap()
}

/// The name of the primary server coordinator.
async fn primary(client: &Client) -> String {
    let found = poll_until(PATIENCE, || async {
        let report = client.cluster().await.ok()?;
        let coordinators = report.server_coordinators.into_iter();
        (coordinators.filter(|coordinator| coordinator.epoch > 0))
            .map(|primary| primary.node)
            .next()
    });
    found.await.expect("there is a primary")
}

/// Waits until the workload did this much more than at `before`.
async fn until_done(workload: &Workload, before: Totals, least: Totals) {
    let done = poll_until(PATIENCE, || async {
        let now = workload.totals();
        let is_done =
            now.writes - before.writes >= least.writes && now.reads - before.reads >= least.reads;
        is_done.then_some(())
    });
    let reached = done.await;
    assert!(
        reached.is_some(),
        "too little is done: {:?}",
        workload.totals()
    );
}

async fn kill(platform: &mut LocalCluster, name: &str) {
    platform.kill9(name).await.unwrap();
    tokio::time::sleep(FAULT).await;
    platform.restart(name).unwrap();
}

async fn pause(platform: &LocalCluster, name: &str) {
    platform.signal(name, Signal::STOP).unwrap();
    tokio::time::sleep(PAUSE).await;
    platform.signal(name, Signal::CONT).unwrap();
}

/// Injects the fault and heals it.
async fn play(fault: Fault, platform: &mut LocalCluster, client: &Client, workload: &Workload) {
    match fault {
        Fault::Kill(name) => kill(platform, name).await,
        Fault::KillPrimary => {
            let name = primary(client).await;
            kill(platform, &name).await;
        }
        Fault::Pause(name) => pause(platform, name).await,
        Fault::PausePrimary => {
            let name = primary(client).await;
            pause(platform, &name).await;
        }
        Fault::EtcdAway => {
            for name in ETCD {
                platform.signal(name, Signal::STOP).unwrap();
            }
            let (began, before) = (Instant::now(), workload.totals());
            tokio::time::sleep(OUTAGE).await;
            let now = workload.totals();
            for name in ETCD {
                platform.signal(name, Signal::CONT).unwrap();
            }
            assert!(
                now.writes - before.writes >= LEAST_MEANWHILE.writes
                    && now.reads - before.reads >= LEAST_MEANWHILE.reads,
                "without etcd, {:?} had only {before:?} to {now:?}",
                began.elapsed()
            );
        }
        Fault::KillAll => {
            let names: Vec<String> = (platform.members().iter())
                .map(|member| member.name.clone())
                .collect();
            for name in &names {
                platform.kill9(name).await.unwrap();
            }
            for name in &names {
                platform.restart(name).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_deck_breaks_a_promise() {
    let rounds = env::var("TIERKV_DECK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    for round in 0..rounds {
        for (at, fault) in DECK.into_iter().enumerate() {
            let began = Instant::now();
            // Each round has keys of its own, so that a history begins with absent keys.
            let namespace = format!("round-{round}-{at}");
            let own = client.in_namespace(&namespace).unwrap();
            let workload = Workload::start(&own, TASKS, round);
            let third = Totals {
                writes: LEAST.writes / 3,
                reads: LEAST.reads / 3,
            };
            until_done(&workload, workload.totals(), third).await;
            play(fault, &mut platform, &client, &workload).await;
            until_done(&workload, workload.totals(), third).await;
            until_done(
                &workload,
                Totals {
                    writes: 0,
                    reads: 0,
                },
                LEAST,
            )
            .await;
            let totals = workload.totals();
            let history = workload.end().await;
            println!(
                "{fault:?}: {totals:?} in {:?}, failures {:?}",
                began.elapsed(),
                history.failures()
            );
            history
                .check()
                .unwrap_or_else(|broken| panic!("{fault:?}: {broken}"));
        }
    }
    platform.stop().await.unwrap();
}
