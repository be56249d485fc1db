//! A deck of faults on a platform of many processes, one fault a round, under clients whose every
//! operation is recorded and checked ([`tierkv_tests::history`]).
//!
//! Each process is on a host of its own (a network namespace), so that the lines between two tiers
//! can be cut. Where the kernel does not allow that, the deck is played on loopback without the
//! cuts, and says so. `TIERKV_DECK_ROUNDS` (`make soak`) plays the deck several times.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and figures are for people.

use std::{
    env,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use tierkv::Client;
use tierkv_harness::{
    Fleet, Loss, Network,
    network::again::{Place, enter},
    poll_until,
};
use tierkv_tests::history::{Totals, Workload};

/// Timeout of an operation: longer than any fault, so that few outcomes stay unknown.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// Timeout for the operations that a round needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(2);
/// How long a paused process is paused.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a line is cut.
const CUT: Duration = Duration::from_secs(3);
/// How long lines to etcd are cut: longer than a lease, so that the other side is taken for dead.
const LONG_CUT: Duration = Duration::from_secs(7);
/// How long all of etcd is away.
const OUTAGE: Duration = Duration::from_secs(15);
/// A round counts only with this much done in it.
const LEAST: Totals = Totals {
    writes: 2_000,
    reads: 500,
};
/// Of these, this much must be done during a fault that stops nothing, as while etcd is away.
const LEAST_MEANWHILE: Totals = Totals {
    writes: 200,
    reads: 200,
};
const TASKS: usize = 32;

/// One side of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The process of this name.
    One(&'static str),
    /// The primary server coordinator, whichever it is.
    Primary,
    /// Every member of etcd.
    Etcd,
}

/// What is lost on a cut line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Everything, in both directions.
    Both(Loss),
    /// What the second side sends: requests arrive there, and their answers are lost.
    Answers,
}

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
    /// The line between a tier that asks and one that answers is cut for a while.
    Cut(Side, Side, Cut),
}

impl Fault {
    /// How long reads and writes go on everywhere during this fault; `None`: some wait for its end.
    const fn goes_on_for(self) -> Option<Duration> {
        match self {
            Self::EtcdAway => Some(OUTAGE),
            Self::Cut(_, Side::Etcd, _) => Some(LONG_CUT),
            // The clients of the other client coordinator go on.
            Self::Cut(_, Side::Primary, _) => Some(CUT),
            _ => None,
        }
    }
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

/// Every pair of tiers that talk.
const CUTS: [Fault; 10] = [
    Fault::Cut(CC1, Side::Primary, Cut::Both(Loss::Silent)),
    Fault::Cut(CC1, Side::Primary, Cut::Answers),
    Fault::Cut(Side::Primary, N1, Cut::Both(Loss::Silent)),
    Fault::Cut(Side::Primary, N1, Cut::Answers),
    Fault::Cut(N1, Side::Etcd, Cut::Both(Loss::Blackhole)),
    Fault::Cut(N1, Side::Etcd, Cut::Answers),
    Fault::Cut(Side::Primary, Side::Etcd, Cut::Both(Loss::Silent)),
    Fault::Cut(Side::Primary, Side::Etcd, Cut::Answers),
    Fault::Cut(CC1, Side::Etcd, Cut::Both(Loss::Blackhole)),
    Fault::Cut(CC1, Side::Etcd, Cut::Answers),
];
const CC1: Side = Side::One("cc1");
const N1: Side = Side::One("n1");

/// For each client coordinator, a client that uses no other one, so that each has work in every
/// round, and one that goes to the others when it fails.
async fn connect(platform: &Fleet) -> Vec<Client> {
    let mut addresses = platform.addresses("client-coordinator", "grpc-listen");
    let mut clients = Vec::new();
    for _ in 0..addresses.len() {
        for some in [&addresses[..1], &addresses] {
            let addressed = some.iter().cloned();
            let builder = addressed.fold(Client::builder(), |builder, it| builder.address(it));
            let client = builder.in_order().timeout(GIVEN_UP_AFTER).connect().await;
            clients.push(client.unwrap());
        }
        addresses.rotate_left(1);
    }
    clients
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

async fn kill(platform: &mut Fleet, name: &str) {
    platform.process(name).unwrap().kill9().unwrap();
    tokio::time::sleep(FAULT).await;
    platform.restart(name).unwrap();
}

async fn pause(platform: &mut Fleet, name: &str) {
    platform.process(name).unwrap().pause().unwrap();
    tokio::time::sleep(PAUSE).await;
    platform.process(name).unwrap().resume().unwrap();
}

/// The processes of one side.
async fn names(side: Side, platform: &Fleet, client: &Client) -> Vec<String> {
    match side {
        Side::One(name) => vec![name.to_owned()],
        Side::Primary => vec![primary(client).await],
        Side::Etcd => platform.names_of("etcd"),
    }
}

/// Cuts the lines between two sides.
async fn cut(asks: Side, answers: Side, cut: Cut, platform: &mut Fleet, client: &Client) {
    let asking = names(asks, platform, client).await;
    let answering = names(answers, platform, client).await;
    let loss = match cut {
        Cut::Both(loss) => loss,
        Cut::Answers => Loss::Blackhole,
    };
    for one in &asking {
        for other in &answering {
            assert!(platform.connects(one, other).unwrap(), "{one} to {other}");
            platform.cut(other, one, loss).unwrap();
            if cut != Cut::Answers {
                platform.cut(one, other, loss).unwrap();
            }
            assert!(!platform.connects(one, other).unwrap(), "{one} to {other}");
        }
    }
}

/// Injects the fault and heals it.
async fn play(fault: Fault, platform: &mut Fleet, client: &Client) {
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
            let members = platform.names_of("etcd");
            for name in &members {
                platform.process(name).unwrap().pause().unwrap();
            }
            tokio::time::sleep(OUTAGE).await;
            for name in &members {
                platform.process(name).unwrap().resume().unwrap();
            }
        }
        Fault::KillAll => {
            let names = platform.names();
            for name in &names {
                platform.process(name).unwrap().kill9().unwrap();
            }
            for name in &names {
                platform.restart(name).unwrap();
            }
        }
        Fault::Cut(asks, answers, lost) => {
            cut(asks, answers, lost, platform, client).await;
            let is_long = answers == Side::Etcd;
            tokio::time::sleep(if is_long { LONG_CUT } else { CUT }).await;
            platform.heal().unwrap();
        }
    }
}

