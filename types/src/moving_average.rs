//! An exponential moving average of durations.

use std::time::Duration;

/// The average after one more duration, which counts one part in `parts`.
#[must_use]
pub fn moving_average(average: Duration, newest: Duration, parts: u32) -> Duration {
    let rest = average.saturating_mul(parts.saturating_sub(1));
    rest.saturating_add(newest) / parts.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_by_a_part_of_the_difference() {
        let millis = Duration::from_millis;
        assert_eq!(moving_average(millis(80), millis(160), 8), millis(90));
        assert_eq!(moving_average(millis(80), millis(0), 8), millis(70));
        assert_eq!(moving_average(millis(80), millis(3), 1), millis(3));
        assert!(moving_average(Duration::MAX, Duration::MAX, 32) > millis(1));
    }
}
