//! The benchmark cells: the platform and its peers, side by side, in one run.
//!
//! Reading order: [`cell`] (what is measured), [`stage`] (the systems, started and loaded),
//! [`stage::tiers`] (the platform with each role in a process of its own),
//! [`rounds`] (A B A B), [`memory`], [`outage`] and [`steady`] (the cells that are not rates),
//! [`cost`], [`footprint`] and [`metrics_page`] (measurements of a server from outside),
//! [`cell_report`] (the result of a cell), [`report`], [`plot`]. The peers' clients are
//! [`echo`], [`etcd`] and [`redis`]. [`baseline`] compares two builds of the platform.

mod baseline;
mod cell;
mod cell_report;
mod cost;
mod echo;
mod etcd;
mod footprint;
mod memory;
mod metrics_page;
mod outage;
mod plot;
mod redis;
mod report;
mod rounds;
mod stage;
mod steady;

use std::{fmt, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{FalseyValueParser, PossibleValuesParser},
};
use tierkv_workload::{Failure, Operations, Shape};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cell::Cell,
    cell_report::{CellReport, Figures, RateFigures},
    report::{LEAST_ROUNDS, Report},
    rounds::measure,
    stage::{REPLICAS, Settings, Stage},
};

/// The generator allocates for every operation, so glibc's allocator would be part of the
/// measurement.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The default time of each side in a round.
const PART: Duration = Duration::from_secs(3);

/// Measures the platform and its peers, or two builds of it, side by side.
#[derive(Debug, Parser)]
#[command(name = "tierkv-bench", args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    server: Option<Server>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// Answers unary calls with a constant; the peer of the unary cells.
    #[command(hide = true)]
    EchoServer {
        #[arg(long, default_value = "trace", value_parser = PossibleValuesParser::new(["trace", "ycsb"]))]
        shape: String,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The cells to measure. Default: all except the long one, steady-writes; with --baseline
    /// those that compare two builds: hit-unary, hit-session, put-one.
    #[arg(env = "CELLS")]
    cells: Vec<String>,
    /// Compare the tierkv beside this program with this other tierkv instead of with peers:
    /// operations a second, and processor time of the server per operation.
    #[arg(long, value_name = "BINARY")]
    baseline: Option<PathBuf>,
    /// Measure all cells, including the long one.
    #[arg(long, env = "FULL", value_parser = FalseyValueParser::new())]
    full: bool,
    /// Seconds of steady-writes; with fewer than 600, the result is only a quick look.
    #[arg(long, default_value_t = steady::DURATION_SECONDS, value_parser = clap::value_parser!(u64).range(30..=86_400))]
    steady_seconds: u64,
    /// Rounds per cell. Default: 5, with --baseline 15 pairs; with fewer, the result is only a
    /// quick look.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Seconds of each side in a round. Default: 3, with --baseline 5.
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Records in every system.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    keys: u64,
    /// The shape of the records.
    #[arg(long, default_value = "trace", value_parser = PossibleValuesParser::new(["trace", "ycsb"]))]
    shape: String,
    /// The folder for report.json and the plots.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

impl Run {
    fn rounds(&self) -> u64 {
        self.rounds.unwrap_or(match self.baseline {
            None => LEAST_ROUNDS,
            Some(_) => baseline::PAIRS,
        })
    }

    fn settings(&self) -> Settings {
        let duration = self.seconds.map(Duration::from_secs_f64);
        Settings {
            keys: self.keys,
            duration: duration.unwrap_or(match self.baseline {
                None => PART,
                Some(_) => baseline::WINDOW,
            }),
            shape: shape_of(&self.shape),
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give a number of seconds from 0.01 to 3600".to_owned()),
    }
}

fn shape_of(name: &str) -> Shape {
    match name {
        "ycsb" => Shape::Ycsb,
        _ => Shape::Trace,
    }
}

/// Prints the progress of a run to standard error.
pub(crate) fn note(words: fmt::Arguments<'_>) {
    // A closed terminal is no reason to stop measuring.
    let _ = writeln!(std::io::stderr().lock(), "bench: {words}");
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(format_args!("starting the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let end = match command.server {
        Some(Server::EchoServer { shape }) => {
            let served = runtime.block_on(echo::serve(shape_of(&shape)));
            served.map(|()| ExitCode::SUCCESS)
        }
        None => runtime.block_on(run_until_interrupted(&command.run)),
    };
    end.unwrap_or_else(|failure| {
        note(format_args!("{failure}"));
        ExitCode::FAILURE
    })
}

/// Runs, and ends in order on a signal, so that no server is left running.
async fn run_until_interrupted(run: &Run) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::of)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::of)?;
    tokio::select! {
        end = measured(run) => end,
        _ = interrupt.recv() => Err(Failure("interrupted".to_owned())),
        _ = terminate.recv() => Err(Failure("ended by a signal".to_owned())),
    }
}

