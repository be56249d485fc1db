//! The parameters of a seed's world: how often each event happens. Times are in milliseconds.

use rand::{Rng, rngs::StdRng};

/// The climate of one world.
pub(super) struct Climate {
    pub(super) until: u64,
    pub(super) write_every: u64,
    pub(super) read_every: u64,
    pub(super) round_every: u64,
    pub(super) ask_every: u64,
    pub(super) retry_every: u64,
    pub(super) failover_every: u64,
    pub(super) move_every: u64,
    pub(super) forget_every: u64,
    /// How often the masters lose the node, and for how long at most.
    pub(super) cut_off_every: u64,
    pub(super) cut_off_for: u64,
    /// From here on there are no writes, depositions, moves or network cuts.
    pub(super) calm_from: u64,
    /// The largest bound of a read.
    pub(super) max_age: u64,
    /// Chances in percent: that a message is lost, that a process pauses, that a new
    /// master's log is cut.
    pub(super) loss: u32,
    pub(super) pause: u32,
    pub(super) cut_log: u32,
}

impl Climate {
    pub(super) fn of(rng: &mut StdRng) -> Self {
        match rng.random_range(0..16) {
            0 => Self::slow(rng),
            1 => Self::aftermath(rng),
            _ => Self::quick(rng),
        }
    }

    /// A few seconds with many events.
    fn quick(rng: &mut StdRng) -> Self {
        Self {
            until: 12_000,
            write_every: rng.random_range(30..1_000),
            read_every: rng.random_range(5..60),
            round_every: rng.random_range(20..200),
            ask_every: rng.random_range(50..500),
            retry_every: rng.random_range(200..3_000),
            failover_every: rng.random_range(1_000..20_000),
            move_every: rng.random_range(1_000..20_000),
            forget_every: rng.random_range(1_000..40_000),
            cut_off_every: rng.random_range(1_000..20_000),
            cut_off_for: rng.random_range(100..3_000),
            calm_from: u64::MAX,
            max_age: 6_000,
            loss: rng.random_range(0..50),
            pause: rng.random_range(0..40),
            cut_log: rng.random_range(0..10),
        }
    }

    /// Many minutes, for slow effects.
    fn slow(rng: &mut StdRng) -> Self {
        Self {
            until: 1_500_000,
            write_every: rng.random_range(3_000..100_000),
            read_every: rng.random_range(500..2_400),
            round_every: rng.random_range(800..8_000),
            ask_every: rng.random_range(2_000..20_000),
            failover_every: rng.random_range(30_000..1_500_000),
            move_every: rng.random_range(300_000..5_000_000),
            forget_every: rng.random_range(20_000..2_000_000),
            cut_off_every: rng.random_range(50_000..1_500_000),
            cut_off_for: rng.random_range(1_000..200_000),
            max_age: 200_000,
            cut_log: rng.random_range(0..100),
            ..Self::quick(rng)
        }
    }

    /// First many faults, in which logs are cut; then none, for longer than a new master withholds
    /// its marks, so that the effects of lost deletes show.
    fn aftermath(rng: &mut StdRng) -> Self {
        let calm_from = rng.random_range(50_000..150_000);
        Self {
            until: calm_from + 700_000,
            write_every: rng.random_range(2_000..20_000),
            forget_every: 2_000_000,
            failover_every: 1_000_000,
            cut_off_every: rng.random_range(10_000..40_000),
            cut_off_for: rng.random_range(20_000..120_000),
            calm_from,
            loss: rng.random_range(0..10),
            cut_log: rng.random_range(50..100),
            ..Self::slow(rng)
        }
    }
}
