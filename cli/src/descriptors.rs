//! The limit of file descriptors of this process, and how connections share it.

use std::{fs, path::Path, time::Duration};

use metrics::{Gauge, gauge};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{MissedTickBehavior, interval};

/// The fewest descriptors with which a platform starts: for its files and listeners, the
/// connections between its tiers, and some of users.
const LEAST: u64 = 128;
/// The share of the descriptors that connections of users may have; the rest is for files
/// and for the connections between tiers.
const SHARE_OF_USERS: [u64; 2] = [4, 5];
/// Connections between tiers to one server may use one in this many of the remaining
/// descriptors. In one process each connection takes two, and there are two such servers.
const SHARE_OF_PEERS: u64 = 8;
/// The fewest connections between tiers to one server.
const LEAST_PEERS: u64 = 10;
/// No process may have more than this, whatever its limit.
const SYSTEM_LIMIT: &str = "/proc/sys/fs/nr_open";
/// This process's descriptors.
const OPEN: &str = "/proc/self/fd";
/// How often descriptors are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// The descriptors of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    limit: u64,
}

impl Descriptors {
    /// Descriptors with this limit.
    pub(crate) const fn of(limit: u64) -> Self {
        Self { limit }
    }

    /// Raises this process's soft limit to its hard one.
    ///
    /// # Errors
    /// If the limit is too low to start.
    pub(crate) fn raise() -> Result<Self, String> {
        let found = getrlimit(Resource::Nofile);
        let most = match (found.maximum, system_limit()) {
            (Some(hard), Some(system)) => hard.min(system),
            (Some(limit), None) | (None, Some(limit)) => limit,
            (None, None) => u64::MAX,
        };
        let wanted = Rlimit {
            current: Some(most),
            maximum: found.maximum,
        };
        let limit = match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => most,
            Err(error) => {
                let soft = found.current.unwrap_or(most);
                tracing::warn!(%error, soft, "the limit of file descriptors could not be raised");
                soft
            }
        };
        if limit < LEAST {
            return Err(format!(
                "this process may use {limit} file descriptors, but needs at least {LEAST}; raise \
                 the limit (ulimit -Hn, or LimitNOFILE= of systemd)"
            ));
        }
        tracing::info!(limit, "file descriptors");
        Ok(Self::of(limit))
    }

    /// Limits `wanted` connections of users to the descriptors for them.
    pub(crate) fn for_users(self, wanted: u64) -> usize {
        let [part, of] = SHARE_OF_USERS;
        let share = u64::try_from(u128::from(self.limit) * u128::from(part) / u128::from(of));
        let share = share.unwrap_or(u64::MAX);
        if wanted > share {
            tracing::info!(
                wanted,
                share,
                "limits.connections is more than 4/5 of the file descriptors; 4/5 of them is used \
                 instead"
            );
        }
        usize::try_from(wanted.min(share)).unwrap_or(usize::MAX)
    }

    /// Limits `wanted` connections between tiers to one server to the descriptors for them.
    pub(crate) fn for_peers(self, wanted: usize) -> usize {
        let [part, of] = SHARE_OF_USERS;
        let left = self.limit / of * (of - part);
        let share = (left / SHARE_OF_PEERS).max(LEAST_PEERS);
        wanted.min(usize::try_from(share).unwrap_or(usize::MAX))
    }

    /// Exports the limit and the used descriptors in `/metrics`. Call it within a runtime, after
    /// the metrics recorder is installed.
    pub(crate) fn show(self) {
        metrics::describe_gauge!("tierkv_descriptors", "File descriptors in use.");
        metrics::describe_gauge!(
            "tierkv_descriptors_limit",
            "The bound of tierkv_descriptors. At it no connection is accepted and no file opened."
        );
        #[allow(clippy::cast_precision_loss)] // Past 2^53 nobody reads the last digit.
        gauge!("tierkv_descriptors_limit").set(self.limit as f64);
        tokio::spawn(count(gauge!("tierkv_descriptors")));
    }
}

/// Counts the descriptors at an interval.
async fn count(gauge: Gauge) {
    let mut ticks = interval(COUNT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Counting needs a descriptor itself; if there is none, the last count remains.
        if let Ok(open) = fs::read_dir(OPEN) {
            #[allow(clippy::cast_precision_loss)]
            gauge.set(open.count().saturating_sub(1) as f64);
        }
    }
}

fn system_limit() -> Option<u64> {
    let text = fs::read_to_string(Path::new(SYSTEM_LIMIT)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_get_four_fifths_at_most_and_the_tiers_enough() {
        let of = Descriptors::of;
        assert_eq!(of(256).for_users(10_000), 204);
        assert_eq!(of(256).for_users(100), 100);
        assert_eq!(of(1_048_576).for_users(10_000), 10_000);
        assert_eq!(of(u64::MAX).for_users(10_000), 10_000);
        assert_eq!(of(256).for_peers(1_024), 10);
        assert_eq!(of(1_048_576).for_peers(1_024), 1_024);
        for limit in [256, 1_024, 4_096, 1 << 20] {
            let users = of(limit).for_users(u64::MAX) as u64;
            let peers = 2 * 2 * of(limit).for_peers(1_024) as u64;
            assert!(users + peers < limit, "{limit}");
        }
    }
}
