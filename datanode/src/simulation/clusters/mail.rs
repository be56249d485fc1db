//! Coordinators, and their messages to masters and back.

use tierkv_protocol::platform_time::{
    carrier::Carrier,
    others::{TimeAnswer, TimeQuestion},
};
use tierkv_types::{BootTime, ClusterId, Incarnation};

use super::super::{chance::Chance, clock::VirtualTime};

/// A message. Coordinators and masters have numbers.
#[derive(Clone, Debug)]
pub(super) enum Letter {
    Question {
        from: usize,
        to: usize,
        process: Incarnation,
        asked_at: BootTime,
        question: Option<TimeQuestion>,
    },
    Answer {
        from: usize,
        to: usize,
        process: Incarnation,
        asked_at: BootTime,
        answer: TimeAnswer,
    },
}

/// The messages on their way, and the turn in which each arrives.
#[derive(Default)]
pub(super) struct Mail(Vec<(u64, Letter)>);

impl Mail {
    /// Sends a message, which may get lost, be late, or arrive twice.
    pub(super) fn send(&mut self, chance: &Chance, turn: u64, letter: Letter) {
        if chance.percent(10) {
            return;
        }
        if chance.percent(5) {
            self.hold(letter.clone(), turn + delay(chance));
        }
        self.hold(letter, turn + delay(chance));
    }

    /// Delivers a message in a later turn.
    pub(super) fn hold(&mut self, letter: Letter, turn: u64) {
        self.0.push((turn, letter));
    }

    /// The messages that arrive in this turn.
    pub(super) fn due(&mut self, turn: u64) -> Vec<Letter> {
        if self.0.iter().all(|(at, _)| *at > turn) {
            return Vec::new();
        }
        let (due, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(at, _)| *at <= turn);
        self.0 = rest;
        let due: Vec<(u64, Letter)> = due;
        due.into_iter().map(|(_, letter)| letter).collect()
    }
}

/// Turns on the way: mostly the same turn or the next, sometimes seconds, rarely minutes.
fn delay(chance: &Chance) -> u64 {
    match chance.below(200) {
        0 => chance.below(3_000),
        1..20 => chance.below(300),
        _ => chance.below(2),
    }
}

/// A server coordinator, on a machine of its own.
pub(super) struct Coordinator {
    pub(super) time: VirtualTime,
    carrier: Carrier,
    /// It neither sends nor receives before this turn; its clock goes on.
    pub(super) stalled_until: u64,
}

impl Coordinator {
    pub(super) fn new(chance: &Chance) -> Self {
        let time = VirtualTime::default();
        time.advance(chance.below(1_000_000));
        Self {
            time,
            carrier: Carrier::default(),
            stalled_until: 0,
        }
    }

    fn now(&self) -> BootTime {
        BootTime::from_boot(std::time::Duration::from_millis(self.time.millis()))
    }

    pub(super) fn question(
        &self,
        from: usize,
        to: usize,
        cluster: &ClusterId,
        process: Incarnation,
    ) -> Letter {
        Letter::Question {
            from,
            to,
            process,
            asked_at: self.now(),
            question: self.carrier.question(cluster, process, self.now()),
        }
    }

    pub(super) fn receive(
        &mut self,
        cluster: &ClusterId,
        process: Incarnation,
        asked_at: BootTime,
        answer: TimeAnswer,
    ) {
        let now = self.now();
        self.carrier
            .answered(cluster, process, asked_at, now, answer);
    }
}
