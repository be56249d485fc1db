//! Platform time of this process, and how it continues after a restart (CLOCK-STEADY).
//!
//! Readers take no lock: they add an atomic offset to the boot-time clock. The offset is
//! changed under a lock.

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tierkv_protocol::platform_time::{
    PlatformTime, StartReading, boot_micros, is_same_boot,
    members::MemberTime,
    others::{TimeAnswer, TimeQuestion},
    platform_millis, time_after_restart,
};
use tierkv_types::{Boot, BootTime, Clock, ClusterId, NodeId, TimeReading, Version};
use tokio::time::{Instant, sleep};

use crate::rules::{Rule, Rules};

/// How long a start after a reboot waits until the kernel reports a synchronised wall clock.
pub(crate) const SYNCHRONISATION_WAIT: Duration = Duration::from_secs(30);
/// How often it checks.
const SYNCHRONISATION_POLL: Duration = Duration::from_millis(500);

/// Versions below this one were given by a founder before its first write. They count the records
/// that open its epochs and list its slots, and are no time.
const FIRST_OF_A_TIME: Version = Version::from_millis(1);

/// Platform time of the process.
pub(crate) struct PlatformClock {
    clock: Arc<dyn Clock>,
    /// The origin of the boot-time clock. Read once: reading it again could fail, and a stored
    /// time without it, or with another one, would be taken for one of another boot.
    boot: Option<Boot>,
    /// Added to the boot-time clock, in microseconds.
    offset: AtomicI64,
    is_founding: AtomicBool,
    time: Mutex<PlatformTime>,
    rules: Rules,
}

impl PlatformClock {
    /// Continues from the time that the last process stored, and not below the last version in
    /// the log. After a reboot, waits until the wall clock is synchronised, at most 30 s.
    pub(crate) async fn start(
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
        stored: Option<TimeReading>,
        seen: Version,
        rules: Rules,
    ) -> Self {
        let boot = clock.boot();
        if seen < FIRST_OF_A_TIME {
            let time = PlatformTime::founding(cluster, clock.boot_time(), clock.wall_millis());
            return Self::of(clock, boot, time, rules);
        }
        let went_on = match stored {
            Some(stored) if !rules.lack(Rule::TimeStored) => {
                after_restart(&*clock, boot, &stored, rules).await
            }
            Some(_) | None => {
                tracing::warn!(
                    "no platform time is stored beside the log; it continues from the wall clock"
                );
                clock.wall_millis()
            }
        };
        let time = PlatformTime::going_on(cluster, clock.boot_time(), went_on.max(seen.millis()));
        Self::of(clock, boot, time, rules)
    }

    fn of(clock: Arc<dyn Clock>, boot: Option<Boot>, time: PlatformTime, rules: Rules) -> Self {
        Self {
            clock,
            boot,
            offset: AtomicI64::new(time.offset_micros()),
            is_founding: AtomicBool::new(time.is_founding()),
            time: Mutex::new(time),
            rules,
        }
    }

    fn time(&self) -> MutexGuard<'_, PlatformTime> {
        // The code under the lock is arithmetic and does not panic.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The boot-time clock of the machine.
    pub(crate) fn boot_time(&self) -> BootTime {
        self.clock.boot_time()
    }

    /// Platform time, in milliseconds since the Unix epoch.
    pub(crate) fn millis(&self) -> u64 {
        self.millis_at(self.clock.boot_time())
    }

    /// Platform time at a moment of this process.
    pub(crate) fn millis_at(&self, boot_time: BootTime) -> u64 {
        if self.rules.lack(Rule::TimeSteady) {
            return self.clock.wall_millis();
        }
        platform_millis(boot_time, self.offset.load(Ordering::Acquire))
    }

    /// Whether the time may still step, because nothing was written yet.
    pub(crate) fn is_founding(&self) -> bool {
        self.is_founding.load(Ordering::Acquire)
    }

    /// Ends the steps, before the first write. Costs nothing afterwards.
    pub(crate) fn settle(&self) {
        if !self.is_founding() || self.rules.lack(Rule::FounderSettles) {
            return;
        }
        self.time().settle();
        self.is_founding.store(false, Ordering::Release);
    }

    /// This node's clocks, for a message to another member.
    pub(crate) fn member_time(&self) -> MemberTime {
        let platform = boot_micros(self.clock.boot_time());
        MemberTime {
            platform_micros: platform.saturating_add(self.offset.load(Ordering::Acquire)),
            wall_millis: self.clock.wall_millis(),
            is_founding: self.is_founding(),
        }
    }

    /// Records the clocks of another member, and takes its time if it is the cluster's master.
    pub(crate) fn hear_member(&self, node: &NodeId, heard: &MemberTime, is_master: bool) {
        let mut time = self.time();
        time.hear_member(self.clock.boot_time(), node, heard);
        if is_master {
            time.follow(node, heard.is_founding);
            self.offset.store(time.offset_micros(), Ordering::Release);
            self.is_founding
                .store(time.is_founding(), Ordering::Release);
        }
    }

    /// Begins a mastership: the time goes on from the last master's, or after a full stop from the
    /// median of the members'.
    pub(crate) fn take_over(&self) {
        let mut time = self.time();
        time.take_over(self.clock.boot_time());
        self.offset.store(time.offset_micros(), Ordering::Release);
    }

