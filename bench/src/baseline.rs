//! `--baseline BINARY` compares the build beside this program with another build.
//!
//! Both run at the same time, with the same settings and the same records, each in its own
//! data folder, but only one works at a time. That keeps their caches, stores and uptime alike,
//! which a restart for every pair would not. Reading order: this file (the cells and the run),
//! [`pairs`] (the order of the windows), [`figures`] (the ratios), [`report`].
//!
//! The baseline may be an older release, so only features of every release are used:
//! `tierkv dev` with the options of the harness and `--cache-mib`, the printed addresses, and
//! Get and Put over gRPC. Its processor time is read from /proc.

mod figures;
mod pairs;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tierkv_workload::Failure;

use self::{
    figures::BaselineFigures,
    pairs::measure,
    report::{BaselineReport, Comparison},
};
use crate::{
    cell::Cell,
    note,
    report::Report,
    stage::{Build, Settings, Stage},
};

/// The default number of pairs of windows; with fewer, the result is only a quick look.
pub(crate) const PAIRS: u64 = 15;
/// The default length of a window: long enough for several checkpoints (one a second under
/// writes), and for some hundred of the ticks in which the kernel counts processor time.
pub(crate) const WINDOW: Duration = Duration::from_secs(5);

/// The cells that compare two builds.
const CELLS: [Cell; 3] = [Cell::HitUnary, Cell::HitSession, Cell::PutOne];

/// The two builds.
struct Builds {
    ours: Stage,
    baseline: Stage,
}

/// The cells to measure: `cells`, or all that can compare two builds if `cells` is empty.
///
/// # Errors
/// If a cell can't compare two builds.
pub(crate) fn chosen(cells: Vec<Cell>) -> Result<Vec<Cell>, String> {
    if cells.is_empty() {
        return Ok(CELLS.to_vec());
    }
    match cells.iter().find_map(|cell| refusal(*cell)) {
        None => Ok(cells),
        Some(why) => Err(why),
    }
}

/// The reason why a cell can't compare two builds, with what to do instead.
fn refusal(cell: Cell) -> Option<String> {
    let why = match cell {
        Cell::HitUnary | Cell::HitSession | Cell::PutOne => return None,
        Cell::HitUnaryEtcd => {
            "it differs from hit-unary only in the peer, whose place the baseline takes: \
             name hit-unary instead"
        }
        Cell::HitUnaryProcesses | Cell::PutOneProcesses | Cell::PutThree => {
            "an earlier release may not run its roles in processes of their own: run it once for \
             each binary, named in TIERKV_BIN, without --baseline"
        }
        Cell::Failover | Cell::Handover => {
            "it measures pauses, not operations: run it once for each binary, named in TIERKV_BIN, \
             without --baseline"
        }
        Cell::Memory => {
            "it measures bytes, not operations: run it once for each binary, named in TIERKV_BIN, \
             without --baseline"
        }
        Cell::SteadyWrites => {
            "it is one long run, not many short windows: run it once for each binary, named in \
             TIERKV_BIN, without --baseline"
        }
    };
    let able = CELLS.map(Cell::name).join(", ");
    Some(format!(
        "{cell} can't be measured with --baseline: {why} (cells that can: {able})"
    ))
}

/// Measures `cells` with the binary beside this program and with `binary`, prints the table
/// and writes the report into `output`. Returns whether all cells could be measured.
pub(crate) async fn run(
    binary: &Path,
    cells: Vec<Cell>,
    settings: Settings,
    pairs: u64,
    output: &Path,
) -> Result<bool, Failure> {
    let binary = existing(binary)?;
    let mut builds = Builds {
        ours: Stage::of_build(
            settings,
            Build {
                name: "the new build",
                binary: None,
            },
        ),
        baseline: Stage::of_build(
            settings,
            Build {
                name: "the baseline",
                binary: Some(binary.clone()),
            },
        ),
    };
    let mut comparisons = Vec::new();
    for cell in cells {
        note(format_args!("{cell}: {} against the baseline", cell.work()));
        let figures = builds.figures_of(cell, pairs).await;
        if let Err(failure) = &figures {
            note(format_args!("{cell} could not be measured: {failure}"));
        }
        comparisons.push(Comparison::new(cell, figures.map_err(|failure| failure.0)));
    }
    let report = BaselineReport {
        baseline: binary,
        report: Report {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            keys: settings.keys,
            shape: settings.shape.name(),
            rounds: pairs,
            seconds_a_part: settings.duration.as_secs_f64(),
            cells: comparisons,
        },
    };
    report.publish(output)?;
    Ok(report.report.cells.iter().all(Comparison::is_measured))
}

