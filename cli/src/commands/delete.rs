//! `tierkv delete`: one key, or all keys of a prefix.

use std::{
    ffi::OsString,
    io::{self, Write, stderr, stdin},
    process::ExitCode,
};

use clap::Args;
use serde_json::json;
use tierkv::{Client, DeleteOptions, Error, ScanOptions, Selection};
use tierkv_openapi::Deleted;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::{condition::PresenceArguments, key::KeyForm};
use crate::{
    connection::Connection,
    kept,
    outcome::{Outcome, done},
    output::{self, Output, note, readable},
};

/// Deletions of a prefix in flight at once.
const MAX_UNDER_WAY: usize = 256;

/// Options of `tierkv delete`.
#[derive(Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    condition: PresenceArguments,
    #[command(flatten)]
    target: Target,
    /// Don't ask.
    #[arg(long, requires = "prefix", conflicts_with = "key")]
    yes: bool,
    /// How to print whether the key was there; raw is 1 or 0. For a prefix: the number of
    /// removed keys.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// What is removed: one of the two.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The key.
    key: Option<OsString>,
    /// Count the keys with this prefix, ask for confirmation, and remove them; an empty prefix
    /// means all keys of the namespace.
    #[arg(long, conflicts_with_all = ["if_present", "if_version"])]
    prefix: Option<OsString>,
}

/// Removes the key and prints whether it was there, or the keys of a prefix and prints their
/// number.
pub(crate) async fn run(arguments: DeleteArguments) -> Outcome {
    let Some(prefix) = &arguments.target.prefix else {
        return one(arguments).await;
    };
    let prefix = arguments.form.read(prefix.clone())?;
    let client = arguments.connection.open().await?;
    let selection = Selection::prefix(prefix.clone());
    let count = client.count(selection.clone()).await?;
    if count > 0 && !arguments.yes {
        let question = question(count, &prefix, &arguments.connection.namespace());
        if !is_agreed(question).await? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let deleted = match count {
        0 => 0,
        _ => all(&client, selection).await?,
    };
    Ok(done(match arguments.output {
        Output::Json => output::json(&json!({ "deleted": deleted })),
        Output::Raw => output::line(deleted.to_string()),
        Output::Table => output::line(format!("{deleted} deleted")),
    }))
}

async fn one(arguments: DeleteArguments) -> Outcome {
    // Clap makes sure that there is one.
    let key = arguments
        .form
        .read(arguments.target.key.unwrap_or_default())?;
    let options = DeleteOptions {
        condition: arguments.condition.condition(),
    };
    let client = arguments.connection.open().await?;
    let deleted = client.delete_with(key, options).await?;
    Ok(done(match (arguments.output, deleted.existed) {
        (Output::Json, existed) => output::json(&Deleted {
            existed,
            version: deleted.version.to_string(),
        }),
        (Output::Raw, existed) => output::line(u8::from(existed).to_string()),
        (Output::Table, true) => output::line("deleted"),
        (Output::Table, false) => output::line("the key was absent"),
    }))
}

fn question(count: u64, prefix: &[u8], namespace: &str) -> String {
    let keys = match count {
        1 => "1 key".to_owned(),
        count => format!("{count} keys"),
    };
    match prefix {
        [] => format!("delete all of the namespace {namespace}, {keys}?"),
        prefix => format!(
            "delete {keys} of the namespace {namespace} that begin with '{}'?",
            readable(prefix)
        ),
    }
}

/// Asks for confirmation on the terminal, and reports if there is none.
async fn is_agreed(question: String) -> Result<bool, Box<dyn std::error::Error>> {
    let question = format!("{question} [y/N] ");
    let answer = match kept::current() {
        // The shell reads the answer, because it handles Ctrl-C and SIGTERM meanwhile.
        Some(shell) if shell.has_user() => shell.ask(question).await,
        // In a script of a shell, standard input has the next line, not an answer.
        Some(_) => {
            note(question);
            None
        }
        None => spawn_blocking(move || read_answer(&question)).await??,
    };
    let Some(answer) = answer else {
        note("no confirmation, so nothing was deleted; --yes deletes without asking");
        return Ok(false);
    };
    let answer = answer.trim();
    let is_agreed = answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes");
    if !is_agreed {
        note("nothing was deleted");
    }
    Ok(is_agreed)
}

/// The next line of standard input; `None` if there is none.
fn read_answer(question: &str) -> io::Result<Option<String>> {
    // Standard output is for the result of the command.
    let mut terminal = stderr().lock();
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let mut answer = String::new();
    if stdin().read_line(&mut answer)? == 0 {
        writeln!(terminal)?;
        return Ok(None);
    }
    Ok(Some(answer))
}

/// Removes the keys of the selection; returns how many of them were there.
///
/// # Errors
/// The first failure. Prints how many keys were deleted before it; the command may be run again.
async fn all(client: &Client, selection: Selection) -> Result<u64, Box<dyn std::error::Error>> {
    let mut keys = client.scan_with(selection, ScanOptions::default());
    let mut under_way: JoinSet<Result<bool, Error>> = JoinSet::new();
    let mut tally = Tally::default();
    while tally.failure.is_none()
        && let Some(item) = keys.next().await
    {
        match item {
            Ok(item) => {
                let client = client.clone();
                under_way.spawn(async move { Ok(client.delete(&item.key).await?.existed) });
            }
            Err(error) => tally.take(Err(error)),
        }
        if under_way.len() >= MAX_UNDER_WAY {
            tally.join(under_way.join_next().await)?;
        }
    }
    while let Some(done) = under_way.join_next().await {
        tally.join(Some(done))?;
    }
    match tally.failure {
        None => Ok(tally.deleted),
        Some(error) => {
            let deleted = tally.deleted;
            note(format_args!(
                "{deleted} deleted until it failed; run it again to delete the rest"
            ));
            Err(error.into())
        }
    }
}

#[derive(Default)]
struct Tally {
    deleted: u64,
    /// The first one; later ones probably have the same cause.
    failure: Option<Error>,
}

impl Tally {
    fn join(&mut self, done: Option<Result<Result<bool, Error>, JoinError>>) -> io::Result<()> {
        if let Some(done) = done {
            self.take(done?);
        }
        Ok(())
    }

    fn take(&mut self, outcome: Result<bool, Error>) {
        match outcome {
            Ok(existed) => self.deleted += u64::from(existed),
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_what_would_go() {
        assert_eq!(
            question(3, b"user/\xff", "shop"),
            "delete 3 keys of the namespace shop that begin with 'user/\\xff'?"
        );
        assert_eq!(
            question(1, b"", "default"),
            "delete all of the namespace default, 1 key?"
        );
    }
}
