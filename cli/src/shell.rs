//! `tierkv shell`: runs the commands line by line over one connection.
//!
//! Reading order: [`prompt`] reads lines from a terminal, with [`history`] and [`completion`], or
//! from a script on standard input, each an [`input`]; [`line`] parses a line with the definitions
//! of the command line; this file runs it. [`question`] reads the answers to questions of commands.

mod completion;
mod history;
mod input;
mod line;
mod prompt;
mod question;

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    io::{IsTerminal, stdin},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use tierkv_types::Namespace;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, UnboundedReceiver},
};

use self::{
    completion::Vocabulary,
    input::Input,
    line::{Grammar, Line, Reading},
    prompt::{Prompt, Prompter},
    question::Asked,
};
use crate::{
    commands::Operation,
    connection::Connection,
    kept::{self, Kept, Question},
    outcome::{self, FAILED, Outcome, UNKNOWN},
    output,
};

/// The exit status after a signal is this plus the signal's number.
const BY_SIGNAL: u8 = 128;
const INTERRUPTED: u8 = BY_SIGNAL + 2;
const TERMINATED: u8 = BY_SIGNAL + 15;

/// Options of `tierkv shell`.
#[derive(Args)]
#[command(after_help = "\
Each line is a command with its options, split and quoted as in a POSIX shell, for example: put \
greeting 'good evening' --ttl 60s. # starts a comment. The shell also has: use NAMESPACE, help, \
help COMMAND, and exit, quit or Ctrl-D. Tab completes commands, options, and the keys and \
namespaces of this session. Ctrl-C ends the running command, not the shell.

The history is in $XDG_STATE_HOME/tierkv/history, or ~/.local/state/tierkv/history, readable \
only by you. It includes values. A line that starts with a space is not kept.

Exit status: 0 on a terminal. For lines from a file or pipe, the worst of them: 3 if the outcome \
of a write is unknown, else 2 if there was an error, else 1 if there was a negative answer, else \
0. A failed line does not stop the lines after it; its message begins with the line's number.")]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    connection: Connection,
    /// Neither read nor write the history file.
    #[arg(long)]
    no_history: bool,
}

/// What the shell does after a line.
enum Next {
    /// It continues; this is the line's exit status.
    On(ExitCode),
    /// It ends at the user's request.
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
    // A watch handles SIGTERM, too, and from then on SIGTERM no longer ends this process itself.
    let terminated = signal(SignalKind::terminate())?;
    let (prompter, questions) = match is_terminal {
        true => {
            let history = (!arguments.no_history).then(history::file).flatten();
            shell.greet(&arguments.connection).await;
            let (grammar, vocabulary) = (shell.grammar.clone(), shell.vocabulary.clone());
            let prompter = Prompter::terminal(grammar, vocabulary, history)?;
            (prompter, shell.kept.take_questions())
        }
        // Nobody can be asked.
        false => (Prompter::script(), mpsc::unbounded_channel().1),
    };
    let user = User {
        prompter,
        questions,
        terminated,
    };
    shell.lines(user).await
}

/// What comes from the user or script.
struct User {
    prompter: Prompter,
    /// The questions of running commands.
    questions: UnboundedReceiver<Question>,
    terminated: Signal,
}

/// Has the user answer the questions of the running command.
async fn answer(
    prompter: &mut Prompter,
    questions: &mut UnboundedReceiver<Question>,
    is_asking: &Cell<bool>,
) -> Infallible {
    while let Some(Question { words, answer }) = questions.recv().await {
        if answer.is_closed() {
            // Of an earlier command that a signal ended.
            continue;
        }
        let Ok((_waits, abandoned)) = UnixStream::pair() else {
            // Of all descriptors none is free: as if there were no user.
            continue;
        };
        is_asking.set(true);
        let asked = Asked { words, abandoned };
        match prompter.ask(Prompt::Answer(asked)).await {
            // The command may have ended meanwhile.
            Input::Line(line) => drop(answer.send(String::from_utf8_lossy(&line).into_owned())),
            Input::Nothing | Input::End | Input::Failed(_) => drop(answer),
        }
        is_asking.set(false);
    }
    pending().await
}

