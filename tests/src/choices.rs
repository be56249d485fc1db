//! Environment variables of the tests that kill at random: the number of rounds and the seed.

// The seed must be printed, to repeat a run.
#![allow(clippy::print_stdout)]

use std::env;

use rand::{SeedableRng, rngs::StdRng};

/// The environment variable with the number of rounds.
pub const ROUNDS_VARIABLE: &str = "TIERKV_KILL_ROUNDS";
/// The environment variable with the seed, which repeats the choices of a run.
pub const SEED_VARIABLE: &str = "TIERKV_KILL_SEED";

/// How many rounds to make.
///
/// # Panics
/// If `TIERKV_KILL_ROUNDS` is not a number.
#[must_use]
pub fn rounds(default: u64) -> u64 {
    number(ROUNDS_VARIABLE).unwrap_or(default)
}

/// The random generator of a run. Prints its seed, so that the run can be repeated.
///
/// # Panics
/// If `TIERKV_KILL_SEED` is not a number.
#[must_use]
pub fn seeded() -> StdRng {
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand::random);
    println!("seed {seed}: {SEED_VARIABLE}={seed} repeats this run's choices");
    StdRng::seed_from_u64(seed)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} must be a number, not '{text}'")))
}
