//! The steps of a life, and the rule that is switched off in it.

use rand::{Rng, rngs::StdRng};

use crate::disk::Tear;

/// A rule of the storage that a simulation breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Segments of the log are not synced.
    LogSync,
    /// Names of segments are not synced.
    LogNames,
    /// The node state is not synced.
    NodeStateSync,
    /// The store's files are not synced.
    StoreSync,
    /// The log is trimmed before the checkpoint is durable.
    EarlyTrim,
    /// Records are applied before they are committed.
    EarlyApply,
}

/// How lives go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) tear: Tear,
    pub(crate) broken: Option<Broken>,
    /// Whether records are so large that one may survive with a hole in it, which only an
    /// operator can tell from damage (LOG-TORN): the node is recovered then.
    pub(crate) has_holes: bool,
}

/// One step of a life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Append,
    /// Cut off records that are not applied, as a new master may demand.
    Truncate,
    Apply,
    Checkpoint,
    Read,
    Promise,
    ForgetRequests,
    Scrub,
    Restart,
}

impl Script {
    pub(crate) const fn sound(tear: Tear) -> Self {
        Self {
            tear,
            broken: None,
            has_holes: false,
        }
    }

    pub(crate) const fn broken(tear: Tear, broken: Broken) -> Self {
        Self {
            tear,
            broken: Some(broken),
            has_holes: false,
        }
    }

    pub(crate) const fn holes() -> Self {
        Self {
            tear: Tear::AnyOrder,
            broken: None,
            has_holes: true,
        }
    }

    /// The next step of a life.
    pub(crate) fn step(random: &mut StdRng) -> Step {
        match random.random_range(0..100) {
            0..42 => Step::Append,
            42..48 => Step::Truncate,
            48..60 => Step::Apply,
            60..78 => Step::Checkpoint,
            78..90 => Step::Read,
            90..93 => Step::Promise,
            93..96 => Step::ForgetRequests,
            96..98 => Step::Scrub,
            _ => Step::Restart,
        }
    }
}
