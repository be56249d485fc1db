//! The crash model: a node lives several lives over a disk that loses what was not synced.
//!
//! A life is a script drawn from a seed: appends, applies, checkpoints, reads, restarts.
//! Somewhere in it, at a call to the disk that the seed picks, the power fails; the next
//! life begins with what the disk kept. All of storage runs over that disk, the store too.
//! After each start and at every read, what is there is held against a model:
//!
//! - I1: what was acknowledged is there, and nothing that was never appended;
//! - I5, I7: every key reads exactly what the applied records say, however little memory
//!   keeps;
//! - I8: every applied request has its outcome, and no other has one;
//! - a promise is never taken back, and a scrub finds no damage.
//!
//! `broken` switches the rules of the storage off, one at a time: each must be caught.

mod broken;
mod life;
mod script;

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub(super) use self::{life::Lives, script::Script};
use crate::disk::Tear;

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 10_000;
/// Lives that run at once.
const TOGETHER: usize = 8;
/// How long the lives of one seed may take; they take some milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs seeds until one breaks a rule; answers which, and what it said.
pub(super) async fn first_broken(
    seeds: impl IntoIterator<Item = u64>,
    script: Script,
) -> Option<(u64, String)> {
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
                    Ok(Ok(Ok(()))) => None,
                    Ok(Ok(Err(violation))) => Some((seed, violation)),
                    Ok(Err(_)) => Some((seed, "it hangs".to_owned())),
                    Err(panic) => Some((seed, panic.to_string())),
                }
            });
        }
        let Some(ended) = running.join_next().await else {
            return broken;
        };
        if let Some(found) = ended.expect("a simulation is not cancelled") {
            broken.get_or_insert(found);
        }
    }
}

async fn holds(tear: Tear) {
    let script = Script::sound(tear);
    let began = Instant::now();
    if let Some((seed, violation)) = first_broken(0..SEEDS / 2, script).await {
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
