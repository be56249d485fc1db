//! Reads lines from a terminal or a script. A separate thread reads, because a blocking read
//! can't be cancelled, and the shell must not wait for it when it ends.

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
    input::Input,
    line::Grammar,
    question::{self, Asked},
};
use crate::output;

/// Longest line of a script, in bytes: the largest value with every byte quoted, and room for
/// the rest.
const MAX_LINE_BYTES: usize = 8 << 20;
/// Most lines in the history; older ones are removed.
const MAX_HISTORY_LINES: usize = 1_000;

/// What is read next, with the words before it.
pub(super) enum Prompt {
    /// A line of the shell.
    Line(String),
    /// The answer to a question of the running command. It is not kept in the history.
    Answer(Asked),
}

/// Reads lines on request.
pub(super) struct Prompter {
    /// The prompts, numbered.
    prompts: mpsc::UnboundedSender<(u64, Prompt)>,
    /// What was read at each prompt.
    said: mpsc::Receiver<(u64, Input)>,
    /// The number of the last prompt.
    last: u64,
    /// The terminal's settings before, restored when the shell ends while it waits for a line.
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
        Ok(Self::new(Some(terminal), move |prompt| match prompt {
            Prompt::Line(words) => typed.read(words),
            Prompt::Answer(question) => question::ask(question),
        }))
    }

    /// Lines on standard input.
    pub(super) fn script() -> Self {
        Self::new(None, |_| next_line(&mut stdin().lock()))
    }

    fn new(
        terminal: Option<Termios>,
        mut read: impl FnMut(&Prompt) -> Input + Send + 'static,
    ) -> Self {
        let (prompts, mut asked) = mpsc::unbounded_channel::<(u64, Prompt)>();
        let (sender, said) = mpsc::channel(1);
        thread::spawn(move || {
            while let Some((number, prompt)) = asked.blocking_recv() {
                if sender.blocking_send((number, read(&prompt))).is_err() {
                    return;
                }
            }
        });
        Self {
            prompts,
            said,
            last: 0,
            terminal,
        }
    }

    /// Waits for what is read at this prompt.
    pub(super) async fn ask(&mut self, prompt: Prompt) -> Input {
        self.last += 1;
        if self.prompts.send((self.last, prompt)).is_ok() {
            while let Some((number, said)) = self.said.recv().await {
                // Something else was read at an earlier prompt whose command a signal ended.
                if number == self.last {
                    return said;
                }
            }
        }
        Input::Failed("the lines can't be read any more".to_owned())
    }
}

impl Drop for Prompter {
    fn drop(&mut self) {
        if let Some(before) = &self.terminal {
            // If the terminal is gone, there is nothing to restore.
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

    fn read(&mut self, prompt: &str) -> Input {
        match self.editor.readline(prompt) {
            Ok(line) => {
                self.remember(&line);
                Input::Line(line.into_bytes())
            }
            Err(ReadlineError::Interrupted) => Input::Nothing,
            Err(ReadlineError::Eof) => Input::End,
            Err(error) => Input::Failed(format!("the terminal can't be read: {error}")),
        }
    }

    /// Writes the line to the file at once, so that it is kept however the shell ends.
    fn remember(&mut self, line: &str) {
        let is_new = self.editor.history_mut().add(line).unwrap_or(false);
        if let Some(path) = self.history.clone().filter(|_| is_new) {
            let appended = self.editor.append_history(&path);
            self.unless(appended);
        }
    }

    /// Continues without the file if it can't be used.
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

fn next_line(from: &mut impl BufRead) -> Input {
    match read_line(from) {
        Ok(line) => line.map_or(Input::End, Input::Line),
        Err(error) => Input::Failed(format!("standard input can't be read: {error}")),
    }
}

/// The next line without its newline; `None` after the last.
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
