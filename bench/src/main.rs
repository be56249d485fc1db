//! The benchmark cells: the platform and its peers, side by side, in one run.
//!
//! Reading order: [`cell`] (what is measured), [`stage`] (the systems, started and loaded),
//! [`rounds`] (A B A B), [`memory`] and [`steady`] (the two cells that are no rates),
//! [`cost`], [`footprint`] and [`metrics_page`] (what is seen of a server from outside),
//! [`verdict`] (what the figures say), [`report`], [`plot`]. The peers' clients are
//! [`echo`], [`etcd`] and [`redis`].

mod cell;
mod cost;
mod echo;
mod etcd;
mod footprint;
mod memory;
mod metrics_page;
mod plot;
mod redis;
mod report;
mod rounds;
mod stage;
mod steady;
mod verdict;

use std::{fmt, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{FalseyValueParser, PossibleValuesParser},
};
use tierkv_workload::{Failure, Operations, Shape};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cell::Cell,
    report::Report,
    rounds::measure,
    stage::{Settings, Stage},
    verdict::{Figures, RateFigures, Verdict},
};

/// The generator allocates for every operation; glibc's allocator would be part of what is
/// measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the platform and its peers side by side.
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
    /// Answers unary calls with a constant: the peer of the unary cells.
    #[command(hide = true)]
    EchoServer {
        #[arg(long, default_value = "trace", value_parser = PossibleValuesParser::new(["trace", "ycsb"]))]
        shape: String,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The cells to measure; none means all but the long one, steady-writes.
    #[arg(env = "CELLS")]
    cells: Vec<String>,
    /// Measure all cells, the long one too.
    #[arg(long, env = "FULL", value_parser = FalseyValueParser::new())]
    full: bool,
    /// Seconds that steady-writes takes; fewer than 600 make a quick look, not a figure.
    #[arg(long, default_value_t = steady::DURATION_SECONDS, value_parser = clap::value_parser!(u64).range(30..=86_400))]
    steady_seconds: u64,
    /// Rounds a cell; fewer than 5 make a quick look, not a figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds that each side has in a round.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Records in every system.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    keys: u64,
    /// The shape of the records.
    #[arg(long, default_value = "trace", value_parser = PossibleValuesParser::new(["trace", "ycsb"]))]
    shape: String,
    /// Where report.json and the plots go.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
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

/// Tells the progress of a run, beside the table.
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

/// Runs, but ends in order when asked to, so that no server is left behind.
async fn run_until_interrupted(run: &Run) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::of)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::of)?;
    tokio::select! {
        end = measured(run) => end,
        _ = interrupt.recv() => Err(Failure("interrupted".to_owned())),
        _ = terminate.recv() => Err(Failure("told to end".to_owned())),
    }
}

async fn measured(run: &Run) -> Result<ExitCode, Failure> {
    let cells = chosen(&run.cells, run.full).map_err(Failure)?;
    let settings = Settings {
        keys: run.keys,
        duration: Duration::from_secs_f64(run.seconds),
        shape: shape_of(&run.shape),
    };
    let mut stage = Stage::new(settings);
    let mut verdicts = Vec::new();
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
        verdicts.push(Verdict::new(cell, figures.map_err(|failure| failure.0)));
    }
    let report = Report {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        keys: run.keys,
        shape: settings.shape.name(),
        rounds: run.rounds,
        seconds_a_part: run.seconds,
        cells: verdicts,
    };
    write!(std::io::stdout().lock(), "{}", report.table()).map_err(Failure::of)?;
    report.write(&run.output)?;
    note(format_args!(
        "figures and plots are in {}",
        run.output.display()
    ));
    Ok(if report.cells.iter().all(Verdict::is_measured) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The cells named; `CELLS` names several in one word, and may be empty.
fn chosen(names: &[String], full: bool) -> Result<Vec<Cell>, String> {
    let cells = names
        .iter()
        .flat_map(|words| words.split([' ', ',', '\n', '\t']))
        .filter(|name| !name.is_empty())
        .map(str::parse)
        .collect::<Result<Vec<Cell>, _>>()?;
    if cells.is_empty() {
        let all = Cell::ALL.into_iter();
        Ok(all.filter(|cell| full || !cell.is_long()).collect())
    } else {
        Ok(cells)
    }
}

async fn figures_of(
    cell: Cell,
    stage: &mut Stage,
    settings: Settings,
    run: &Run,
) -> Result<Figures, Failure> {
    // The peer first: loading it may take so long that a warm cache would cool again.
    let rounds = match cell {
        Cell::HitUnary => {
            let peer = stage.echo().await?;
            measure(&stage.platform_unary_hits().await?, &peer, run.rounds).await
        }
        Cell::HitUnaryEtcd => {
            let peer = stage.etcd(Operations::Reads).await?;
            measure(&stage.platform_unary_hits().await?, &peer, run.rounds).await
        }
        Cell::HitSession => {
            let peer = stage.redis_reads().await?;
            measure(&stage.platform_session_hits().await?, &peer, run.rounds).await
        }
        Cell::PutOne => {
            let peer = stage.etcd(Operations::Writes).await?;
            measure(&stage.platform_session_puts().await?, &peer, run.rounds).await
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
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
        let command = Command::parse_from(["tierkv-bench", "hit-unary", "put-one", "--keys", "10"]);
        assert_eq!((command.run.cells.len(), command.run.keys), (2, 10));
        let command = Command::parse_from(["tierkv-bench", "echo-server", "--shape", "ycsb"]);
        assert!(command.server.is_some());
        assert!(!command.run.full && command.run.steady_seconds == 600);
        assert!(Command::parse_from(["tierkv-bench", "--full"]).run.full);
        assert!(Command::try_parse_from(["tierkv-bench", "--rounds", "0"]).is_err());
        assert!(Command::try_parse_from(["tierkv-bench", "--seconds", "nan"]).is_err());
    }

    #[test]
    fn cells_are_chosen_by_name_and_all_without_one() {
        let words = |text: &str| chosen(&[text.to_owned()], false);
        let usual = words("").unwrap();
        assert!(usual.contains(&Cell::Memory) && !usual.contains(&Cell::SteadyWrites));
        assert_eq!(chosen(&[], true), Ok(Cell::ALL.to_vec()));
        assert_eq!(words("steady-writes"), Ok(vec![Cell::SteadyWrites]));
        assert_eq!(
            words("hit-session put-one"),
            Ok(vec![Cell::HitSession, Cell::PutOne])
        );
        assert!(words("hit-session nothing").is_err());
    }
}
