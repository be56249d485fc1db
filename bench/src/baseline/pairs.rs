//! Pairs of windows. The side that works first alternates from pair to pair.
//!
//! ```text
//! pair        1                2                3
//!        ours  baseline   baseline  ours   ours  baseline   ...
//!
//! window: wait until both servers are quiet | lead-in, not measured | measured
//! ```
//!
//! The wait keeps work that one server still does for its last window (checkpoints, a check of
//! its files) out of the other's window. The lead-in fills the processor's caches and the
//! server's buffers, so that the order of the sides does not matter.

use std::time::Duration;

use serde::Serialize;
use tierkv_workload::{Failure, Target};
use tokio::time::{Instant, sleep};

use crate::{
    cost::Meter,
    note,
    rounds::{Part, RoundPair, Side, any_part, check_hits},
};

/// The lead-in: how long a side works before it is measured.
const LEAD_IN: Duration = Duration::from_millis(500);
/// How long both servers must be quiet before a window. It is longer than the second between
/// two checkpoints, because the last checkpoint begins some time after the last write.
const QUIET: Duration = Duration::from_millis(1_200);
/// Timeout for quiet servers. A server that is still busy then is measured nevertheless.
const QUIET_LIMIT: Duration = Duration::from_secs(15);
/// The pause between two checks whether they are quiet.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most repetitions of a window with too few cache hits. A cache that lost its entries while
/// the other side worked is warm again after one.
const REPEATS: u64 = 5;
/// The share (of 1) of a core that a quiet server may use: one of the kernel's ticks per check.
const QUIET_CORES: f64 = 0.06;

/// The side that worked first in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum First {
    /// The build beside this program.
    Ours,
    /// The baseline.
    Peer,
}

impl First {
    /// The side that works first in pair `number`, counted from 1.
    const fn of_pair(number: u64) -> Self {
        if number % 2 == 1 {
            Self::Ours
        } else {
            Self::Peer
        }
    }
}

/// Both sides' windows.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) first: First,
    pub(crate) round: RoundPair,
}

/// All pairs of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    pub(crate) pairs: Vec<Pair>,
    /// Windows that began while a server was still busy.
    pub(crate) restless_windows: u64,
    /// Windows that were repeated because they had too few cache hits.
    pub(crate) repeated_windows: u64,
}

/// Runs `pairs` pairs.
///
/// # Errors
/// At the first window in which an operation failed, or that has too few cache hits after all
/// repetitions.
pub(crate) async fn measure<T: Target>(
    ours: &Side<T>,
    baseline: &Side<T>,
    pairs: u64,
) -> Result<Pairs, Failure> {
    let mut bench = Bench {
        meters: [ours.meter.clone(), baseline.meter.clone()],
        quiet: QUIET,
        restless_windows: 0,
        repeated_windows: 0,
    };
    let mut measured = Vec::new();
    for number in 1..=pairs {
        let pair = bench.pair(ours, baseline, number).await?;
        note(format_args!(
            "pair {number} of {pairs}: {:.0}/s against {:.0}/s, ratio {:.3}",
            pair.round.ours.rate,
            pair.round.peer.rate,
            pair.round.ratio()
        ));
        measured.push(pair);
    }
    Ok(Pairs {
        pairs: measured,
        restless_windows: bench.restless_windows,
        repeated_windows: bench.repeated_windows,
    })
}

/// Runs windows when the servers are quiet.
struct Bench {
    meters: [Meter; 2],
    quiet: Duration,
    restless_windows: u64,
    repeated_windows: u64,
}

impl Bench {
    async fn pair<T: Target>(
        &mut self,
        ours: &Side<T>,
        baseline: &Side<T>,
        number: u64,
    ) -> Result<Pair, Failure> {
        let first = First::of_pair(number);
        let round = match first {
            First::Ours => {
                let ours = self.window(ours, "the new build", number).await?;
                let peer = self.window(baseline, "the baseline", number).await?;
                RoundPair { ours, peer }
            }
            First::Peer => {
                let peer = self.window(baseline, "the baseline", number).await?;
                let ours = self.window(ours, "the new build", number).await?;
                RoundPair { ours, peer }
            }
        };
        Ok(Pair { first, round })
    }

    async fn window<T: Target>(
        &mut self,
        side: &Side<T>,
        name: &str,
        number: u64,
    ) -> Result<Part, Failure> {
        let mut repeats = 0;
        loop {
            if !quiet_in_time(&self.meters, self.quiet, QUIET_LIMIT).await {
                self.restless_windows += 1;
            }
            any_part(side, name, LEAD_IN.min(side.plan.duration), 0).await?;
            let part = any_part(side, name, side.plan.duration, number).await?;
            match check_hits(side, name, &part) {
                Ok(()) => return Ok(part),
                Err(failure) if repeats == REPEATS => return Err(failure),
                Err(failure) => note(format_args!("pair {number}, once more: {failure}")),
            }
            repeats += 1;
            self.repeated_windows += 1;
        }
    }
}

