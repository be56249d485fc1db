//! The figures of all pairs: ratios of rates and of the servers' processor time.

use std::fmt;

use serde::Serialize;
use tierkv_workload::Failure;

use super::pairs::{First, Pairs};
use crate::{
    cell_report::RateFigures,
    rounds::{Part, RoundPair, median},
};

/// The ratios of all pairs: the median and the range.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratios {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Ratios {
    fn of(ratios: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            median: median(ratios.clone()),
            least: ratios.clone().fold(f64::INFINITY, f64::min),
            greatest: ratios.fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median,
            least,
            greatest,
        } = self;
        write!(f, "{median:.3} [{least:.3}..{greatest:.3}]")
    }
}

/// One pair's ratios, ours divided by the baseline's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct PairFigures {
    pub(crate) first: First,
    /// Ratio of operations a second.
    pub(crate) ratio: f64,
    /// Ratio of the server's processor time for one operation.
    pub(crate) server_cpu_ratio: f64,
}

/// The figures of a cell: those of a cell of rates, whose peer is the baseline, and more.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BaselineFigures {
    #[serde(flatten)]
    pub(crate) rates: RateFigures,
    /// Processor microseconds of the server for one operation, its median.
    pub(crate) ours_server_micros: f64,
    pub(crate) peer_server_micros: f64,
    /// Ours divided by the baseline's, in each pair: the median and the range.
    pub(crate) server_cpu_ratio: f64,
    pub(crate) least_server_cpu_ratio: f64,
    pub(crate) greatest_server_cpu_ratio: f64,
    /// Windows that began while a server was still busy.
    pub(crate) restless_windows: u64,
    /// Windows that were repeated because they had too few cache hits.
    pub(crate) repeated_windows: u64,
    pub(crate) pairs: Vec<PairFigures>,
}

impl BaselineFigures {
    /// # Errors
    /// If the kernel counted no processor time for a server in some window.
    pub(crate) fn new(measured: Pairs) -> Result<Self, Failure> {
        let (mut rounds, mut pairs) = (Vec::new(), Vec::new());
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for pair in measured.pairs {
            let RoundPair {
                ours: our_part,
                peer: peer_part,
            } = &pair.round;
            let our_micros = server_micros(our_part, "the new build")?;
            let peer_micros = server_micros(peer_part, "the baseline")?;
            pairs.push(PairFigures {
                first: pair.first,
                ratio: pair.round.ratio(),
                server_cpu_ratio: our_micros / peer_micros,
            });
            ours.push(our_micros);
            peer.push(peer_micros);
            rounds.push(pair.round);
        }
        let cpu = Ratios::of(pairs.iter().map(|pair| pair.server_cpu_ratio));
        Ok(Self {
            rates: RateFigures::new(rounds),
            ours_server_micros: median(ours),
            peer_server_micros: median(peer),
            server_cpu_ratio: cpu.median,
            least_server_cpu_ratio: cpu.least,
            greatest_server_cpu_ratio: cpu.greatest,
            restless_windows: measured.restless_windows,
            repeated_windows: measured.repeated_windows,
            pairs,
        })
    }

    /// The ratios of rates, for the table.
    pub(crate) fn rate_words(&self) -> String {
        Ratios {
            median: self.rates.ratio,
            least: self.rates.least_ratio,
            greatest: self.rates.greatest_ratio,
        }
        .to_string()
    }

    /// Remarks about the windows, for the table; usually empty.
    pub(crate) fn window_words(&self) -> String {
        let counts = [
            (self.restless_windows, "began with a server still busy"),
            (
                self.repeated_windows,
                "were repeated because of too few cache hits",
            ),
        ];
        let words = counts
            .into_iter()
            .filter(|(windows, _)| *windows > 0)
            .map(|(windows, what)| format!("windows that {what}: {windows}"));
        words.collect::<Vec<_>>().join("; ")
    }

    /// The ratios of processor time, for the table.
    pub(crate) fn cpu_words(&self) -> String {
        Ratios {
            median: self.server_cpu_ratio,
            least: self.least_server_cpu_ratio,
            greatest: self.greatest_server_cpu_ratio,
        }
        .to_string()
    }
}

