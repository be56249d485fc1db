//! The figures of a cell, and a sentence about what limits it now.

use serde::Serialize;

use crate::{
    cell::{Cell, Goal},
    cost::Cost,
    memory::MemoryFigures,
    rounds::{Part, RoundPair, median},
    steady::figures::SteadyFigures,
};

/// From this share (of 1) of the machine's processor time on, the processor is the bottleneck.
const FULLY_BUSY: f64 = 0.9;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) cell: &'static str,
    pub(crate) work: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) goal: Goal,
    #[serde(flatten)]
    pub(crate) end: End,
}

/// The result of a cell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub(crate) enum End {
    /// It was measured.
    Measured {
        /// Whether the figures meet the goal.
        met: bool,
        /// The figures.
        #[serde(flatten)]
        figures: Box<Figures>,
    },
    /// It was not measured.
    NotMeasured {
        /// The reason.
        reason: String,
    },
}

/// The figures of a cell, by the kind of cell.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Figures {
    /// Operations a second, compared with a peer.
    Rates(RateFigures),
    /// Bytes per record, compared with a peer.
    Memory(MemoryFigures),
    /// A long run.
    Steady(SteadyFigures),
}

/// The texts of figures in the table.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) ratio: String,
    pub(crate) bound: String,
}

/// The figures of a cell that compares rates.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RateFigures {
    pub(crate) ours_rate: f64,
    pub(crate) peer_rate: f64,
    pub(crate) ratio: f64,
    pub(crate) least_ratio: f64,
    pub(crate) greatest_ratio: f64,
    pub(crate) bound: String,
    pub(crate) rounds: Vec<RoundPair>,
}

impl Verdict {
    pub(crate) fn new(cell: Cell, figures: Result<Figures, String>) -> Self {
        let end = match figures {
            Ok(figures) => End::Measured {
                met: figures.meet(cell.goal()),
                figures: Box::new(figures),
            },
            Err(reason) => End::NotMeasured { reason },
        };
        Self {
            cell: cell.name(),
            work: cell.work(),
            peer: cell.peer(),
            goal: cell.goal(),
            end,
        }
    }

    pub(crate) const fn is_measured(&self) -> bool {
        matches!(self.end, End::Measured { .. })
    }
}

impl Figures {
    fn meet(&self, goal: Goal) -> bool {
        match self {
            Self::Rates(figures) => goal.is_met_by(figures.ratio),
            Self::Memory(figures) => goal.is_met_by(figures.ratio),
            Self::Steady(figures) => figures.holds(),
        }
    }

    pub(crate) fn words(&self) -> Words {
        let ratio = |ratio: f64, least: f64, greatest: f64| {
            format!("{ratio:.2} [{least:.2}..{greatest:.2}]")
        };
        match self {
            Self::Rates(figures) => Words {
                ours: format!("{:.0}/s", figures.ours_rate),
                peer: format!("{:.0}/s", figures.peer_rate),
                ratio: ratio(figures.ratio, figures.least_ratio, figures.greatest_ratio),
                bound: figures.bound.clone(),
            },
            Self::Memory(figures) => Words {
                ours: format!("{:.0} B", figures.ours_bytes_a_record),
                peer: format!("{:.0} B", figures.peer_bytes_a_record),
                ratio: ratio(figures.ratio, figures.least_ratio, figures.greatest_ratio),
                bound: figures.bound.clone(),
            },
            Self::Steady(figures) => Words {
                ours: format!("{:.0}/s", figures.rate),
                peer: "-".to_owned(),
                ratio: "-".to_owned(),
                bound: figures.bound.clone(),
            },
        }
    }
}

impl RateFigures {
    pub(crate) fn new(rounds: Vec<RoundPair>) -> Self {
        let ratios = || rounds.iter().map(RoundPair::ratio);
        Self {
            ours_rate: median(rounds.iter().map(|round| round.ours.rate)),
            peer_rate: median(rounds.iter().map(|round| round.peer.rate)),
            ratio: median(ratios()),
            least_ratio: ratios().fold(f64::INFINITY, f64::min),
            greatest_ratio: ratios().fold(f64::NEG_INFINITY, f64::max),
            bound: bound_of(&rounds),
            rounds,
        }
    }
}

/// One side's cost of one operation: medians of the rounds.
#[derive(Clone, Copy, Debug)]
struct Unit {
    server_micros: f64,
    server_kernel_micros: f64,
    generator_micros: f64,
    busy: f64,
    p50_micros: f64,
    p99_micros: f64,
    flushes_a_second: f64,
    operations_a_flush: f64,
}

#[allow(clippy::cast_precision_loss)]
fn unit_of(rounds: &[RoundPair], side: fn(&RoundPair) -> &Part) -> Unit {
    let middle = |figure: &dyn Fn(&Part, &Cost) -> f64| {
        let parts = rounds.iter().map(side);
        median(parts.map(|part| figure(part, &part.cost)))
    };
    let each = |seconds: f64, part: &Part| seconds * 1e6 / part.operations as f64;
    let flushes = |cost: &Cost| cost.flushes.unwrap_or(0) as f64;
    Unit {
        server_micros: middle(&|part, cost| each(cost.server.total(), part)),
        server_kernel_micros: middle(&|part, cost| each(cost.server.kernel, part)),
        generator_micros: middle(&|part, cost| each(cost.generator.total(), part)),
        busy: middle(&|_, cost| cost.busy),
        p50_micros: middle(&|part, _| part.p50_micros),
        p99_micros: middle(&|part, _| part.p99_micros),
        flushes_a_second: middle(&|_, cost| flushes(cost) / cost.seconds),
        operations_a_flush: middle(&|part, cost| part.operations as f64 / flushes(cost)),
    }
}

