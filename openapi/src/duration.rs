//! Durations in REST and on the command line: a whole number and its unit, as in `1500ms`,
//! `60s`, `15m`, `12h` or `30d`.

use std::time::Duration;

use tierkv_types::Error;

/// The units, in milliseconds. A day is 24 hours.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Parses a duration that is not 0.
///
/// # Errors
/// `InvalidArgument`, naming the duration `what`, if it is malformed, zero or too long.
pub fn positive(what: &str, text: &str) -> Result<Duration, Error> {
    match parse(what, text)? {
        0 => Err(refused(what, text, "is over at once")),
        millis => Ok(Duration::from_millis(millis)),
    }
}

/// Parses a duration and returns its milliseconds, which may be 0.
///
/// # Errors
/// `InvalidArgument`, naming the duration `what`, if it is malformed or too long.
pub(crate) fn parse(what: &str, text: &str) -> Result<u64, Error> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    if count.is_empty() {
        return Err(refused(what, text, "begins with no number"));
    }
    let Some((_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(refused(what, text, "has no unit, or an unknown one"));
    };
    let span = (count.parse::<u64>().ok()).and_then(|count| count.checked_mul(*millis));
    span.ok_or_else(|| refused(what, text, "is too long to be counted"))
}

/// The error for an invalid duration: the reason, and the valid form.
pub(crate) fn refused(what: &str, text: &str, why: &str) -> Error {
    let text = text.escape_debug();
    Error::invalid(format!(
        "the {what} '{text}' {why}; write a whole number and a unit, as in 1500ms, 60s, 15m, \
         12h or 30d"
    ))
}