/// Processor microseconds of the server for one operation of a window.
#[allow(clippy::cast_precision_loss)]
fn server_micros(part: &Part, name: &str) -> Result<f64, Failure> {
    let seconds = part.cost.server.total();
    if seconds > 0.0 && part.operations > 0 {
        Ok(seconds * 1e6 / part.operations as f64)
    } else {
        Err(Failure(format!(
            "the kernel counted no processor time for {name} in a window with {} operations; \
             make windows longer with --seconds",
            part.operations
        )))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        baseline::pairs::Pair,
        cost::{Cost, Cpu},
    };

    fn part(operations: u64, rate: f64, user: f64, kernel: f64) -> Part {
        Part {
            operations,
            rate,
            p50_micros: 10.0,
            p99_micros: 20.0,
            cached: 0,
            cost: Cost {
                seconds: 5.0,
                server: Cpu { user, kernel },
                ..Cost::default()
            },
        }
    }

    /// Three pairs with ratios of 1.1, 0.9 and 1.0 of the rate, and of 0.5, 2 and 0.8 of the
    /// processor time.
    pub(crate) fn three() -> Pairs {
        let pair = |first, ours, peer| Pair {
            first,
            round: RoundPair { ours, peer },
        };
        Pairs {
            pairs: vec![
                pair(
                    First::Ours,
                    part(1_000_000, 110.0, 1.5, 0.5),
                    part(500_000, 100.0, 1.0, 1.0),
                ),
                pair(
                    First::Peer,
                    part(1_000_000, 90.0, 8.0, 0.0),
                    part(1_000_000, 100.0, 3.0, 1.0),
                ),
                pair(
                    First::Ours,
                    part(1_000_000, 100.0, 2.0, 2.0),
                    part(1_000_000, 100.0, 2.0, 3.0),
                ),
            ],
            restless_windows: 1,
            repeated_windows: 0,
        }
    }

    #[test]
    fn ratios_are_medians_of_the_pairs_with_their_range() {
        let figures = BaselineFigures::new(three()).unwrap();
        assert_eq!(figures.rate_words(), "1.000 [0.900..1.100]");
        assert_eq!(figures.cpu_words(), "0.800 [0.500..2.000]");
        // The time of the server itself and of the kernel for it, over the operations.
        assert_eq!(
            (figures.ours_server_micros, figures.peer_server_micros),
            (4.0, 4.0)
        );
        let first = figures.pairs[0];
        assert_eq!((first.first, first.server_cpu_ratio), (First::Ours, 0.5));
        assert!((first.ratio - 1.1).abs() < 1e-9);
    }

    #[test]
    fn an_even_number_of_pairs_takes_the_mean_of_the_middle_two() {
        let ratios = Ratios::of([1.0, 4.0, 2.0, 3.0].into_iter());
        assert_eq!(
            (ratios.median, ratios.least, ratios.greatest),
            (2.5, 1.0, 4.0)
        );
    }

    #[test]
    fn a_build_compared_with_itself_has_a_ratio_of_1() {
        let mut pairs = three();
        for pair in &mut pairs.pairs {
            pair.round.ours = pair.round.peer.clone();
        }
        let figures = BaselineFigures::new(pairs).unwrap();
        assert_eq!(figures.rate_words(), "1.000 [1.000..1.000]");
        assert_eq!(figures.cpu_words(), "1.000 [1.000..1.000]");
    }

    #[test]
    fn a_window_without_processor_time_is_an_error() {
        let mut pairs = three();
        pairs.pairs[1].round.peer.cost.server = Cpu::default();
        let words = BaselineFigures::new(pairs).unwrap_err().0;
        assert!(
            words.contains("no processor time for the baseline"),
            "{words}"
        );
    }

    #[test]
    fn json_has_the_fields_of_other_cells_and_more() {
        let figures = BaselineFigures::new(three()).unwrap();
        let json = serde_json::to_value(figures).unwrap();
        assert_eq!(json["ratio"], 1.0);
        assert_eq!(json["rounds"][2]["peer"]["operations"], 1_000_000);
        assert_eq!(json["pairs"][1]["first"], "peer");
        assert_eq!(json["server_cpu_ratio"], 0.8);
    }
}
