//! A deck of faults on a platform of many processes, one fault a round, under clients whose every
//! operation is recorded and checked ([`tierkv_tests::history`]). One of its two clusters has three
//! nodes: after each round these are in sync again, and have the same log and the same state.
//!
//! Each process is on a host of its own (a network namespace), so that the lines between two tiers
//! and between two nodes of a cluster can be cut. Where the kernel does not allow that, the deck is
//! played on loopback without the cuts, and says so. `TIERKV_DECK_ROUNDS` (`make soak`) plays the
//! deck several times; `TIERKV_DECK_ONLY=Disk` plays only the faults with this word in their name.
//! A failure keeps the data and the logs of the nodes, and says where.
//!
//! The faults are in [`fault`], their injection in [`play`] and [`damage`], the platform in
//! [`stage`], the comparison of nodes in [`equality`].

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and figures are for people.

mod damage;
mod equality;
mod fault;
mod members;
mod play;
mod stage;

use std::{
    env,
    io::{self, Write as _},
    panic::{AssertUnwindSafe, resume_unwind},
    time::Instant,
};

use futures::FutureExt as _;
use rand::{SeedableRng as _, rngs::StdRng};
use tierkv_harness::{
    Network,
    network::again::{Place, enter},
};
use tierkv_tests::history::{Totals, Workload};

use crate::{
    fault::{DAMAGE, DECK, Fault},
    play::play,
    stage::{Stage, until_done},
};

/// A round counts only with this much done in it. Client coordinators in processes of their own
/// have no cache yet.
const LEAST: Totals = Totals {
    writes: 2_000,
    replica: 500,
    master: 500,
    ..Totals::NOTHING
};
/// Of these, this much must be done during a fault that stops nothing, as while etcd is away.
const LEAST_MEANWHILE: Totals = Totals {
    writes: 200,
    master: 200,
    ..Totals::NOTHING
};
const TASKS: usize = 32;
/// More than the deck has: seeds of rounds are this far apart.
const FAULTS: u64 = 100;

/// Plays one round: the workload, the fault under it, and the check of what was seen.
async fn play_round(fault: Fault, namespace: &str, seed: u64, stage: &mut Stage) {
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    // Those of a round before may have moved to one client coordinator.
    let clients = stage.clients().await;
    let own = clients.iter().map(|it| it.in_namespace(namespace).unwrap());
    let own: Vec<_> = own.collect();
    let workload = Workload::start(&own, TASKS, seed);
    let third = LEAST.third();
    until_done(&workload, Totals::NOTHING, third).await;
    let before = workload.totals();
    play(fault, stage, &workload, &mut random).await;
    let after = workload.totals();
    if let Some(time) = fault.goes_on_for() {
        assert!(
            after.are_more_than(before, LEAST_MEANWHILE),
            "during {fault:?}, {time:?} had only {before:?} to {after:?}"
        );
    }
    until_done(&workload, after, third).await;
    until_done(&workload, Totals::NOTHING, LEAST).await;
    let totals = workload.totals();
    // The last one can use any client coordinator.
    let history = workload.end(&own[own.len() - 1]).await.unwrap();
    // A process that ends by itself would weaken the rounds to come.
    stage.platform.check().unwrap();
    let compared = stage.compare_nodes().await;
    println!(
        "{fault:?}: {totals:?} in {:?}, of these {} writes and {} reads during the fault, \
         failures {:?}; {compared}",
        began.elapsed(),
        after.writes - before.writes,
        after.reads() - before.reads(),
        history.failures()
    );
    history.check().unwrap_or_else(|broken| panic!("{broken}"));
}

/// The faults to play.
fn chosen(network: Option<&Network>) -> Vec<(usize, Fault)> {
    let only = env::var("TIERKV_DECK_ONLY").unwrap_or_default();
    let damage = DAMAGE.iter().filter(|_| !only.is_empty());
    let deck = DECK.iter().chain(damage).copied().enumerate();
    let playable = deck.filter(|(_, fault)| network.is_some() || !fault.needs_namespaces());
    let chosen = playable.filter(|(_, fault)| format!("{fault:?}").contains(&only));
    let chosen: Vec<_> = chosen.collect();
    assert!(!chosen.is_empty(), "no fault has {only:?} in its name");
    chosen
}

async fn play_deck(network: Option<Network>) {
    let rounds = env::var("TIERKV_DECK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let deck = chosen(network.as_ref());
    let mut stage = Stage::start(network).await;
    for round in 0..rounds {
        for (at, fault) in &deck {
            // Each round has keys of its own, so that a history begins with absent keys.
            let namespace = format!("round-{round}-{at}");
            let seed = round * FAULTS + *at as u64;
            let played = play_round(*fault, &namespace, seed, &mut stage);
            let played = AssertUnwindSafe(played).catch_unwind().await;
            if let Err(panic) = played {
                let kept = stage.keep_evidence();
                println!("{fault:?} of round {round} failed; see {}", kept.display());
                resume_unwind(panic);
            }
        }
    }
    stage.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_deck_breaks_a_promise() {
    match enter("no_fault_of_the_deck_breaks_a_promise").unwrap() {
        Place::Inside(network) => play_deck(Some(network)).await,
        Place::Done => {}
        Place::Refused(why) => {
            // Past the capture of a test's output, which shows nothing of a test that passes.
            let warning = format!("the deck is played WITHOUT cuts of lines: {why}\n");
            io::stderr().write_all(warning.as_bytes()).unwrap();
            play_deck(None).await;
        }
    }
}
