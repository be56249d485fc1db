//! What reads go by that need no proof of mastership: the age of the applied state (REP-AGE).

use tierkv_protocol::{platform_time::members::MemberTime, replication::Process};
use tierkv_types::{BootTime, Version};

use super::Sequencer;

impl Sequencer {
    /// Everything that was committed before this time is applied; `None`: that is not known, so
    /// this node answers only with a proof. `shown`: the cluster clock that a request carries; a
    /// request without one shows nothing, so it may have come after a pause of this machine.
    pub(crate) fn fresh_since(&self, shown: Version) -> Option<BootTime> {
        let is_steady = shown > Version::ZERO && self.notice_time(shown.millis());
        self.freshness.since().filter(|_| is_steady)
    }

    /// The clock by which such a read judges expiry, taken after [`Sequencer::fresh_since`]. All in
    /// sync have it, so a key that is expired by it never comes back.
    pub(crate) fn unproven_clock(&self) -> Version {
        self.freshness.clock().max(self.storage.applied().1)
    }

    /// Notices by a member's clocks if this machine's stood still, before its messages count. Also
    /// those of a founder, whose time may step: that costs an age at most.
    pub(crate) fn notice_member(&self, time: &MemberTime) {
        self.notice_time(u64::try_from(time.platform_micros / 1_000).unwrap_or_default());
    }

    /// Compares a time that another process showed with this machine's clock; if that has stood
    /// still, ages begin anew (CLOCK-STEADY).
    fn notice_time(&self, shown_millis: u64) -> bool {
        if self
            .steadiness
            .is_steady(self.time.boot_time(), shown_millis)
        {
            return true;
        }
        let mut state = self.lock();
        state.replica.forget_ages(self.time.boot_time());
        self.publish(&state);
        false
    }

    /// Now, on the clock of ages.
    pub(crate) fn boot_time(&self) -> BootTime {
        self.time.boot_time()
    }

    /// The process that this node follows as the cluster's master; `None` if it is master itself, or
    /// hears none.
    pub(crate) fn master(&self) -> Option<Process> {
        let state = self.lock();
        let replica = &state.replica;
        let master = replica.master(self.time.boot_time());
        master.filter(|_| replica.mastership().is_none()).cloned()
    }
}
