//! The default seeds, with every rule in force.

use std::{thread, time::Instant};

use super::*;

/// Seeds that run with all rules in force, and at most until a rule that is off is noticed.
pub(in crate::simulation) const SEEDS: u64 = 1_000;
/// Threads that run them.
const THREADS: usize = 2;

#[test]
fn every_seed_keeps_the_invariants() {
    let began = Instant::now();
    let seeds = |first: u64| {
        (first..SEEDS)
            .step_by(THREADS)
            .map(|seed| match run(seed, Off::Nothing) {
                Ok(seen) => seen,
                Err(Broken { why, trace }) => panic!("{trace}seed {seed}: {why}"),
            })
    };
    let all: Vec<Seen> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS as u64)
            .map(|first| scope.spawn(move || seeds(first).collect::<Vec<_>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let sum = |of: fn(&Seen) -> u64| all.iter().map(of).sum::<u64>();
    let mean = |of| sum(of) / SEEDS;
    println!(
        "{SEEDS} seeds in {:?}; each: {} writes acknowledged, {} of them again, {} refused, {} \
         of these judged, {} reads, {} hits, {} marks, {} lives, {} power cuts, {} expiries; in \
         all {} steps of the wall clock, {} starts from a stored time, {} of them in another \
         boot, {} of these by the wall clock and {} after its correction",
        began.elapsed(),
        mean(|seen| seen.acknowledged),
        mean(|seen| seen.replays),
        mean(|seen| seen.refusals),
        mean(|seen| seen.judged),
        mean(|seen| seen.reads),
        mean(|seen| seen.hits),
        mean(|seen| seen.marks),
        mean(|seen| seen.lives),
        mean(|seen| seen.power_cuts),
        mean(|seen| seen.expiries),
        sum(|seen| seen.steps),
        sum(|seen| seen.went_on),
        sum(|seen| seen.in_another_boot),
        sum(|seen| seen.counted),
        sum(|seen| seen.corrected),
    );
    assert!(mean(|seen| seen.acknowledged) >= 200);
    for often in [
        |seen: &Seen| seen.replays,
        |seen: &Seen| seen.judged,
        |seen: &Seen| seen.reads,
        |seen: &Seen| seen.hits,
        |seen: &Seen| seen.marks,
        |seen: &Seen| seen.lives,
        |seen: &Seen| seen.power_cuts,
        |seen: &Seen| seen.expiries,
        |seen: &Seen| seen.steps,
        |seen: &Seen| seen.went_on,
        |seen: &Seen| seen.in_another_boot,
        |seen: &Seen| seen.counted,
        |seen: &Seen| seen.corrected,
    ] {
        assert!(sum(often) > SEEDS / 4);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        let again = || run(seed, Off::Nothing).unwrap();
        assert_eq!(again(), again(), "seed {seed}");
    }
}
