//! Logging to standard error, with the levels of `TIERKV_LOG`.

use std::{
    env::{self, VarError},
    io::{IsTerminal, stderr},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

const VARIABLE: &str = "TIERKV_LOG";
const DEFAULT: &str = "warn";

/// Starts logging.
///
/// # Errors
/// If the variable is invalid.
pub(crate) fn start() -> Result<(), String> {
    let filter = match env::var(VARIABLE) {
        Ok(text) => filter(&text),
        Err(VarError::NotPresent) => filter(""),
        Err(VarError::NotUnicode(_)) => Err(refusal("it is not UTF-8")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter?)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        // It would panic if standard error is full or closed.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// Parses levels, for the whole platform or a part of it. Empty text is the default level.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let parts = text.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        // A single word that is not a level would count as the name of a part, and silence the
        // rest.
        let is_lone = !part.contains(['=', '[', ':']) && !part.starts_with("tierkv");
        if is_lone && part.parse::<LevelFilter>().is_err() {
            return Err(refusal(&format!("'{part}' is not a level")));
        }
    }
    let text = if text.trim().is_empty() {
        DEFAULT
    } else {
        text
    };
    EnvFilter::try_new(text).map_err(|error| refusal(&error.to_string()))
}

fn refusal(why: &str) -> String {
    format!(
        "{VARIABLE} can't be used: {why}; write off, error, warn, info, debug or trace, or a \
         level for a part of the platform, as in tierkv_storage=debug,warn"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_parts_are_taken_and_others_refused() {
        for (text, wanted) in [
            ("", "warn"),
            (" ", "warn"),
            ("info", "info"),
            ("DEBUG", "debug"),
            ("tierkv_storage=debug,warn", "tierkv_storage=debug,warn"),
            ("tierkv_storage", "tierkv_storage=trace"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), wanted, "{text}");
        }
        for text in ["verbose", "info,loud", "tierkv_storage=loud", "warning"] {
            let words = filter(text).unwrap_err();
            assert!(words.starts_with("TIERKV_LOG can't be used: "), "{words}");
            assert!(words.contains("write off, error"), "{words}");
        }
    }
}
