//! The master of one cluster: its machine, its clocks, and keys that expire.

use std::sync::Arc;

use futures::FutureExt;
use tierkv_types::{Clock, ClusterId, HybridClock, Incarnation, TimeReading, Version};

use super::super::{
    chance::Chance,
    clock::{MachineClock, VirtualTime, signed},
};
use crate::{
    platform_clock::PlatformClock,
    rules::{Rule, Rules},
};

/// The right time at the beginning of a world, in milliseconds.
const EPOCH_MILLIS: u64 = 1_700_000_000_000;
/// Keys that wait to expire, at most.
const KEYS: usize = 4;
/// Turns from one stored time to the next, as the timekeeper does it.
const STORED_EACH: u64 = 100;
/// How much of the drawing a restart may lose, and the turns in which expiry is seen.
const SLACK_MILLIS: u64 = 450;

/// A key with a time to live.
struct Key {
    /// When it was written, by the boot-time clock.
    written: u64,
    ttl: u64,
    expires: u64,
    /// How often the process was started again since, and for how long it was stopped.
    restarts: u64,
    unseen: u64,
}

pub(super) struct Master {
    pub(super) id: ClusterId,
    off: Option<Rule>,
    /// The machine's own time, which stands still while the machine is paused.
    time: VirtualTime,
    pub(super) clock: Arc<MachineClock>,
    pub(super) platform: PlatformClock,
    cluster_clock: HybridClock,
    pub(super) process: Incarnation,
    /// Its founding and its first write, in turns.
    founded: u64,
    first_write: u64,
    settled_at: Option<u64>,
    last: Version,
    stored: Option<TimeReading>,
    keys: Vec<Key>,
    pub(super) expired: u64,
    /// The process is stopped, or the machine is paused with its clocks, before these turns.
    pub(super) stalled_until: u64,
    pub(super) paused_until: u64,
    restarted: u64,
    /// How far it was ahead at the last check, and whether the wall clock could have drawn it then.
    seen: Option<(i64, bool)>,
    /// Whether it was near the median at the last check.
    pub(super) is_near: bool,
}

impl Master {
    /// A master whose wall clock is `ahead`; `founded`: the turns of its founding and its first
    /// write.
    pub(super) fn new(
        id: &str,
        off: Option<Rule>,
        chance: &Chance,
        [founded, first_write]: [u64; 2],
        ahead: u64,
    ) -> Self {
        let id = ClusterId::new(id).unwrap();
        let time = VirtualTime::default();
        time.advance(chance.below(1_000_000));
        let wall = signed(EPOCH_MILLIS + ahead);
        let clock = Arc::new(MachineClock::new(time.clone(), wall));
        let platform = start(&id, &clock, None, Version::ZERO, off);
        Self {
            id,
            off,
            time,
            clock,
            platform,
            cluster_clock: HybridClock::default(),
            process: Incarnation(1),
            founded,
            first_write,
            settled_at: None,
            last: Version::ZERO,
            stored: None,
            keys: Vec::new(),
            expired: 0,
            stalled_until: 0,
            paused_until: 0,
            restarted: 0,
            seen: None,
            is_near: false,
        }
    }

    pub(super) const fn is_founded(&self, turn: u64) -> bool {
        turn >= self.founded
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.settled_at.is_some()
    }

    /// Whether it neither answers nor draws.
    pub(super) const fn is_away(&self, turn: u64) -> bool {
        self.stalled_until > turn || self.paused_until > turn
    }

    /// Whether nothing happened to it for so many turns.
    pub(super) fn is_quiet(&self, turn: u64, turns: u64) -> bool {
        let last = self
            .stalled_until
            .max(self.paused_until)
            .max(self.restarted);
        last + turns <= turn && self.settled_at.is_none_or(|at| at + turns <= turn)
    }

    /// Whether its first write comes in this turn.
    pub(super) const fn settles_now(&self, turn: u64) -> bool {
        !self.is_settled() && turn > self.first_write && !self.is_away(turn)
    }

