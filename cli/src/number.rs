//! Whole numbers on the command line, with error messages that name the valid range.

use std::fmt::Display;

/// Parses an unsigned 64-bit number.
///
/// # Errors
/// If it is malformed or out of range.
pub(crate) fn unsigned(text: &str) -> Result<u64, String> {
    between(text, 0, u64::MAX)
}

/// Parses a signed 64-bit number.
///
/// # Errors
/// As [`unsigned`].
pub(crate) fn signed(text: &str) -> Result<i64, String> {
    between(text, i64::MIN, i64::MAX)
}

/// Parses a limit.
///
/// # Errors
/// As [`unsigned`]; 0 is refused, because it does not mean that there is no limit.
pub(crate) fn limit(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0_u64) => Err("limit: at least 1; leave it out for no limit".to_owned()),
        _ => between(text, 1, u64::MAX),
    }
}

/// As [`limit`], for a 32-bit number.
///
/// # Errors
/// As [`limit`].
pub(crate) fn small_limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0_u32) => limit(text).and(Ok(0)),
        _ => between(text, 1, u32::MAX),
    }
}

/// Parses a number from `least` to `most`.
///
/// # Errors
/// As [`unsigned`].
pub(crate) fn between<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: Copy + Display + TryFrom<i128> + Into<i128>,
{
    let number: Option<i128> = text.parse().ok();
    (number.filter(|number| (least.into()..=most.into()).contains(number)))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("it must be a whole number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_others_refused_with_what_is_right() {
        assert_eq!(unsigned("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!((limit("1"), small_limit("7")), (Ok(1), Ok(7)));
        for text in [
            "",
            "x",
            "1.5",
            "-1",
            " 1",
            "18446744073709551616",
            &"9".repeat(60),
        ] {
            let words = unsigned(text).unwrap_err();
            assert!(words.ends_with("from 0 to 18446744073709551615"), "{words}");
        }
        for words in [limit("0").unwrap_err(), small_limit("0").unwrap_err()] {
            assert!(words.starts_with("limit: at least 1"), "{words}");
        }
        assert!(
            small_limit("4294967296")
                .unwrap_err()
                .ends_with("from 1 to 4294967295")
        );
        assert_eq!(between("9", 8_u64, 9), Ok(9));
    }
}
