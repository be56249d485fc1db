//! [`CellReport`]: the result of a cell, with its figures and what limits it now.

use serde::Serialize;

use crate::{
    cell::{Cell, Goal},
    cost::Cost,
    memory::MemoryFigures,
    outage::figures::OutageFigures,
    rounds::{Part, RoundPair, median},
    steady::figures::SteadyFigures,
};

/// From this share (of 1) of the machine's processor time on, the processor is the bottleneck.
const FULLY_BUSY: f64 = 0.9;

/// The result of a cell: one line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CellReport {
    pub(crate) cell: &'static str,
    pub(crate) work: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) goal: Goal,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// Whether a cell was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// It was measured.
    Measured {
        /// Whether the figures meet the goal; absent if there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        met: Option<bool>,
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
    /// Pauses while the mastership changes.
    Outage(OutageFigures),
}

/// The texts of figures in the table.
#[derive(Clone, Debug)]
pub(crate) struct TableText {
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) ratio: String,
    /// What limits the cell, or more of its figures.
    pub(crate) details: String,
}

/// The figures of a cell that compares rates.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RateFigures {
    /// Operations a second: the median of the rounds.
    pub(crate) ours_rate: f64,
    /// Operations a second: the median of the rounds.
    pub(crate) peer_rate: f64,
    pub(crate) ratio: f64,
    pub(crate) least_ratio: f64,
    pub(crate) greatest_ratio: f64,
    /// Whether the processor limits our rate, and both sides' costs of an operation.
    pub(crate) bottleneck: String,
    pub(crate) rounds: Vec<RoundPair>,
}

impl CellReport {
    pub(crate) fn new(cell: Cell, figures: Result<Figures, String>) -> Self {
        let outcome = match figures {
            Ok(figures) => Outcome::Measured {
                met: figures.meet(cell.goal()),
                figures: Box::new(figures),
            },
            Err(reason) => Outcome::NotMeasured { reason },
        };
        Self {
            cell: cell.name(),
            work: cell.work(),
            peer: cell.peer(),
            goal: cell.goal(),
            outcome,
        }
    }

    pub(crate) const fn is_measured(&self) -> bool {
        matches!(self.outcome, Outcome::Measured { .. })
    }
}

impl Figures {
    fn meet(&self, goal: Goal) -> Option<bool> {
        match self {
            Self::Rates(figures) => goal.is_met_by(figures.ratio),
            Self::Memory(figures) => goal.is_met_by(figures.ratio),
            Self::Steady(figures) => Some(figures.holds()),
            Self::Outage(figures) => Some(figures.holds()),
        }
    }