    /// The first write.
    pub(super) fn settle(&mut self, turn: u64) {
        self.platform.settle();
        self.settled_at = Some(turn);
        self.write(1_000);
    }

    /// Turns from the founding to the first write.
    pub(super) const fn waited(&self, turn: u64) -> u64 {
        turn - self.founded
    }

    /// One turn.
    pub(super) fn pass(&mut self, turn: u64, millis: u64, chance: &Chance) {
        if self.paused_until > turn {
            return;
        }
        self.time.advance(millis);
        if self.is_away(turn) || !self.is_founded(turn) {
            self.keys.iter_mut().for_each(|key| key.unseen += millis);
            return;
        }
        self.platform.draw(&[]);
        if !self.is_settled() {
            return;
        }
        if turn.is_multiple_of(STORED_EACH) {
            self.stored = Some(self.platform.reading());
        }
        self.expire();
        if self.keys.len() < KEYS && chance.below(50) == 0 {
            self.write(500 + chance.below(60_000));
        }
    }

    fn write(&mut self, ttl: u64) {
        let version = self.cluster_clock.tick(self.platform.millis());
        assert!(version > self.last, "I5: a version does not grow");
        self.last = version;
        self.keys.push(Key {
            written: self.time.millis(),
            ttl,
            expires: version.millis() + ttl,
            restarts: 0,
            unseen: 0,
        });
    }

    fn expire(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let before = self.keys.len();
        let (now, boot) = (
            self.cluster_clock.now(self.platform.millis()),
            self.time.millis(),
        );
        let id = &self.id;
        self.keys.retain(|key| {
            let lived = boot - key.written;
            let slack = SLACK_MILLIS * (1 + key.restarts);
            let least = key.ttl - key.ttl / 100;
            assert!(
                now.millis() < key.expires || lived + slack >= least,
                "CLOCK-STEADY: in {id} a key lived for {lived} ms, and should for {}",
                key.ttl
            );
            let most = key.ttl + key.ttl / 90;
            assert!(
                now.millis() >= key.expires || lived <= most + slack + key.unseen,
                "CLOCK-STEADY: in {id} a key lived for over {lived} ms, and should for {}",
                key.ttl
            );
            now.millis() < key.expires
        });
        self.expired += (before - self.keys.len()) as u64;
    }

    /// The process ends and starts again.
    pub(super) fn restart(&mut self, turn: u64) {
        if !self.is_settled() || self.is_away(turn) {
            return;
        }
        let stored = Some(self.stored.unwrap_or_else(|| self.platform.reading()));
        self.platform = start(&self.id, &self.clock, stored, self.last, self.off);
        self.cluster_clock = HybridClock::starting_above(self.last);
        self.process = Incarnation(self.process.0 + 1);
        self.restarted = turn;
        self.seen = None;
        self.keys.iter_mut().for_each(|key| key.restarts += 1);
    }

    /// How far its time is ahead of true time, in milliseconds.
    pub(super) fn true_ahead(&self, true_millis: u64) -> i64 {
        signed(self.platform.millis()) - signed(EPOCH_MILLIS + true_millis)
    }

    /// How far it was drawn since the last call, and whether its wall clock may have; `None` if it
    /// was started again since.
    pub(super) fn moved_since_last(&mut self, true_millis: u64) -> Option<(i64, bool)> {
        let ahead = self.true_ahead(true_millis);
        let gap = signed(self.clock.wall_millis()) - signed(self.platform.millis());
        let by_wall = gap.abs() > 1 && gap.abs() < 61_000;
        let (before, was_by_wall) = self.seen.replace((ahead, by_wall))?;
        Some((ahead - before, by_wall || was_by_wall))
    }
}

fn start(
    id: &ClusterId,
    clock: &Arc<MachineClock>,
    stored: Option<TimeReading>,
    seen: Version,
    off: Option<Rule>,
) -> PlatformClock {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    let starting = PlatformClock::start(id.clone(), clock, stored, seen, Rules::without(off));
    starting
        .now_or_never()
        .expect("the boot is the same, so it waits for nothing")
}
