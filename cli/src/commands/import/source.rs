//! The lines of an import, from a file or standard input. A separate thread reads them, so that
//! a slow disk or pipe does not delay the network.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    thread,
};

use tokio::sync::mpsc;

use crate::input;

/// Longest line, in bytes: the largest value as base64 or with every byte escaped, and
/// room for the rest. A longer one is left out.
const MAX_LINE_BYTES: u64 = 8 << 20;
/// A line longer than this ends the import: the input is not JSON lines, or endless.
const MAX_SKIPPED_BYTES: u64 = 256 << 20;
/// Lines read ahead.
const LINES_AHEAD: usize = 64;
const READ_BUFFER: usize = 1 << 20;

/// One line.
pub(super) struct Numbered {
    /// Counted from 1.
    pub(super) number: u64,
    /// The line without its newline, or why it is invalid.
    pub(super) bytes: Result<Vec<u8>, String>,
    /// The offset in the source after this line, in bytes.
    pub(super) end: u64,
}

/// The lines, without blank ones.
pub(super) struct Source {
    lines: mpsc::Receiver<io::Result<Numbered>>,
    bytes: Option<u64>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error| format!("{} can't be read: {error}", path.display());
        if path == Path::new("-") {
            return Ok(Self::read(input::standard()?, None));
        }
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        Ok(Self::read(file, about.is_file().then_some(about.len())))
    }

    fn read(from: impl Read + Send + 'static, bytes: Option<u64>) -> Self {
        let (sender, lines) = mpsc::channel(LINES_AHEAD);
        thread::spawn(move || {
            let mut reader = BufReader::with_capacity(READ_BUFFER, from);
            let (mut number, mut end) = (0, 0);
            match skip_mark(&mut reader) {
                Ok(mark) => end += mark,
                Err(error) => return drop(sender.blocking_send(Err(error))),
            }
            loop {
                let line = match next_line(&mut reader) {
                    Ok(None) => return,
                    Ok(Some((line, taken))) => {
                        number += 1;
                        end += taken;
                        Ok(Numbered {
                            number,
                            bytes: line,
                            end,
                        })
                    }
                    Err(error) => Err(error),
                };
                let is_blank = matches!(
                    &line,
                    Ok(Numbered { bytes: Ok(bytes), .. }) if bytes.trim_ascii().is_empty()
                );
                let failed = line.is_err();
                if (!is_blank && sender.blocking_send(line).is_err()) || failed {
                    return;
                }
            }
        });
        Self { lines, bytes }
    }

    /// The size of the source in bytes, if it is known.
    pub(super) const fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub(super) async fn next(&mut self) -> Option<io::Result<Numbered>> {
        self.lines.recv().await
    }
}

/// Skips a byte-order mark; returns its length in bytes.
///
/// # Errors
/// If the input is compressed or UTF-16 instead of UTF-8: the command that converts it.
fn skip_mark(reader: &mut impl BufRead) -> io::Result<u64> {
    let begin = reader.fill_buf()?;
    let refused = |words: &str| Err(io::Error::new(io::ErrorKind::InvalidData, words));
    match begin {
        [0xef, 0xbb, 0xbf, ..] => {
            reader.consume(3);
            Ok(3)
        }
        [0x1f, 0x8b, ..] => refused("it is compressed by gzip: gzip -dc FILE | tierkv import -"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            refused("it is compressed by zstd: zstd -dc FILE | tierkv import -")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..] => refused(
            "it is UTF-16, and JSON lines are UTF-8: iconv -f UTF-16 -t UTF-8 FILE | tierkv import -",
        ),
        _ => Ok(0),
    }
}

/// The next line without its newline, and its length in bytes with it.
#[allow(clippy::type_complexity)] // A line or why not, and its length; a name would say no more.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<(Result<Vec<u8>, String>, u64)>> {
    let mut line = Vec::new();
    let mut taken = reader
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)? as u64;
    if taken == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        return Ok(Some((Ok(line), taken)));
    }
    if taken < MAX_LINE_BYTES {
        return Ok(Some((Ok(line), taken)));
    }
    while !line.ends_with(b"\n") {
        line.clear();
        let more = reader
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)? as u64;
        if more == 0 {
            break;
        }
        taken += more;
        if taken >= MAX_SKIPPED_BYTES {
            return Err(io::Error::other(format!(
                "a line has over {MAX_SKIPPED_BYTES} bytes, so the input is not JSON lines"
            )));
        }
    }
    Ok(Some((
        Err(format!("it is longer than {MAX_LINE_BYTES} bytes")),
        taken,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first answer is.
    async fn first(text: &[u8]) -> Result<(Vec<u8>, u64), String> {
        let mut source = Source::read(io::Cursor::new(text.to_vec()), None);
        let line = source.next().await.unwrap();
        let line = line.map_err(|error| error.to_string())?;
        Ok((line.bytes.unwrap(), line.end))
    }

    #[tokio::test]
    async fn a_mark_is_skipped_and_what_is_not_utf_8_is_named() {
        let marked = first(b"\xef\xbb\xbf{}\n").await.unwrap();
        assert_eq!(marked, (b"{}".to_vec(), 6));
        for (text, remedy) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip -dc"),
            (b"\x28\xb5\x2f\xfd\0", "zstd -dc"),
            (b"\xff\xfe{\0}\0", "iconv -f UTF-16"),
            (b"\xfe\xff\0{", "iconv -f UTF-16"),
            (b"{\0\"\0", "iconv -f UTF-16"),
        ] {
            let words = first(text).await.unwrap_err();
            assert!(words.contains(remedy), "{words}");
        }
    }

    #[tokio::test]
    async fn endless_input_is_refused() {
        let mut source = Source::read(io::repeat(b'x'), None);
        let error = source.next().await.unwrap().err().unwrap();
        assert!(error.to_string().contains("not JSON lines"), "{error}");
        assert!(source.next().await.is_none());
    }

    #[tokio::test]
    async fn lines_are_numbered_blank_ones_too_and_long_ones_left_out() {
        let mut text = b"one\n\n  \nfour\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 9 << 20));
        text.extend_from_slice(b"\nsix");
        let mut source = Source::read(io::Cursor::new(text.clone()), None);
        let mut seen = Vec::new();
        while let Some(line) = source.next().await {
            let line = line.unwrap();
            seen.push((line.number, line.bytes.ok(), line.end));
        }
        let end = text.len() as u64;
        assert_eq!(
            seen,
            [
                (1, Some(b"one".to_vec()), 4),
                (4, Some(b"four".to_vec()), 13),
                (5, None, end - 3),
                (6, Some(b"six".to_vec()), end),
            ]
        );
    }
}
