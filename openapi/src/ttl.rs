//! A time to live as REST and the command line write it: a whole number and its unit,
//! `1500ms`, `60s`, `15m`, `12h` or `30d`.

use std::time::Duration;

use tierkv_proto::convert;
use tierkv_types::Error;

/// The units, in milliseconds. A day is 24 hours.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads a time to live.
///
/// # Errors
/// `InvalidArgument` if it is none, is zero, or is over the limit `max_ttl`.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let refused = |why: &str| {
        let text = text.escape_debug();
        Error::invalid(format!(
            "the time to live '{text}' {why}; write a whole number and a unit, as in 1500ms, \
             60s, 15m, 12h or 30d"
        ))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    if count.is_empty() {
        return Err(refused("begins with no number"));
    }
    let Some((_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(refused("has no unit that is known"));
    };
    let ttl = (count.parse::<u64>().ok()).and_then(|count| count.checked_mul(*millis));
    let ttl = ttl.ok_or_else(|| refused("is too long to be counted"))?;
    convert::ttl(ttl)?.ok_or_else(|| refused("is over at once (leave it out to keep the key)"))
}

#[cfg(test)]
mod tests {
    use tierkv_types::limits::MAX_TTL;

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
    }

    #[test]
    fn what_is_none_is_refused_in_words() {
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