    /// The log has a record of this version: one that a write made, or a later one, ends the steps.
    pub(crate) fn logged(&self, version: Version) {
        if version >= FIRST_OF_A_TIME {
            self.settle();
        }
    }

    /// Draws the time on; only the master does. `in_sync`: the nodes whose wall clocks count.
    pub(crate) fn draw(&self, in_sync: &[NodeId]) {
        let mut time = self.time();
        let (boot_time, wall) = (self.clock.boot_time(), self.clock.wall_millis());
        time.draw(boot_time, wall, in_sync);
        let mut offset = time.offset_micros();
        if self.rules.lack(Rule::ClustersDrawn) {
            offset -= time.ahead_micros(boot_time).unwrap_or(0);
        }
        self.offset.store(offset, Ordering::Release);
    }

    /// Answers a coordinator's question for the time, after taking note of the other clusters'
    /// times in it; the first question to this process has none.
    pub(crate) fn compare(&self, question: Option<&TimeQuestion>) -> TimeAnswer {
        let boot_time = self.clock.boot_time();
        if let Some(question) = question.and_then(|question| self.counted(boot_time, question)) {
            self.time().hear(boot_time, &question);
        }
        TimeAnswer {
            boot_time,
            platform_millis: self.millis_at(boot_time),
            is_founding: self.is_founding(),
        }
    }

    /// What counts of a question: all of it, unless a simulation switches a rule off.
    fn counted<'a>(
        &self,
        boot_time: BootTime,
        question: &'a TimeQuestion,
    ) -> Option<Cow<'a, TimeQuestion>> {
        let rule = match self.is_founding() {
            true => Rule::FounderFollows,
            false => Rule::ClustersAgree,
        };
        if self.rules.lack(rule) {
            return None;
        }
        let mut counted = Cow::Borrowed(question);
        if self.rules.lack(Rule::MedianCounts) {
            counted.to_mut().others.truncate(1);
        }
        if self.rules.lack(Rule::ReadingEchoed) {
            counted.to_mut().at = boot_time;
        }
        Some(counted)
    }

    /// How far this cluster's time is ahead of the platform's, in milliseconds; `None` while no
    /// other cluster was heard of lately.
    pub(crate) fn ahead_of_platform_millis(&self) -> Option<i64> {
        let ahead = self.time().ahead_micros(self.clock.boot_time())?;
        Some(ahead / 1_000)
    }

    /// A reading of all clocks now.
    pub(crate) fn reading(&self) -> TimeReading {
        let boot_time = self.clock.boot_time();
        let (wall_millis, is_synchronised) = wall(&*self.clock);
        TimeReading {
            platform_millis: self.millis_at(boot_time),
            boot_time,
            boot: self.boot,
            wall_millis,
            is_synchronised,
        }
    }
}

/// The wall clock in milliseconds, and whether it is synchronised. The kernel's status is read
/// before and after it: setting the clock ends the status, and a time daemon reports it only after
/// it has set the clock. So no reading from before a correction counts as synchronised.
fn wall(clock: &dyn Clock) -> (u64, bool) {
    let was_synchronised = clock.is_synchronised();
    let millis = clock.wall_millis();
    (millis, was_synchronised && clock.is_synchronised())
}

/// The platform time to continue from, in milliseconds.
async fn after_restart(
    clock: &dyn Clock,
    boot: Option<Boot>,
    stored: &TimeReading,
    rules: Rules,
) -> u64 {
    let stored = TimeReading {
        is_synchronised: stored.is_synchronised || rules.lack(Rule::StoredSynchronised),
        ..*stored
    };
    let synchronised_wall_millis = match is_same_boot(&stored, boot) {
        true => None,
        false => wall_after(clock, &stored, rules).await,
    };
    let now = StartReading {
        boot_time: clock.boot_time(),
        boot,
        synchronised_wall_millis,
    };
    time_after_restart(&stored, &now)
}

/// The wall clock, if its distance to the stored one is the time that passed.
async fn wall_after(clock: &dyn Clock, stored: &TimeReading, rules: Rules) -> Option<u64> {
    if !stored.is_synchronised {
        tracing::warn!(
            "the wall clock was not synchronised before the machine was stopped, so the time \
             since then is not counted: keys live that much longer"
        );
        return None;
    }
    if rules.lack(Rule::WallSynchronised) {
        return Some(clock.wall_millis());
    }
    let wall = synchronised_wall(clock).await;
    if wall.is_none() {
        tracing::warn!(
            waited = ?SYNCHRONISATION_WAIT,
            "the kernel does not call the wall clock synchronised, so the time since the \
             machine was stopped is not counted: keys live that much longer"
        );
    }
    wall
}

/// Waits until the kernel reports the wall clock synchronised, and returns it; `None` if that
/// takes too long.
async fn synchronised_wall(clock: &dyn Clock) -> Option<u64> {
    let limit = Instant::now() + SYNCHRONISATION_WAIT;
    let mut is_logged = false;
    loop {
        let (millis, is_synchronised) = wall(clock);
        if is_synchronised {
            return Some(millis);
        }
        if Instant::now() >= limit {
            return None;
        }
        if !is_logged {
            let most = SYNCHRONISATION_WAIT;
            tracing::warn!(?most, "waiting until the wall clock is synchronised");
            is_logged = true;
        }
        sleep(SYNCHRONISATION_POLL).await;
    }
}

#[cfg(test)]
mod tests;
