//! [`Change`]: one round, in which the mastership goes to another node.

use std::time::{Duration, Instant};

use serde::Serialize;
use tierkv_harness::poll_until;
use tierkv_workload::Failure;

use super::clients::{Clients, Seen};
use crate::stage::TASKS;

/// Writes that must be acknowledged after the change. Far more than the tasks have under way, so
/// that the new master acknowledged some.
const RESUMED_WRITES: u64 = 10 * TASKS as u64;
/// Timeout for them.
const RESUMED_LIMIT: Duration = Duration::from_secs(60);
/// The clients are watched so long after writes resumed: a second pause counts, too.
const AFTERMATH: Duration = Duration::from_secs(1);
/// The clients run so long with all nodes in sync before the next change.
const QUIET: Duration = Duration::from_secs(1);

/// One round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Change {
    /// The master before, and after.
    pub(crate) from: String,
    pub(crate) to: String,
    /// The longest time without an acknowledged write.
    pub(crate) silence_ms: f64,
    /// The longest time without an answered read.
    pub(crate) read_silence_ms: f64,
    pub(crate) failed_writes: u64,
    pub(crate) failed_reads: u64,
    /// The first failure of a write, or of a read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
    /// How long the killed node took from its start until it was in sync again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rejoin_ms: Option<f64>,
    /// The longest time without an acknowledged write meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rejoin_silence_ms: Option<f64>,
    /// Writes a second before the change.
    pub(crate) rate_before: f64,
}

impl Change {
    /// The round as far as the change itself goes.
    pub(crate) fn new(from: &str, to: &str, before: f64, seen: &Seen) -> Self {
        let mut change = Self {
            from: from.to_owned(),
            to: to.to_owned(),
            silence_ms: millis(seen.writes.silence),
            read_silence_ms: millis(seen.reads.silence),
            rate_before: before,
            ..Self::default()
        };
        change.count_failures(seen);
        change
    }

    /// Adds how the killed node came back.
    pub(crate) fn rejoined(&mut self, took: Duration, seen: &Seen) {
        self.rejoin_ms = Some(millis(took));
        self.rejoin_silence_ms = Some(millis(seen.writes.silence));
        self.count_failures(seen);
    }

    /// Adds the failures of a part of the round.
    pub(crate) fn count_failures(&mut self, seen: &Seen) {
        self.failed_writes += seen.writes.failed;
        self.failed_reads += seen.reads.failed;
        let failures = [("a write", &seen.writes), ("a read", &seen.reads)];
        for (what, window) in failures {
            if let (None, Some(failure)) = (&self.failure, &window.first_failure) {
                self.failure = Some(format!("{what}: {failure}"));
            }
        }
    }
}

/// Lets the clients run before a change. Returns what they saw, and the writes a second.
pub(crate) async fn quiet(clients: &Clients) -> (Seen, f64) {
    let mut seen = clients.take();
    let start = Instant::now();
    let quiet = watched(clients, QUIET).await;
    let rate = per_second(quiet.writes.succeeded, start.elapsed());
    seen.merge(quiet);
    (seen, rate)
}

/// Waits until the new master has acknowledged writes, and a little longer. Returns everything since
/// the clients' last look.
///
/// # Errors
/// If writes do not resume.
pub(crate) async fn resumed(clients: &Clients) -> Result<Seen, Failure> {
    let enough = || async { (clients.writes() >= RESUMED_WRITES).then_some(()) };
    if poll_until(RESUMED_LIMIT, enough).await.is_none() {
        let seen = clients.take();
        return Err(Failure(format!(
            "writes did not resume within {RESUMED_LIMIT:?} after the master changed: {} were \
             acknowledged and {} failed, the first with: {:?}",
            seen.writes.succeeded, seen.writes.failed, seen.writes.first_failure
        )));
    }
    Ok(watched(clients, AFTERMATH).await)
}

/// What the clients saw since the last look, after some more time.
async fn watched(clients: &Clients, time: Duration) -> Seen {
    tokio::time::sleep(time).await;
    clients.take()
}

#[allow(clippy::cast_precision_loss)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outage::silence::Window;

    fn window(silence: u64, failed: u64, failure: Option<&str>) -> Window {
        Window {
            succeeded: 100,
            failed,
            first_failure: failure.map(|it| Failure(it.to_owned())),
            silence: Duration::from_millis(silence),
        }
    }

    #[test]
    fn a_round_has_the_pauses_of_its_parts_and_all_failures() {
        let seen = Seen {
            writes: window(1_200, 0, None),
            reads: window(300, 2, Some("late")),
        };
        let mut change = Change::new("n1", "n2", 5_000.0, &seen);
        let later = Seen {
            writes: window(40, 1, Some("lost")),
            reads: window(20, 0, None),
        };
        change.rejoined(Duration::from_millis(2_500), &later);
        assert_eq!(
            (change.silence_ms, change.read_silence_ms),
            (1_200.0, 300.0)
        );
        assert_eq!((change.failed_writes, change.failed_reads), (1, 2));
        assert_eq!(change.failure.as_deref(), Some("a read: late"));
        assert_eq!(change.rejoin_ms, Some(2_500.0));
        assert_eq!(change.rejoin_silence_ms, Some(40.0));
    }
}
