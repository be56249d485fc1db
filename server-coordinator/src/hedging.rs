//! [`Hedging`]: when a read that takes long is also sent to another member.
//!
//! Two answers to one read are twice the work, so a hedge waits until the read takes longer than
//! nearly all others do, and there is a budget. (J. Dean, L. A. Barroso, "The Tail at Scale", 2013.)

use std::time::Duration;

/// The part of reads that take longer than the delay, if that is within its bounds.
const LATE_PART: f64 = 0.05;
/// The bounds of the delay. Below, more reads would be sent twice without a gain; above, the user
/// would notice one member that does not answer.
pub(crate) const LEAST_DELAY: Duration = Duration::from_millis(3);
pub(crate) const MOST_DELAY: Duration = Duration::from_millis(20);
/// How far one answer moves the delay.
const STEP: f64 = 0.05;
/// Each read adds this part of a hedge to the budget: one in twenty may be hedged.
const READS_PER_HEDGE: u32 = 20;
/// The most hedges that the budget saves up, for the moment in which a member stops answering.
const MOST_SAVED: u32 = 50;

/// The delay and the budget of hedges in one cluster.
#[derive(Debug)]
pub(crate) struct Hedging {
    /// An estimate of the time within which all but [`LATE_PART`] of the reads are answered, in
    /// seconds.
    late_after: f64,
    /// In parts of a hedge.
    budget: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self {
            late_after: MOST_DELAY.as_secs_f64(),
            budget: MOST_SAVED * READS_PER_HEDGE,
        }
    }
}

impl Hedging {
    /// A read begins. Returns after what time it may be hedged.
    pub(crate) fn begin(&mut self) -> Duration {
        self.budget = (self.budget + 1).min(MOST_SAVED * READS_PER_HEDGE);
        Duration::from_secs_f64(self.late_after).clamp(LEAST_DELAY, MOST_DELAY)
    }

    /// A member's answer took so long. The estimate goes up by [`STEP`] for a late answer and down
    /// by less for another one, so that both balance where [`LATE_PART`] are late.
    pub(crate) fn answered(&mut self, took: Duration) {
        let by = match took.as_secs_f64() > self.late_after {
            true => STEP * (1.0 - LATE_PART),
            false => -STEP * LATE_PART,
        };
        let (least, most) = (LEAST_DELAY.as_secs_f64(), MOST_DELAY.as_secs_f64());
        // Within the bounds, so that it comes back from them at once.
        self.late_after = (self.late_after * (1.0 + by)).clamp(least, most);
    }

    /// Takes one hedge from the budget, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let left = self.budget.checked_sub(READS_PER_HEDGE);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn the_delay_is_that_of_the_latest_twentieth() {
        let mut hedging = Hedging::default();
        // Uniform between 0 and 10 ms.
        for n in 0..20_000_u32 {
            hedging.answered(MILLI * (n * 7_919 % 1_000) / 100);
        }
        let delay = hedging.begin();
        assert!((8 * MILLI..11 * MILLI).contains(&delay), "{delay:?}");
        for _ in 0..10_000 {
            hedging.answered(MILLI);
        }
        assert_eq!(hedging.begin(), LEAST_DELAY);
        for _ in 0..10_000 {
            hedging.answered(1_000 * MILLI);
        }
        assert_eq!(hedging.begin(), MOST_DELAY);
    }

    #[test]
    fn at_most_one_read_in_twenty_is_hedged() {
        let mut hedging = Hedging::default();
        let saved = (0..1_000).filter(|_| hedging.take()).count();
        assert_eq!(saved, MOST_SAVED as usize);
        let mut hedged = 0;
        for _ in 0..2_000 {
            hedging.begin();
            hedged += u32::from(hedging.take());
        }
        assert_eq!(hedged, 2_000 / READS_PER_HEDGE);
    }
}
