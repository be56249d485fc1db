//! Stores platform time regularly, and reports the wall clock's distance from it.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_protocol::platform_time::{CLUSTERS_FAR, FAR};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::Storage;
use tierkv_types::TimeReading;

use crate::platform_clock::PlatformClock;

/// How often the clocks are compared.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often platform time is stored while the wall clock is not stepped.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
/// After a step of the wall clock by so many milliseconds the time is stored at once.
const STEP_MILLIS: u64 = 500;
/// A distance between the clocks of so many milliseconds is logged.
const NOTABLE_MILLIS: u64 = 1_000;
/// A cluster that is further from the platform's time than the limit and this is logged.
const NOTABLE_BEYOND: Duration = Duration::from_secs(1);
/// How often an alarm is logged again while it lasts.
const ALARM_INTERVAL: Duration = Duration::from_secs(600);

/// How far the wall clock is from platform time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    Near,
    /// More than 1 s: platform time is drawn towards it.
    Notable,
    /// More than 1 min: platform time is not drawn towards it, and an alarm is logged.
    Far,
}

/// The timekeeper of one data node.
pub(crate) struct Timekeeper {
    time: Arc<PlatformClock>,
    storage: Arc<Storage>,
    stored: Option<TimeReading>,
    distance: Distance,
    /// The reading of the last logged alarm.
    alarmed: Option<TimeReading>,
    ahead: Gauge,
    alarm: Gauge,
    /// Whether the cluster's time was near the platform's when that was last reported.
    is_cluster_near: bool,
    cluster_ahead: Gauge,
}

impl Timekeeper {
    pub(crate) fn new(time: Arc<PlatformClock>, storage: Arc<Storage>) -> Self {
        const AHEAD: &str = "tierkv_wall_clock_ahead_seconds";
        const ALARM: &str = "tierkv_wall_clock_alarm";
        metrics::describe_gauge!(
            AHEAD,
            "How far the wall clock is ahead of platform time; below 0: behind."
        );
        const CLUSTER_AHEAD: &str = "tierkv_cluster_time_ahead_seconds";
        metrics::describe_gauge!(
            CLUSTER_AHEAD,
            "How far the cluster's time is ahead of the platform's, the median of the clusters' \
             times; below 0: behind; 0 while no other cluster's time is known."
        );
        metrics::describe_gauge!(
            ALARM,
            "1 while the wall clock is over a minute away from platform time, else 0."
        );
        Self {
            time,
            storage,
            stored: None,
            distance: Distance::Near,
            alarmed: None,
            ahead: gauge!(AHEAD),
            alarm: gauge!(ALARM),
            is_cluster_near: true,
            cluster_ahead: gauge!(CLUSTER_AHEAD),
        }
    }

    fn report(&mut self, reading: &TimeReading) {
        let ahead = ahead_millis(reading);
        let (distance, seconds) = (Distance::of(ahead), seconds(ahead));
        self.ahead.set(seconds);
        self.alarm
            .set(f64::from(u8::from(distance == Distance::Far)));
        match distance {
            Distance::Near if self.distance != Distance::Near => {
                tracing::warn!("the wall clock is within a second of platform time again");
            }
            Distance::Notable if self.distance != Distance::Notable => tracing::warn!(
                seconds,
                "the wall clock is ahead of platform time (below 0: behind); platform time follows \
                 it at a thousandth of the passing time"
            ),
            Distance::Far if self.is_alarm_due(reading) => {
                self.alarmed = Some(*reading);
                tracing::error!(
                    seconds,
                    "the wall clock is over a minute ahead (or, below 0, behind), and platform \
                     time does not follow it: set the machine's clock right. Expiry and \
                     request ids are not affected"
                );
            }
            Distance::Near | Distance::Notable | Distance::Far => {}
        }
        self.distance = distance;
    }

