//! What a test that kills at random takes from its environment.

// The seed must be seen.
#![allow(clippy::print_stdout)]

use std::env;

use rand::{SeedableRng, rngs::StdRng};

/// Says how many rounds a test of kills makes.
pub const ROUNDS_VARIABLE: &str = "TIERKV_KILL_ROUNDS";
/// Repeats the choices of a run.
pub const SEED_VARIABLE: &str = "TIERKV_KILL_SEED";

/// How many rounds to make.
///
/// # Panics
/// If `TIERKV_KILL_ROUNDS` is no number.
#[must_use]
pub fn rounds(default: u64) -> u64 {
    number(ROUNDS_VARIABLE).unwrap_or(default)
}

/// The source of a run's choices, after it has printed how to repeat them.
///
/// # Panics
/// If `TIERKV_KILL_SEED` is no number.
#[must_use]
pub fn seeded() -> StdRng {
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand::random);
    println!("seed {seed}: {SEED_VARIABLE}={seed} repeats this run's choices");
    StdRng::seed_from_u64(seed)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, not '{text}'")))
}