fn bound_of(rounds: &[RoundPair]) -> String {
    let ours = unit_of(rounds, |round| &round.ours);
    let peer = unit_of(rounds, |round| &round.peer);
    let verdict = if ours.busy >= FULLY_BUSY {
        let larger = if ours.server_micros >= ours.generator_micros {
            "server"
        } else {
            "generator with its client"
        };
        format!(
            "processor, most of it the {larger}: cores {:.0} % busy",
            ours.busy * 100.0
        )
    } else {
        format!(
            "waiting, not the processor: cores {:.0} % busy",
            ours.busy * 100.0
        )
    };
    format!(
        "{verdict}; ours {}; peer {}, cores {:.0} % busy",
        words_of(ours),
        words_of(peer),
        peer.busy * 100.0
    )
}

fn words_of(unit: Unit) -> String {
    let mut words = format!(
        "server {:.1} us CPU/op (kernel {:.1}), generator {:.1}, p50 {:.0} us, p99 {:.0} us",
        unit.server_micros,
        unit.server_kernel_micros,
        unit.generator_micros,
        unit.p50_micros,
        unit.p99_micros,
    );
    // In a read cell, the few flushes come from other processes of the machine.
    if unit.operations_a_flush < 1_000.0 {
        words += &format!(
            ", {:.0} disk flushes/s, {:.1} ops each",
            unit.flushes_a_second, unit.operations_a_flush
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cost::Cpu, steady::figures::tests::quiet};

    fn part(rate: f64, busy: f64, flushes: Option<u64>) -> Part {
        Part {
            operations: 100_000,
            rate,
            p50_micros: 500.0,
            p99_micros: 2_000.0,
            cached: 0,
            cost: Cost {
                seconds: 2.0,
                server: Cpu {
                    user: 0.9,
                    kernel: 0.3,
                },
                generator: Cpu {
                    user: 1.0,
                    kernel: 0.4,
                },
                busy,
                flushes,
                writes: None,
            },
        }
    }

    #[test]
    fn a_long_run_has_the_same_columns() {
        let (samples, windows) = quiet(600);
        let figures = SteadyFigures::new(samples, &windows).unwrap();
        let words = Figures::Steady(figures.clone()).words();
        assert_eq!((words.ours.as_str(), words.peer.as_str()), ("1000/s", "-"));
        let verdict = Verdict::new(Cell::SteadyWrites, Ok(Figures::Steady(figures)));
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(
            (&json["met"], &json["goal"]),
            (&true.into(), &"bounded".into())
        );
        assert_eq!(json["samples"][599]["at"], 600.0);
    }

    fn rounds(busy: f64, flushes: Option<u64>) -> Vec<RoundPair> {
        [90.0, 100.0, 80.0]
            .map(|rate| RoundPair {
                ours: part(rate, busy, flushes),
                peer: part(100.0, 0.95, None),
            })
            .to_vec()
    }

    #[test]
    fn the_median_of_the_rounds_counts() {
        let figures = RateFigures::new(rounds(0.98, None));
        assert_eq!(
            (figures.ratio, figures.least_ratio, figures.greatest_ratio),
            (0.9, 0.8, 1.0)
        );
        let verdict = Verdict::new(Cell::HitUnary, Ok(Figures::Rates(figures)));
        assert!(matches!(verdict.end, End::Measured { met: true, .. }));
    }

    #[test]
    fn the_bottleneck_of_a_cell_is_described_with_numbers() {
        let busy = bound_of(&rounds(0.98, None));
        assert!(
            busy.starts_with(
                "processor, most of it the generator with its client: cores 98 % busy"
            ),
            "{busy}"
        );
        assert!(
            busy.contains("ours server 12.0 us CPU/op (kernel 3.0), generator 14.0"),
            "{busy}"
        );
        assert!(!busy.contains("flushes"), "{busy}");
        let waiting = bound_of(&rounds(0.5, Some(4_000)));
        assert!(
            waiting.starts_with("waiting, not the processor: cores 50 % busy"),
            "{waiting}"
        );
        assert!(
            waiting.contains("2000 disk flushes/s, 25.0 ops each"),
            "{waiting}"
        );
    }

    #[test]
    fn a_cell_without_figures_has_a_reason() {
        let verdict = Verdict::new(Cell::PutOne, Err("no etcd".to_owned()));
        assert!(!verdict.is_measured());
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["end"], "not_measured");
        assert_eq!(json["reason"], "no etcd");
        let figures = Figures::Rates(RateFigures::new(rounds(0.98, Some(10))));
        let measured = Verdict::new(Cell::PutOne, Ok(figures));
        let json = serde_json::to_value(&measured).unwrap();
        assert_eq!(
            (&json["end"], &json["met"]),
            (&"measured".into(), &false.into())
        );
        assert_eq!(json["goal"], ">= 3.00");
        assert_eq!(json["rounds"][0]["ours"]["cost"]["flushes"], 10);
    }
}
