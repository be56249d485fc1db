//! The crash model: a node lives several lives over a disk that loses what was not synced.
//!
//! A life is a script drawn from a seed: appends, truncations of what is not committed, applies,
//! checkpoints, reads, restarts. At a
//! call to the disk that the seed selects, the power fails; the next life begins with what the
//! disk kept. All of storage runs over that disk, the store too. After each start and at every
//! read, the content is compared with a model:
//!
//! - I1: every acknowledged record is there, and none that was never appended or was cut off;
//! - I5, I7: every key reads exactly the state of the applied records, however little memory
//!   keeps;
//! - I8: every applied request has its outcome, and no other has one;
//! - a promise is never taken back, and a scrub finds no damage.
//!
//! Large records may survive with a hole in them, which looks like damage: such a life is
//! recovered as an operator does it, and nothing acknowledged may be lost by that.
//!
//! `broken` switches the rules of the storage off, one at a time: each must be caught.

mod broken;
mod life;
mod script;

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub(super) use self::{
    life::{Lives, Recoveries},
    script::Script,
};
use crate::disk::Tear;

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 10_000;
/// Seeds with holes in records that every run of the tests goes through.
const HOLE_SEEDS: u64 = 1_000;
/// Lives that run at once.
const TOGETHER: usize = 8;
/// The time limit for the lives of one seed; they take some milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs seeds until one breaks a rule; returns the seed and its error, or how often a node had
/// to be recovered.
pub(super) async fn first_broken(
    seeds: impl IntoIterator<Item = u64>,
    script: Script,
) -> Result<Recoveries, (u64, String)> {
    let mut recoveries = Recoveries::default();
    let mut running = JoinSet::new();
    let mut seeds = seeds.into_iter();
    let mut broken: Option<(u64, String)> = None;
    loop {
        while running.len() < TOGETHER
            && broken.is_none()
            && let Some(seed) = seeds.next()
        {
            running.spawn(async move {
                // A panic inside, such as a broken assertion, is a broken rule as well.
                let lives = tokio::time::timeout(PATIENCE, Lives::run(seed, script));
                match tokio::spawn(lives).await {
                    Ok(Ok(Ok(recoveries))) => Ok(recoveries),
                    Ok(Ok(Err(violation))) => Err((seed, violation)),
                    Ok(Err(_)) => Err((seed, "it hangs".to_owned())),
                    Err(panic) => Err((seed, panic.to_string())),
                }
            });
        }
        let Some(ended) = running.join_next().await else {
            return broken.map_or(Ok(recoveries), Err);
        };
        match ended.expect("a simulation is not cancelled") {
            Ok(more) => {
                recoveries.all += more.all;
                recoveries.cut += more.cut;
            }
            Err(found) => {
                broken.get_or_insert(found);
            }
        }
    }
}

async fn holds(tear: Tear) {
    let script = Script::sound(tear);
    let began = Instant::now();
    if let Err((seed, violation)) = first_broken(0..SEEDS / 2, script).await {
        panic!("seed {seed} with {script:?}: {violation}");
    }
    println!(
        "{} seeds with {tear:?} took {:?}",
        SEEDS / 2,
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rule_breaks_when_writes_are_torn() {
    holds(Tear::InOrder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rule_breaks_when_writes_are_torn_and_reordered() {
    holds(Tear::AnyOrder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_unacknowledged_records_cost_nothing_but_a_recovery() {
    let script = Script::holes();
    let began = Instant::now();
    match first_broken(0..HOLE_SEEDS, script).await {
        Err((seed, violation)) => panic!("seed {seed} with {script:?}: {violation}"),
        Ok(recoveries) => {
            assert!(recoveries.all > 0, "no record had a hole");
            assert!(recoveries.cut > 0, "no recovery was cut");
            println!(
                "{HOLE_SEEDS} seeds with holes took {:?}: {recoveries:?}",
                began.elapsed()
            );
        }
    }
}
