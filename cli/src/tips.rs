//! Tips in clap's error messages for what people try who know other stores.

use clap::{
    Command, Error,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Commands of other stores, and those that do the same here.
const COMMANDS: [(&str, &str); 15] = [
    ("set", "put"),
    ("add", "put"),
    ("del", "delete"),
    ("rm", "delete"),
    ("remove", "delete"),
    ("incr", "increment"),
    ("list", "scan"),
    ("ls", "scan"),
    ("keys", "scan"),
    ("expire", "touch"),
    ("batch", "write"),
    ("subscribe", "watch"),
    ("run", "dev"),
    ("start", "dev"),
    ("server", "dev"),
];

/// The same error, with a tip if there is one among the commands of `all`.
pub(crate) fn with_tip(mut error: Error, all: &Command) -> Error {
    let text = |error: &Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(&error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let known = COMMANDS.iter().find(|(theirs, _)| *theirs == name);
            if let Some((_, ours)) = known
                && all.find_subcommand(ours).is_some()
            {
                let ours = ContextValue::Strings(vec![(*ours).to_owned()]);
                error.insert(ContextKind::SuggestedSubcommand, ours);
            }
        }
        ErrorKind::UnknownArgument => {
            let name = text(&error, ContextKind::InvalidArg).unwrap_or_default();
            // Only an error of the whole command line has no command in its usage.
            let is_before = is_connection(&name) && is_before_command(&error);
            if is_before {
                let tip = format!("'{name}' goes after the command, as in: tierkv get {name} …");
                let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
                error.insert(ContextKind::Suggested, tip);
            }
        }
        _ => {}
    }
    error
}

/// Whether an option is one that every command for a running platform has.
fn is_connection(name: &str) -> bool {
    ["-n", "--namespace", "--address", "--timeout"].contains(&name)
}

/// Whether the refused argument is before the command: the usage in the error is then of `tierkv`.
fn is_before_command(error: &Error) -> bool {
    match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string().contains("<COMMAND>"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::Arguments;

    fn refused(words: &[&str]) -> String {
        let words = ["tierkv"].iter().chain(words);
        let Err(error) = Arguments::try_parse_from(words) else {
            panic!("it is accepted");
        };
        with_tip(error, &Arguments::command()).to_string()
    }

    #[test]
    fn commands_of_other_stores_are_translated() {
        for (theirs, ours) in COMMANDS {
            let words = refused(&[theirs, "k"]);
            assert!(words.contains(&format!("'{ours}'")), "{theirs}: {words}");
        }
        let near = refused(&["putt", "k"]);
        assert!(near.contains("'put'"), "{near}");
    }

    #[test]
    fn an_option_before_the_command_is_told_its_place() {
        for option in ["-n", "--namespace", "--address", "--timeout"] {
            let words = refused(&[option, "x", "get", "k"]);
            assert!(words.contains("goes after the command"), "{words}");
        }
        let inside = refused(&["status", "--keys", "x"]);
        assert!(!inside.contains("goes after the command"), "{inside}");
    }
}
