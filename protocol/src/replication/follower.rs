//! [`Follower`]: what a master knows of one other node of its cluster.

use std::{collections::VecDeque, time::Duration};

use tierkv_types::{BootTime, Incarnation, Index, LogId, Position, Round};

use super::{
    message::{Acknowledge, Echo},
    own_log::OwnLog,
};

/// Most records whose acknowledgement is timed; more are timed later.
const MAX_AWAITED: usize = 256;
/// A node's process and log. What another one acknowledged counts for nothing (REP-START,
/// REP-LOGID).
type Sender = (Incarnation, LogId);

/// The progress of one node in one term.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    sender: Option<Sender>,
    /// The position after which the next records are sent.
    next: Position,
    /// Up to here its log is that of the master; `None` while that is not known.
    matched: Option<Index>,
    durable: Index,
    /// The newest round sent, and the newest one acknowledged.
    sent_round: Round,
    acknowledged_round: Round,
    /// When its last probe was sent, on its clock.
    probe: Option<BootTime>,
    /// The echo that the next message carries.
    echo: Option<Echo>,
    /// When it was last heard of, and when its log last became longer.
    heard_at: BootTime,
    progressed_at: BootTime,
    /// The master's last records, and when they were appended: the oldest unacknowledged first.
    awaited: VecDeque<(Index, BootTime)>,
    is_beyond_log: bool,
}

impl Follower {
    /// A node of which nothing is known yet, in a term that begins at `now` with a log that ends at
    /// `last`.
    pub(super) fn new(now: BootTime, last: Position) -> Self {
        Self {
            sender: None,
            next: last,
            matched: None,
            durable: Index::ZERO,
            sent_round: Round::ZERO,
            acknowledged_round: Round::ZERO,
            probe: None,
            echo: None,
            heard_at: now,
            progressed_at: now,
            awaited: VecDeque::new(),
            is_beyond_log: false,
        }
    }

    /// The process and the log that it acknowledges with.
    pub(super) const fn sender(&self) -> Option<Sender> {
        self.sender
    }

    pub(super) const fn durable(&self) -> Index {
        self.durable
    }

    pub(super) const fn acknowledged_round(&self) -> Round {
        self.acknowledged_round
    }

    pub(super) const fn probe(&self) -> Option<BootTime> {
        self.probe
    }

    pub(super) const fn next(&self) -> Position {
        self.next
    }

    /// Its log, if that needs what the master's log no longer has.
    pub(super) fn lacking(&self) -> Option<LogId> {
        let (_, log_id) = self.sender?;
        self.is_beyond_log.then_some(log_id)
    }

    pub(super) const fn echo(&self) -> Option<Echo> {
        self.echo
    }

    /// Sets the echo of a vouched round.
    pub(super) const fn set_echo(&mut self, echo: Echo) {
        self.echo = Some(echo);
    }

    /// Whether records after `next` may be sent: it is known what the node has, and it can get them
    /// from the log.
    pub(super) const fn takes_records(&self) -> bool {
        self.matched.is_some() && !self.is_beyond_log
    }

    /// Whether there is something to send.
    pub(super) fn has_news(&self, last: Index, round: Round) -> bool {
        let has_records = self.takes_records() && self.next.index < last;
        has_records || self.sent_round < round
    }

    /// Records that everything up to `up_to` was sent, with a round and the echo.
    pub(super) fn sent(&mut self, up_to: Position, round: Round) {
        if up_to.index > self.next.index && self.takes_records() {
            self.next = up_to;
        }
        self.sent_round = self.sent_round.max(round);
    }

    /// The node's log needs what the master's log no longer has.
    pub(super) fn lies_beyond_log(&mut self) {
        self.is_beyond_log = true;
    }

    /// Handles an acknowledgement. `same_sender`: whether only those of one process and log count.
    pub(super) fn acknowledge(
        &mut self,
        now: BootTime,
        incarnation: Incarnation,
        acknowledged: &Acknowledge,
        own: &OwnLog,
        same_sender: bool,
    ) {
        let sender = (incarnation, acknowledged.log_id);
        if self.sender != Some(sender) {
            // Only a process that still runs acknowledges newer rounds; the others are late.
            let is_newer = acknowledged.round > self.acknowledged_round;
            if same_sender && self.sender.is_some() && !is_newer {
                return;
            }
            self.change_sender(sender, own.last(), same_sender);
        }
        self.heard_at = now;
        self.probe = self.probe.max(Some(acknowledged.probe));
        self.acknowledged_round = self.acknowledged_round.max(acknowledged.round);
        let (matched, last) = (acknowledged.matched, acknowledged.last);
        if self.matched.is_none() && last.index > matched && own.has(last) {
            // It has more than it could compare, perhaps from a snapshot.
            (self.next, self.is_beyond_log) = (last, false);
        } else if matched > Index::ZERO && self.matched.is_none_or(|known| known < matched) {
            // While it was not known, `next` was only a place to try.
            if self.matched.is_none() || self.next.index < matched {
                self.next = own.position(matched);
            }
            self.matched = Some(matched);
            self.is_beyond_log = false;
            self.progressed_at = now;
        }
        if acknowledged.durable > self.durable {
            self.durable = acknowledged.durable;
            self.progressed_at = now;
            while (self.awaited.front()).is_some_and(|(index, _)| *index <= self.durable) {
                self.awaited.pop_front();
            }
        }
        if let Some(differing) = &acknowledged.differing {
            // Late ones may be from before the last match.
            let from = self.matched.unwrap_or_default();
            let common = own.common(last.index, differing);
            if common.index >= from {
                self.next = common;
                self.matched = None;
            }
        } else if self.matched.is_none() && self.next.index == Index::ZERO {
            // Both logs begin at the default position.
            self.matched = Some(Index::ZERO);
        }
    }

    fn change_sender(&mut self, sender: Sender, last: Position, forgets: bool) {
        self.sender = Some(sender);
        if !forgets {
            return;
        }
        self.next = last;
        self.matched = None;
        self.durable = Index::ZERO;
        self.acknowledged_round = Round::ZERO;
        self.probe = None;
        self.echo = None;
        self.is_beyond_log = false;
    }

    /// Records the master's last record at a heartbeat, to see how long its acknowledgement takes.
    pub(super) fn await_record(&mut self, last: Index, now: BootTime) {
        let newest = self.awaited.back().map(|(index, _)| *index);
        let has_place = self.awaited.len() < MAX_AWAITED;
        if has_place && last > self.durable && newest.is_none_or(|newest| newest < last) {
            self.awaited.push_back((last, now));
        }
    }

    /// Whether the oldest unacknowledged record, or its last sign of life, is older than `silence`
    /// (REP-SHED).
    pub(super) fn is_late(&self, now: BootTime, silence: Duration) -> bool {
        let oldest = self.awaited.front().map(|(_, since)| *since);
        now.since(self.heard_at) >= silence
            || oldest.is_some_and(|since| now.since(since) >= silence)
    }

    /// Whether it was heard of within `time`.
    pub(super) fn is_heard(&self, now: BootTime, time: Duration) -> bool {
        self.sender.is_some() && now.since(self.heard_at) < time
    }

    /// Sends again what was not acknowledged for `patience`: a message may be lost.
    pub(super) fn resend_if_stuck(&mut self, now: BootTime, patience: Duration, own: &OwnLog) {
        let Some(matched) = self.matched else {
            return;
        };
        if self.next.index > matched && now.since(self.progressed_at) >= patience {
            self.next = own.position(matched);
            self.progressed_at = now;
        }
    }
}
