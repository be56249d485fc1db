//! The parameters of a seed's world: how often each event happens. Times are in milliseconds.

use rand::{Rng, rngs::StdRng};

/// The faults that a world may have, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Loss,
    Duplication,
    Delay,
    Reordering,
    Crash,
    Restart,
    WipedDisk,
    TornTail,
    TruncatedLog,
    FlippedLog,
    StalledProcess,
    PausedMachine,
    OldImage,
    Partition,
    OneWayPartition,
    Suspend,
    Handover,
    LateHandover,
    DoubledSwap,
    UnknownSwap,
    UnheardSwap,
    LateSwap,
    ChangedF,
    SteppedClock,
    CoordinationDown,
    CoordinationSlow,
    AddedNode,
    RemovedNode,
    TrimmedLog,
    SlowDisk,
    LostForGood,
    StuckDisk,
}

/// The climate of one world.
#[derive(Clone, Debug)]
pub(super) struct Climate {
    /// Members at the founding.
    pub(super) members: usize,
    pub(super) f_ms: u32,
    /// From here on there are no faults, and all nodes run.
    pub(super) calm_from: u64,
    pub(super) until: u64,
    pub(super) clients: usize,
    pub(super) think: u64,
    /// Time of a message, at most.
    pub(super) latency: u64,
    /// Time of a flush, at most.
    pub(super) disk: u64,
    /// Chances of a message in a thousand.
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) delay: u32,
    /// How long a delayed message takes, at most.
    pub(super) delay_for: u64,
    /// The time between two faults of nodes, at most.
    pub(super) fault_every: u64,
    /// The time between two troubles of coordination, at most.
    pub(super) coordination_every: u64,
    /// Chances of a swap in a hundred.
    pub(super) unknown: u32,
    pub(super) late: u32,
    pub(super) max_staleness: u64,
}

impl Climate {
    pub(super) fn of(rng: &mut StdRng) -> Self {
        let f_ms = *choose(rng, &[200, 300, 500, 1_000]);
        let calm_from = rng.random_range(8_000..16_000) + 6 * u64::from(f_ms);
        let is_rough = rng.random_ratio(1, 3);
        Self {
            members: *choose(rng, &[3, 3, 3, 3, 3, 3, 2, 4, 5, 1]),
            f_ms,
            calm_from,
            until: calm_from + 12_000 + 12 * u64::from(f_ms),
            clients: rng.random_range(3..8),
            think: rng.random_range(10..60),
            latency: rng.random_range(1..6),
            disk: rng.random_range(1..8),
            loss: if is_rough {
                rng.random_range(0..200)
            } else {
                rng.random_range(0..10)
            },
            duplication: rng.random_range(0..60),
            delay: if is_rough {
                rng.random_range(0..100)
            } else {
                rng.random_range(0..10)
            },
            delay_for: *choose(rng, &[50, 500, 5_000]),
            fault_every: rng.random_range(600..3_000),
            coordination_every: rng.random_range(2_000..20_000),
            unknown: rng.random_range(0..40),
            late: rng.random_range(0..20),
            max_staleness: 2_050 + 105 * u64::from(f_ms) / 100,
        }
    }
}

/// One of some values.
pub(super) fn choose<'a, T>(rng: &mut StdRng, values: &'a [T]) -> &'a T {
    &values[rng.random_range(0..values.len())]
}
