//! The results of a comparison of two builds: the table, report.json, and a plot per cell.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tierkv_workload::Failure;

use super::{PAIRS, figures::BaselineFigures};
use crate::{
    cell::Cell,
    note,
    plot::Rounds,
    report::{Report, aligned, rates, write_json},
};

/// The report of a whole run, with the name of the baseline.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BaselineReport {
    pub(crate) baseline: PathBuf,
    #[serde(flatten)]
    pub(crate) report: Report<Comparison>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    cell: &'static str,
    work: &'static str,
    peer: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The result of a cell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum Outcome {
    /// It was measured.
    Measured(Box<BaselineFigures>),
    /// It was not measured, for this reason.
    NotMeasured { reason: String },
}

impl Comparison {
    pub(crate) fn new(cell: Cell, figures: Result<BaselineFigures, String>) -> Self {
        Self {
            cell: cell.name(),
            work: cell.work(),
            peer: "the baseline",
            outcome: match figures {
                Ok(figures) => Outcome::Measured(Box::new(figures)),
                Err(reason) => Outcome::NotMeasured { reason },
            },
        }
    }

    pub(crate) const fn is_measured(&self) -> bool {
        matches!(self.outcome, Outcome::Measured(_))
    }

    fn row(&self) -> [String; 8] {
        let cell = self.cell.to_owned();
        match &self.outcome {
            Outcome::Measured(figures) => [
                cell,
                figures.rate_words(),
                figures.cpu_words(),
                format!("{:.0}/s", figures.rates.ours_rate),
                format!("{:.0}/s", figures.rates.peer_rate),
                format!("{:.2} us", figures.ours_server_micros),
                format!("{:.2} us", figures.peer_server_micros),
                figures.window_words(),
            ],
            Outcome::NotMeasured { reason } => {
                // A reason may contain the end of a server's log.
                let words = format!("NOT MEASURED: {}", reason.replace('\n', " | "));
                let none = || "-".to_owned();
                [cell, none(), none(), none(), none(), none(), none(), words]
            }
        }
    }
}

impl BaselineReport {
    /// Prints the table and writes `report.json` and the plots into `folder`.
    pub(crate) fn publish(&self, folder: &Path) -> Result<(), Failure> {
        write!(std::io::stdout().lock(), "{}", self.table()).map_err(Failure::of)?;
        self.write(folder)?;
        note(format_args!(
            "figures and plots are in {}",
            folder.display()
        ));
        Ok(())
    }

    fn table(&self) -> String {
        let heads = [
            "cell",
            "rate new/baseline",
            "server CPU/op new/baseline",
            "new",
            "baseline",
            "new CPU/op",
            "baseline CPU/op",
            "",
        ];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.report.cells.iter().map(Comparison::row));
        let report = &self.report;
        let mut table = format!(
            "new build against {}\n{} records ({}), {} pairs of {} s a side, {} cores; medians \
             [least..greatest]; absolute figures are for orientation\n\n",
            self.baseline.display(),
            report.keys,
            report.shape,
            report.rounds,
            report.seconds_a_part,
            report.cores
        );
        if report.rounds < PAIRS {
            table += &format!("fewer than {PAIRS} pairs: a quick look, no figures\n\n");
        }
        table += &aligned(&rows, &[3, 4, 5, 6]);
        table
    }

    fn write(&self, folder: &Path) -> Result<(), Failure> {
        write_json(self, folder)?;
        for comparison in &self.report.cells {
            if let Outcome::Measured(figures) = &comparison.outcome {
                let path = folder.join(format!("{}.svg", comparison.cell));
                plot(comparison.cell, figures, &path)
                    .map_err(|error| Failure(format!("plotting {}: {error}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn plot(
    cell: &str,
    figures: &BaselineFigures,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let [ours, baseline] = rates(&figures.rates);
    Rounds {
        title: format!("{cell}: rate new/baseline {}", figures.rate_words()),
        unit: "operations a second",
        sides: [("new build", ours), ("baseline", baseline)],
    }
    .draw(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::baseline::figures::tests::three;

    fn report() -> BaselineReport {
        let figures = BaselineFigures::new(three()).unwrap();
        BaselineReport {
            baseline: PathBuf::from("/releases/tierkv"),
            report: Report {
                cores: 2,
                keys: 1_000_000,
                shape: "trace",
                rounds: 15,
                seconds_a_part: 5.0,
                cells: vec![
                    Comparison::new(Cell::HitUnary, Ok(figures)),
                    Comparison::new(Cell::PutOne, Err("the baseline ended\nat once".to_owned())),
                ],
            },
        }
    }

    #[test]
    fn the_table_has_ratios_and_absolute_figures() {
        let table = report().table();
        let line = |name: &str| {
            let found = table.lines().find(|line| line.starts_with(name)).unwrap();
            found.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("hit-unary"),
            "hit-unary 1.000 [0.900..1.100] 0.800 [0.500..2.000] 100/s 100/s 4.00 us 4.00 us \
             windows that began with a server still busy: 1"
        );
        assert_eq!(
            line("put-one"),
            "put-one - - - - - - NOT MEASURED: the baseline ended | at once"
        );
        assert!(table.starts_with("new build against /releases/tierkv\n"));
        assert!(!table.contains("a quick look"));
        let mut quick = report();
        quick.report.rounds = 14;
        assert!(quick.table().contains("a quick look"));
    }

    #[test]
    fn the_report_names_the_baseline_and_cells_without_figures() {
        let folder = std::env::temp_dir().join(format!("tierkv-baseline-{}", std::process::id()));
        report().write(&folder).unwrap();
        let json = fs::read_to_string(folder.join("report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["baseline"], "/releases/tierkv");
        assert_eq!(json["rounds"], 15);
        assert_eq!(json["cells"][0]["outcome"], "measured");
        assert_eq!(json["cells"][0]["server_cpu_ratio"], 0.8);
        assert_eq!(json["cells"][1]["outcome"], "not_measured");
        assert_eq!(json["cells"][1]["reason"], "the baseline ended\nat once");
        assert!(folder.join("hit-unary.svg").exists());
        assert!(!folder.join("put-one.svg").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
