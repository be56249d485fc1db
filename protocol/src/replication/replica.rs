//! One node's replication machine.
//!
//! ```text
//!              F without a master, a majority confirms       promise durable
//! Following ───────────────────────────────────────► Promising ───────► Swapping
//!   ▲  ▲ │                                                                │ │ won
//!   │  │ └── the record names this process (a handover) ──► Mastering ◄───┼─┘
//!   │  └──────────────── lost for certain ────────────────────────────────┘ │
//!   └──── a later epoch, its own handover, a stuck log ◄─── Mastering ◄─────┘
//! ```
//!
//! Reading order: this file (the state, events, and what callers ask), `recording` (records of
//! coordination), `standing` (questions and swaps of a candidate), `accepting` (a replica's part),
//! `leading` (a master's part), `handing_over`, `giving_up` (a master whose log takes nothing),
//! `role` (what operators see).

mod accepting;
mod giving_up;
mod handing_over;
mod leading;
mod recording;
mod role;
mod standing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use tierkv_types::{BootTime, Epoch, EpochTable, Index, LogId, NodeId, Position, Round, Version};

use super::{
    change::Change,
    cluster_state::{ClusterState, Listed},
    command::Command,
    following::{Following, Proposal},
    freshness::Freshness,
    mastership::Mastership,
    message::{Append, Message, Process},
    own_log::OwnLog,
    rules::{Rule, Rules},
    seen::Seen,
};

/// The longest time between two heartbeats (REP-TIMES).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// The part of F after which the next heartbeat is sent, if that is shorter.
const HEARTBEAT_PART: u32 = 20;

/// An event for the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The cluster's record from a watch, with its revision; `None`: there is none. It may be an
    /// old record, seen late or twice.
    Observed(Option<Seen>),
    /// The cluster's record from a linearizable read that began after its [`Command::Read`].
    Read(Option<Seen>),
    /// The epoch of a [`Command::Promise`] is durable.
    Promised(Epoch),
    /// The result of the [`Command::Swap`] with this number.
    Swapped(u64, SwapOutcome),
    /// The node's own log is durable up to this position.
    Durable(Position),
    /// Everything up to the index of a [`Command::Commit`] is applied: reads see it.
    Applied(Index),
    /// The log is cut after the position of a [`Command::Cut`], durably.
    Cut(Position),
    /// A message of another member's process.
    Received(Process, Message),
    /// The log was compared with the node's note in coordination, and has what that says
    /// (REP-LOGID).
    Compared,
    /// The nodes whose liveness keys are in coordination.
    Present(BTreeSet<NodeId>),
    /// An operator wants a change.
    Change {
        /// For the result.
        id: u64,
        /// The change.
        change: Change,
    },
    /// An operator, or the node itself, wants another master.
    HandOver {
        /// For the result.
        id: u64,
        /// The wanted master; `None`: whoever is best.
        to: Option<NodeId>,
        /// Whether this node stops, and so leaves the logs in sync.
        leaves: bool,
    },
    /// Time has passed. To be fed every [`Replica::heartbeat_interval`].
    Tick,
}

/// The result of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Our record is installed, at this revision.
    Won(u64),
    /// There was another record; ours was not installed by this try.
    Lost,
    /// Unknown: both outcomes are possible (COORD-CAS).
    Unknown,
}

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node is not the cluster's master, or may not act as master yet.
    #[error("this node is not the cluster's master")]
    NotMaster,
    /// The master hands over: writes wait for the result.
    #[error("this node hands its mastership over")]
    HandingOver,
}

/// The state that a node found on its own disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The log's id.
    pub log_id: LogId,
    /// The last record of the log, all of it durable.
    pub last: Position,
    /// The epochs of the log, over the whole history.
    pub epochs: EpochTable,
    /// The highest index known to be committed.
    pub commit: Index,
    /// The last index in the store.
    pub applied: Index,
    /// The highest epoch that the node promised.
    pub promised: Epoch,
    /// The highest record that the node saw.
    pub seen: Option<Seen>,
}

#[derive(Clone, Debug)]
enum Role {
    /// It follows a master, or looks for one, or stands for mastership.
    Following(Box<Following>),
    /// It is master of the term.
    Mastering(Box<Mastership>),
    /// Coordination went back: it waits for a record of an epoch above all that were seen
    /// (COORD-BACK).
    Waiting,
    /// It gave up for good.
    Halted,
}

/// A linearizable read of the record that is under way.
#[derive(Clone, Copy, Debug)]
struct Reading {
    number: u64,
    /// The lowest record that it may find: an older one shows that coordination lost data.
    floor: (Epoch, u64),
    /// The latest round of the master when it began.
    round: Round,
    /// The log's last record when it began.
    last: Position,
}