async fn measured(run: &Run) -> Result<ExitCode, Failure> {
    let named = named(&run.cells).map_err(Failure)?;
    let settings = run.settings();
    if let Some(binary) = &run.baseline {
        // With --full, some of the cells cannot compare builds.
        let cells = if run.full { chosen(named, true) } else { named };
        let cells = baseline::chosen(cells).map_err(Failure)?;
        let all = baseline::run(binary, cells, settings, run.rounds(), &run.output).await?;
        return Ok(if all {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let cells = chosen(named, run.full);
    let mut stage = Stage::new(settings);
    let mut reports = Vec::new();
    for cell in cells {
        note(format_args!(
            "{cell}: {} against {}",
            cell.work(),
            cell.peer()
        ));
        let figures = figures_of(cell, &mut stage, settings, run).await;
        if let Err(failure) = &figures {
            note(format_args!("{cell} could not be measured: {failure}"));
        }
        reports.push(CellReport::new(cell, figures.map_err(|failure| failure.0)));
    }
    let report = Report {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        keys: run.keys,
        shape: settings.shape.name(),
        rounds: run.rounds(),
        seconds_a_part: settings.duration.as_secs_f64(),
        cells: reports,
    };
    write!(std::io::stdout().lock(), "{}", report.table()).map_err(Failure::of)?;
    report.write(&run.output)?;
    note(format_args!(
        "figures and plots are in {}",
        run.output.display()
    ));
    Ok(if report.cells.iter().all(CellReport::is_measured) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The named cells; one word may name several, or none.
fn named(names: &[String]) -> Result<Vec<Cell>, String> {
    names
        .iter()
        .flat_map(|words| words.split([' ', ',', '\n', '\t']))
        .filter(|name| !name.is_empty())
        .map(str::parse)
        .collect()
}

/// The named cells, or all if none was named; the long one only if `full`.
fn chosen(named: Vec<Cell>, full: bool) -> Vec<Cell> {
    if named.is_empty() {
        let all = Cell::ALL.into_iter();
        all.filter(|cell| full || !cell.is_long()).collect()
    } else {
        named
    }
}

async fn figures_of(
    cell: Cell,
    stage: &mut Stage,
    settings: Settings,
    run: &Run,
) -> Result<Figures, Failure> {
    // The peer is loaded first, because a warm cache could become cold during a long load.
    let rounds = match cell {
        Cell::HitUnary => {
            let peer = stage.echo().await?;
            measure(&stage.platform_unary_hits().await?, &peer, run.rounds()).await
        }
        Cell::HitUnaryProcesses => {
            let peer = stage.echo().await?;
            measure(&stage.tiers_unary_hits().await?, &peer, run.rounds()).await
        }
        Cell::HitUnaryEtcd => {
            let peer = stage.etcd(1, Operations::Reads).await?;
            measure(&stage.platform_unary_hits().await?, &peer, run.rounds()).await
        }
        Cell::HitSession => {
            let peer = stage.redis_reads().await?;
            measure(&stage.platform_session_hits().await?, &peer, run.rounds()).await
        }
        Cell::PutOne => {
            let peer = stage.etcd(1, Operations::Writes).await?;
            measure(&stage.platform_session_puts().await?, &peer, run.rounds()).await
        }
        Cell::PutOneProcesses => {
            let peer = stage.etcd(1, Operations::Writes).await?;
            measure(&stage.tiers_session_puts().await?, &peer, run.rounds()).await
        }
        Cell::PutThree => {
            let peer = stage.etcd(REPLICAS, Operations::Writes).await?;
            let ours = stage.replicated_session_puts().await?;
            let rounds = measure(&ours, &peer, run.rounds()).await?;
            stage.check_in_sync().await?;
            Ok(rounds)
        }
        Cell::Failover => {
            let rounds = run.rounds.unwrap_or(outage::ROUNDS);
            let figures = outage::failover::measure(settings, rounds).await?;
            return Ok(Figures::Outage(figures));
        }
        Cell::Handover => {
            let rounds = run.rounds.unwrap_or(outage::ROUNDS);
            let figures = outage::handover::measure(settings, rounds).await?;
            return Ok(Figures::Outage(figures));
        }
        Cell::Memory => return memory::measure(settings).await.map(Figures::Memory),
        Cell::SteadyWrites => {
            let duration = Duration::from_secs(run.steady_seconds);
            let figures = steady::measure(settings.shape, duration).await?;
            return Ok(Figures::Steady(figures));
        }
    };
    Ok(Figures::Rates(RateFigures::new(rounds?)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_parsed() {
        Command::command().debug_assert();
        let command = Command::parse_from(["tierkv-bench", "hit-unary", "put-one", "--keys", "10"]);
        assert_eq!((command.run.cells.len(), command.run.keys), (2, 10));
        let command = Command::parse_from(["tierkv-bench", "echo-server", "--shape", "ycsb"]);
        assert!(command.server.is_some());
        assert!(!command.run.full && command.run.steady_seconds == 600);
        assert!(Command::parse_from(["tierkv-bench", "--full"]).run.full);
        assert!(Command::try_parse_from(["tierkv-bench", "--baseline"]).is_err());
        assert!(Command::try_parse_from(["tierkv-bench", "--rounds", "0"]).is_err());
        assert!(Command::try_parse_from(["tierkv-bench", "--seconds", "nan"]).is_err());
    }

    #[test]
    fn a_baseline_has_more_rounds_and_longer_ones() {
        let run = |arguments: &[&str]| {
            let all = ["tierkv-bench"].iter().chain(arguments);
            let run = Command::parse_from(all).run;
            (run.rounds(), run.settings().duration.as_secs_f64())
        };
        assert_eq!(run(&[]), (5, 3.0));
        assert_eq!(run(&["--baseline", "old/tierkv"]), (15, 5.0));
        let given = ["--rounds", "2", "--seconds", "0.5"];
        assert_eq!(run(&given), (2, 0.5));
        let with_baseline = [&["--baseline", "old"], given.as_slice()].concat();
        assert_eq!(run(&with_baseline), (2, 0.5));
    }

    #[test]
    fn cells_are_chosen_by_name_and_default_to_all() {
        let words = |text: &str| named(&[text.to_owned()]).map(|named| chosen(named, false));
        let usual = words("").unwrap();
        assert!(usual.contains(&Cell::Memory) && !usual.contains(&Cell::SteadyWrites));
        assert_eq!(chosen(vec![], true), Cell::ALL.to_vec());
        assert_eq!(words("steady-writes"), Ok(vec![Cell::SteadyWrites]));
        assert_eq!(
            words("hit-session put-one"),
            Ok(vec![Cell::HitSession, Cell::PutOne])
        );
        assert!(words("hit-session nothing").is_err());
    }
}
