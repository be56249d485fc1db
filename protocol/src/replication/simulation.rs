//! The machine under a seeded simulation: nodes with disks that fail, a network and a metadata
//! store that fail, and clients.
//!
//! Each seed makes a world, in which faults happen for a while, and then no more. The checks are I1,
//! I2, I3, I5, I6 and I8 at every step, and that the cluster works again once the faults stopped.
//! The machine is that of production. Each of its rules can be switched off (`rules.rs`); then the
//! default seeds must find a violation. To replay a failure, run [`world::run`] with the printed
//! seed.
//!
//! Reading order: [`climate`] (the parameters of a world), [`disk`], [`coordination`], [`node`] (a
//! process and what a driver does), [`history`] (the checks), [`world`] (the events).

mod climate;
mod coordination;
mod disk;
mod history;
mod node;
mod world;

use std::{
    panic::catch_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use self::world::{Outcome, run};
use super::rules::Rule;

/// Seeds that the main test tries.
const SEEDS: u64 = 10_000;
const THREADS: usize = 2;

/// Runs one seed; a failed assertion is a violation, too.
fn try_seed(seed: u64, off: Option<Rule>) -> Result<Outcome, String> {
    let done = catch_unwind(|| run(seed, off, false));
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Runs seeds on all processors until one violates an invariant. Returns what all together did, or
/// the lowest seed with a violation that was found.
fn try_seeds(count: u64, off: Option<Rule>) -> Result<Outcome, (u64, String)> {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut total = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok(total);
            }
            match try_seed(seed, off) {
                Ok(outcome) => total.add(&outcome),
                Err(violation) => {
                    next.store(count, Ordering::Relaxed);
                    return Err((seed, violation));
                }
            }
        }
    };
    let mut total = Outcome::default();
    let mut found: Vec<(u64, String)> = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            match worker.join().expect("a worker panicked") {
                Ok(outcome) => total.add(&outcome),
                Err(violation) => found.push(violation),
            }
        }
    });
    match found.into_iter().min() {
        Some(violation) => Err(violation),
        None => Ok(total),
    }
}

#[test]
fn invariants_hold_under_faults() {
    let count = std::env::var("TIERKV_SIMULATION_SEEDS");
    let seeds = count.ok().and_then(|it| it.parse().ok()).unwrap_or(SEEDS);
    let total = match try_seeds(seeds, None) {
        Ok(total) => total,
        Err((seed, violation)) => panic!("seed {seed}: {violation}"),
    };
    println!("{seeds} seeds: {total:#?}");
    total.check(seeds);
}

/// The default seeds must find a violation without the rule.
fn caught(rule: Rule) {
    match try_seeds(SEEDS, Some(rule)) {
        Err((seed, violation)) => println!("{rule:?} is caught by seed {seed}: {violation}"),
        Ok(_) => panic!("{SEEDS} seeds did not miss the rule {rule:?}"),
    }
}

macro_rules! each_rule_is_needed {
    ($($test:ident: $rule:ident,)*) => {
        mod needs {
            use super::{Rule, caught};

            $(
                #[test]
                fn $test() {
                    caught(Rule::$rule);
                }
            )*
        }
    };
}

each_rule_is_needed! {
    listed_stand: ListedStand,
    starts_unmastered: StartsUnmastered,
    acknowledgements_of_process: AcknowledgementsOfProcess,
    promise_kept: PromiseKept,
    union: Union,
    min: Min,
    log_id_counts: LogIdCounts,
    note_compared: NoteCompared,
    shed_by_swap: ShedBySwap,
    shed: Shed,
    failover: Failover,
    stuck_gives_up: StuckGivesUp,
    handover_names_process: HandoverNamesProcess,
    noop_first: NoopFirst,
    prev_checked: PrevChecked,
    tail_cut: TailCut,
    join_caught_up: JoinCaughtUp,
    applies_matched: AppliesMatched,
    round_by_all: RoundByAll,
    read_after_round: ReadAfterRound,
    age_from_probe: AgeFromProbe,
    age_when_applied: AgeWhenApplied,
    echo_of_round: EchoOfRound,
    reads_confirmed: ReadsConfirmed,
}

#[test]
fn one_seed() {
    if let Ok(seed) = std::env::var("TIERKV_SIMULATION_SEED") {
        let done = run(seed.parse().unwrap(), None, true);
        println!("{done:#?}");
        done.unwrap();
    }
}