/// One node's replication machine.
#[derive(Clone, Debug)]
pub struct Replica {
    me: Process,
    log: OwnLog,
    role: Role,
    /// The highest epoch that was proposed or accepted, durably (REP-PROMISE).
    promised: Epoch,
    /// The highest epoch whose promise is being made durable.
    promising: Epoch,
    /// The highest epoch of a master that was accepted.
    accepted: Epoch,
    /// A record that this node proposed, until it is certain whether it was installed.
    proposal: Option<Proposal>,
    /// A record that hands mastership to this process, until its epoch is promised.
    handed: Option<Seen>,
    /// The record, by epoch and revision, that a swap of an earlier process of this node may still
    /// replace.
    unsettled: Option<(Epoch, u64)>,
    /// The highest record that was seen, by epoch and revision.
    seen: Option<Seen>,
    /// The highest record that others saw (COORD-BACK).
    others_saw: (Epoch, u64),
    reading: Option<Reading>,
    /// Whether to read once more, because the read under way began too early.
    reads_again: bool,
    /// The numbers of the last read, swap and question.
    reads: u64,
    swaps: u64,
    questions: u64,
    /// The record of the last swap.
    swapping: Option<ClusterState>,
    /// Whether the log was compared with the node's note.
    is_compared: bool,
    present: BTreeSet<NodeId>,
    started_at: BootTime,
    freshness: Freshness,
    /// The highest clock that all in sync acknowledged, as far as the masters that this node
    /// followed have shown.
    acknowledged_clock: Version,
    rules: Rules,
}

/// One moment on the clocks that the machine needs.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The boot-time clock.
    pub now: BootTime,
    /// The cluster clock.
    pub clock: Version,
}

impl Replica {
    /// A node that starts at `now` with the state of its disk. It is not master, even if the
    /// record names it (REP-START).
    #[must_use]
    pub fn start(me: Process, restored: Restored, now: BootTime) -> Self {
        Self::start_with(me, restored, now, Rules::default())
    }

    pub(crate) fn start_with(me: Process, restored: Restored, now: BootTime, rules: Rules) -> Self {
        let Restored {
            log_id,
            last,
            epochs,
            commit,
            applied,
            promised,
            seen,
        } = restored;
        // A promise above the record's epoch: a swap of the earlier process may still succeed.
        let order = seen.as_ref().map_or((Epoch::ZERO, 0), Seen::order);
        Self {
            me,
            log: OwnLog::found(log_id, epochs, last, commit, applied),
            role: Role::Following(Box::new(Following::since(now))),
            promised,
            promising: promised,
            accepted: Epoch::ZERO,
            proposal: None,
            handed: None,
            unsettled: (promised > order.0).then_some(order),
            seen,
            others_saw: (Epoch::ZERO, 0),
            reading: None,
            reads_again: false,
            reads: 0,
            swaps: 0,
            questions: 0,
            swapping: None,
            is_compared: false,
            present: BTreeSet::new(),
            started_at: now,
            freshness: Freshness::default(),
            acknowledged_clock: Version::ZERO,
            rules,
        }
    }

    /// Handles one event and appends the commands to carry out. A command that must wait has a
    /// condition ([`Command::condition`]).
    pub fn step(&mut self, moment: Moment, event: Event, commands: &mut Vec<Command>) {
        if matches!(self.role, Role::Halted) {
            return;
        }
        match event {
            Event::Observed(record) => self.observe(moment, record, None, commands),
            Event::Read(record) => self.has_read(moment, record, commands),
            Event::Promised(epoch) => self.promise_is_durable(moment, epoch, commands),
            Event::Swapped(number, outcome) => self.swapped(moment, number, outcome, commands),
            Event::Durable(position) => {
                self.log.is_durable(position);
                self.log_grew(moment, commands);
            }
            Event::Applied(index) => {
                assert!(
                    index <= self.log.commit,
                    "REP-APPLY: applied before it was committed"
                );
                self.log.applied = self.log.applied.max(index);
                self.freshness.applied(self.log.applied);
            }
            Event::Cut(position) => {
                self.log.is_cut(position);
                self.acknowledge(moment, None, commands);
            }
            Event::Received(from, message) => self.receive(moment, &from, message, commands),
            Event::Compared => {
                self.is_compared = true;
                self.consider(moment, commands);
            }
            Event::Present(nodes) => self.present = nodes,
            Event::Change { id, change } => self.want(id, change, commands),
            Event::HandOver { id, to, leaves } => {
                self.hand_over(moment, id, to.as_ref(), leaves, commands);
            }
            Event::Tick => self.tick(moment, commands),
        }
    }

