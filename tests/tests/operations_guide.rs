//! The operations guide is complete: it has what to do about every error that the platform logs,
//! and names no message and no metric that does not exist.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use tierkv_tests::binary::repository;

/// The crates that a running platform consists of.
const SOURCES: [&str; 9] = [
    "cache/src",
    "cli/src",
    "client-coordinator/src",
    "coordination/src",
    "datanode/src",
    "datanode/storage/src",
    "protocol/src",
    "rpc/src",
    "server-coordinator/src",
];
/// There are at least so many of each.
const A_FEW: usize = 25;

/// What the guide leaves out of a message.
const ELLIPSIS: char = '…';

fn guide() -> String {
    fs::read_to_string(repository().join("docs/operations.md")).unwrap()
}

/// The part of the guide below a heading, up to the next one of its level.
fn section<'a>(guide: &'a str, heading: &str) -> &'a str {
    let (_, rest) = guide.split_once(&format!("\n{heading}\n")).unwrap();
    let level = heading.split(' ').next().unwrap();
    let end = rest.find(&format!("\n{level} ")).unwrap_or(rest.len());
    &rest[..end]
}

/// The first cell of each row of a table, without its head.
fn first_cells(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(|row| row.split(" | ").next().unwrap())
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every Rust file of a folder, but for those with tests alone.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = ["tests", "tests.rs"]
            .iter()
            .any(|name| path.ends_with(name));
        if path.is_dir() && !is_test {
            files(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && !is_test {
            found.push(path);
        }
    }
}

/// The value of a string literal; `None` for another one.
fn text_of(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut lines = inner.split("\\\n");
    let first = lines.next()?.to_owned();
    let joined = lines.fold(first, |text, line| text + line.trim_start());
    Some(joined.replace("\\\"", "\"").replace("\\n", "\n"))
}

/// Every string literal of some tokens, and those that `tracing::error!` logs.
fn collect(tokens: TokenStream, all: &mut BTreeSet<String>, errors: &mut BTreeSet<String>) {
    // The last words before a group: `tracing`, `error` and `!` for a logged error.
    let mut before: Vec<String> = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                if before.ends_with(&["tracing", ":", ":", "error", "!"].map(str::to_owned)) {
                    errors.extend(message(group.stream()));
                }
                if group.delimiter() != Delimiter::None {
                    collect(group.stream(), all, errors);
                }
                before.clear();
            }
            TokenTree::Literal(literal) => {
                all.extend(text_of(&literal.to_string()));
                before.clear();
            }
            other => before.push(other.to_string()),
        }
    }
}

/// The message of a logged line: the last text of its arguments.
fn message(arguments: TokenStream) -> Option<String> {
    let literals = arguments.into_iter().filter_map(|token| match token {
        TokenTree::Literal(literal) => text_of(&literal.to_string()),
        _ => None,
    });
    literals.last()
}

/// All texts of the platform's code, and the messages of its errors.
fn texts() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut all, mut errors) = (BTreeSet::new(), BTreeSet::new());
    let mut sources = Vec::new();
    for folder in SOURCES {
        files(&repository().join(folder), &mut sources);
    }
    for path in sources {
        let tokens: TokenStream = fs::read_to_string(&path).unwrap().parse().unwrap();
        collect(tokens, &mut all, &mut errors);
    }
    (all, errors)
}

/// Whether a message of the guide is this text, of which an ellipsis leaves out a part.
fn is_meant(shown: &str, text: &str) -> bool {
    // The guide leaves out the backticks of commands.
    let text = text.replace('`', "");
    match shown.split_once(ELLIPSIS) {
        Some((begin, end)) => {
            text.starts_with(begin.trim_end()) && text.ends_with(end.trim_start())
        }
        None => text == shown,
    }
}

#[test]
fn every_error_that_the_platform_logs_is_in_the_guide_and_no_other_message() {
    let guide = guide();
    let table = section(&guide, "### Messages in the log");
    let cells = first_cells(table).flat_map(quoted);
    let shown: BTreeSet<&str> = cells.collect();
    let (all, errors) = texts();
    assert!(errors.len() >= A_FEW && shown.len() >= A_FEW, "{errors:?}");
    let missing = errors.iter().filter(|error| {
        let mut shown = shown.iter();
        !shown.any(|shown| is_meant(shown, error))
    });
    let missing: Vec<&String> = missing.collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md, Messages in the log: say what to do about {missing:#?}"
    );
    let unknown = shown.iter().filter(|shown| {
        let mut texts = all.iter();
        !texts.any(|text| is_meant(shown, text))
    });
    let unknown: Vec<&&str> = unknown.collect();
    assert!(
        unknown.is_empty(),
        "docs/operations.md, Messages in the log: nothing logs {unknown:#?}"
    );
}

#[test]
fn every_metric_of_an_alarm_is_explained() {
    let guide = guide();
    let explained = section(&guide, "## Metrics");
    let explained: BTreeSet<&str> = first_cells(explained).flat_map(quoted).collect();
    let explained = explained.iter().map(|name| name.split('{').next().unwrap());
    let explained: BTreeSet<&str> = explained.collect();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let alarms = section(&guide, "## Alarms");
    let words = alarms.split(|letter| !is_part(letter));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("tierkv_")).collect();
    assert!(named.len() >= A_FEW, "{named:?}");
    let unknown: Vec<&&str> = named.difference(&explained).collect();
    assert!(unknown.is_empty(), "not under Metrics: {unknown:?}");
}
