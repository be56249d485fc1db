//! The clocks of several clusters, and the coordinators that carry their times (CLOCK-STEADY).
//!
//! The production types: [`PlatformClock`](crate::platform_clock::PlatformClock), the cluster clock
//! that versions come from, and the coordinators'
//! [`Carrier`](tierkv_protocol::platform_time::carrier::Carrier). The world is synchronous code and
//! has one true time. Messages are lost, late and doubled, processes stall and start again,
//! machines are paused with their clocks, wall clocks are set. Clusters begin minutes apart, in some
//! worlds an hour; that takes 100 hours of true time.
//!
//! Checked: versions grow; a key lives as long as it should, but for the hundredth by which a clock
//! may be drawn; a cluster near the median is not drawn; one that is founded later begins with the
//! platform's time; after a quiet time all are within 5 s of the median.

mod mail;
mod master;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tierkv_protocol::platform_time::median::median;

use self::{
    mail::{Coordinator, Letter, Mail},
    master::Master,
};
use super::chance::Chance;
use crate::rules::Rule;

/// Seeds that run with all rules in force, and at most until a rule that is off is noticed.
pub(super) const SEEDS: u64 = 40;
/// One seed in so many begins with clusters an hour apart.
const HOURS_EACH: u64 = 20;
const HOUR: u64 = 3_600_000;
/// A turn's time, in milliseconds: two heartbeats, the most in which a clock is drawn fully.
const TURN: u64 = 100;
/// Turns with faults.
const STORMY: u64 = 60_000;
/// Turns from one question of a coordinator to the next.
const ASKED_EACH: u64 = 10;
/// A distance at which a cluster is not drawn, in milliseconds, a second under the limit.
const NEAR: i64 = 4_000;
/// The distance in which all clusters must end: the limit, and what is between two messages.
const AGREED: i64 = 5_200;
/// Turns over which it is checked that a cluster which is near is not drawn.
const WINDOW: u64 = 100;
/// Turns without faults after which all clusters have heard of each other.
const SETTLING: u64 = 300;

struct World {
    chance: Chance,
    turn: u64,
    masters: Vec<Master>,
    coordinators: Vec<Coordinator>,
    mail: Mail,
    /// The last turn in which a fault was under way.
    last_fault: u64,
}

/// Runs the world of one seed, without one rule. Returns how many keys expired in it.
///
/// # Errors
/// The check that failed.
pub(super) fn run(seed: u64, off: Option<Rule>) -> Result<u64, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| World::new(seed, off).live()));
    lived.map_err(|panic| {
        let why = panic.downcast_ref::<String>().cloned();
        format!("seed {seed}: {}", why.unwrap_or_default())
    })
}

impl World {
    fn new(seed: u64, off: Option<Rule>) -> Self {
        let chance = Chance::of(seed, "clusters");
        let count = 2 + chance.index(3);
        let spread = match seed % HOURS_EACH {
            0 => HOUR,
            _ => 60_000 + chance.below(120_000),
        };
        let masters = (1..=count).map(|number| {
            // Some are founded together, and some when the others have been there for long.
            let is_late = number > 1 && chance.percent(30);
            let founded = if is_late {
                2_000 + chance.below(5_000)
            } else {
                0
            };
            let ahead = [0, 0, spread, chance.below(spread)][chance.index(4)];
            // Written to at once, before it hears of the others, or later.
            let first_write = match is_late || chance.percent(25) {
                true => founded + SETTLING,
                false => founded,
            };
            Master::new(
                &format!("c{number}"),
                off,
                &chance,
                [founded, first_write],
                ahead,
            )
        });
        let masters = masters.collect();
        Self {
            turn: 0,
            masters,
            coordinators: (0..2).map(|_| Coordinator::new(&chance)).collect(),
            mail: Mail::default(),
            last_fault: 0,
            chance,
        }
    }

    fn live(mut self) -> u64 {
        while self.turn < STORMY {
            self.fail();
            self.happen();
        }
        let farthest = self.ahead().into_iter().map(|(_, ahead)| ahead.abs());
        let farthest = farthest.max().unwrap_or(0).unsigned_abs();
        // The median itself may be drawn away by its wall clock, by a tenth of that.
        let end = self.turn + SETTLING + farthest * (100 + 12) / TURN;
        while self.turn < end {
            self.happen();
        }
        for (at, ahead) in self.ahead() {
            let id = &self.masters[at].id;
            assert!(
                ahead.abs() <= AGREED,
                "CLOCK-STEADY: after a quiet time clusters are still apart: {id} is {ahead} ms ahead"
            );
        }
        let expired = self.masters.iter().map(|master| master.expired);
        expired.sum()
    }

    /// Begins a fault, sometimes.
    fn fail(&mut self) {
        let chance = &self.chance;
        if chance.below(1_500) > 0 {
            return;
        }
        let at = chance.index(self.masters.len());
        let turns = 1 + chance.below([20, 200, 600][chance.index(3)]);
        match chance.index(5) {
            0 => {
                let step = [-HOUR.cast_signed(), -20_000, 300, 50_000][chance.index(4)];
                self.masters[at].clock.step_wall(step);
            }
            1 => self.masters[at].stalled_until = self.turn + turns,
            2 => self.masters[at].paused_until = self.turn + turns,
            3 => self.masters[at].restart(self.turn),
            _ => {
                let one = chance.index(self.coordinators.len());
                self.coordinators[one].stalled_until = self.turn + turns;
                return;
            }
        }
        self.last_fault = self.turn + turns;
    }