/// Waits until all servers have been quiet for `quiet` without a break; returns `false` if they
/// were not within `limit`.
async fn quiet_in_time(meters: &[Meter], quiet: Duration, limit: Duration) -> bool {
    let start = Instant::now();
    let mut measurings: Vec<_> = meters.iter().map(Meter::start).collect();
    let mut quiet_since = start;
    while quiet_since.elapsed() < quiet {
        if start.elapsed() >= limit {
            return false;
        }
        sleep(LOOK_EVERY.min(quiet)).await;
        // Every meter must be read, because reading begins its next lap.
        let busy = measurings
            .iter_mut()
            .map(|measuring| {
                let cost = measuring.lap();
                cost.server.total() > QUIET_CORES * cost.seconds
            })
            .fold(false, |any, busy| any | busy);
        if busy {
            quiet_since = Instant::now();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        thread,
    };

    use bytes::Bytes;
    use tierkv_workload::{Answer, Check, Distribution, Operations, Plan, Shape};

    use super::*;

    /// Answers at once and records its name, once for all answers in a row.
    #[derive(Clone)]
    struct Named {
        name: &'static str,
        asked: Arc<Mutex<Vec<&'static str>>>,
        fails: bool,
        /// The number of reads that are still cache misses.
        cold: Arc<AtomicU64>,
    }

    impl Target for Named {
        async fn get(&mut self, _key: &[u8]) -> Result<Answer, Failure> {
            tokio::task::yield_now().await;
            let mut asked = self.asked.lock().unwrap();
            if asked.last() != Some(&self.name) {
                asked.push(self.name);
            }
            if self.fails {
                return Err(Failure("broken".to_owned()));
            }
            let cold = self.cold.load(Ordering::Relaxed);
            self.cold.store(cold.saturating_sub(1), Ordering::Relaxed);
            Ok(Answer {
                value: Some(Bytes::from_static(&[0; 224])),
                cached: cold == 0,
            })
        }

        async fn put(&mut self, _key: &[u8], _value: Bytes) -> Result<(), Failure> {
            Ok(())
        }
    }

    /// Of no process, so it never uses processor time.
    fn idle() -> Meter {
        Meter::new(vec![u32::MAX], Path::new("/"))
    }

    fn side(name: &'static str, asked: &Arc<Mutex<Vec<&'static str>>>, fails: bool) -> Side<Named> {
        Side {
            targets: vec![Named {
                name,
                asked: Arc::clone(asked),
                fails,
                cold: Arc::default(),
            }],
            meter: idle(),
            plan: Plan {
                shape: Shape::Trace,
                keys: 10,
                distribution: Distribution::Uniform,
                operations: Operations::Reads,
                check: Check::Length,
                tasks: 2,
                duration: Duration::from_millis(5),
                seed: 1,
            },
            least_cached: 0.0,
        }
    }

    fn bench() -> Bench {
        Bench {
            meters: [idle(), idle()],
            quiet: Duration::from_millis(1),
            restless_windows: 0,
            repeated_windows: 0,
        }
    }

    #[tokio::test]
    async fn the_side_that_works_first_alternates() {
        let asked = Arc::default();
        let (ours, baseline) = (side("ours", &asked, false), side("peer", &asked, false));
        let mut bench = bench();
        let mut firsts = Vec::new();
        for number in 1..=4 {
            let pair = bench.pair(&ours, &baseline, number).await.unwrap();
            assert!(pair.round.ours.operations > 0 && pair.round.peer.operations > 0);
            firsts.push(pair.first);
        }
        assert_eq!(firsts, [First::Ours, First::Peer, First::Ours, First::Peer]);
        // Adjacent windows of one side are recorded as one.
        let expected = ["ours", "peer", "ours", "peer", "ours"];
        assert_eq!(*asked.lock().unwrap(), expected);
        assert_eq!(bench.restless_windows, 0);
    }

    #[tokio::test]
    async fn a_failure_names_its_build() {
        let asked = Arc::default();
        let (ours, broken) = (side("ours", &asked, false), side("peer", &asked, true));
        let error = bench().pair(&ours, &broken, 1).await.unwrap_err();
        let words = error.to_string();
        assert!(words.contains("of the baseline failed"), "{words}");
    }

    #[tokio::test]
    async fn a_window_with_too_few_hits_is_repeated_a_limited_number_of_times() {
        let asked = Arc::default();
        let mut side = side("ours", &asked, false);
        side.least_cached = 0.5;
        side.targets[0].cold.store(10, Ordering::Relaxed);
        let mut bench = bench();
        let part = bench.window(&side, "ours", 1).await.unwrap();
        assert!(part.cached * 2 >= part.operations);
        side.targets[0].cold.store(u64::MAX, Ordering::Relaxed);
        let error = bench.window(&side, "ours", 1).await.unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains("were cache hits; 50 % are needed"),
            "{words}"
        );
        assert!(bench.repeated_windows >= REPEATS);
    }

    #[tokio::test]
    async fn a_window_waits_for_a_busy_server() {
        let stop = Arc::new(AtomicBool::new(false));
        let work = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        };
        let meters = [idle(), Meter::new(vec![std::process::id()], Path::new("/"))];
        let (quiet, limit) = (Duration::from_millis(600), Duration::from_millis(900));
        let was_quiet = quiet_in_time(&meters, quiet, limit).await;
        stop.store(true, Ordering::Relaxed);
        work.join().unwrap();
        assert!(!was_quiet);
        assert!(quiet_in_time(&[idle()], quiet, limit).await);
    }
}
