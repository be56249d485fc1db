//! [`Freshness`]: what reads without a proof of mastership go by (REP-AGE).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tierkv_types::{BootTime, Version};

/// This node serves no such reads now: it has not matched a master's log yet, or its clock stood
/// still.
const NONE: u64 = 0;

/// How complete the applied state is, as the replication machine said at its last step. Readers take
/// no lock.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Everything that was committed before this time is applied: nanoseconds of the boot-time
    /// clock.
    since: AtomicU64,
    /// The clock to judge expiry by, at least that of `since`.
    clock: AtomicU64,
}

impl Freshness {
    /// Publishes a step's result. Called by one task at a time.
    pub(crate) fn publish(&self, since: Option<BootTime>, clock: Version) {
        // First, so that nobody sees the new time with an earlier clock.
        self.clock.store(clock.to_bits(), Ordering::Release);
        let since = since.map(|since| u64::try_from(since.since_boot().as_nanos()));
        let since = since.map_or(NONE, |since| since.unwrap_or(NONE));
        self.since.store(since, Ordering::Release);
    }

    /// Everything that was committed before this time is applied; `None`: that is not known.
    pub(crate) fn since(&self) -> Option<BootTime> {
        match self.since.load(Ordering::Acquire) {
            NONE => None,
            nanos => Some(BootTime::from_boot(Duration::from_nanos(nanos))),
        }
    }

    /// The clock to judge expiry by; read it after [`Freshness::since`].
    pub(crate) fn clock(&self) -> Version {
        Version::from_bits(self.clock.load(Ordering::Acquire))
    }
}
