//! Completion of an unfinished line by Tab.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clap::{Arg, Command};
use rustyline::{
    Context, Helper,
    completion::{Completer, Pair},
    highlight::Highlighter,
    hint::Hinter,
    validate::Validator,
};

use super::line::{Grammar, Words};

/// Most keys that are remembered, the last ones used.
const MAX_KEYS: usize = 256;
/// Most namespaces that are remembered.
const MAX_NAMESPACES: usize = 64;

/// The keys and namespaces of the lines so far.
#[derive(Clone, Default)]
pub(super) struct Vocabulary(Arc<Mutex<Used>>);

/// The last used ones first, each once.
#[derive(Default)]
struct Used {
    keys: VecDeque<String>,
    namespaces: VecDeque<String>,
}

impl Vocabulary {
    /// Remembers the keys and the namespace of a line.
    pub(super) fn learn(&self, words: &Words) {
        for key in &words.keys {
            remember(&mut self.used().keys, key, MAX_KEYS);
        }
        if let Some(namespace) = &words.namespace {
            self.namespace(namespace);
        }
    }

    /// Remembers a namespace.
    pub(super) fn namespace(&self, namespace: &str) {
        remember(&mut self.used().namespaces, namespace, MAX_NAMESPACES);
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(words: &mut VecDeque<String>, word: &str, most: usize) {
    words.retain(|known| known != word);
    words.push_front(word.to_owned());
    words.truncate(most);
}

/// Completes lines.
pub(super) struct Completion {
    grammar: Grammar,
    vocabulary: Vocabulary,
}

impl Completion {
    pub(super) const fn new(grammar: Grammar, vocabulary: Vocabulary) -> Self {
        Self {
            grammar,
            vocabulary,
        }
    }

    /// The start of the last word of `line`, and its completions.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = last_word(line);
        let before = shlex::split(&line[..start]).unwrap_or_default();
        let begun = line[start..].trim_start_matches(['\'', '"']);
        let mut words = self.possible(&before, begun);
        words.retain(|word| word.starts_with(begun));
        words.sort_unstable();
        words.dedup();
        (start, words)
    }

    /// The candidates for the word after `before`.
    fn possible(&self, before: &[String], begun: &str) -> Vec<String> {
        let mut command = self.grammar.definition();
        let mut words = before.iter();
        let mut last = None;
        for word in words.by_ref() {
            match command.find_subcommand(word) {
                Some(inner) => command = inner,
                None => last = Some(word),
            }
        }
        if command.has_subcommands() {
            return last.map_or_else(|| names(command), |_| Vec::new());
        }
        let option = last.and_then(|word| option(command, word));
        if let Some(option) = option.filter(|option| option.get_action().takes_values()) {
            return self.values(option);
        }
        if begun.starts_with('-') {
            return options(command);
        }
        let positionals = command.get_positionals();
        positionals
            .flat_map(|argument| self.values(argument))
            .collect()
    }

    fn values(&self, argument: &Arg) -> Vec<String> {
        let used = self.vocabulary.used();
        match argument.get_id().as_str() {
            "namespace" => used.namespaces.iter().cloned().collect(),
            "key" | "keys" | "prefix" | "prefix_option" | "start" | "end" => {
                used.keys.iter().cloned().collect()
            }
            _ => (argument.get_possible_values().iter())
                .map(|value| value.get_name().to_owned())
                .collect(),
        }
    }
}

fn names(command: &Command) -> Vec<String> {
    (command.get_subcommands())
        .filter(|inner| !inner.is_hide_set())
        .flat_map(|inner| {
            [inner.get_name()]
                .into_iter()
                .chain(inner.get_visible_aliases())
        })
        .map(str::to_owned)
        .collect()
}

fn options(command: &Command) -> Vec<String> {
    (command.get_arguments())
        .filter(|argument| !argument.is_hide_set())
        .filter_map(Arg::get_long)
        .map(|name| format!("--{name}"))
        .collect()
}

/// The option of this name.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| {
        let long = (argument.get_long()).is_some_and(|name| word == format!("--{name}"));
        let short = (argument.get_short()).is_some_and(|name| word == format!("-{name}"));
        long || short
    })
}

/// The start of the last word, with quotes taken into account.
fn last_word(line: &str) -> usize {
    let (mut start, mut quote, mut is_escaped) = (0, None, false);
    for (at, character) in line.char_indices() {
        match (quote, character) {
            _ if is_escaped => is_escaped = false,
            (None | Some('"'), '\\') => is_escaped = true,
            (Some(open), _) => {
                if open == character {
                    quote = None;
                }
            }
            (None, '\'' | '"') => quote = Some(character),
            (None, _) if character.is_whitespace() => start = at + character.len_utf8(),
            (None, _) => {}
        }
    }
    start
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.candidates(&line[..position]);
        let pair = |word: String| {
            let quoted = shlex::try_quote(&word).ok()?;
            Some(Pair {
                // The next word starts after it.
                replacement: format!("{quoted} "),
                display: word,
            })
        };
        Ok((start, words.into_iter().filter_map(pair).collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let vocabulary = Vocabulary::default();
        vocabulary.learn(&Words {
            keys: vec!["user:1".to_owned(), "user:2".to_owned(), "a b".to_owned()],
            namespace: Some("packages".to_owned()),
        });
        Completion::new(Grammar::new(), vocabulary)
            .candidates(line)
            .1
    }

    #[test]
    fn commands_options_and_what_was_used_are_completed() {
        assert_eq!(completed("g"), ["get"]);
        assert_eq!(completed("q"), ["quit"]);
        assert_eq!(completed("help incr"), ["increment"]);
        assert_eq!(completed("admin m"), ["memory"]);
        assert_eq!(
            completed("put --if-"),
            ["--if-absent", "--if-present", "--if-version"]
        );
        assert_eq!(completed("get --consistency l"), ["latest"]);
        assert_eq!(completed("get us"), ["user:1", "user:2"]);
        assert_eq!(completed("get user:1 a"), ["a b"]);
        assert_eq!(completed("get 'a "), ["a b"]);
        assert_eq!(completed("scan --start u"), ["user:1", "user:2"]);
        assert_eq!(completed("get -n p"), ["packages"]);
        assert_eq!(completed("use "), ["packages"]);
        assert!(completed("dev --g").is_empty(), "it is not offered");
        assert!(completed("nonsense u").is_empty());
        assert!(completed("").contains(&"watch".to_owned()));
    }

    #[test]
    fn words_end_where_a_shell_ends_them() {
        for (line, start) in [
            ("", 0),
            ("get a", 4),
            ("get 'a b", 4),
            ("get a\\ b", 4),
            ("get ", 4),
        ] {
            assert_eq!(last_word(line), start, "{line}");
        }
    }

    #[test]
    fn so_many_words_are_remembered_the_last_ones_first() {
        let mut words = VecDeque::new();
        for number in 0..5 {
            remember(&mut words, &number.to_string(), 3);
        }
        remember(&mut words, "3", 3);
        assert_eq!(words, ["3", "4", "2"]);
    }
}