/// Plays one round: the workload, the fault under it, and the check of what was seen.
async fn play_round(fault: Fault, namespace: &str, seed: u64, platform: &mut Fleet) {
    let began = Instant::now();
    // Those of a round before may have moved to one client coordinator.
    let clients = connect(platform).await;
    let own = clients.iter().map(|it| it.in_namespace(namespace).unwrap());
    let workload = Workload::start(&own.collect::<Vec<_>>(), TASKS, seed);
    let third = Totals {
        writes: LEAST.writes / 3,
        reads: LEAST.reads / 3,
    };
    until_done(&workload, workload.totals(), third).await;
    let before = workload.totals();
    // The last one can use any client coordinator.
    play(fault, platform, &clients[clients.len() - 1]).await;
    let after = workload.totals();
    if let Some(time) = fault.goes_on_for() {
        assert!(
            after.writes - before.writes >= LEAST_MEANWHILE.writes
                && after.reads - before.reads >= LEAST_MEANWHILE.reads,
            "during {fault:?}, {time:?} had only {before:?} to {after:?}"
        );
    }
    until_done(&workload, after, third).await;
    let nothing = Totals {
        writes: 0,
        reads: 0,
    };
    until_done(&workload, nothing, LEAST).await;
    let totals = workload.totals();
    let history = workload.end().await;
    // A process that ends by itself would weaken the rounds to come.
    platform.check().unwrap();
    println!(
        "{fault:?}: {totals:?} in {:?}, of these {} writes and {} reads during the fault, \
         failures {:?}",
        began.elapsed(),
        after.writes - before.writes,
        after.reads - before.reads,
        history.failures()
    );
    history
        .check()
        .unwrap_or_else(|broken| panic!("{fault:?}: {broken}"));
}

async fn play_deck(network: Option<Network>) {
    let rounds = env::var("TIERKV_DECK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut deck = Vec::from(DECK);
    if network.is_some() {
        deck.extend(CUTS);
    }
    let mut platform = Fleet::start(&[1, 1], &[], network).await.unwrap();
    for round in 0..rounds {
        for (at, fault) in deck.iter().enumerate() {
            // Each round has keys of its own, so that a history begins with absent keys.
            let namespace = format!("round-{round}-{at}");
            play_round(*fault, &namespace, round, &mut platform).await;
        }
    }
    platform.stop().await.unwrap();
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