    fn receive(
        &mut self,
        moment: Moment,
        from: &Process,
        message: Message,
        commands: &mut Vec<Command>,
    ) {
        match message {
            Message::Append(append) => self.accept(moment, from, &append, commands),
            Message::Acknowledge(acknowledged) => {
                if let Role::Mastering(term) = &mut self.role {
                    term.acknowledge(moment.now, from, &acknowledged, &self.log);
                    self.commit_more(moment, commands);
                }
            }
            Message::Ask(ask) => self.answer(moment, from, &ask, commands),
            Message::Confirm(confirm) => self.confirmed(from, confirm, commands),
            Message::Offer(offer) => self.offered(from, offer, commands),
            Message::Ready(offer) => self.successor_is_ready(moment, from, offer),
            Message::Decline(epoch) => self.decline(from, epoch, commands),
            Message::Declined(epoch) => self.declined(moment, from, epoch, commands),
        }
    }

    fn tick(&mut self, moment: Moment, commands: &mut Vec<Command>) {
        self.log.heartbeat(self.heartbeat_interval());
        match &self.role {
            Role::Following(_) => self.look_for_master(moment, commands),
            Role::Mastering(_) => self.lead(moment, commands),
            Role::Waiting | Role::Halted => {}
        }
    }

    /// How often [`Event::Tick`] is to be fed: every min(F/20, 50 ms) (REP-TIMES).
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        let silence = self.seen.as_ref().map(|seen| seen.state.silence());
        let part = silence.map(|silence| silence / HEARTBEAT_PART);
        part.map_or(HEARTBEAT_INTERVAL, |part| part.min(HEARTBEAT_INTERVAL))
    }

    /// Reserves the position of the next record.
    ///
    /// # Errors
    /// [`Refusal::NotMaster`] unless this node may act as master (see [`Replica::confirm`]);
    /// [`Refusal::HandingOver`] while it hands over.
    pub fn propose(&mut self) -> Result<Position, Refusal> {
        let term = self.confirm()?;
        if term.handover.as_ref().is_some_and(|it| it.holds_writes()) {
            return Err(Refusal::HandingOver);
        }
        let position = Position {
            epoch: term.epoch(),
            index: self.log.last().index.next(),
        };
        self.log.append(position);
        Ok(position)
    }

    /// Frees the positions after `position`: the log took none of their records.
    pub fn retract(&mut self, position: Position) {
        assert!(
            self.log.durable() <= position.index,
            "a durable record can't be taken back"
        );
        self.log.truncate(position);
    }

    /// The term in which this node may act as master: take writes, and answer `LATEST` reads once
    /// the round of [`Replica::begin_read`] is vouched.
    ///
    /// # Errors
    /// [`Refusal::NotMaster`], unless this node is master; its opening record is committed and
    /// applied (REP-NOOP), and with it everything that earlier terms acknowledged; and it does not
    /// hand over.
    pub fn confirm(&self) -> Result<&Mastership, Refusal> {
        match &self.role {
            Role::Mastering(term) if term.is_open(self.log.applied) && !term.is_stopped() => {
                Ok(term)
            }
            _ => Err(Refusal::NotMaster),
        }
    }

    /// Begins a read that needs a proof of mastership from after its arrival (REP-CONFIRM). Returns
    /// the round that must be vouched before it is answered; `None`: it may be answered at once,
    /// as no other log is in sync.
    ///
    /// # Errors
    /// As for [`Replica::confirm`].
    pub fn begin_read(&mut self, moment: Moment) -> Result<Option<Round>, Refusal> {
        let term = self.confirm()?;
        if term.is_alone() || self.rules.lack(Rule::ReadsConfirmed) {
            return Ok(None);
        }
        let commit = self.log.commit;
        let Role::Mastering(term) = &mut self.role else {
            return Err(Refusal::NotMaster);
        };
        let round = term.rounds.want();
        if term.rounds.is_due() {
            term.start_round(moment.now, commit, moment.clock);
        }
        Ok(Some(round))
    }

    /// Everything that was committed before this time, on this node's boot-time clock, is applied
    /// here (REP-AGE); `None` while that is not known.
    #[must_use]
    pub fn fresh_since(&self, now: BootTime) -> Option<BootTime> {
        match &self.role {
            Role::Mastering(term) if term.is_open(self.log.applied) => match term.is_alone() {
                true => Some(now),
                false => term
                    .rounds
                    .vouched_at(self.log.applied)
                    .max(self.freshness.since()),
            },
            _ => self.freshness.since(),
        }
    }

    /// The highest clock that all in sync acknowledged, as far as this node has seen. A key that is
    /// expired by it never comes back: it is below the clock of every later master (REP-CLOCK). It
    /// is not below the clock of the master at [`Replica::fresh_since`], unless members were silent
    /// then.
    #[must_use]
    pub fn acknowledged_clock(&self) -> Version {
        let own = self.mastership().map(Mastership::acknowledged_clock);
        own.unwrap_or_default().max(self.acknowledged_clock)
    }

    /// The clock stood still, or jumped: ages begin anew (CLOCK-STEADY).
    pub fn forget_ages(&mut self, now: BootTime) {
        self.freshness.begin_anew(now);
        if let Role::Mastering(term) = &mut self.role {
            term.rounds.begin_ages_anew(now);
        }
    }

    /// The next message to a node, if there is one, and whether records may be added: those that
    /// follow its `prev` in the log. Call [`Replica::sent`] with what was added.
    #[must_use]
    pub fn next_append(&self, to: &NodeId) -> Option<(Append, bool)> {
        match &self.role {
            Role::Mastering(term) => term.next_append(to, &self.log, self.log.commit),
            _ => None,
        }
    }

    /// Records that a message of the epoch was sent, with records up to `up_to`, or with none if
    /// that is its `prev`.
    pub fn sent(&mut self, to: &NodeId, epoch: Epoch, up_to: Position, round: Round) {
        if let Role::Mastering(term) = &mut self.role
            && term.epoch() == epoch
        {
            term.sent(to, up_to, round);
        }
    }

    /// The records that a node needs next are not in this node's log any more.
    pub fn lies_beyond_log(&mut self, to: &NodeId) {
        if let Role::Mastering(term) = &mut self.role {
            term.lies_beyond_log(to);
        }
    }

    /// Up to here a node has acknowledged this master's log as durable; zero if this node is not
    /// master.
    #[must_use]
    pub fn durable_at(&self, node: &NodeId) -> Index {
        let term = self.mastership();
        term.map_or(Index::ZERO, |term| term.durable_at(node))
    }

    /// The nodes that get this master's log; none if this node is not master.
    pub fn followers(&self) -> impl Iterator<Item = &NodeId> {
        let term = self.mastership();
        term.into_iter().flat_map(|term| term.followers())
    }

    /// The master that this node follows, if it heard one within F.
    #[must_use]
    pub fn master(&self, now: BootTime) -> Option<&Process> {
        match &self.role {
            Role::Mastering(_) => Some(&self.me),
            Role::Following(following) if now.since(following.heard_at) < self.silence() => {
                following.master.as_ref()
            }
            _ => None,
        }
    }

    /// The term of this node's mastership, even if it may not act yet.
    #[must_use]
    pub const fn mastership(&self) -> Option<&Mastership> {
        match &self.role {
            Role::Mastering(term) => Some(term),
            _ => None,
        }
    }

    /// The last reserved position.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.log.last()
    }

    /// The index up to which everything is applied.
    #[must_use]
    pub const fn applied(&self) -> Index {
        self.log.applied
    }

    /// The index up to which everything is committed.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.log.commit
    }

    /// The highest record that this node saw.
    #[must_use]
    pub const fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// The highest epoch that this node proposed or accepted.
    #[must_use]
    pub const fn promised(&self) -> Epoch {
        self.promised
    }

    /// Whether it waits for a record of an epoch above all that were seen, because coordination went
    /// back (COORD-BACK).
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.role, Role::Waiting)
    }

    /// The highest epoch of a record that this node or others saw, as far as it heard.
    #[must_use]
    pub fn highest_seen(&self) -> Epoch {
        self.seen_order().max(self.others_saw).0
    }

    fn silence(&self) -> Duration {
        let silence = self.seen.as_ref().map(|seen| seen.state.silence());
        silence.unwrap_or(Duration::from_millis(super::DEFAULT_F_MS as u64))
    }

    fn seen_order(&self) -> (Epoch, u64) {
        self.seen.as_ref().map_or((Epoch::ZERO, 0), Seen::order)
    }

    fn listed(&self) -> Listed {
        Listed {
            node: self.me.node.clone(),
            log_id: self.log.id,
        }
    }

    /// Whether a record lists this node's log.
    fn is_listed(&self, state: &ClusterState) -> bool {
        let by_name = self.rules.lack(Rule::LogIdCounts);
        let mut listed = state.in_sync.iter();
        listed.any(|it| it.node == self.me.node && (by_name || it.log_id == self.log.id))
    }

    fn halt(&mut self, why: impl Into<String>, commands: &mut Vec<Command>) {
        self.role = Role::Halted;
        commands.push(Command::Halt(why.into()));
    }
}