    pub(crate) fn table_text(&self) -> TableText {
        let ratio = |ratio: f64, least: f64, greatest: f64| {
            format!("{ratio:.2} [{least:.2}..{greatest:.2}]")
        };
        match self {
            Self::Rates(figures) => TableText {
                ours: format!("{:.0}/s", figures.ours_rate),
                peer: format!("{:.0}/s", figures.peer_rate),
                ratio: ratio(figures.ratio, figures.least_ratio, figures.greatest_ratio),
                details: figures.bottleneck.clone(),
            },
            Self::Memory(figures) => TableText {
                ours: format!("{:.0} B", figures.ours_bytes_a_record),
                peer: format!("{:.0} B", figures.peer_bytes_a_record),
                ratio: ratio(figures.ratio, figures.least_ratio, figures.greatest_ratio),
                details: figures.details.clone(),
            },
            Self::Steady(figures) => TableText {
                ours: format!("{:.0}/s", figures.rate),
                peer: "-".to_owned(),
                ratio: "-".to_owned(),
                details: figures.details.clone(),
            },
            Self::Outage(figures) => TableText {
                ours: figures.longest(),
                peer: "-".to_owned(),
                ratio: "-".to_owned(),
                details: figures.details.clone(),
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
            bottleneck: bottleneck_of(&rounds),
            rounds,
        }
    }
}

/// One side's cost of one operation, with other figures of the same rounds: medians.
#[derive(Clone, Copy, Debug)]
struct CostPerOperation {
    server_micros: f64,
    server_kernel_micros: f64,
    generator_micros: f64,
    /// The share (of 1) of the machine's processor time that was used.
    busy: f64,
    p50_micros: f64,
    p99_micros: f64,
    flushes_a_second: f64,
    operations_a_flush: f64,
}

#[allow(clippy::cast_precision_loss)]
fn cost_per_operation(rounds: &[RoundPair], side: fn(&RoundPair) -> &Part) -> CostPerOperation {
    let median_of = |figure: &dyn Fn(&Part, &Cost) -> f64| {
        let parts = rounds.iter().map(side);
        median(parts.map(|part| figure(part, &part.cost)))
    };
    let micros_per_operation = |seconds: f64, part: &Part| seconds * 1e6 / part.operations as f64;
    let flushes = |cost: &Cost| cost.flushes.unwrap_or(0) as f64;
    CostPerOperation {
        server_micros: median_of(&|part, cost| micros_per_operation(cost.server.total(), part)),
        server_kernel_micros: median_of(&|part, cost| {
            micros_per_operation(cost.server.kernel, part)
        }),
        generator_micros: median_of(&|part, cost| {
            micros_per_operation(cost.generator.total(), part)
        }),
        busy: median_of(&|_, cost| cost.busy),
        p50_micros: median_of(&|part, _| part.p50_micros),
        p99_micros: median_of(&|part, _| part.p99_micros),
        flushes_a_second: median_of(&|_, cost| flushes(cost) / cost.seconds),
        operations_a_flush: median_of(&|part, cost| part.operations as f64 / flushes(cost)),
    }
}

fn bottleneck_of(rounds: &[RoundPair]) -> String {
    let ours = cost_per_operation(rounds, |round| &round.ours);
    let peer = cost_per_operation(rounds, |round| &round.peer);
    let cores = |cost: CostPerOperation| format!("{:.0} % of all cores", cost.busy * 100.0);
    let bottleneck = if ours.busy >= FULLY_BUSY {
        let larger = if ours.server_micros >= ours.generator_micros {
            "server"
        } else {
            "load generator"
        };
        format!("CPU-bound ({}), mainly the {larger}", cores(ours))
    } else {
        format!("not CPU-bound ({})", cores(ours))
    };
    format!(
        "{bottleneck}; ours {}; peer {}, {}",
        cost_text(ours),
        cost_text(peer),
        cores(peer)
    )
}

fn cost_text(cost: CostPerOperation) -> String {
    let mut text = format!(
        "server {:.1} us CPU/op (kernel {:.1}), generator {:.1}, p50 {:.0} us, p99 {:.0} us",
        cost.server_micros,
        cost.server_kernel_micros,
        cost.generator_micros,
        cost.p50_micros,
        cost.p99_micros,
    );
    // In a read cell, the few flushes come from other processes of the machine.
    if cost.operations_a_flush < 1_000.0 {
        text += &format!(
            ", {:.0} disk flushes/s, {:.1} ops each",
            cost.flushes_a_second, cost.operations_a_flush
        );
    }
    text
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
        let text = Figures::Steady(figures.clone()).table_text();
        assert_eq!((text.ours.as_str(), text.peer.as_str()), ("1000/s", "-"));
        let report = CellReport::new(Cell::SteadyWrites, Ok(Figures::Steady(figures)));
        let json = serde_json::to_value(&report).unwrap();
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
        let report = CellReport::new(Cell::HitUnary, Ok(Figures::Rates(figures)));
        assert!(matches!(
            report.outcome,
            Outcome::Measured {
                met: Some(true),
                ..
            }
        ));
    }

    #[test]
    fn a_cell_without_a_goal_neither_meets_nor_misses_it() {
        let figures = Figures::Rates(RateFigures::new(rounds(0.98, None)));
        let report = CellReport::new(Cell::PutOneProcesses, Ok(figures));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (json.get("met"), &json["goal"], &json["ratio"]),
            (None, &"-".into(), &0.9.into())
        );
    }

    #[test]
    fn the_bottleneck_of_a_cell_is_described_with_numbers() {
        let busy = bottleneck_of(&rounds(0.98, None));
        assert!(
            busy.starts_with("CPU-bound (98 % of all cores), mainly the load generator; "),
            "{busy}"
        );
        assert!(busy.contains("95 % of all cores"), "{busy}");
        assert!(
            busy.contains("ours server 12.0 us CPU/op (kernel 3.0), generator 14.0"),
            "{busy}"
        );
        assert!(!busy.contains("flushes"), "{busy}");
        let waiting = bottleneck_of(&rounds(0.5, Some(4_000)));
        assert!(
            waiting.starts_with("not CPU-bound (50 % of all cores); "),
            "{waiting}"
        );
        assert!(
            waiting.contains("2000 disk flushes/s, 25.0 ops each"),
            "{waiting}"
        );
    }

    #[test]
    fn a_cell_without_figures_has_a_reason() {
        let report = CellReport::new(Cell::PutOne, Err("no etcd".to_owned()));
        assert!(!report.is_measured());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["outcome"], "not_measured");
        assert_eq!(json["reason"], "no etcd");
        let figures = Figures::Rates(RateFigures::new(rounds(0.98, Some(10))));
        let measured = CellReport::new(Cell::PutOne, Ok(figures));
        let json = serde_json::to_value(&measured).unwrap();
        assert_eq!(
            (&json["outcome"], &json["met"]),
            (&"measured".into(), &false.into())
        );
        assert_eq!(json["goal"], ">= 3.00");
        assert_eq!(json["rounds"][0]["ours"]["cost"]["flushes"], 10);
    }
}
