//! `tierkv config`: the effective configuration, and a sample file.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    configuration::{ConfigurationArguments, Loaded, Origin, Problem, sample},
    outcome::{FAILED, Outcome},
    output::{self, Output},
};

/// What to do with the configuration.
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every key with its value, its origin and its meaning.
    Check(CheckArguments),
    /// Print a commented file with every key at its default.
    Sample,
}

/// Options of `tierkv config check`.
#[derive(Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Exits 2 if the configuration is invalid.
pub(crate) fn run(command: &ConfigCommand) -> Outcome {
    let arguments = match command {
        ConfigCommand::Sample => {
            output::print(sample())?;
            return Ok(ExitCode::SUCCESS);
        }
        ConfigCommand::Check(arguments) => arguments,
    };
    let loaded = arguments.configuration.load(&[]);
    match arguments.output {
        Output::Json => output::pretty_json(&as_json(&loaded))?,
        Output::Table | Output::Raw => {
            // Before the long list, and once more after it in short.
            for problem in &loaded.problems {
                output::note(format_args!("error: {problem}"));
            }
            for warning in &loaded.warnings {
                output::note(format_args!("warning: {warning}"));
            }
            output::print(as_text(&loaded))?;
            if let Some(summary) = summary(&loaded.problems) {
                output::note(summary);
            }
        }
    }
    Ok(match loaded.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// One line with the keys of all problems; `None` without any.
fn summary(problems: &[Problem]) -> Option<String> {
    let mut keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
    keys.dedup();
    let errors = match problems.len() {
        0 => return None,
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    Some(format!(
        "\n{errors}, printed before the list: {}. The platform does not start with this \
         configuration",
        keys.join(", ")
    ))
}

fn as_text(loaded: &Loaded) -> String {
    let mut text = match &loaded.file {
        Some(file) => format!("file: {}\n", file.display()),
        None => "file: none (--config or TIERKV_CONFIG names one)\n".to_owned(),
    };
    for entry in &loaded.entries {
        let (key, meaning) = (entry.key, &entry.meaning);
        let line = match loaded.problem_of(key) {
            Some(Problem { origin, words, .. }) => format!("{key}: ERROR ({origin}): {words}"),
            None => format!("{key} = {}    ({})", entry.toml, entry.origin),
        };
        text.push_str(&format!("\n{line}\n    {meaning}\n"));
    }
    text
}

fn as_json(loaded: &Loaded) -> Value {
    let keys: Vec<Value> = (loaded.entries.iter())
        .map(|entry| {
            let mut fields = origin(&entry.origin);
            fields["key"] = entry.key.into();
            // What was set instead is in the error.
            fields["value"] = match loaded.problem_of(entry.key) {
                Some(_) => Value::Null,
                None => entry.json.clone(),
            };
            fields["meaning"] = entry.meaning.as_str().into();
            fields
        })
        .collect();
    let errors: Vec<Value> = (loaded.problems.iter())
        .map(|problem| {
            let mut fields = origin(&problem.origin);
            fields["key"] = problem.key.as_str().into();
            fields["message"] = problem.words.as_str().into();
            fields
        })
        .collect();
    json!({
        "file": loaded.file.as_ref().map(|file| file.to_string_lossy()),
        "keys": keys,
        "warnings": loaded.warnings,
        "errors": errors,
    })
}

/// An origin: the layer, and its file or variable.
fn origin(origin: &Origin) -> Value {
    match origin {
        Origin::Default => json!({"from": "default"}),
        Origin::File(path) => json!({"from": "file", "source": path.to_string_lossy()}),
        Origin::Environment(name) => json!({"from": "environment", "source": name}),
        Origin::Flag => json!({"from": "flag"}),
    }
}
