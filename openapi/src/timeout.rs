//! Timeouts in REST: a whole number and its unit, as in `500ms` or `2s`.

use std::time::Duration;

use tierkv_types::{Error, limits::MAX_TIMEOUT};

use crate::duration;

/// Its name in error messages.
const NAME: &str = "timeout";

/// Parses a timeout; one over the limit `max_timeout` is cut to it.
///
/// # Errors
/// `InvalidArgument` if it is malformed or zero.
pub fn parse(text: &str) -> Result<Duration, Error> {
    Ok(duration::positive(NAME, text)?.min(MAX_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_cut_to_its_limit_and_never_zero() {
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(parse("30d"), Ok(MAX_TIMEOUT));
        for bad in ["0s", "2", "", "-1s", "99999999999999999999s"] {
            let error = parse(bad).unwrap_err();
            assert!(error.message.contains("timeout"), "{bad}: {error}");
        }
    }
}
