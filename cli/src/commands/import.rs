//! `tierkv import`: sets the keys of JSON lines.
//!
//! An invalid line is reported with its number and left out; the import continues with the
//! others. Only a failure of the platform ends an import early. Running it again is safe, since
//! it sets the same keys to the same values. If several lines have the same key, the last one
//! wins ([`turns`]).

pub(crate) mod line;
mod source;
mod turns;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tierkv::{Client, Code, Error, PutOptions};
use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};

use self::{
    line::Line,
    source::{Source, SourceLine},
    turns::Turns,
};
use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output,
};

/// Most lines that are in flight or wait for an earlier line of their key.
const MAX_UNDER_WAY: usize = 256;
/// How often a line is tried again that was refused for the birth of its request id, and the
/// pause before each time. The client learns the platform's time from the refusal.
const BIRTH_TRIES: u32 = 10;
const BIRTH_PAUSE: Duration = Duration::from_millis(200);

/// Options of `tierkv import`.
#[derive(Args)]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    connection: Connection,
    /// A file of JSON lines, `{"key"|"key_base64": …, "value"|"value_base64": …,
    /// "ttl_ms"?: …}`; `-` is standard input.
    file: PathBuf,
}

/// The outcome of one line.
enum Fate {
    Imported,
    /// The line is invalid; the others are not affected.
    Bad(u64, String),
    /// The platform failed.
    Failed(u64, Error),
}

/// Loads every line; exits 1 if any was left out.
pub(crate) async fn run(arguments: ImportArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let mut source = Source::open(&arguments.file)?;
    let bar = progress_bar(source.bytes());
    let mut writes = Writes::new(client);
    let mut tally = Tally::default();
    while let Some(next) = source.next().await {
        let SourceLine { number, text, end } = next?;
        bar.set_position(end);
        match text {
            // Parsed here, so that bad lines are reported in order.
            Ok(text) => match Line::parse(&text) {
                Ok(line) => writes.begin(number, line),
                Err(why) => tally.take(Fate::Bad(number, why), &bar),
            },
            Err(why) => tally.take(Fate::Bad(number, why), &bar),
        }
        while writes.are_full()
            && let Some(fate) = writes.next().await?
        {
            tally.take(fate, &bar);
        }
        while let Some(fate) = writes.try_next()? {
            tally.take(fate, &bar);
        }
        if tally.failure.is_some() {
            break;
        }
    }
    while let Some(fate) = writes.next().await? {
        tally.take(fate, &bar);
    }
    bar.finish_and_clear();
    tally.conclude()
}

/// The lines that are written.
struct Writes {
    client: Client,
    under_way: JoinSet<(Vec<u8>, Fate)>,
    turns: Turns,
}

impl Writes {
    fn new(client: Client) -> Self {
        Self {
            client,
            under_way: JoinSet::new(),
            turns: Turns::default(),
        }
    }

    /// Writes a line as soon as its key's earlier ones are done.
    fn begin(&mut self, number: u64, line: Line) {
        if let Some((number, line)) = self.turns.enter(number, line) {
            self.spawn(number, line);
        }
    }

    fn spawn(&mut self, number: u64, line: Line) {
        let (client, key) = (self.client.clone(), line.key.clone());
        (self.under_way).spawn(async move { (key, import(&client, number, line).await) });
    }

    fn are_full(&self) -> bool {
        self.under_way.len() + self.turns.waiting() >= MAX_UNDER_WAY
    }

    /// The outcome of the next line that is done; `None` if none is in flight.
    async fn next(&mut self) -> Result<Option<Fate>, JoinError> {
        let done = self.under_way.join_next().await;
        self.settle(done)
    }

    /// As [`Self::next`], without waiting.
    fn try_next(&mut self) -> Result<Option<Fate>, JoinError> {
        let done = self.under_way.try_join_next();
        self.settle(done)
    }

    fn settle(
        &mut self,
        done: Option<Result<(Vec<u8>, Fate), JoinError>>,
    ) -> Result<Option<Fate>, JoinError> {
        let Some((key, fate)) = done.transpose()? else {
            return Ok(None);
        };
        // After a failure of the platform no more lines are sent, to keep the order of a key.
        if !matches!(fate, Fate::Failed(..))
            && let Some((number, line)) = self.turns.next(&key)
        {
            self.spawn(number, line);
        }
        Ok(Some(fate))
    }
}

async fn import(client: &Client, number: u64, line: Line) -> Fate {
    let options = PutOptions {
        ttl: line.ttl,
        ..PutOptions::default()
    };
    let value = Bytes::from(line.value);
    let mut tries_left = BIRTH_TRIES;
    loop {
        let put = client.put_with(&line.key, value.clone(), options);
        match put.await {
            Ok(_) => return Fate::Imported,
            // The client did not know the platform's time yet. Sending the line again is safe: it
            // sets the same key to the same value.
            Err(error) if error.is_refused_for_birth() && tries_left > 0 => {
                tries_left -= 1;
                sleep(BIRTH_PAUSE).await;
            }
            Err(error) if error.code() == Code::InvalidArgument => {
                return Fate::Bad(number, error.message().to_owned());
            }
            Err(error) => return Fate::Failed(number, error),
        }
    }
}

#[derive(Default)]
struct Tally {
    imported: u64,
    bad: u64,
    failure: Option<(u64, Error)>,
}

impl Tally {
    fn take(&mut self, fate: Fate, bar: &ProgressBar) {
        match fate {
            Fate::Imported => self.imported += 1,
            Fate::Bad(number, why) => {
                self.bad += 1;
                bar.suspend(|| output::note(format_args!("line {number}: {why}")));
            }
            // Only the first failure is reported; later ones probably have the same cause.
            Fate::Failed(number, error) => {
                self.failure.get_or_insert((number, error));
            }
        }
        bar.set_message(format!("{} imported", self.imported));
    }

    fn conclude(self) -> Outcome {
        let Self {
            imported,
            bad,
            failure,
        } = self;
        let printed = output::line(format!("{imported} imported, {bad} bad lines left out"));
        if let Some((number, error)) = failure {
            return Err(format!(
                "stopped at line {number}: {error}; run the import again: it sets the same keys \
                 to the same values"
            )
            .into());
        }
        let done = done(printed);
        Ok(if bad == 0 { done } else { ExitCode::FAILURE })
    }
}

fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
