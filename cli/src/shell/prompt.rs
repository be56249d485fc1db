//! Where the lines come from: a terminal or a script, read by a thread of its own, because
//! a read that waits can't be ended, and a shell that is told to end must not wait for it.

use std::{
    io::{self, BufRead, Read, stdin},
    path::PathBuf,
    thread,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::{
    CompletionType, Config, Editor,
    error::ReadlineError,
    history::{FileHistory, History},
};
use tokio::sync::mpsc;

use super::{
    completion::{Completion, Vocabulary},
    line::Grammar,
};
use crate::output;

/// Longest line of a script, in bytes: the largest value with every byte quoted, and room for
/// the rest.
const MAX_LINE_BYTES: usize = 8 << 20;
/// Lines that the history keeps; older ones go.
const MAX_HISTORY_LINES: usize = 1_000;

/// What came instead of a line, or the line.
pub(super) enum Said {
    /// Without its end.
    Line(Vec<u8>),
    /// The user gave the line up.
    Nothing,
    End,
    /// It can't be read any more.
    Failed(String),
}

/// Asks for lines.
pub(super) struct Prompter {
    prompts: mpsc::UnboundedSender<String>,
    said: mpsc::Receiver<Said>,
    /// How the terminal was before; a shell that ends while it waits for a line leaves it so.
    terminal: Option<Termios>,
}

impl Prompter {
    /// Lines that a user types.
    ///
    /// # Errors
    /// If the terminal can't be used.
    pub(super) fn terminal(
        grammar: Grammar,
        vocabulary: Vocabulary,
        history: Option<PathBuf>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let terminal = tcgetattr(stdin())?;
        let config = Config::builder()
            .max_history_size(MAX_HISTORY_LINES)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_history(config.clone(), FileHistory::with_config(&config))?;
        editor.set_helper(Some(Completion::new(grammar, vocabulary)));
        let mut typed = Typed { editor, history };
        typed.load();
        Ok(Self::new(Some(terminal), move |prompt| typed.line(prompt)))
    }

    /// Lines on standard input.
    pub(super) fn script() -> Self {
        Self::new(None, |_| next_line(&mut stdin().lock()))
    }

    fn new(terminal: Option<Termios>, mut read: impl FnMut(&str) -> Said + Send + 'static) -> Self {
        let (prompts, mut asked) = mpsc::unbounded_channel::<String>();
        let (sender, said) = mpsc::channel(1);
        thread::spawn(move || {
            while let Some(prompt) = asked.blocking_recv() {
                if sender.blocking_send(read(&prompt)).is_err() {
                    return;
                }
            }
        });
        Self {
            prompts,
            said,
            terminal,
        }
    }

    /// Waits for the next line.
    pub(super) async fn ask(&mut self, prompt: String) -> Said {
        let died = || Said::Failed("the lines can't be read any more".to_owned());
        if self.prompts.send(prompt).is_err() {
            return died();
        }
        self.said.recv().await.unwrap_or_else(died)
    }
}

impl Drop for Prompter {
    fn drop(&mut self) {
        if let Some(before) = &self.terminal {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

struct Typed {
    editor: Editor<Completion, FileHistory>,
    history: Option<PathBuf>,
}

impl Typed {
    fn load(&mut self) {
        if let Some(path) = self.history.clone() {
            let loaded = self.editor.load_history(&path);
            self.unless(loaded);
        }
    }

    fn line(&mut self, prompt: &str) -> Said {
        match self.editor.readline(prompt) {
            Ok(line) => {
                self.remember(&line);
                Said::Line(line.into_bytes())
            }
            Err(ReadlineError::Interrupted) => Said::Nothing,
            Err(ReadlineError::Eof) => Said::End,
            Err(error) => Said::Failed(format!("the terminal can't be read: {error}")),
        }
    }

    /// At once, so that it is there whatever ends the shell.
    fn remember(&mut self, line: &str) {
        let is_new = self.editor.history_mut().add(line).unwrap_or(false);
        if let Some(path) = self.history.clone().filter(|_| is_new) {
            let appended = self.editor.append_history(&path);
            self.unless(appended);
        }
    }

    /// Goes on without a file that can't be used.
    fn unless(&mut self, done: rustyline::Result<()>) {
        if let (Err(error), Some(path)) = (done, &self.history) {
            output::note(format_args!(
                "tierkv: no history is kept: {}: {error}",
                path.display()
            ));
            self.history = None;
        }
    }
}

fn next_line(from: &mut impl BufRead) -> Said {
    match read_line(from) {
        Ok(line) => line.map_or(Said::End, Said::Line),
        Err(error) => Said::Failed(format!("standard input can't be read: {error}")),
    }
}

/// The next line without its end; `None` behind the last.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = MAX_LINE_BYTES as u64 + 1;
    let taken = from.by_ref().take(most).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    } else if line.len() > MAX_LINE_BYTES {
        return Err(io::Error::other(format!(
            "a line has over {MAX_LINE_BYTES} bytes; put --file and import take more"
        )));
    }
    Ok((taken > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_script_end_with_it() {
        let mut script = &b"one\r\n\n\xfftwo"[..];
        let mut next = || read_line(&mut script).unwrap();
        assert_eq!(next().unwrap(), b"one");
        assert_eq!(next().unwrap(), b"");
        assert_eq!(next().unwrap(), b"\xfftwo");
        assert_eq!(next(), None);
        let endless = read_line(&mut io::BufReader::new(io::repeat(b'x')));
        assert!(endless.unwrap_err().to_string().contains("over 8388608"));
    }
}
