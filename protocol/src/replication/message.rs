//! [`Message`]s between the members of a cluster.
//!
//! They may be lost, late, doubled or in another order: none relies on an earlier one. Between
//! two nodes of a cluster each sends its messages on a stream of its own.

use std::{fmt, sync::Arc};

use tierkv_types::{
    BootTime, Epoch, Incarnation, Index, LogId, NodeId, Position, Record, Round, Version,
};

/// One run of a node's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// The node.
    pub node: NodeId,
    /// The random number of the run.
    pub incarnation: Incarnation,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.node, self.incarnation)
    }
}

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The master's records and heartbeat.
    Append(Append),
    /// A replica's acknowledgement.
    Acknowledge(Acknowledge),
    /// A candidate's question.
    Ask(Ask),
    /// The answer to a candidate.
    Confirm(Confirm),
    /// A master's offer to hand over.
    Offer(Offer),
    /// The answer to an offer.
    Ready(Offer),
    /// A master asks the named process not to take the epoch of an unsettled handover.
    Decline(Epoch),
    /// The named process never takes that epoch.
    Declined(Epoch),
}

/// Records after a position, none for a heartbeat alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The master's epoch.
    pub epoch: Epoch,
    /// The position before the first record.
    pub prev: Position,
    /// Records that follow each other.
    pub records: Vec<Arc<Record>>,
    /// The master's commit index.
    pub commit: Index,
    /// The round that an acknowledgement of this message acknowledges.
    pub round: Round,
    /// A clock that the replica merges before it acknowledges the round (REP-CLOCK).
    pub clock: Version,
    /// The highest clock that all in sync acknowledged: reads of the replica judge expiry by it
    /// (REP-CLOCK).
    pub acknowledged_clock: Version,
    /// The newest vouched round that echoes a probe of this replica.
    pub echo: Option<Echo>,
    /// The replica's log, if the master's no longer has the records that it lacks: it needs a
    /// snapshot.
    pub lacking: Option<LogId>,
}

/// A replica's probe that came back in a vouched round (REP-AGE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// When the replica sent the probe, on its own clock.
    pub probe: BootTime,
    /// The commit index of the vouched round.
    pub commit: Index,
}

/// What a replica has of the master's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledge {
    /// The master's epoch.
    pub epoch: Epoch,
    /// The replica's log.
    pub log_id: LogId,
    /// The newest round received (REP-ROUND).
    pub round: Round,
    /// The end of the replica's log.
    pub last: Position,
    /// Up to here the replica's log is that of the master.
    pub matched: Index,
    /// Up to here it is durable, too.
    pub durable: Index,
    /// When this was sent, on the replica's clock (REP-AGE).
    pub probe: BootTime,
    /// If a message's `prev` is not in the replica's log: the last epochs of the log that begin
    /// there or before, each with its first index.
    pub differing: Option<Vec<(Epoch, Index)>>,
}

/// A candidate's question whether it may take mastership (REP-FAILOVER).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The question's number, for its answers.
    pub number: u64,
    /// The end of the candidate's log.
    pub last: Position,
    /// The epoch and revision of the record that the candidate goes by.
    pub seen: (Epoch, u64),
}

/// The answer to a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The question's number.
    pub number: u64,
    /// Whether the member hears no master either, and has no reason to stand itself.
    pub is_granted: bool,
    /// The member's log.
    pub log_id: LogId,
    /// The end of the member's log.
    pub last: Position,
    /// The highest epoch that the member promised.
    pub promised: Epoch,
    /// The epoch and revision of the highest record that the member saw (COORD-BACK).
    pub seen: (Epoch, u64),
}

/// The offer to take mastership over, and its answer (REP-HANDOVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The master's epoch.
    pub epoch: Epoch,
    /// The offer's number.
    pub number: u64,
}
