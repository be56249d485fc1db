//! The lines of an import, from a file or standard input. A separate thread reads them, so that
//! a slow disk or pipe does not delay the network.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
    sync::Arc,
    thread,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::input;

/// Longest line, in bytes, without its newline: the largest value as base64 or with every byte
/// escaped, and room for the rest. A longer one is returned as invalid.
const MAX_LINE_BYTES: u32 = 8 << 20;
/// A line longer than this ends the import: the input is not JSON lines, or endless.
const MAX_SKIPPED_BYTES: u64 = 256 << 20;
/// Maximum lines read ahead, and their maximum bytes together. One more line may be in memory.
const LINES_AHEAD: usize = 64;
const BYTES_AHEAD: u32 = 2 * MAX_LINE_BYTES;
const READ_BUFFER_BYTES: usize = 1 << 20;
/// As many bytes as show which encoding or compression an input has.
const SIGNATURE_BYTES: u64 = 4;

/// Why the input of an import can't be used. The message goes after the name of the input.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    /// Reading failed.
    #[error("can't be read: {0}")]
    Read(#[from] io::Error),
    /// It must be converted first.
    #[error("is {format}; run: {command} FILE | tierkv import -")]
    Format {
        format: &'static str,
        command: &'static str,
    },
    /// It has a line without an end.
    #[error("is not JSON lines: it has a line of over {0} bytes")]
    Endless(u64),
}

/// A line of the input.
pub(super) struct SourceLine {
    /// Counted from 1, blank lines too.
    pub(super) number: u64,
    /// The line without its newline, or why it is invalid.
    pub(super) text: Result<Vec<u8>, String>,
    /// The offset in the source after this line, in bytes.
    pub(super) end: u64,
}

/// A line read ahead, which takes room until it is received.
type Ahead = Result<(SourceLine, OwnedSemaphorePermit), SourceError>;

