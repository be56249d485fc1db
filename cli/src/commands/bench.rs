//! `tierkv bench`: how fast a running platform reads and writes.

mod report;

use std::{
    io::{IsTerminal, stderr},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tierkv_types::limits::MAX_VALUE_BYTES;
use tierkv_workload::{
    Distribution, Door, Mix, Records, Shape, Tally,
    door::Unary,
    mix::{Progress, Run, Sweep},
    records::MIN_VALUE_BYTES,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};

use self::report::Report;
use crate::{
    connection::Connection,
    number::between,
    outcome::Outcome,
    output::{self, Output},
    time,
};

/// Prefix of the keys of all runs; each run adds its own.
const PREFIX: &str = "tierkv-bench/";
/// How often the rates are shown on a terminal.
const LOOK: Duration = Duration::from_secs(1);
/// Most keys.
const MAX_KEYS: u64 = 100_000_000;
/// Most connections: each is a few of the platform's.
const MAX_CONNECTIONS: u64 = 256;
/// Most operations in flight.
const MAX_IN_FLIGHT: u64 = 65_536;

/// Options of `tierkv bench`.
#[derive(Args)]
#[command(after_help = "\
The keys are under tierkv-bench/ and a prefix of this run, so no other key is touched. They are \
loaded first and removed at the end. Ctrl-C ends the run early, prints the results so far and \
removes the keys; a second Ctrl-C leaves them in place and prints the command that removes them. \
Values that are read are checked. Each \
operation in flight starts the next one once it is answered: a platform that stalls gets no new \
operations.

Exit status: 0 on success, 1 if operations failed, a value was wrong or keys are left over, 2 for \
any other error.")]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    connection: Connection,
    /// Share of writes, from 0 (reads only) to 1 (writes only).
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    writes: f64,
    /// Number of keys.
    #[arg(long, default_value_t = 10_000, value_parser = |text: &str| between(text, 1, MAX_KEYS))]
    keys: u64,
    /// How likely each key is to be read or written.
    #[arg(long, value_enum, default_value = "zipfian")]
    distribution: Likelihood,
    /// Keys and values as in Twitter's cache traces (36 and 224 bytes) or in YCSB (23 and 1,000).
    #[arg(long, value_enum, default_value = "trace")]
    shape: Form,
    /// Length of every value, instead of the shape's.
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| between(text, MIN_VALUE_BYTES as u64, MAX_VALUE_BYTES as u64))]
    value_bytes: Option<u64>,
    /// Number of clients, each with its own connection.
    #[arg(long, default_value_t = 1, value_parser = |text: &str| between(text, 1, MAX_CONNECTIONS))]
    connections: u64,
    /// Operations in flight, shared among the connections.
    #[arg(long, default_value_t = 64, value_parser = |text: &str| between(text, 1, MAX_IN_FLIGHT))]
    in_flight: u64,
    /// How operations are sent.
    #[arg(long, value_enum, default_value = "session")]
    protocol: Way,
    /// How long to measure, as in 500ms, 10s or 5m.
    #[arg(long, default_value = "10s", value_parser = time::length)]
    duration: Duration,
    /// Don't remove the keys at the end.
    #[arg(long)]
    keep: bool,
    /// How to print the results.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Likelihood {
    /// All keys equally often.
    Uniform,
    /// A few keys very often, as in YCSB.
    Zipfian,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Trace,
    Ycsb,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Over the SDK's session streams, many in a frame, with retries.
    Session,
    /// One gRPC call each, without retries.
    Unary,
}

/// Parses a share from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    (text.parse().ok())
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "a number from 0 to 1, as in 0.05".to_owned())
}

