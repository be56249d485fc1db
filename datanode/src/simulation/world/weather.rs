//! The parameters of a seed's world: the sizes of its files, and the faults around its node.

use std::time::Duration;

use tierkv_storage::{MemoryLimits, StorageSettings};

use super::super::{
    cache::CacheFaults, chance::Chance, coordination::CoordinationFaults, pace::Pace,
    paced_store::StoreFaults,
};

/// The directory of the node.
pub(super) const DIR: &str = "/node";

/// The weather of one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) coordination: CoordinationFaults,
    pub(super) cache: CacheFaults,
    pub(super) store: StoreFaults,
    /// Steps of the log of a hundred after which it is full for a moment.
    pub(super) log_full: u32,
    /// Lives of a hundred that end with a power cut.
    pub(super) power_cuts: u32,
    /// Of ten thousand turns: ends of the process, and long idle times.
    pub(super) kills: u64,
    pub(super) naps: u64,
    /// Of ten thousand turns: moves of slots.
    pub(super) moves: u64,
    /// Steps of the wall clock between two lives, in milliseconds either way; not 0.
    pub(super) wall_steps: u64,
    /// Steps and corrections of the wall clock within a life, of ten thousand turns.
    pub(super) steps: u64,
    /// Boots, waits and settings of a wrong wall clock, of a hundred, after which it is right and
    /// synchronised.
    pub(super) synchronised: u32,
    /// The longest time between two lives, in milliseconds; not 0.
    pub(super) down: u64,
}

impl Weather {
    pub(super) const FAIR: Self = Self {
        coordination: CoordinationFaults::NONE,
        cache: CacheFaults::NONE,
        store: StoreFaults::NONE,
        log_full: 0,
        power_cuts: 0,
        kills: 0,
        naps: 0,
        moves: 0,
        wall_steps: 1,
        steps: 0,
        synchronised: 100,
        down: 1,
    };

    pub(super) fn of(chance: &Chance) -> Self {
        let one = |of: &[u32]| of[chance.index(of.len())];
        let pace = || Pace {
            steps: one(&[0, 2, 5]).into(),
            late: one(&[0, 10, 50]),
            late_millis: one(&[10, 60, 200]).into(),
        };
        Self {
            coordination: CoordinationFaults {
                unavailable: one(&[0, 5, 15]),
                unknown: one(&[0, 20, 50]),
                old: one(&[0, 10, 30]),
                pace: pace(),
                turn_millis: one(&[30, 150]).into(),
            },
            cache: CacheFaults {
                undelivered: one(&[0, 5, 30]),
                unanswered: one(&[0, 3, 15]),
                late: one(&[0, 5, 20]),
                late_millis: one(&[20, 100]).into(),
                pace: pace(),
            },
            store: StoreFaults {
                busy: one(&[0, 5, 30]),
                full: one(&[0, 5, 30]),
                pace: pace(),
            },
            log_full: one(&[0, 5, 30]),
            power_cuts: one(&[0, 50, 90]),
            kills: one(&[0, 3, 8]).into(),
            naps: one(&[0, 1, 4]).into(),
            moves: one(&[0, 10, 40]).into(),
            wall_steps: one(&[1, 2_000, 60_000, 7_200_000]).into(),
            steps: one(&[0, 2, 20]).into(),
            synchronised: one(&[0, 50, 100]),
            down: one(&[1, 1_000, 60_000]).into(),
        }
    }
}

/// Small files and short times, so that logs rotate and checkpoints overtake reads.
pub(super) fn settings(chance: &Chance) -> StorageSettings {
    let one = |of: &[u64]| of[chance.index(of.len())];
    let memory = MemoryLimits {
        max_records: one(&[0, 0, MemoryLimits::UNBOUNDED]),
        ..MemoryLimits::default()
    };
    StorageSettings {
        segment_bytes: one(&[4, 8, 16]) << 10,
        checkpoint_interval: Duration::from_millis(one(&[15, 40, 1_000])),
        log_retention: Duration::from_secs(one(&[1, 20, 600])),
        memory,
        ..StorageSettings::new(DIR)
    }
}
