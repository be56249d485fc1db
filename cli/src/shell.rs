//! `tierkv shell`: the commands line by line, over one connection.
//!
//! Reading order: [`line`] reads what a line says, by the same definitions as the command
//! line; [`prompt`] is where lines come from, a terminal with its [`history`] and
//! [`completion`], or a script on standard input; here they are run.

mod completion;
mod history;
mod line;
mod prompt;

use std::{
    io::{IsTerminal, stdin},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use tierkv_types::Namespace;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    completion::Vocabulary,
    line::{Grammar, Line, Reading},
    prompt::{Prompter, Said},
};
use crate::{
    commands::Operation,
    connection::Connection,
    kept::{self, Kept},
    outcome::{self, FAILED, Outcome, UNKNOWN},
    output,
};

/// What a shell adds to the number of the signal that ends it.
const BY_SIGNAL: u8 = 128;
const INTERRUPTED: u8 = BY_SIGNAL + 2;
const TERMINATED: u8 = BY_SIGNAL + 15;

/// Options of `tierkv shell`.
#[derive(Args)]
#[command(after_help = "\
Each line is a command with its options, in words as a POSIX shell parts and quotes them, such \
as: put greeting 'good evening' --ttl 60s. # begins a comment. Beside the commands there are: \
use NAMESPACE, help, help COMMAND, and exit, quit or Ctrl-D. Tab completes commands, options and \
the keys and namespaces of this session. Ctrl-C ends the command that runs, not the shell.

The history is kept in $XDG_STATE_HOME/tierkv/history, or ~/.local/state/tierkv/history, for \
your eyes alone; values are part of it. A line that begins with a space is left out.

Exit status: of a terminal's shell 0. Of lines from a file or pipe the worst of them: 3 if it is \
unknown whether a write happened, else 2 if there was an error, else 1 if there was a negative \
answer, else 0; no failure keeps the lines behind it from being run.")]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    connection: Connection,
    /// Neither read nor write the file of earlier lines.
    #[arg(long)]
    no_history: bool,
}

/// What becomes of the shell after a line.
enum Next {
    /// It goes on; the line ended so.
    On(ExitCode),
    /// It ends, as the user wants.
    Exit,
    /// It ends by a signal.
    Killed(u8),
}

/// Runs lines until they end.
pub(crate) async fn run(arguments: ShellArguments) -> Outcome {
    let is_terminal = stdin().is_terminal();
    let shell = Shell {
        kept: Arc::new(arguments.connection.kept()),
        grammar: Grammar::new(),
        vocabulary: Vocabulary::default(),
        is_terminal,
    };
    shell.vocabulary.namespace(&shell.kept.namespace());
    // A watch listens to SIGTERM, too, after which nothing else would end this process.
    let terminated = signal(SignalKind::terminate())?;
    let prompter = match is_terminal {
        true => {
            let history = (!arguments.no_history).then(history::file).flatten();
            shell.greet(&arguments.connection).await;
            Prompter::terminal(shell.grammar.clone(), shell.vocabulary.clone(), history)?
        }
        false => Prompter::script(),
    };
    shell.lines(prompter, terminated).await
}

struct Shell {
    kept: Arc<Kept>,
    grammar: Grammar,
    vocabulary: Vocabulary,
    is_terminal: bool,
}

impl Shell {
    /// Connects, so that a platform that is away is told before the first line.
    async fn greet(&self, connection: &Connection) {
        match kept::within(Arc::clone(&self.kept), connection.open()).await {
            Ok(_) => output::note(format_args!(
                "connected to {}; help lists the commands, Ctrl-D ends the shell",
                self.kept.addresses().join(", ")
            )),
            Err(error) => output::note(format_args!(
                "tierkv: {error}\nEach line tries again; help lists the commands, Ctrl-D ends \
                 the shell"
            )),
        }
    }

    async fn lines(&self, mut prompter: Prompter, mut terminated: Signal) -> Outcome {
        let mut worst = ExitCode::SUCCESS;
        loop {
            let said = tokio::select! {
                biased;
                _ = terminated.recv() => return Ok(ExitCode::from(TERMINATED)),
                said = prompter.ask(format!("tierkv:{}> ", self.kept.namespace())) => said,
            };
            let line = match said {
                Said::Line(line) => line,
                Said::Nothing => continue,
                Said::End => break,
                Said::Failed(why) => {
                    output::note(format_args!("tierkv: {why}"));
                    worst = outcome::worse(worst, ExitCode::from(FAILED));
                    break;
                }
            };
            match self.line(&line, &mut terminated).await {
                Next::On(ended) => worst = outcome::worse(worst, ended),
                Next::Exit => break,
                Next::Killed(status) => return Ok(ExitCode::from(status)),
            }
        }
        Ok(match self.is_terminal {
            true => ExitCode::SUCCESS,
            false => worst,
        })
    }

    async fn line(&self, line: &[u8], terminated: &mut Signal) -> Next {
        let line = match self.grammar.read(line) {
            Reading::Nothing => return Next::On(ExitCode::SUCCESS),
            Reading::Line(line, words) => {
                self.vocabulary.learn(&words);
                line
            }
            Reading::Refused(error) => return Next::On(refused(&error)),
            Reading::Broken(why) => {
                return Next::On(outcome::failed(&*Box::<dyn std::error::Error>::from(why)));
            }
        };
        match *line {
            Line::Exit => Next::Exit,
            Line::Use { namespace } => Next::On(self.use_namespace(&namespace)),
            Line::Operation(operation) => self.operate(operation, terminated).await,
        }
    }

    fn use_namespace(&self, namespace: &str) -> ExitCode {
        match Namespace::new(namespace) {
            Ok(namespace) => {
                self.kept.use_namespace(&namespace);
                self.vocabulary.namespace(&namespace);
                ExitCode::SUCCESS
            }
            Err(error) => outcome::failed(&error),
        }
    }

    async fn operate(&self, operation: Operation, terminated: &mut Signal) -> Next {
        // Anew for each line: a Ctrl-C that ended an earlier one is over.
        let mut interrupts = match signal(SignalKind::interrupt()) {
            Ok(interrupts) => interrupts,
            Err(error) => return Next::On(outcome::failed(&error)),
        };
        let (only_reads, ends_by_signal) = (operation.only_reads(), operation.ends_by_signal());
        let running = kept::within(Arc::clone(&self.kept), operation.run());
        let ended = tokio::select! {
            ended = running => ended,
            _ = interrupts.recv(), if !ends_by_signal => {
                let status = interrupted(only_reads);
                return match self.is_terminal {
                    true => Next::On(status),
                    false => Next::Killed(INTERRUPTED),
                };
            }
            _ = terminated.recv(), if !ends_by_signal => return Next::Killed(TERMINATED),
        };
        Next::On(ended.unwrap_or_else(|error| {
            self.kept.heed(&*error);
            outcome::failed(&*error)
        }))
    }
}

/// Prints what clap has to say of a line: help, or why it makes no sense.
fn refused(error: &clap::Error) -> ExitCode {
    // A terminal that is gone ends the shell by itself.
    drop(error.print());
    match error.use_stderr() {
        true => ExitCode::from(FAILED),
        false => ExitCode::SUCCESS,
    }
}

fn interrupted(only_reads: bool) -> ExitCode {
    match only_reads {
        true => {
            output::note("tierkv: interrupted");
            ExitCode::from(FAILED)
        }
        false => {
            output::note(
                "tierkv: interrupted, and whether it happened is unknown: read the key before \
                 trying again",
            );
            ExitCode::from(UNKNOWN)
        }
    }
}
