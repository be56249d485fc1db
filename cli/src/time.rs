//! Durations on the command line, and dates in tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tierkv_openapi::{duration, timeout, ttl};
use tierkv_types::Error;

const SECONDS_A_DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01 in the Gregorian calendar.
const DAYS_TO_EPOCH: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_ERA: u64 = 146_097;

/// Parses a time to live.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    ttl::parse(text).map_err(words)
}

/// Parses the timeout of an operation.
///
/// # Errors
/// As [`ttl`].
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    timeout::parse(text).map_err(words)
}

/// Parses how long something lasts.
///
/// # Errors
/// As [`ttl`].
pub(crate) fn length(text: &str) -> Result<Duration, String> {
    duration::positive("duration", text).map_err(words)
}

/// The message without its code, which says nothing more of an argument.
fn words(error: Error) -> String {
    error.message.into_owned()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn millis(at: SystemTime) -> Option<u64> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// A date and time of day in UTC, as in `2026-11-29T19:57:37.120Z` (RFC 3339).
pub(crate) fn date(millis: u64) -> String {
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let (days, second) = (seconds / SECONDS_A_DAY, seconds % SECONDS_A_DAY);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day since the Unix epoch: Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>). Its years begin in March, so that the
/// leap day is the last of a year.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_EPOCH;
    let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @SECONDS` prints them.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599, "1972-02-28T23:59:59.000Z"),
            (68_169_600, "1972-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_982_257, "2026-11-29T19:57:37.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(date(seconds * 1_000), text);
        }
        assert!(date(1_007).ends_with(":01.007Z"));
    }

    #[test]
    fn messages_have_no_code() {
        for refused in [ttl("0s"), timeout("5"), length("0s"), length("5")] {
            let message = refused.unwrap_err();
            assert!(!message.contains("InvalidArgument"), "{message}");
        }
        assert!(length("5").unwrap_err().starts_with("the duration '5' has"));
        assert_eq!(length("5m"), Ok(Duration::from_secs(300)));
    }
}
