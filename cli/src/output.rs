//! Output of commands: the formats that they share, and tables.
//!
//! All output goes through [`print`] or [`note`], so that a full or closed output (`| head`)
//! never causes a panic. A failure of [`print`] is an error of the command; `main` and
//! [`outcome::done`](crate::outcome::done) turn it into an exit status.

use std::{
    fmt::Display,
    io::{self, Write, stderr, stdout},
};

use clap::ValueEnum;
use serde::Serialize;

/// Longest cell of a table, in characters; a longer one is cut, and its length is appended.
const MAX_CELL: usize = 60;

/// The output format of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: words or aligned columns; special bytes are escaped, long values cut.
    #[value(alias = "text")]
    Table,
    /// For programs: JSON as in REST's answers; lists have one line for each key or event.
    Json,
    /// Only the bytes; a key and its value are separated by a tab.
    #[value(alias = "value")]
    Raw,
}

/// Prints raw bytes.
///
/// # Errors
/// Those of standard output, for example that it is closed.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes.as_ref())?;
    out.flush()
}

/// Prints a line on standard error. Failures are ignored: a command does not fail because
/// standard error is closed.
pub(crate) fn note(words: impl Display) {
    // In one write, because other processes may write to the same terminal.
    drop(stderr().lock().write_all(format!("{words}\n").as_bytes()));
}

/// Prints a line.
///
/// # Errors
/// As [`print`].
pub(crate) fn line(words: impl AsRef<[u8]>) -> io::Result<()> {
    print([words.as_ref(), b"\n"].concat())
}

/// Prints a line of JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_vec(value)?)
}

/// Prints indented JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn pretty_json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_vec_pretty(value)?)
}

/// A table of aligned columns.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// A table with this first row.
    pub(crate) fn new<const N: usize>(titles: [&str; N]) -> Self {
        let mut table = Self {
            rows: Vec::new(),
            widths: vec![0; N],
        };
        table.push(titles.map(str::to_owned));
        table
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, row: [String; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = cell.chars().count().max(*width);
        }
        self.rows.push(row.into());
    }

    /// The number of rows not yet taken.
    pub(crate) const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes the rows since the last call. From call to call columns only grow wider.
    pub(crate) fn take(&mut self) -> String {
        let mut text = String::new();
        for row in self.rows.drain(..) {
            let cells =
                (row.iter().zip(&self.widths)).map(|(cell, &width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes in readable form: text unchanged, everything else escaped, and cut if too long.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut length = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                other if other.is_control() => text.extend(other.escape_default()),
                other => text.push(other),
            }
            length += 1;
            if length > MAX_CELL {
                break;
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
            length += 1;
        }
        if length > MAX_CELL {
            let cut: String = text.chars().take(MAX_CELL).collect();
            return format!("{cut}… ({} bytes)", bytes.len());
        }
    }
    text
}

/// A value in readable form; an empty one is marked, to distinguish it from an absent one.
pub(crate) fn readable_value(bytes: &[u8]) -> String {
    match bytes {
        [] => "(empty)".to_owned(),
        bytes => readable(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_over_several_takes() {
        let mut table = Table::new(["KEY", "VALUE"]);
        table.push(["€ 1".to_owned(), "x".to_owned()]);
        table.push(["longer".to_owned(), String::new()]);
        assert_eq!(table.take(), "KEY     VALUE\n€ 1     x\nlonger\n");
        table.push(["a".to_owned(), "y".to_owned()]);
        assert_eq!((table.len(), table.take()), (1, "a       y\n".to_owned()));
    }

    #[test]
    fn odd_bytes_are_escaped_and_long_values_cut() {
        assert_eq!(readable("a\n\t\\ü".as_bytes()), "a\\n\\t\\\\ü");
        assert_eq!(readable(b"a\xff\0b"), "a\\xff\\u{0}b");
        assert_eq!(
            (readable_value(b""), readable_value(b"a")),
            ("(empty)".to_owned(), "a".to_owned())
        );
        let long = readable(&[b'x'; 1_000]);
        assert!(
            long.starts_with("xxxx") && long.ends_with("… (1000 bytes)"),
            "{long}"
        );
        let odd = readable(&[0xff; 1_000]);
        assert!(odd.chars().count() < 80, "{odd}");
        assert_eq!(readable(&[b'y'; MAX_CELL]), "y".repeat(MAX_CELL));
    }
}
