//! The results of a run: the table, the figures as JSON, and a plot per cell.

use std::{fs, path::Path};

use serde::Serialize;
use tierkv_workload::Failure;

use crate::{
    cell_report::{CellReport, Figures, Outcome, RateFigures},
    plot::Rounds,
    rounds::{Part, RoundPair},
    steady,
};

/// With fewer rounds than this, the result is only a quick look.
pub(crate) const LEAST_ROUNDS: u64 = 5;

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report<C = CellReport> {
    pub(crate) cores: usize,
    pub(crate) keys: u64,
    pub(crate) shape: &'static str,
    pub(crate) rounds: u64,
    pub(crate) seconds_a_part: f64,
    pub(crate) cells: Vec<C>,
}

impl Report {
    /// The table, for people.
    pub(crate) fn table(&self) -> String {
        let heads = ["cell", "ours", "peer", "ratio", "wanted", "met", "details"];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.cells.iter().map(row_of));
        let mut table = format!(
            "{} records ({}), {} rounds of {} s a side, {} cores; rates are for orientation\n\n",
            self.keys, self.shape, self.rounds, self.seconds_a_part, self.cores
        );
        if self.rounds < LEAST_ROUNDS {
            table += &format!("fewer than {LEAST_ROUNDS} rounds: a quick look, no figures\n\n");
        }
        table += &aligned(&rows, &[1, 2]);
        table
    }

    /// Writes `report.json` and the plots into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        write_json(self, folder)?;
        for cell in &self.cells {
            if let Outcome::Measured { figures, .. } = &cell.outcome {
                let path = folder.join(format!("{}.svg", cell.cell));
                plot(cell, figures, &path)
                    .map_err(|error| Failure(format!("plotting {}: {error}", path.display())))?;
            }
        }
        Ok(())
    }
}

/// Writes `report` as `report.json` into `folder`, and creates the folder if it is missing.
pub(crate) fn write_json(report: &impl Serialize, folder: &Path) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).map_err(Failure::of)?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("report.json"), json))
        .map_err(|error| Failure(format!("writing into {}: {error}", folder.display())))
}

/// Formats rows as lines. Each column is as wide as its widest cell; the columns `right` are
/// aligned to the right.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut lines = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(column, (cell, width))| {
                if right.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        lines += line.join("  ").trim_end();
        lines.push('\n');
    }
    lines
}

fn row_of(report: &CellReport) -> [String; 7] {
    let goal = report.goal.to_string();
    let cell = report.cell.to_owned();
    match &report.outcome {
        Outcome::Measured { met, figures } => {
            let text = figures.table_text();
            let met = match met {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            };
            let met = met.to_owned();
            [
                cell,
                text.ours,
                text.peer,
                text.ratio,
                goal,
                met,
                // The message of a failure may have several lines.
                text.details.replace('\n', " | "),
            ]
        }
        Outcome::NotMeasured { reason } => [
            cell,
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            goal,
            "-".to_owned(),
            // A reason may contain the end of a server's log.
            format!("NOT MEASURED: {}", reason.replace('\n', " | ")),
        ],
    }
}

fn plot(
    report: &CellReport,
    figures: &Figures,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let (unit, [ours, peer]) = match figures {
        Figures::Rates(figures) => ("operations a second", rates(figures)),
        Figures::Memory(figures) => ("resident bytes a record", figures.series()),
        Figures::Steady(figures) => return steady::plot::plot(figures, path),
        Figures::Outage(figures) => {
            let lines = figures.lines();
            let longest = figures.longest();
            return Rounds {
                title: format!(
                    "{}: longest pauses {longest}, wanted {}",
                    report.cell, report.goal
                ),
                unit: "ms without an answer",
                sides: lines
                    .each_ref()
                    .map(|(name, values)| (name.as_str(), values.clone())),
            }
            .draw(path);
        }
    };
    let (cell, ratio, goal) = (report.cell, figures.table_text().ratio, report.goal);
    Rounds {
        title: format!("{cell}: ratio {ratio}, wanted {goal}"),
        unit,
        sides: [(report.work, ours), (report.peer, peer)],
    }
    .draw(path)
}

/// Operations a second in each round: ours, the peer's.
pub(crate) fn rates(figures: &RateFigures) -> [Vec<f64>; 2] {
    let side = |side: fn(&RoundPair) -> &Part| {
        let rounds = figures.rounds.iter();
        rounds.map(|round| side(round).rate).collect()
    };
    [side(|round| &round.ours), side(|round| &round.peer)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cell::Cell, cost::Cost};

    fn report() -> Report {
        let part = |rate| Part {
            operations: 1_000,
            rate,
            p50_micros: 10.0,
            p99_micros: 20.0,
            cached: 0,
            cost: Cost::default(),
        };
        let rounds = vec![
            RoundPair {
                ours: part(95_000.0),
                peer: part(100_000.0),
            };
            5
        ];
        Report {
            cores: 2,
            keys: 1_000_000,
            shape: "trace",
            rounds: 5,
            seconds_a_part: 3.0,
            cells: vec![
                CellReport::new(Cell::HitUnary, Ok(Figures::Rates(RateFigures::new(rounds)))),
                CellReport::new(Cell::PutOne, Err("etcd ended\nwith words".to_owned())),
            ],
        }
    }

    #[test]
    fn the_table_has_a_line_for_every_cell_even_if_not_measured() {
        let table = report().table();
        let line = |name: &str| {
            let found = table.lines().find(|line| line.starts_with(name));
            found
                .unwrap()
                .split_ascii_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(
            line("hit-unary")
                .starts_with("hit-unary 95000/s 100000/s 0.95 [0.95..0.95] >= 0.90 yes")
        );
        assert_eq!(
            line("put-one"),
            "put-one - - - >= 3.00 - NOT MEASURED: etcd ended | with words"
        );
        assert!(!table.contains("a quick look"));
        let quick = Report {
            rounds: 2,
            ..report()
        };
        assert!(quick.table().contains("a quick look"));
    }

    #[test]
    fn figures_and_plots_are_written() {
        let folder = std::env::temp_dir().join(format!("tierkv-report-{}", std::process::id()));
        report().write(&folder).unwrap();
        let json = fs::read_to_string(folder.join("report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["cells"][0]["ratio"], 0.95);
        let plot = fs::read_to_string(folder.join("hit-unary.svg")).unwrap();
        assert!(plot.contains("operations a second"), "{plot}");
        assert!(!folder.join("put-one.svg").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
