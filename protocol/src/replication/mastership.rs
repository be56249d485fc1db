//! [`Mastership`]: a master's state for its term: the acknowledgements that a commit needs, the
//! heartbeat rounds that prove its freshness, and the changes of its record.

use std::{collections::BTreeMap, time::Duration};

use tierkv_types::{BootTime, Epoch, Index, LogId, NodeId, Position, Round, Version};

use super::{
    change::{Change, ChangeError, Ended, Wanted},
    cluster_state::{ClusterState, Listed, default_min_in_sync},
    follower::Follower,
    handover::Handover,
    message::{Acknowledge, Append, Echo, Process},
    own_log::OwnLog,
    rounds::Rounds,
    rules::{Rule, Rules},
    sets::Sets,
};

/// A part of F: how long an acknowledgement may take before its records are sent again.
const RESEND_PART: u32 = 4;
/// Shortest time before records are sent again.
const RESEND_AFTER: Duration = Duration::from_millis(100);

/// One term of one master.
#[derive(Clone, Debug)]
pub struct Mastership {
    me: Process,
    pub(super) sets: Sets,
    /// The index of the record that opened the term. Before it is committed the master vouches
    /// for nothing (REP-NOOP).
    opening: Index,
    followers: BTreeMap<NodeId, Follower>,
    pub(super) rounds: Rounds,
    /// Changes that operators want.
    pub(super) wanted: Wanted,
    pub(super) handover: Option<Handover>,
    rules: Rules,
}

impl Mastership {
    /// A term whose record is in coordination, to be opened by the log record at `opening`.
    pub(super) fn new(
        me: Process,
        (revision, installed): (u64, ClusterState),
        log: &OwnLog,
        now: BootTime,
        rules: Rules,
    ) -> Self {
        let mut term = Self {
            me,
            sets: Sets::new(revision, installed),
            opening: log.last().index,
            followers: BTreeMap::new(),
            rounds: Rounds::default(),
            wanted: Wanted::default(),
            handover: None,
            rules,
        };
        term.follow_all(now, log);
        term
    }

