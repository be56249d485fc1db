//! The rounds of a cell: ours, the peer, ours, the peer, with the same generator.

use std::time::Duration;

use serde::Serialize;
use tierkv_workload::{Failure, Outcome, Plan, Prepared, Target};

use crate::cost::{Cost, Meter};

/// How long each side runs before the first round, to open connections and fill buffers.
const PRELUDE: Duration = Duration::from_millis(500);

/// One side of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Side<T> {
    /// The connections; the tasks are distributed over them.
    pub(crate) targets: Vec<T>,
    pub(crate) meter: Meter,
    pub(crate) plan: Plan,
    /// The least share (of 1) of reads that a cache must answer for a valid measurement.
    pub(crate) least_cached: f64,
}

/// One side's part of a round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) operations: u64,
    /// Operations a second.
    pub(crate) rate: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) cached: u64,
    pub(crate) cost: Cost,
}

/// Both sides, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundPair {
    pub(crate) ours: Part,
    pub(crate) peer: Part,
}

impl RoundPair {
    pub(crate) fn ratio(&self) -> f64 {
        self.ours.rate / self.peer.rate
    }
}

/// Runs `rounds` rounds.
///
/// Fails at the first part in which an operation failed, because a figure with failures is
/// meaningless.
pub(crate) async fn measure<A: Target, B: Target>(
    ours: &Side<A>,
    peer: &Side<B>,
    rounds: u64,
) -> Result<Vec<RoundPair>, Failure> {
    part(ours, "ours", PRELUDE, 0).await?;
    part(peer, "the peer", PRELUDE, 0).await?;
    let mut measured = Vec::new();
    for number in 1..=rounds {
        measured.push(RoundPair {
            ours: part(ours, "ours", ours.plan.duration, number).await?,
            peer: part(peer, "the peer", peer.plan.duration, number).await?,
        });
    }
    Ok(measured)
}

/// Runs one side's load for `duration` and measures it. The choices of keys and the stamps of
/// values depend on `number`, the number of the round.
///
/// Fails if an operation failed, or too few reads were cache hits.
pub(crate) async fn part<T: Target>(
    side: &Side<T>,
    name: &str,
    duration: Duration,
    number: u64,
) -> Result<Part, Failure> {
    let part = any_part(side, name, duration, number).await?;
    check_hits(side, name, &part)?;
    Ok(part)
}

/// As [`part`], but without a check of the cache hits.
pub(crate) async fn any_part<T: Target>(
    side: &Side<T>,
    name: &str,
    duration: Duration,
    number: u64,
) -> Result<Part, Failure> {
    let plan = Plan {
        duration,
        // Stamps and orders of keys differ between rounds, and are the same for both sides.
        seed: side.plan.seed + number + 1,
        ..side.plan.clone()
    };
    let load = Prepared::new(&side.targets, &plan)?;
    let measuring = side.meter.start();
    let outcome = load.run().await?;
    let cost = measuring.stop();
    check(name, &outcome)?;
    Ok(Part {
        operations: outcome.operations,
        rate: outcome.rate(),
        p50_micros: outcome.latency(0.5).as_secs_f64() * 1e6,
        p99_micros: outcome.latency(0.99).as_secs_f64() * 1e6,
        cached: outcome.cached,
        cost,
    })
}

fn check(name: &str, outcome: &Outcome) -> Result<(), Failure> {
    if let Some(failure) = &outcome.first_failure {
        return Err(Failure(format!(
            "{} of {} operations of {name} failed, the first with: {failure}",
            outcome.failures,
            outcome.failures + outcome.operations,
        )));
    }
    if outcome.operations == 0 {
        return Err(Failure(format!("{name} answered no operation in its part")));
    }
    Ok(())
}

/// Checks that a cache answered enough of the reads.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn check_hits<T>(side: &Side<T>, name: &str, part: &Part) -> Result<(), Failure> {
    let cached = part.cached as f64 / part.operations as f64;
    if cached < side.least_cached {
        return Err(Failure(format!(
            "only {:.1} % of the reads of {name} were cache hits; {:.0} % are needed",
            cached * 100.0,
            side.least_cached * 100.0,
        )));
    }
    Ok(())
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use tierkv_workload::{Answer, Check, Distribution, Operations, Shape};

    use super::*;

    /// A system that answers at once, with or without cache hits.
    #[derive(Clone)]
    struct Instantly {
        cached: bool,
        fails: bool,
    }

    impl Target for Instantly {
        async fn get(&mut self, _key: &[u8]) -> Result<Answer, Failure> {
            tokio::task::yield_now().await;
            if self.fails {
                return Err(Failure("broken".to_owned()));
            }
            Ok(Answer {
                value: Some(Bytes::from_static(&[0; 224])),
                cached: self.cached,
            })
        }

        async fn put(&mut self, _key: &[u8], _value: Bytes) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn side(cached: bool, fails: bool, least_cached: f64) -> Side<Instantly> {
        Side {
            targets: vec![Instantly { cached, fails }],
            meter: Meter::new(vec![std::process::id()], Path::new("/")),
            plan: Plan {
                shape: Shape::Trace,
                keys: 10,
                distribution: Distribution::Uniform,
                operations: Operations::Reads,
                check: Check::Length,
                tasks: 2,
                duration: Duration::from_millis(10),
                seed: 1,
            },
            least_cached,
        }
    }

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[tokio::test]
    async fn both_sides_are_measured_in_every_round() {
        let (ours, peer) = (side(true, false, 0.99), side(false, false, 0.0));
        let rounds = measure(&ours, &peer, 3).await.unwrap();
        assert_eq!(rounds.len(), 3);
        for round in rounds {
            assert!(round.ours.rate > 0.0 && round.ratio() > 0.0);
            assert_eq!(round.ours.cached, round.ours.operations);
        }
    }

    #[tokio::test]
    async fn rounds_with_misses_or_failures_are_errors() {
        let (misses, sound) = (side(false, false, 0.99), side(false, false, 0.0));
        let error = measure(&misses, &sound, 1).await.unwrap_err().to_string();
        assert!(error.contains("only 0.0 % of the reads of ours"), "{error}");
        let broken = side(false, true, 0.0);
        let error = measure(&sound, &broken, 1).await.unwrap_err().to_string();
        assert!(
            error.contains("of the peer failed, the first with: broken"),
            "{error}"
        );
    }
}