struct Shell {
    kept: Arc<Kept>,
    grammar: Grammar,
    vocabulary: Vocabulary,
    is_terminal: bool,
}

impl Shell {
    /// Connects, so that an unreachable platform is reported before the first line.
    async fn greet(&self, connection: &Connection) {
        match kept::within(Arc::clone(&self.kept), connection.open()).await {
            Ok(_) => output::note(format_args!(
                "connected to {}; help lists the commands, Ctrl-D ends the shell",
                self.kept.addresses().join(", ")
            )),
            Err(error) => output::note(format_args!(
                "tierkv: {error}\nEach line connects again; help lists the commands, Ctrl-D ends \
                 the shell"
            )),
        }
    }

    async fn lines(&self, mut user: User) -> Outcome {
        let mut worst = ExitCode::SUCCESS;
        let mut number = 0;
        loop {
            let prompt = Prompt::Line(format!("tierkv:{}> ", self.kept.namespace()));
            let said = tokio::select! {
                biased;
                _ = user.terminated.recv() => return Ok(ExitCode::from(TERMINATED)),
                said = user.prompter.ask(prompt) => said,
            };
            let line = match said {
                Input::Line(line) => line,
                Input::Nothing => continue,
                Input::End => break,
                Input::Failed(why) => {
                    output::note(format_args!("tierkv: {why}"));
                    worst = outcome::worse(worst, ExitCode::from(FAILED));
                    break;
                }
            };
            if !self.is_terminal {
                number += 1;
                self.kept.begin_line(number);
            }
            let running = self.line(&line, &mut user);
            match kept::within(Arc::clone(&self.kept), running).await {
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

    async fn line(&self, line: &[u8], user: &mut User) -> Next {
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
            Line::Operation(operation) => self.operate(operation, user).await,
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

    async fn operate(&self, operation: Operation, user: &mut User) -> Next {
        // A new listener for each line, which ignores the Ctrl-C of an earlier one.
        let mut interrupts = match signal(SignalKind::interrupt()) {
            Ok(interrupts) => interrupts,
            Err(error) => return Next::On(outcome::failed(&error)),
        };
        let (only_reads, ends_by_signal) = (operation.only_reads(), operation.ends_by_signal());
        let running = operation.run();
        let is_asking = Cell::new(false);
        let ended = tokio::select! {
            ended = running => ended,
            never = answer(&mut user.prompter, &mut user.questions, &is_asking) => match never {},
            _ = interrupts.recv(), if !ends_by_signal => {
                if is_asking.get() {
                    // The question's line ends.
                    output::note("");
                }
                // A command asks before it changes anything.
                let status = interrupted(only_reads || is_asking.get());
                return match self.is_terminal {
                    true => Next::On(status),
                    false => Next::Killed(INTERRUPTED),
                };
            }
            _ = user.terminated.recv(), if !ends_by_signal => return Next::Killed(TERMINATED),
        };
        Next::On(ended.unwrap_or_else(|error| {
            self.kept.heed(&*error);
            outcome::failed(&*error)
        }))
    }
}

/// Prints clap's output for a line: help, or an error.
fn refused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // If the terminal is gone, the next read ends the shell.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    match kept::place() {
        place if place.is_empty() => drop(error.print()),
        place => output::note(format_args!("{place}{}", error.to_string().trim_end())),
    }
    ExitCode::from(FAILED)
}

fn interrupted(only_reads: bool) -> ExitCode {
    match only_reads {
        true => {
            output::note(format_args!("tierkv: {}interrupted", kept::place()));
            ExitCode::from(FAILED)
        }
        false => {
            output::note(format_args!(
                "tierkv: {}interrupted, and it is unknown whether the write happened: read the \
                 key before you retry",
                kept::place()
            ));
            ExitCode::from(UNKNOWN)
        }
    }
}
