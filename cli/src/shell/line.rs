//! Parses a line of the shell with the definitions of the command line.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStringExt,
};

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    commands::Operation,
    connection::{OPTIONS, without_environment},
    tips,
};

/// The arguments whose values are keys or prefixes.
const KEYS: [&str; 6] = ["key", "keys", "prefix", "prefix_option", "start", "end"];
/// The option for keys in base64, which are not remembered for completion.
const KEY_FORM: &str = "key_base64";

/// A command of the shell.
#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // There is one at a time, in a box.
pub(super) enum Line {
    #[command(flatten)]
    Operation(Operation),
    /// Change the namespace of the following lines.
    Use {
        /// The namespace.
        namespace: String,
    },
    /// End the shell, as Ctrl-D does.
    #[command(visible_alias = "quit")]
    Exit,
}

/// A line of the shell is a command with its options; `help COMMAND` describes one.
#[derive(Parser)]
#[command(multicall = true, override_usage = "COMMAND [OPTIONS] [ARGUMENTS]")]
struct Whole {
    #[command(subcommand)]
    line: Line,
}

/// Words of a line that a later one may use again.
#[derive(Default)]
pub(super) struct Words {
    pub(super) keys: Vec<String>,
    pub(super) namespace: Option<String>,
}

/// The result of parsing a line.
pub(super) enum Reading {
    /// The line is empty, or a comment.
    Nothing,
    Line(Box<Line>, Words),
    /// Clap refused the words, or they ask for help.
    Refused(clap::Error),
    /// The line can't be split into words.
    Broken(&'static str),
}

/// The grammar of lines.
#[derive(Clone)]
pub(super) struct Grammar(Command);

impl Grammar {
    pub(super) fn new() -> Self {
        let mut command = with_own_defaults(without_environment(Whole::command()));
        // Builds the help of every command, to be shown and completed.
        command.build();
        Self(command)
    }

    /// The definition of all commands.
    pub(super) const fn definition(&self) -> &Command {
        &self.0
    }

    pub(super) fn read(&self, line: &[u8]) -> Reading {
        let Some(words) = shlex::bytes::split(line) else {
            return Reading::Broken(
                "a quotation mark is not closed, or the line ends with a backslash; write \\' or \
                 \\\" for the character itself",
            );
        };
        if words.is_empty() {
            return Reading::Nothing;
        }
        // As everywhere else on the command line.
        let is_help = words.len() == 1 && [&b"--help"[..], b"-h"].contains(&&words[0][..]);
        let words = match is_help {
            true => vec![b"help".to_vec()],
            false => words,
        };
        let words = words.into_iter().map(OsString::from_vec);
        let matches = match self.0.clone().try_get_matches_from(words) {
            Ok(matches) => matches,
            Err(error) => return Reading::Refused(tips::with_tip(error, &self.0)),
        };
        let words = learnt(&matches);
        match Whole::from_arg_matches(&matches) {
            Ok(whole) => Reading::Line(Box::new(whole.line), words),
            Err(error) => Reading::Refused(error),
        }
    }
}

/// A command in whose help the options of the shell are the defaults, as they are for its lines.
fn with_own_defaults(command: Command) -> Command {
    let described = |argument: Arg| {
        let help = argument.get_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        match help.split_once(" [default: ") {
            Some((help, _)) if OPTIONS.contains(&argument.get_id().as_str()) => {
                argument.help(format!("{help} [default: as of the shell]"))
            }
            _ => argument,
        }
    };
    command
        .mut_args(described)
        .mut_subcommands(with_own_defaults)
}

fn learnt(matches: &ArgMatches) -> Words {
    let mut innermost = matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    let texts = |name: &str| -> Vec<String> {
        let given = innermost.try_get_raw(name).ok().flatten();
        let text = |word: &OsStr| word.to_str().map(str::to_owned);
        given.into_iter().flatten().filter_map(text).collect()
    };
    let is_base64 = matches!(innermost.try_get_one::<bool>(KEY_FORM), Ok(Some(true)));
    let keys = KEYS.iter().flat_map(|name| texts(name));
    Words {
        keys: if is_base64 {
            Vec::new()
        } else {
            keys.collect()
        },
        namespace: texts("namespace").pop(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Line, Words) {
        match Grammar::new().read(line.as_bytes()) {
            Reading::Line(line, words) => (*line, words),
            Reading::Refused(error) => panic!("{line}: {error}"),
            Reading::Nothing | Reading::Broken(_) => panic!("{line}"),
        }
    }

    #[test]
    fn lines_are_the_commands_of_the_command_line() {
        let (line, words) = read("put 'a key' \"a \\\"value\\\"\" --ttl 60s # a comment");
        assert!(matches!(line, Line::Operation(Operation::Put(_))));
        assert_eq!(words.keys, ["a key"]);
        let (line, words) = read("get a b -n other");
        assert!(matches!(line, Line::Operation(Operation::Get(_))));
        assert_eq!(words.keys, ["a", "b"]);
        assert_eq!(words.namespace.as_deref(), Some("other"));
        assert!(read("get --key-base64 AP8=").1.keys.is_empty());
        assert!(matches!(
            read("admin memory").0,
            Line::Operation(Operation::Admin(_))
        ));
        assert!(matches!(read("use other").0, Line::Use { .. }));
        assert!(matches!(read("quit").0, Line::Exit));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let grammar = Grammar::new();
        for line in ["", "  ", "# nothing"] {
            assert!(matches!(grammar.read(line.as_bytes()), Reading::Nothing));
        }
        for line in ["put 'a", "put a\\"] {
            assert!(matches!(grammar.read(line.as_bytes()), Reading::Broken(_)));
        }
        // The roles, and the shell itself, are not run inside.
        for line in ["dev", "config sample", "shell", "put", "tierkv get a"] {
            let Reading::Refused(error) = grammar.read(line.as_bytes()) else {
                panic!("{line}");
            };
            assert!(error.use_stderr(), "{line}: {error}");
        }
        let help = |line: &[u8]| {
            let Reading::Refused(help) = grammar.read(line) else {
                panic!("no help");
            };
            assert!(!help.use_stderr());
            help.to_string()
        };
        let put = help(b"help put");
        assert!(
            put.contains("--if-absent") && put.contains("as of the shell"),
            "{put}"
        );
        assert!(!put.contains("127.0.0.1"), "{put}");
        let all = help(b"help");
        assert!(all.starts_with("A line of the shell is a command"), "{all}");
        assert_eq!(help(b"--help"), all);
    }

    #[test]
    fn no_line_takes_from_the_environment_what_the_shell_has() {
        fn check(command: &Command) {
            for argument in command.get_arguments() {
                let is_kept = OPTIONS.contains(&argument.get_id().as_str());
                assert!(!is_kept || argument.get_env().is_none(), "{argument:?}");
            }
            command.get_subcommands().for_each(check);
        }
        check(Grammar::new().definition());
    }
}