    /// The term.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.sets.installed().epoch
    }

    /// The record that is certainly in coordination.
    #[must_use]
    pub const fn record(&self) -> &ClusterState {
        self.sets.installed()
    }

    /// The latest heartbeat round that was started.
    #[must_use]
    pub const fn started(&self) -> Round {
        self.rounds.started()
    }

    /// The latest heartbeat round that was vouched.
    #[must_use]
    pub fn vouched(&self) -> Round {
        self.rounds.vouched()
    }

    /// The highest clock that all in sync acknowledged (REP-CONFIRM).
    #[must_use]
    pub const fn acknowledged_clock(&self) -> Version {
        self.rounds.acknowledged_clock()
    }

    /// Whether this node's log is the only one that has to acknowledge.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.required().all(|listed| listed.node == self.me.node)
    }

    /// Whether the record that opened the term is committed, or applied.
    pub(super) fn is_open(&self, index: Index) -> bool {
        index >= self.opening || self.rules.lack(Rule::NoopFirst)
    }

    /// Whether it acts no more, because it hands over.
    pub(super) fn is_stopped(&self) -> bool {
        self.handover.as_ref().is_some_and(Handover::is_stopped)
    }

    /// The log with which a node of the cluster acknowledges, and up to where that is durable; `None`
    /// if the node was not heard of in this term.
    #[must_use]
    pub fn progress_of(&self, node: &NodeId) -> Option<(LogId, Index)> {
        let follower = self.followers.get(node)?;
        let (_, log_id) = follower.sender()?;
        Some((log_id, follower.durable()))
    }

    fn required(&self) -> impl Iterator<Item = &Listed> {
        self.sets.required(!self.rules.lack(Rule::Union))
    }

    /// Up to here a node has acknowledged the log as durable.
    pub(super) fn durable_at(&self, node: &NodeId) -> Index {
        let follower = self.followers.get(node);
        follower.map_or(Index::ZERO, Follower::durable)
    }

    /// The nodes that get the log.
    pub(super) fn followers(&self) -> impl Iterator<Item = &NodeId> {
        self.followers.keys()
    }

    /// Follows exactly the members and learners of the sets.
    pub(super) fn follow_all(&mut self, now: BootTime, log: &OwnLog) {
        let (installed, pending) = (self.sets.installed().clone(), self.sets.pending().cloned());
        let is_known = |node: &NodeId| {
            installed.has(node) || pending.as_ref().is_some_and(|state| state.has(node))
        };
        self.followers.retain(|node, _| is_known(node));
        let nodes = [Some(&installed), pending.as_ref()];
        let nodes = nodes.into_iter().flatten();
        for node in nodes.flat_map(|state| state.members.iter().chain(&state.learners)) {
            if *node != self.me.node && !self.followers.contains_key(node) {
                let follower = Follower::new(now, log.last());
                self.followers.insert(node.clone(), follower);
            }
        }
    }

    /// The follower that keeps a listed log, if the node's acknowledgements are of that log.
    fn of_listed(&self, listed: &Listed) -> Option<&Follower> {
        let follower = self.followers.get(&listed.node)?;
        let (_, log_id) = follower.sender()?;
        let is_it = log_id == listed.log_id || self.rules.lack(Rule::LogIdCounts);
        is_it.then_some(follower)
    }

    /// The index up to which every log in sync is durable, if enough logs are in sync to commit
    /// (REP-MIN) and it is not below the term's first record.
    pub(super) fn committable(&self, log: &OwnLog, now: BootTime) -> Option<Index> {
        if !self.sets.may_commit() && !self.rules.lack(Rule::Min) {
            return None;
        }
        let durable = self.required().filter_map(|listed| {
            if listed.node == self.me.node {
                return Some(log.durable());
            }
            let follower = self.of_listed(listed);
            if self.rules.lack(Rule::ShedBySwap)
                && follower.is_none_or(|it| it.is_late(now, self.silence()))
            {
                return None;
            }
            Some(follower.map_or(Index::ZERO, Follower::durable))
        });
        let all = durable.min()?;
        (all >= self.opening).then_some(all)
    }

    /// The newest round that all in sync acknowledged.
    fn acknowledged_round(&self) -> Round {
        let rounds = self.required().map(|listed| {
            if listed.node == self.me.node {
                return self.rounds.started();
            }
            let follower = self.of_listed(listed);
            follower.map_or(Round::ZERO, Follower::acknowledged_round)
        });
        let all = match self.rules.lack(Rule::RoundByAll) {
            true => rounds.max(),
            false => rounds.min(),
        };
        all.unwrap_or_default()
    }

    /// Starts the next round: it carries the commit index and the probes of now.
    pub(super) fn start_round(&mut self, now: BootTime, commit: Index, clock: Version) {
        let probes = self.followers.iter();
        let probes = probes.filter_map(|(node, follower)| {
            let (incarnation, _) = follower.sender()?;
            Some((node.clone(), (incarnation, follower.probe()?)))
        });
        let probes = probes.collect();
        self.rounds.start(now, commit, clock, probes);
    }

    /// Vouches for the rounds that are proven: by all in sync, or by a read of the record that began
    /// when the round `read` was the latest (REP-ROUND). Returns the newest with its commit index.
    pub(super) fn vouch(&mut self, read: Option<Round>) -> Option<(Round, Index)> {
        let round = read.unwrap_or_else(|| self.acknowledged_round());
        let late_echo = self.rules.lack(Rule::EchoOfRound);
        let sample = self.rounds.vouch(round, read.is_none())?;
        let (round, commit) = (sample.round, sample.commit);
        for (node, follower) in &mut self.followers {
            let probe = match late_echo {
                true => follower.probe(),
                false => sample.probe_of(node, follower.sender()),
            };
            if let Some(probe) = probe {
                follower.set_echo(Echo { probe, commit });
            }
        }
        Some((round, commit))
    }

    /// Handles a replica's acknowledgement.
    pub(super) fn acknowledge(
        &mut self,
        now: BootTime,
        from: &Process,
        acknowledged: &Acknowledge,
        log: &OwnLog,
    ) {
        if acknowledged.epoch != self.epoch() {
            return;
        }
        let same_sender = !self.rules.lack(Rule::AcknowledgementsOfProcess);
        if let Some(follower) = self.followers.get_mut(&from.node) {
            follower.acknowledge(now, from.incarnation, acknowledged, log, same_sender);
        }
    }

    /// Whether there is something to send to a node.
    pub(super) fn has_news(&self, to: &NodeId, log: &OwnLog) -> bool {
        let follower = self.followers.get(to);
        !self.is_stopped()
            && follower.is_some_and(|it| it.has_news(log.last().index, self.rounds.started()))
    }

    /// The next message to a node, without records, and whether records may be added: those after
    /// its `prev`.
    pub(super) fn next_append(
        &self,
        to: &NodeId,
        log: &OwnLog,
        commit: Index,
    ) -> Option<(Append, bool)> {
        let follower = self.followers.get(to).filter(|_| self.has_news(to, log))?;
        let newest = self.rounds.newest();
        let append = Append {
            epoch: self.epoch(),
            prev: follower.next(),
            records: Vec::new(),
            commit,
            round: newest.map_or(Round::ZERO, |sample| sample.round),
            clock: newest.map_or(Version::ZERO, |sample| sample.clock),
            acknowledged_clock: self.acknowledged_clock(),
            echo: follower.echo(),
            lacking: follower.lacking(),
        };
        let has_records = follower.takes_records() && follower.next().index < log.last().index;
        Some((append, has_records))
    }

    /// Records that a message with records up to `up_to` was sent to a node.
    pub(super) fn sent(&mut self, to: &NodeId, up_to: Position, round: Round) {
        if let Some(follower) = self.followers.get_mut(to) {
            follower.sent(up_to, round);
        }
    }

    /// The records that a node needs next are not in this node's log any more.
    pub(super) fn lies_beyond_log(&mut self, to: &NodeId) {
        if let Some(follower) = self.followers.get_mut(to) {
            follower.lies_beyond_log();
        }
    }

    /// The work of a heartbeat with the followers.
    pub(super) fn tick(&mut self, now: BootTime, log: &OwnLog) {
        let patience = (self.silence() / RESEND_PART).max(RESEND_AFTER);
        for follower in self.followers.values_mut() {
            follower.await_record(log.last().index, now);
            follower.resend_if_stuck(now, patience, log);
        }
    }

    pub(super) const fn silence(&self) -> Duration {
        self.record().silence()
    }

    /// The next record, if one of the reasons for a change holds: a listed log is late (REP-SHED),
    /// another log is caught up (REP-JOIN), or an operator wants it. Also the result of a wanted
    /// change that is none, or that can't be made.
    pub(super) fn next_record(
        &mut self,
        now: BootTime,
        log: &OwnLog,
    ) -> (Option<ClusterState>, Option<Ended>) {
        if self.sets.pending().is_some() || self.handover.is_some() {
            return (None, None);
        }
        let mut next = self.record().clone();
        let mut ended = None;
        if let Some((id, change)) = self.wanted.next() {
            let applied = change.apply(&mut next, &self.me.node);
            if applied.is_err() {
                next = self.record().clone();
            }
            // What is as wanted already needs no record, and must not wait for one.
            if next == *self.record() {
                self.wanted.take();
                ended = Some((id, applied));
            }
        }
        self.resync(&mut next, now, log);
        if next.in_sync.len() < next.min_in_sync() && next.members != self.record().members {
            // The removal of a node would leave too few logs.
            if let Some((id, _)) = self.wanted.take() {
                ended = Some((id, Err(ChangeError::TooFewInSync)));
            }
            return (None, ended);
        }
        let is_change = next != *self.record();
        (is_change.then_some(next), ended)
    }

    /// Replaces the logs in sync by those that should be.
    fn resync(&self, next: &mut ClusterState, now: BootTime, log: &OwnLog) {
        let silence = self.silence();
        let is_sound = |listed: &Listed| {
            listed.node == self.me.node
                || self
                    .of_listed(listed)
                    .is_some_and(|follower| !follower.is_late(now, silence))
        };
        let (mut in_sync, late): (Vec<Listed>, Vec<Listed>) =
            next.in_sync.drain(..).partition(is_sound);
        for (node, follower) in &self.followers {
            let Some((_, log_id)) = follower.sender() else {
                continue;
            };
            let joins = next.has(node)
                && in_sync.iter().all(|listed| listed.node != *node)
                && self.is_caught_up(follower, now, log);
            if joins {
                if next.learners.contains(node) {
                    next.learners.retain(|learner| learner != node);
                    next.members.push(node.clone());
                    next.min_in_sync = default_min_in_sync(next.members.len());
                }
                in_sync.push(Listed {
                    node: node.clone(),
                    log_id,
                });
            }
        }
        let fewest = match self.rules.lack(Rule::Min) {
            true => 1,
            false => next.min_in_sync(),
        };
        for listed in late {
            let is_replaced = in_sync.iter().any(|other| other.node == listed.node);
            let stays = in_sync.len() < fewest || self.rules.lack(Rule::Shed);
            if stays && !is_replaced && next.members.contains(&listed.node) {
                in_sync.push(listed);
            }
        }
        let same = |one: &[Listed], other: &[Listed]| {
            one.len() == other.len() && one.iter().all(|listed| other.contains(listed))
        };
        next.in_sync = match same(&in_sync, &self.record().in_sync) {
            true => self.record().in_sync.clone(),
            false => in_sync,
        };
    }

    /// Whether a log may be listed: it holds the master's whole log up to the start of the term and
    /// everything committed since; before the opening record is committed, all of it (REP-JOIN,
    /// REP-NOOP).
    fn is_caught_up(&self, follower: &Follower, now: BootTime, log: &OwnLog) -> bool {
        let needed = match self.is_open(log.commit) {
            true => log.commit,
            false => log.last().index,
        };
        let holds = follower.durable() >= needed || self.rules.lack(Rule::JoinCaughtUp);
        holds && follower.is_heard(now, self.silence() / 2)
    }

    /// The node that holds the most of the log among those that may take over: listed, heard of and
    /// not late.
    pub(super) fn successor(&self, wanted: Option<&NodeId>, now: BootTime) -> Option<Process> {
        let silence = self.silence();
        let listed = self.record().in_sync.iter();
        let able = listed.filter_map(|listed| {
            let follower = self.of_listed(listed)?;
            let is_wanted = wanted.is_none_or(|node| *node == listed.node);
            let is_able = is_wanted && follower.is_heard(now, silence / 2);
            is_able.then_some((follower.durable(), listed, follower.sender()?.0))
        });
        let (_, listed, incarnation) = able.max_by_key(|(durable, ..)| *durable)?;
        Some(Process {
            node: listed.node.clone(),
            incarnation,
        })
    }

    /// Whether the others can go on without this node: nodes that answer have enough logs in sync
    /// for a commit, and are a majority of the members.
    pub(super) fn can_be_succeeded(&self, now: BootTime) -> bool {
        let (silence, record) = (self.silence(), self.record());
        let is_sound = |follower: &Follower| {
            follower.is_heard(now, silence / 2) && !follower.is_late(now, silence)
        };
        let others = record.in_sync.iter().filter(|it| it.node != self.me.node);
        let listed = others.filter(|it| self.of_listed(it).is_some_and(is_sound));
        let members = record.members.iter();
        let heard = members.filter(|node| self.followers.get(node).is_some_and(is_sound));
        listed.count() >= record.min_in_sync() && heard.count() > record.members.len() / 2
    }

    /// Whether this process of a node holds the whole log.
    pub(super) fn holds_all(&self, process: &Process, log: &OwnLog) -> bool {
        let follower = self.followers.get(&process.node);
        follower.is_some_and(|follower| {
            let is_it = follower.sender().map(|(run, _)| run) == Some(process.incarnation);
            let holds = follower.durable() == log.last().index;
            is_it && holds
        })
    }

    /// A change that an operator wants.
    pub(super) fn want(&mut self, id: u64, change: Change) {
        self.wanted.push(id, change);
    }
}
