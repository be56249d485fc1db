//! [`Handover`]: a master's planned handing over of its mastership (REP-HANDOVER).
//!
//! ```text
//! Offered ──Ready──► Draining ──all durable at the successor──► Promising ──► Swapping
//!    │ F over            │ F over                                  won: it follows
//!    └──── given up ─────┘                     lost for certain: it goes on at once
//!                                              unsettled after F/2: Declining ──Declined──►
//!                                              goes on, both sets count (REP-UNION)
//! ```

use tierkv_types::{BootTime, Epoch};

use super::message::Process;

/// How far a handover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The successor was asked to read the record.
    Offered,
    /// New writes wait until the successor holds everything appended.
    Draining,
    /// The next epoch is being made durable. From here on the master appends, confirms and vouches
    /// no more.
    Promising,
    /// The swap is under way.
    Swapping,
    /// The swap is unsettled for long: the successor is asked not to take the epoch.
    Declining,
    /// The successor declined: the master goes on, and both sets count until the swap is settled.
    Declined,
}

/// A handover under way.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    /// The operator's or the node's request.
    pub(super) id: u64,
    pub(super) successor: Process,
    /// Whether the master leaves the logs in sync, because it stops.
    pub(super) leaves: bool,
    /// The offer's number.
    pub(super) number: u64,
    /// The successor's epoch.
    pub(super) epoch: Epoch,
    pub(super) stage: Stage,
    /// When the stage began.
    pub(super) since: BootTime,
}

impl Handover {
    pub(super) fn enter(&mut self, stage: Stage, now: BootTime) {
        (self.stage, self.since) = (stage, now);
    }

    /// Whether new writes wait.
    pub(super) fn holds_writes(&self) -> bool {
        !matches!(self.stage, Stage::Offered | Stage::Declined)
    }

    /// Whether the master acts no more in its epoch.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(
            self.stage,
            Stage::Promising | Stage::Swapping | Stage::Declining
        )
    }
}

/// Why a handover was given up. The master goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// This node is not the master, or may not act as one yet.
    #[error("this node is not the cluster's master")]
    NotMaster,
    /// Another one is under way.
    #[error("a handover is under way already")]
    UnderWay,
    /// No other member may take over.
    #[error(
        "no other member is in sync and answers, or the wanted one is not; `tierkv status` shows \
         the members"
    )]
    NoSuccessor,
    /// The successor did not answer, or did not catch up, within F.
    #[error("the successor did not answer or catch up in time; the master goes on")]
    TooSlow,
    /// The record was not changed.
    #[error("the cluster's record could not be changed; the master goes on")]
    NotInstalled,
}