/// Loads, measures, removes and reports.
pub(crate) async fn run(arguments: BenchArguments) -> Outcome {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let bench = Bench::new(&arguments).await?;
    let report = match bench.sweep(Sweep::Load, &mut interrupts).await {
        Ok(()) => bench.measure(arguments.duration, &mut interrupts).await,
        Err(why) => Err(format!("the keys are not all loaded: {why}").into()),
    };
    let remedy = remedy(&arguments.connection, &bench.mix.records.prefix);
    let mut has_leftovers = false;
    if arguments.keep {
        let prefix = &bench.mix.records.prefix;
        output::note(format_args!(
            "the keys stay under {prefix}; remove them with: {remedy}"
        ));
    } else if let Err(why) = bench.sweep(Sweep::Remove, &mut interrupts).await {
        // The results are valid all the same.
        has_leftovers = true;
        output::note(format_args!(
            "tierkv: keys are left over ({why}); remove them with: {remedy}"
        ));
    }
    let report = report?;
    match arguments.output {
        Output::Json => output::pretty_json(&report.as_json())?,
        Output::Table | Output::Raw => output::print(report.as_text())?,
    }
    Ok(match report.has_failed() || has_leftovers {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The command that removes the keys of a run.
fn remedy(connection: &Connection, prefix: &str) -> String {
    format!(
        "tierkv delete --prefix {prefix} --namespace {} --address {}",
        connection.namespace(),
        connection.addresses().join(" --address ")
    )
}

struct Bench {
    doors: Vec<Door>,
    mix: Mix,
}

impl Bench {
    /// Connects, and chooses a random prefix for the keys.
    async fn new(arguments: &BenchArguments) -> Result<Self, Box<dyn std::error::Error>> {
        let connection = &arguments.connection;
        let mut doors = Vec::new();
        for number in 0..usize::try_from(arguments.connections)? {
            // The first is opened in any case: its error explains why a platform can't be reached.
            if arguments.protocol == Way::Session || number == 0 {
                doors.push(Door::Session(connection.open().await?));
            }
        }
        if arguments.protocol == Way::Unary {
            doors.clear();
            let (addresses, namespace) = (connection.addresses(), connection.namespace());
            let turns = addresses.iter().cycle();
            for address in turns.take(usize::try_from(arguments.connections)?) {
                let unary = Unary::connect(address, &namespace, connection.timeout())?;
                doors.push(Door::Unary(unary));
            }
        }
        let shape = match arguments.shape {
            Form::Trace => Shape::Trace,
            Form::Ycsb => Shape::Ycsb,
        };
        let value_bytes = (arguments.value_bytes).map_or(Ok(shape.value_bytes()), usize::try_from);
        let mix = Mix {
            records: Records {
                prefix: format!("{PREFIX}{:016x}/", rand::random::<u64>()),
                shape,
                value_bytes: value_bytes?,
                count: arguments.keys,
            },
            distribution: match arguments.distribution {
                Likelihood::Uniform => Distribution::Uniform,
                Likelihood::Zipfian => Distribution::Zipfian,
            },
            writes: arguments.writes,
            tasks: usize::try_from(arguments.in_flight)?,
            seed: rand::random::<u32>().into(),
        };
        Ok(Self { doors, mix })
    }

    /// Loads or removes all keys; Ctrl-C ends that.
    async fn sweep(&self, sweep: Sweep, interrupts: &mut Signal) -> Result<(), String> {
        let Mix { records, tasks, .. } = &self.mix;
        if is_watched() {
            let count = records.count;
            output::note(match sweep {
                Sweep::Load => format!("loading {count} keys under {}", records.prefix),
                Sweep::Remove => format!("removing {count} keys"),
            });
        }
        let progress = Arc::new(Progress::default());
        let mut running = pin!(sweep.run(&self.doors, records, *tasks, &progress));
        let mut is_interrupted = false;
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended,
                _ = interrupts.recv() => {
                    // Operations in flight must end before the keys are removed.
                    is_interrupted = true;
                    progress.end();
                }
            }
        };
        ended.map_err(|refused| format!("{}: {}", refused.code, refused.words))?;
        match is_interrupted {
            true => Err(format!("interrupted after {}", progress.done())),
            false => Ok(()),
        }
    }

    /// Measures for `duration`, or until it is interrupted.
    async fn measure(
        &self,
        duration: Duration,
        interrupts: &mut Signal,
    ) -> Result<Report, Box<dyn std::error::Error>> {
        let began = Instant::now();
        let mut run = self.mix.start(&self.doors)?;
        let mut looks = interval_at(began + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut total = Tally::default();
        let mut last = began;
        let is_interrupted = loop {
            tokio::select! {
                () = tokio::time::sleep_until(began + duration) => break false,
                _ = interrupts.recv() => break true,
                now = looks.tick() => {
                    look(&run, &mut total, now - began, now - last);
                    last = now;
                }
            }
        };
        // Operations that end now still count, and so does the time until they end.
        run.stop().await;
        let elapsed = began.elapsed();
        total.merge(&run.take());
        Ok(Report {
            total,
            elapsed,
            is_interrupted,
            keys: self.mix.records.count,
            value_bytes: self.mix.records.value_bytes,
        })
    }
}

/// Whether standard error is a terminal.
fn is_watched() -> bool {
    stderr().is_terminal()
}

/// Adds the operations since the last look to the total, and shows their rates.
fn look(run: &Run, total: &mut Tally, since_start: Duration, since_last: Duration) {
    let tally = run.take();
    if is_watched() {
        output::note(report::rates(&tally, since_start, since_last));
    }
    total.merge(&tally);
}