    /// Reports how far the cluster's time is ahead of the platform's, if that is known.
    fn report_cluster(&mut self, ahead_millis: Option<i64>) {
        self.cluster_ahead.set(seconds(ahead_millis.unwrap_or(0)));
        let Some(ahead) = ahead_millis else { return };
        let is_near = is_cluster_near(ahead, self.is_cluster_near);
        let seconds = seconds(ahead);
        match (self.is_cluster_near, is_near) {
            (true, false) => tracing::warn!(
                seconds,
                "this cluster's time is ahead of the platform's (below 0: behind), and follows \
                 it at a hundredth of the passing time: check the wall clocks of all clusters"
            ),
            (false, true) => {
                tracing::warn!(
                    "this cluster's time is within five seconds of the platform's again"
                );
            }
            (true, true) | (false, false) => {}
        }
        self.is_cluster_near = is_near;
    }

    /// Whether an alarm is new, or was logged long ago.
    fn is_alarm_due(&self, reading: &TimeReading) -> bool {
        let since = self
            .alarmed
            .map(|last| reading.boot_time.since(last.boot_time));
        self.distance != Distance::Far || since.is_none_or(|since| since >= ALARM_INTERVAL)
    }

    /// Whether the stored time is too old for the next process, or does not show that the wall
    /// clock was stepped, became synchronised or is no longer synchronised.
    fn is_store_due(&self, reading: &TimeReading) -> bool {
        let Some(stored) = &self.stored else {
            return true;
        };
        let passed = reading.boot_time.since(stored.boot_time);
        let stepped = ahead_millis(reading).abs_diff(ahead_millis(stored));
        passed >= STORE_INTERVAL
            || stepped >= STEP_MILLIS
            || reading.is_synchronised != stored.is_synchronised
    }
}

impl Worker for Timekeeper {
    fn name(&self) -> &'static str {
        "timekeeper"
    }

    async fn work(&mut self) -> Pace {
        let reading = self.time.reading();
        self.report(&reading);
        self.report_cluster(self.time.ahead_of_platform_millis());
        // A founder stores no time before its first write; it starts anew.
        if self.time.is_founding() || !self.is_store_due(&reading) {
            return Pace::Idle(INTERVAL);
        }
        match self.storage.store_time(reading).await {
            Ok(()) => self.stored = Some(reading),
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, "platform time could not be stored yet");
            }
            // Storage has failed, so the node stops.
            Err(_) => return Pace::Done,
        }
        Pace::Idle(INTERVAL)
    }
}

impl Distance {
    fn of(ahead_millis: i64) -> Self {
        let away = ahead_millis.unsigned_abs();
        if u128::from(away) > FAR.as_millis() {
            Self::Far
        } else if away > NOTABLE_MILLIS {
            Self::Notable
        } else {
            Self::Near
        }
    }
}

/// Whether a cluster's time is near the platform's. The limit is higher while it is: a cluster that
/// is drawn no further than to the limit must not be reported again and again.
fn is_cluster_near(ahead_millis: i64, was_near: bool) -> bool {
    let limit = match was_near {
        true => CLUSTERS_FAR + NOTABLE_BEYOND,
        false => CLUSTERS_FAR + NOTABLE_BEYOND / 10,
    };
    u128::from(ahead_millis.unsigned_abs()) <= limit.as_millis()
}

fn ahead_millis(reading: &TimeReading) -> i64 {
    let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    signed(reading.wall_millis).saturating_sub(signed(reading.platform_millis))
}

#[allow(clippy::cast_precision_loss)] // Exact for thousands of years.
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_has_no_direction() {
        for (millis, expected) in [
            (0, Distance::Near),
            (1_000, Distance::Near),
            (1_001, Distance::Notable),
            (60_000, Distance::Notable),
            (60_001, Distance::Far),
            (i64::MAX, Distance::Far),
        ] {
            assert_eq!(Distance::of(millis), expected, "{millis}");
            assert_eq!(Distance::of(-millis), expected, "-{millis}");
        }
    }

    #[test]
    fn a_cluster_at_the_limit_is_reported_once() {
        for sign in [1, -1] {
            let near = |millis: i64, was_near| is_cluster_near(sign * millis, was_near);
            assert!(near(6_000, true) && !near(6_001, true));
            assert!(near(5_100, false) && !near(5_101, false));
        }
        assert!(!is_cluster_near(i64::MIN, true));
    }
}
