//! A span of time as REST and the command line write it: a whole number and its unit,
//! `1500ms`, `60s`, `15m`, `12h` or `30d`.

use tierkv_types::Error;

/// The units, in milliseconds. A day is 24 hours.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads a span; answers its milliseconds, which may be none.
///
/// # Errors
/// `InvalidArgument`, calling the span `what`, if it is none or can't be counted.
pub(crate) fn parse(what: &str, text: &str) -> Result<u64, Error> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    if count.is_empty() {
        return Err(refused(what, text, "begins with no number"));
    }
    let Some((_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(refused(what, text, "has no unit that is known"));
    };
    let span = (count.parse::<u64>().ok()).and_then(|count| count.checked_mul(*millis));
    span.ok_or_else(|| refused(what, text, "is too long to be counted"))
}

/// Says why a span is not taken, and how one is written.
pub(crate) fn refused(what: &str, text: &str, why: &str) -> Error {
    let text = text.escape_debug();
    Error::invalid(format!(
        "the {what} '{text}' {why}; write a whole number and a unit, as in 1500ms, 60s, 15m, \
         12h or 30d"
    ))
}