/// The lines, without blank ones.
pub(super) struct Source {
    name: String,
    lines: mpsc::Receiver<Ahead>,
    bytes: Option<u64>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        if path == Path::new("-") {
            let name = "standard input".to_owned();
            return Ok(Self::read(name, input::standard()?, None));
        }
        let name = path.display().to_string();
        let failed = |error| format!("{name} {}", SourceError::Read(error));
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let bytes = about.is_file().then_some(about.len());
        Ok(Self::read(name, file, bytes))
    }

    /// Reads an input of this name and size. It must be called in a runtime.
    fn read(name: String, from: impl Read + Send + 'static, bytes: Option<u64>) -> Self {
        let (sender, lines) = mpsc::channel(LINES_AHEAD);
        let runtime = Handle::current();
        thread::spawn(move || {
            if let Err(error) = send_lines(from, &sender, &runtime) {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Self { name, lines, bytes }
    }

    /// The size of the source in bytes, if it is known.
    pub(super) const fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The next line; `None` after the last one.
    ///
    /// # Errors
    /// If the input can't be used: a message with its name and the reason. It is the last result.
    pub(super) async fn next(&mut self) -> Option<Result<SourceLine, String>> {
        let next = self.lines.recv().await?;
        Some(match next {
            Ok((line, _room)) => Ok(line),
            Err(error) => Err(format!("{} {error}", self.name)),
        })
    }
}

/// Sends all lines that are not blank, until the end, or until nobody receives them.
fn send_lines(
    from: impl Read,
    lines: &mpsc::Sender<Ahead>,
    runtime: &Handle,
) -> Result<(), SourceError> {
    let room = Arc::new(Semaphore::new(BYTES_AHEAD as usize));
    let (mut reader, mut end) = skip_bom(from)?;
    let mut number = 0;
    while let Some(RawLine { text, length }) = next_line(&mut reader)? {
        number += 1;
        end += length;
        let bytes = text.as_ref().map_or(0, Vec::len);
        if text.as_ref().is_ok_and(|text| text.trim_ascii().is_empty()) {
            continue;
        }
        // A line has at most `MAX_LINE_BYTES`, so there will be room for it.
        let bytes = u32::try_from(bytes).unwrap_or(MAX_LINE_BYTES);
        let taken = runtime.block_on(Arc::clone(&room).acquire_many_owned(bytes));
        let Ok(taken) = taken else { return Ok(()) };
        let line = SourceLine { number, text, end };
        if lines.blocking_send(Ok((line, taken))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Skips a byte-order mark of UTF-8; returns the rest of the input, and how many bytes it skipped.
///
/// # Errors
/// If the input can't be read, or its first bytes are those of gzip, zstd or UTF-16: then with the
/// command that converts it.
fn skip_bom(mut from: impl Read) -> Result<(impl BufRead, u64), SourceError> {
    let mut begin = Vec::new();
    // Not a single read: a pipe may return fewer bytes than are on their way.
    from.by_ref()
        .take(SIGNATURE_BYTES)
        .read_to_end(&mut begin)?;
    let refused = |format, command| Err(SourceError::Format { format, command });
    let skipped: u8 = match begin[..] {
        [0xef, 0xbb, 0xbf, ..] => 3,
        [0x1f, 0x8b, ..] => return refused("gzip-compressed", "gzip -dc"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return refused("zstd-compressed", "zstd -dc"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..] => {
            return refused(
                "UTF-16, and JSON lines are UTF-8",
                "iconv -f UTF-16 -t UTF-8",
            );
        }
        _ => 0,
    };
    let begin = Cursor::new(begin.split_off(skipped.into()));
    let reader = BufReader::with_capacity(READ_BUFFER_BYTES, begin.chain(from));
    Ok((reader, skipped.into()))
}

/// A line as it was read.
struct RawLine {
    /// The line without its newline, or why it is invalid.
    text: Result<Vec<u8>, String>,
    /// Its length in the input, in bytes, with its newline.
    length: u64,
}

/// Reads the next line; `None` at the end.
fn next_line(reader: &mut impl BufRead) -> Result<Option<RawLine>, SourceError> {
    let mut text = Vec::new();
    let longest = u64::from(MAX_LINE_BYTES);
    // One byte more, for the newline of a line of the greatest length.
    let mut length = read_until_newline(reader, longest + 1, &mut text)?;
    if length == 0 {
        return Ok(None);
    }
    if text.ends_with(b"\n") {
        text.pop();
    } else if length > longest {
        while !text.ends_with(b"\n") {
            text.clear();
            let more = read_until_newline(reader, longest, &mut text)?;
            if more == 0 {
                break;
            }
            length += more;
            if length >= MAX_SKIPPED_BYTES {
                return Err(SourceError::Endless(MAX_SKIPPED_BYTES));
            }
        }
        let text = Err(format!("it is longer than {MAX_LINE_BYTES} bytes"));
        return Ok(Some(RawLine { text, length }));
    }
    let text = Ok(text);
    Ok(Some(RawLine { text, length }))
}

/// Appends bytes up to a newline, the end or `limit` bytes; returns how many.
fn read_until_newline(
    reader: &mut impl BufRead,
    limit: u64,
    line: &mut Vec<u8>,
) -> io::Result<u64> {
    Ok(reader.by_ref().take(limit).read_until(b'\n', line)? as u64)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc as std_mpsc, time::Duration};

    use super::*;

    fn source(from: impl Read + Send + 'static) -> Source {
        Source::read("lines".to_owned(), from, None)
    }

    /// A pipe that delivers one byte at a time.
    struct Drip(Cursor<Vec<u8>>);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    /// The text and the end of the first line.
    async fn first(from: impl Read + Send + 'static) -> Result<(Vec<u8>, u64), String> {
        let line = source(from).next().await.unwrap()?;
        Ok((line.text.unwrap(), line.end))
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_skipped_and_the_remedy_for_other_formats_is_named() {
        let text = Cursor::new(b"\xef\xbb\xbf{}\n".to_vec());
        assert_eq!(first(Drip(text.clone())).await, Ok((b"{}".to_vec(), 6)));
        assert_eq!(first(text).await, Ok((b"{}".to_vec(), 6)));
        for (text, remedy) in [
            (
                &b"\x1f\x8b\x08\0"[..],
                "gzip-compressed; run: gzip -dc FILE",
            ),
            (b"\x28\xb5\x2f\xfd\0", "zstd-compressed; run: zstd -dc FILE"),
            (b"\xff\xfe{\0}\0", "iconv -f UTF-16"),
            (b"\xfe\xff\0{", "iconv -f UTF-16"),
            (b"{\0\"\0", "iconv -f UTF-16"),
        ] {
            let text = Cursor::new(text.to_vec());
            let message = first(Drip(text.clone())).await.unwrap_err();
            assert!(message.starts_with("lines is "), "{message}");
            assert!(message.contains(remedy), "{message}");
            assert_eq!(first(text).await, Err(message));
        }
        // Fewer bytes than a signature.
        assert_eq!(first(Cursor::new(b"1")).await, Ok((b"1".to_vec(), 1)));
        assert!(source(io::empty()).next().await.is_none());
    }

    #[tokio::test]
    async fn endless_input_is_refused() {
        let mut source = source(io::repeat(b'x'));
        let error = source.next().await.unwrap().err().unwrap();
        assert!(error.contains("not JSON lines"), "{error}");
        assert!(source.next().await.is_none());
    }

    #[tokio::test]
    async fn lines_are_numbered_with_the_blank_ones_and_long_ones_are_invalid() {
        let mut text = b"one\n\n  \nfour\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 9 << 20));
        text.extend_from_slice(b"\nsix");
        let mut source = source(Cursor::new(text.clone()));
        let mut seen = Vec::new();
        while let Some(line) = source.next().await {
            let line = line.unwrap();
            seen.push((line.number, line.text.ok(), line.end));
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

    #[tokio::test]
    async fn a_line_may_have_exactly_the_greatest_length() {
        let longest = MAX_LINE_BYTES as usize;
        let mut text = Vec::new();
        for (length, end) in [(longest, "\n"), (longest + 1, "\n"), (longest, "")] {
            text.extend(std::iter::repeat_n(b'x', length));
            text.extend_from_slice(end.as_bytes());
        }
        let mut source = source(Cursor::new(text));
        let mut lengths = Vec::new();
        while let Some(line) = source.next().await {
            lengths.push(line.unwrap().text.ok().map(|text| text.len()));
        }
        assert_eq!(lengths, [Some(longest), None, Some(longest)]);
    }

    /// Reports the bytes of each read.
    struct Watched {
        from: Cursor<Vec<u8>>,
        reads: std_mpsc::Sender<usize>,
    }

    impl Read for Watched {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.from.read(buffer)?;
            let _ = self.reads.send(count);
            Ok(count)
        }
    }

    #[tokio::test]
    async fn lines_read_ahead_are_bounded_in_bytes() {
        const LINES: usize = 48;
        let mut text = Vec::new();
        for _ in 0..LINES {
            text.extend(std::iter::repeat_n(b'x', 1 << 20));
            text.push(b'\n');
        }
        let (reads, counts) = std_mpsc::channel();
        let mut source = source(Watched {
            from: Cursor::new(text),
            reads,
        });
        // All that is read while nobody receives a line.
        let mut ahead = 0;
        while let Ok(count) = counts.recv_timeout(Duration::from_millis(300)) {
            ahead += count;
        }
        let line = (1 << 20) + 1;
        let most = BYTES_AHEAD as usize + line + READ_BUFFER_BYTES + line;
        assert!(ahead <= most, "{ahead} bytes were read ahead");
        let mut received = 0;
        while let Some(line) = source.next().await {
            assert_eq!(line.unwrap().text.unwrap().len(), 1 << 20);
            received += 1;
        }
        assert_eq!(received, LINES);
    }
}
