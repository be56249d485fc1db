//! Reads the answer to a question of the running command, as the terminal edits it: Ctrl-C is a
//! signal there, as from elsewhere, and what is typed enters no history.

use std::{
    io::{self, Write, stderr, stdin},
    os::unix::net::UnixStream,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
};

use super::input::Input;

/// Most bytes of an answer. Terminals end lines earlier.
const MAX_ANSWER_BYTES: usize = 8 << 10;

/// A question to the user.
pub(super) struct Asked {
    pub(super) words: String,
    /// Its other end is closed when nobody waits for the answer any more.
    pub(super) abandoned: UnixStream,
}

/// Prints the question and reads its answer; [`Input::Nothing`] when it is abandoned.
pub(super) fn ask(question: &Asked) -> Input {
    match answer(question) {
        Ok(input) => input,
        Err(error) => Input::Failed(format!("the terminal can't be read: {error}")),
    }
}

fn answer(question: &Asked) -> io::Result<Input> {
    let mut terminal = stderr().lock();
    write!(terminal, "{}", question.words)?;
    terminal.flush()?;
    drop(terminal);
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if !is_typed(&question.abandoned)? {
            return Ok(Input::Nothing);
        }
        let mut bytes = [0; 256];
        // Past Rust's buffer of standard input, whose content `poll` would not report.
        match read(stdin(), &mut bytes) {
            Ok(0) if line.is_empty() => {
                writeln!(stderr())?;
                return Ok(Input::End);
            }
            Ok(0) => break,
            Ok(count) if line.len() + count <= MAX_ANSWER_BYTES => {
                line.extend_from_slice(&bytes[..count]);
            }
            Ok(_) => return Err(io::Error::other("the answer is too long")),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Input::Line(line))
}

/// Waits for input; false when the question is abandoned first.
fn is_typed(abandoned: &UnixStream) -> io::Result<bool> {
    let stdin = stdin();
    loop {
        let mut events = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(abandoned, PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Ok(_) if !events[1].revents().is_empty() => return Ok(false),
            Ok(_) if !events[0].revents().is_empty() => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