    fn happen(&mut self) {
        self.turn += 1;
        let turn = self.turn;
        for master in &mut self.masters {
            master.pass(turn, TURN, &self.chance);
        }
        for coordinator in &self.coordinators {
            coordinator.time.advance(TURN);
        }
        self.deliver();
        if turn.is_multiple_of(ASKED_EACH) {
            self.ask();
        }
        if turn.is_multiple_of(WINDOW) {
            self.check_the_near();
        }
        self.check_founders();
    }

    fn ask(&mut self) {
        let masters: Vec<_> = (self.masters.iter().enumerate())
            .filter(|(_, master)| master.is_founded(self.turn))
            .map(|(at, master)| (at, master.id.clone(), master.process))
            .collect();
        for (from, coordinator) in self.coordinators.iter().enumerate() {
            if coordinator.stalled_until > self.turn {
                continue;
            }
            for (to, id, process) in &masters {
                let letter = coordinator.question(from, *to, id, *process);
                self.mail.send(&self.chance, self.turn, letter);
            }
        }
    }

    fn deliver(&mut self) {
        for letter in self.mail.due(self.turn) {
            match letter {
                Letter::Question {
                    from,
                    to,
                    process,
                    asked_at,
                    ref question,
                } => {
                    let master = &mut self.masters[to];
                    if master.is_away(self.turn) {
                        self.mail.hold(letter, self.turn + 1);
                    } else if master.process == process {
                        let answer = master.platform.compare(question.as_ref());
                        let answer = Letter::Answer {
                            from: to,
                            to: from,
                            process,
                            asked_at,
                            answer,
                        };
                        self.mail.send(&self.chance, self.turn, answer);
                    }
                }
                Letter::Answer {
                    from,
                    to,
                    process,
                    asked_at,
                    answer,
                } => {
                    let coordinator = &mut self.coordinators[to];
                    if coordinator.stalled_until > self.turn {
                        self.mail.hold(letter, self.turn + 1);
                    } else {
                        let id = &self.masters[from].id;
                        coordinator.receive(id, process, asked_at, answer);
                    }
                }
            }
        }
    }

    /// How far the clusters that are written to are ahead of their median, in milliseconds.
    fn ahead(&self) -> Vec<(usize, i64)> {
        let settled = || {
            let masters = self.masters.iter().enumerate();
            masters.filter(|(_, master)| master.is_settled())
        };
        let times = settled().map(|(_, master)| (&master.id, master.true_ahead(self.turn * TURN)));
        let platform = median(times).unwrap_or(0);
        settled()
            .map(|(at, master)| (at, master.true_ahead(self.turn * TURN) - platform))
            .collect()
    }

    /// Checks that a cluster near the median moves by no more than its wall clock explains.
    fn check_the_near(&mut self) {
        let is_calm = self.turn > self.last_fault + SETTLING
            && (self.masters.iter()).all(|master| master.is_quiet(self.turn, SETTLING));
        let ahead = self.ahead();
        for (at, ahead) in ahead {
            let moved = self.masters[at].moved_since_last(self.turn * TURN);
            let was_near = std::mem::replace(&mut self.masters[at].is_near, ahead.abs() <= NEAR);
            let (Some((moved, by_wall)), true) = (moved, is_calm && was_near) else {
                continue;
            };
            if self.masters[at].is_near {
                let most = 3 + if by_wall {
                    (WINDOW * TURN / 1_000).cast_signed()
                } else {
                    0
                };
                assert!(
                    moved.abs() <= most,
                    "CLOCK-STEADY: {} is {ahead} ms from the median and was drawn by {moved} ms",
                    self.masters[at].id
                );
            }
        }
    }

    /// Checks the clusters that are written to for the first time: those that were founded long
    /// before had the platform's time.
    fn check_founders(&mut self) {
        let now = self.turn * TURN;
        for at in 0..self.masters.len() {
            if !self.masters[at].settles_now(self.turn) {
                continue;
            }
            let others = self.ahead();
            let mut stalls = self.coordinators.iter().map(|it| it.stalled_until);
            let had_faults = stalls.any(|until| self.turn <= until + SETTLING && until > 0)
                || (self.turn <= self.last_fault + SETTLING && self.last_fault > 0);
            let platform = median(others.iter().map(|(other, _)| {
                let master = &self.masters[*other];
                (&master.id, master.true_ahead(now))
            }));
            let own = self.masters[at].true_ahead(now);
            self.masters[at].settle(self.turn);
            let Some(platform) = platform else { continue };
            if self.masters[at].waited(self.turn) >= SETTLING && !had_faults {
                let away = own - platform;
                assert!(
                    away.abs() <= AGREED,
                    "CLOCK-STEADY: a founder begins {away} ms from the platform's time"
                );
            }
        }
    }
}

#[test]
fn clusters_agree_on_one_time_and_no_key_notices() {
    let mut expired = 0;
    for seed in 0..SEEDS {
        expired += run(seed, None).unwrap_or_else(|why| panic!("{why}"));
    }
    println!("{SEEDS} seeds, {expired} keys expired");
    assert!(expired > 100 * SEEDS);
}