/// The absolute path of a binary, because a bare name would be looked up on the `PATH`.
fn existing(binary: &Path) -> Result<PathBuf, Failure> {
    let refused = |why: String| {
        Failure(format!(
            "the baseline {} can't be used: {why}; give the path of a tierkv binary",
            binary.display()
        ))
    };
    let path = fs::canonicalize(binary).map_err(|error| refused(error.to_string()))?;
    if path.is_file() {
        Ok(path)
    } else {
        Err(refused("it is not a file".to_owned()))
    }
}

impl Builds {
    async fn figures_of(&mut self, cell: Cell, pairs: u64) -> Result<BaselineFigures, Failure> {
        self.load().await?;
        let measured = match cell {
            Cell::HitUnary => {
                let baseline = self.baseline.platform_unary_hits().await?;
                let ours = self.ours.platform_unary_hits().await?;
                measure(&ours, &baseline, pairs).await?
            }
            Cell::HitSession => {
                let baseline = self.baseline.platform_session_hits().await?;
                let ours = self.ours.platform_session_hits().await?;
                measure(&ours, &baseline, pairs).await?
            }
            Cell::PutOne => {
                let baseline = self.baseline.platform_session_puts().await?;
                let ours = self.ours.platform_session_puts().await?;
                measure(&ours, &baseline, pairs).await?
            }
            Cell::HitUnaryProcesses
            | Cell::HitUnaryEtcd
            | Cell::PutOneProcesses
            | Cell::PutThree
            | Cell::Failover
            | Cell::Handover
            | Cell::Memory
            | Cell::SteadyWrites => {
                return Err(Failure(refusal(cell).unwrap_or_default()));
            }
        };
        BaselineFigures::new(measured)
    }

    /// Starts both builds before either is loaded, so that tasks that a server runs some time
    /// after its start run in both at about the same time. Loads both before either cache is
    /// warmed.
    async fn load(&mut self) -> Result<(), Failure> {
        self.ours.start_platform().await?;
        self.baseline.start_platform().await?;
        self.ours.load_platform().await?;
        self.baseline.load_platform().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_cannot_compare_builds_are_refused() {
        assert_eq!(chosen(vec![]), Ok(CELLS.to_vec()));
        assert_eq!(chosen(vec![Cell::PutOne]), Ok(vec![Cell::PutOne]));
        for cell in Cell::ALL {
            assert_eq!(chosen(vec![cell]).is_ok(), CELLS.contains(&cell), "{cell}");
        }
        let words = chosen(vec![Cell::PutOne, Cell::HitUnaryEtcd]).unwrap_err();
        assert!(
            words.starts_with("hit-unary-etcd can't be measured with --baseline"),
            "{words}"
        );
        assert!(words.contains("name hit-unary instead"), "{words}");
        assert!(words.contains("hit-unary, hit-session, put-one"), "{words}");
    }

    #[test]
    fn a_baseline_that_is_not_a_file_is_refused() {
        let words = existing(Path::new("/nowhere/tierkv")).unwrap_err().0;
        assert!(words.contains("/nowhere/tierkv can't be used"), "{words}");
        let words = existing(Path::new("/")).unwrap_err().0;
        assert!(words.contains("not a file"), "{words}");
        let own = std::env::current_exe().unwrap();
        assert!(existing(&own).unwrap().is_absolute());
    }
}
