//! [`Load`]: what this coordinator has seen of a data node's answers to reads.

use std::time::Duration;

use tierkv_types::moving_average;
use tokio::time::Instant;

/// A node with reads in flight that has answered none for this long is out of the choice. Longer
/// than a hedge takes to be sent, and so short that the reads in flight there are asked elsewhere
/// within 50 ms.
pub(crate) const SILENT_AFTER: Duration = Duration::from_millis(40);
/// Or for so many times its moving average, if that is longer: in an overload all nodes are slow, and
/// asking another one would only make it worse.
const SILENT_TIMES: u32 = 4;
/// How often a node that is out of the choice gets a copy of a read, to see whether it answers
/// again.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// A node that refused so many reads in a row, none answered between them, is out of the choice: it
/// serves nothing now. A few refusals say only that single reads wanted more than it has applied.
const REFUSALS_IN_A_ROW: u32 = 8;
/// A new duration counts this part in the moving average.
const AVERAGE_PART: u32 = 8;
/// The average halves in this time without reads, so that a node that was slow is tried again.
const FORGET_HALF: Duration = Duration::from_secs(1);

/// The reads that one process of a data node was asked, as this coordinator sees them.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: usize,
    /// The moving average of how long answers took, and when it was last changed.
    latency: Option<(Duration, Instant)>,
    /// Since when reads are in flight and none was answered.
    unanswered_since: Option<Instant>,
    /// A call failed, or too many reads were refused, and nothing was answered since.
    has_failed: bool,
    refusals: u32,
    probed_at: Option<Instant>,
}

/// A node's load at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) in_flight: usize,
    /// How long answers took lately; zero before the first.
    pub(crate) latency: Duration,
    /// Whether it does not answer now.
    pub(crate) is_out: bool,
}

/// How a node's part of a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It answered.
    Answered,
    /// It is there, and refused this read.
    Refused,
    /// It could not be reached, or its answer was lost.
    Failed,
}

impl Load {
    /// A read is sent to the node.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.in_flight += 1;
        self.unanswered_since.get_or_insert(now);
    }

    /// A read that was sent at `since` has ended.
    pub(crate) fn end(&mut self, now: Instant, since: Instant, end: End) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match end {
            End::Answered => {
                self.sample(now, now.duration_since(since));
                (self.has_failed, self.refusals) = (false, 0);
            }
            End::Refused => {
                self.refusals = self.refusals.saturating_add(1);
                self.has_failed |= self.refusals >= REFUSALS_IN_A_ROW;
            }
            End::Failed => self.has_failed = true,
        }
        if end != End::Failed || self.in_flight == 0 {
            self.unanswered_since = (self.in_flight > 0).then_some(now);
        }
    }

    /// A read has ended without showing anything of the node: its reader has gone, or its time was
    /// over. The node may still be silent.
    pub(crate) fn abandon(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn sample(&mut self, now: Instant, took: Duration) {
        let average = match self.latency {
            None => took,
            Some(_) => moving_average(self.latency(now), took, AVERAGE_PART),
        };
        self.latency = Some((average, now));
    }

    fn latency(&self, now: Instant) -> Duration {
        let Some((average, at)) = self.latency else {
            return Duration::ZERO;
        };
        let idle = now.duration_since(at).as_secs_f64();
        average.mul_f64((-idle / FORGET_HALF.as_secs_f64()).exp2())
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let latency = self.latency(now);
        let patience = SILENT_AFTER.max(latency * SILENT_TIMES);
        let silent_since = self.unanswered_since;
        let is_silent = silent_since.is_some_and(|since| now.duration_since(since) >= patience);
        Standing {
            in_flight: self.in_flight,
            latency,
            is_out: self.has_failed || is_silent,
        }
    }

    /// Whether a probe is due; if so, it counts as sent.
    pub(crate) fn begin_probe(&mut self, now: Instant) -> bool {
        let is_due = self.standing(now).is_out
            && (self.probed_at).is_none_or(|at| now.duration_since(at) >= PROBE_INTERVAL);
        if is_due {
            self.probed_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_node_that_answers_nothing_is_out_until_it_answers() {
        let start = Instant::now();
        let mut load = Load::default();
        load.begin(start);
        load.begin(start);
        load.end(start + 5 * MILLI, start, End::Answered);
        let later = start + 5 * MILLI + SILENT_AFTER;
        assert!(!load.standing(later - MILLI).is_out);
        assert!(load.standing(later).is_out);
        assert!(load.begin_probe(later) && !load.begin_probe(later + MILLI));
        assert!(load.begin_probe(later + PROBE_INTERVAL));
        load.end(later + PROBE_INTERVAL, later, End::Answered);
        assert!(
            !load
                .standing(later + PROBE_INTERVAL + 100 * SILENT_AFTER)
                .is_out
        );
    }

    #[test]
    fn a_node_that_is_slow_is_not_silent() {
        let start = Instant::now();
        let mut load = Load::default();
        load.begin(start);
        let answered = start + 3 * SILENT_AFTER;
        load.end(answered, start, End::Answered);
        load.begin(answered);
        assert!(!load.standing(answered + 3 * SILENT_AFTER).is_out);
        assert!(load.standing(answered + 20 * SILENT_AFTER).is_out);
    }

    #[test]
    fn a_node_that_is_asked_nothing_is_not_silent() {
        let start = Instant::now();
        let mut load = Load::default();
        load.begin(start);
        load.end(start + MILLI, start, End::Answered);
        assert!(!load.standing(start + 100 * SILENT_AFTER).is_out);
    }

    #[test]
    fn a_node_that_failed_is_out_at_once() {
        let start = Instant::now();
        let mut load = Load::default();
        load.begin(start);
        load.end(start, start, End::Failed);
        assert!(load.standing(start).is_out && load.begin_probe(start));
        load.begin(start);
        load.end(start + MILLI, start, End::Answered);
        assert!(!load.standing(start + MILLI).is_out);
    }

    #[test]
    fn only_many_refusals_in_a_row_put_a_node_out() {
        let start = Instant::now();
        let mut load = Load::default();
        let mut end = |end| {
            load.begin(start);
            load.end(start, start, end);
            load.standing(start).is_out
        };
        for _ in 0..10 {
            for _ in 1..REFUSALS_IN_A_ROW {
                assert!(!end(End::Refused));
            }
            assert!(!end(End::Answered));
        }
        for _ in 1..REFUSALS_IN_A_ROW {
            assert!(!end(End::Refused));
        }
        assert!(end(End::Refused) && !end(End::Answered));
    }

    #[test]
    fn an_old_average_is_forgotten() {
        let start = Instant::now();
        let mut load = Load::default();
        load.begin(start);
        let answered = start + 80 * MILLI;
        load.end(answered, start, End::Answered);
        let after = |time| load.standing(answered + time).latency;
        assert_eq!(after(Duration::ZERO), 80 * MILLI);
        assert_eq!(after(FORGET_HALF), 40 * MILLI);
        assert!(after(10 * FORGET_HALF) < MILLI);
    }
}
