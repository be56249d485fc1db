//! Times to live in REST and on the command line: a whole number and its unit, as in `1500ms`,
//! `60s`, `15m`, `12h` or `30d`.

use std::time::Duration;

use tierkv_types::{Error, limits::MAX_TTL};

use crate::duration;

/// The longest time to live, in error messages.
const LONGEST: &str = "36500d (100 years, the limit max_ttl)";
/// Its name in error messages.
const NAME: &str = "time to live";

/// Parses a time to live.
///
/// # Errors
/// `InvalidArgument` if it is malformed, zero, or over the limit `max_ttl`.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let refused = |why: &str| {
        Error::invalid(format!(
            "the {NAME} '{}' {why}: write 1ms to {LONGEST}, or leave it out to keep the key for \
             ever",
            text.escape_debug()
        ))
    };
    match Duration::from_millis(duration::parse(NAME, text)?) {
        Duration::ZERO => Err(refused("is over at once")),
        ttl if ttl > MAX_TTL => Err(refused("is too long")),
        ttl => Ok(ttl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units() {
        for (text, millis) in [
            ("1ms", 1),
            ("1500ms", 1_500),
            ("60s", 60_000),
            ("15m", 900_000),
            ("12h", 43_200_000),
            ("30d", 2_592_000_000),
            ("007s", 7_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let longest = format!("{}ms", MAX_TTL.as_millis());
        assert_eq!(parse(&longest), Ok(MAX_TTL));
        let longest = LONGEST.split(' ').next().unwrap();
        assert_eq!(parse(longest), Ok(MAX_TTL));
    }

    #[test]
    fn invalid_times_are_refused_with_the_reason() {
        for (text, word) in [
            ("", "no number"),
            ("s", "no number"),
            ("-1s", "no number"),
            ("+1s", "no number"),
            ("60", "no unit"),
            ("60 s", "no unit"),
            ("60S", "no unit"),
            ("1.5s", "no unit"),
            ("1y", "no unit"),
            ("0s", "at once"),
            ("18446744073709551616ms", "too long"),
            ("18446744073709551615d", "too long"),
            ("36501d", "max_ttl"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(word), "{text}: {error}");
        }
    }
}
