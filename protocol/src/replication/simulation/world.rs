//! The world: nodes, their network and their metadata store, clients, and chance.
//!
//! Reading order: this file (the events, and when they happen), [`driving`] (the commands of the
//! machines), [`clients`], [`faults`], [`ending`] (what must hold once all is calm).

mod clients;
mod driving;
mod ending;
mod faults;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use self::clients::Answer;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_types::{Epoch, Incarnation, Index, LogId, NodeId, Position};

use super::{
    climate::{Climate, Fault},
    coordination::{Coordination, Note},
    disk::Disk,
    history::{History, Violation},
    node::{Kind, Node, Request, names},
};
use crate::replication::{
    ClusterState, Event as MachineEvent, Message, Process, Seen, SwapOutcome,
    rules::{Rule, Rules},
};

/// How often nodes note their logs, and renew their liveness keys.
const NOTE_EVERY: u64 = 2_000;
const PRESENCE_EVERY: u64 = 1_000;
/// How long a liveness key outlives its process.
const PRESENCE_TTL: u64 = 3_000;
/// How often a disk is copied before its node notes its log, in a thousand.
const IMAGES: u32 = 200;
/// Most nodes.
const NODES: usize = 6;
/// A seed with more events than this makes no progress.
const MAX_EVENTS: u64 = 2_000_000;

/// Counts of a run's events, so that a test can check that there were some.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) writes: u64,
    pub(super) masters: u64,
    pub(super) latest: u64,
    pub(super) confirmed: u64,
    pub(super) cached_at_replicas: u64,
    pub(super) cached: u64,
    pub(super) cuts: u64,
    pub(super) installs: u64,
    pub(super) handovers: u64,
    pub(super) changes: u64,
    pub(super) given_up: u64,
    pub(super) events: u64,
    pub(super) faults: BTreeMap<Fault, u64>,
}

impl Outcome {
    /// A simulation without events would prove nothing.
    pub(super) fn check(&self, seeds: u64) {
        assert!(
            self.writes >= 200 * seeds,
            "too few writes: {}",
            self.writes
        );
        // The first master of a seed is no change.
        assert!(
            self.masters >= 4 * seeds,
            "too few changes of master: {}",
            self.masters
        );
        for (fault, count) in &self.faults {
            let enough = seeds / 10;
            assert!(*count >= enough, "{fault:?} happened only {count} times");
        }
        assert!(self.cached_at_replicas >= 10 * seeds && self.confirmed >= 10 * seeds);
        assert!(self.cuts >= seeds / 10 && self.installs >= seeds / 10);
        assert!(self.handovers >= seeds / 10 && self.changes >= seeds / 10);
        assert!(self.given_up >= seeds / 10, "gave up {}", self.given_up);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.masters += other.masters;
        self.latest += other.latest;
        self.confirmed += other.confirmed;
        self.cached_at_replicas += other.cached_at_replicas;
        self.cached += other.cached;
        self.cuts += other.cuts;
        self.installs += other.installs;
        self.handovers += other.handovers;
        self.changes += other.changes;
        self.given_up += other.given_up;
        self.events += other.events;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

/// An event at a process; it happens only if the machine it was meant for still runs. One that was
/// started anew, in the same process or another, has nothing to do with the work of the one before.
#[derive(Debug)]
enum AtProcess {
    Tick,
    Machine(Box<MachineEvent>),
    Promised {
        epoch: Epoch,
        seen: Option<Seen>,
    },
    Flushed {
        up_to: Position,
    },
    CutDone(Position),
    Apply,
    ReadNote,
    Installed {
        from: usize,
    },
    Request(Request),
    /// A replica's question for the commit index, and the answer to it.
    Question {
        from: usize,
        operation: u64,
    },
    Index {
        operation: u64,
        index: Index,
    },
}

#[derive(Debug)]
enum Event {
    At {
        node: usize,
        machine: u64,
        what: AtProcess,
    },
    Deliver {
        node: usize,
        from: Process,
        message: Box<Message>,
    },
    /// A swap arrives at the store.
    Swap {
        node: usize,
        machine: u64,
        number: u64,
        expected: u64,
        state: Box<ClusterState>,
        answers: bool,
    },
    ReadRecord {
        node: usize,
        machine: u64,
    },
    Watch {
        node: usize,
        record: Seen,
    },
    Note,
    Presence,
    Start {
        node: usize,
    },
    Client {
        client: usize,
    },
    TimedOut {
        client: usize,
        operation: u64,
    },
    Answer {
        client: usize,
        operation: u64,
        answer: Answer,
    },
    Fault,
    Trouble,
    Calm,
}

struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct World {
    rng: StdRng,
    now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    scheduled: u64,
    climate: Climate,
    nodes: Vec<Node>,
    coordination: Coordination,
    clients: Vec<clients::Client>,
    /// Pairs of nodes whose messages in this direction are lost until a time.
    cuts: BTreeMap<(usize, usize), u64>,
    history: History,
    outcome: Outcome,
    operations: u64,
    numbers: i64,
    rule_off: Option<Rule>,
    is_calm: bool,
    writes_before_calm: u64,
    /// A node that never comes back.
    gone: Option<usize>,
    /// A node whose disk takes nothing any more.
    stuck: Option<usize>,
    violation: Option<Violation>,
    /// Whether events are printed.
    is_traced: bool,
}

/// Runs a seed's world, with one rule switched off or with all.
pub(super) fn run(seed: u64, off: Option<Rule>, is_traced: bool) -> Result<Outcome, Violation> {
    let mut rng = StdRng::seed_from_u64(seed);
    let climate = Climate::of(&mut rng);
    let mut world = World {
        rng,
        now: 0,
        queue: BinaryHeap::new(),
        scheduled: 0,
        nodes: Vec::new(),
        coordination: Coordination::default(),
        clients: Vec::new(),
        cuts: BTreeMap::new(),
        history: History::default(),
        outcome: Outcome::default(),
        operations: 0,
        numbers: 0,
        rule_off: off,
        is_calm: false,
        writes_before_calm: 0,
        gone: None,
        stuck: None,
        violation: None,
        is_traced,
        climate,
    };
    world.found();
    world.live()?;
    world.end()?;
    world.outcome.writes = world.history.writes;
    world.outcome.masters = world.history.masters();
    Ok(world.outcome)
}

impl World {
    fn rules(&self) -> Rules {
        Rules::without(self.rule_off)
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.random_range(0..1_000) < thousandths
    }

    fn up_to(&mut self, limit: u64) -> u64 {
        self.rng.random_range(0..=limit)
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Queued {
            at: self.now + after,
            number: self.scheduled,
            event,
        }));
    }

    /// Happens at this machine of the node, unless it has ended by then.
    fn at_machine(&mut self, after: u64, node: usize, machine: u64, what: AtProcess) {
        let event = Event::At {
            node,
            machine,
            what,
        };
        self.schedule(after, event);
    }

    fn at(&mut self, after: u64, node: usize, what: AtProcess) {
        if let Some(machine) = self.nodes[node].machine() {
            self.at_machine(after, node, machine, what);
        }
    }

    fn trace(&self, node: usize, what: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>6} n{node} {}", self.now, what());
        }
    }

    fn count(&mut self, fault: Fault) {
        *self.outcome.faults.entry(fault).or_default() += 1;
    }

    fn fail(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            let at = self.now;
            self.violation
                .get_or_insert_with(|| format!("at {at} ms: {violation}"));
        }
    }

    fn node_of(&self, name: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    fn new_log_id(&mut self) -> LogId {
        LogId(self.rng.random_range(1..u64::MAX))
    }

    fn found(&mut self) {
        for number in 0..NODES {
            let id = self.new_log_id();
            let boot = self.up_to(1_000_000);
            self.nodes.push(Node::new(number, Disk::empty(id), boot));
        }
        self.coordination.notes = vec![None; NODES];
        self.coordination.alive_until = vec![0; NODES];
        let members = self.nodes.iter().take(self.climate.members);
        let members: Vec<NodeId> = members.map(|node| node.name.clone()).collect();
        self.coordination
            .put(ClusterState::unfounded(members, self.climate.f_ms));
        for node in 0..self.climate.members {
            let after = self.up_to(300);
            self.schedule(after, Event::Start { node });
        }
        for client in 0..self.climate.clients {
            self.clients.push(clients::Client::default());
            let after = 200 + self.up_to(500);
            self.schedule(after, Event::Client { client });
        }
        self.schedule(NOTE_EVERY, Event::Note);
        self.schedule(PRESENCE_EVERY, Event::Presence);
        let (fault, trouble) = (self.climate.fault_every, self.climate.coordination_every);
        let (fault, trouble) = (1_000 + self.up_to(fault), 1_000 + self.up_to(trouble));
        self.schedule(fault, Event::Fault);
        self.schedule(trouble, Event::Trouble);
        self.schedule(self.climate.calm_from, Event::Calm);
    }

    fn live(&mut self) -> Result<(), Violation> {
        while let Some(Reverse(queued)) = self.queue.pop() {
            if queued.at > self.climate.until {
                return Ok(());
            }
            self.now = queued.at;
            self.outcome.events += 1;
            if self.outcome.events > MAX_EVENTS {
                return Err("too many events".to_owned());
            }
            self.handle(queued.event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::At {
                node,
                machine,
                what,
            } => self.happens_at(node, machine, what),
            Event::Deliver {
                node,
                from,
                message,
            } => {
                let stalled = self.nodes[node].stalled_until;
                if stalled > self.now {
                    let event = Event::Deliver {
                        node,
                        from,
                        message,
                    };
                    return self.schedule(stalled - self.now, event);
                }
                self.step(node, MachineEvent::Received(from, *message));
            }
            Event::Swap {
                node,
                machine,
                number,
                expected,
                state,
                answers,
            } => {
                self.swap_arrives(node, machine, number, expected, *state, answers);
            }
            Event::ReadRecord { node, machine } => self.read_arrives(node, machine),
            Event::Watch { node, record } => {
                if self.nodes[node].run.is_some() && self.coordination.down_until <= self.now {
                    self.at(
                        0,
                        node,
                        AtProcess::Machine(Box::new(MachineEvent::Observed(Some(record)))),
                    );
                }
            }
            Event::Note => self.note_all(),
            Event::Presence => self.renew_presences(),
            Event::Start { node } => self.start(node),
            Event::Client { client } => self.client_acts(client),
            Event::TimedOut { client, operation } => self.timed_out(client, operation),
            Event::Answer {
                client,
                operation,
                answer,
            } => self.answered(client, operation, &answer),
            Event::Fault => self.fault(),
            Event::Trouble => self.trouble(),
            Event::Calm => self.calm(),
        }
    }

    /// An event at a process: later, if it is stalled; never, if its machine has ended.
    fn happens_at(&mut self, node: usize, machine: u64, what: AtProcess) {
        if self.nodes[node].machine() != Some(machine) {
            return;
        }
        let stalled = self.nodes[node].stalled_until;
        if stalled > self.now {
            return self.at(stalled - self.now, node, what);
        }
        self.at_process(node, what);
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].run.is_some() || self.gone == Some(node) {
            return;
        }
        let incarnation = Incarnation(self.rng.random_range(1..u64::MAX));
        let (now, rules) = (self.now, self.rules());
        self.nodes[node].start(now, incarnation, rules);
        self.count(Fault::Restart);
        self.at(0, node, AtProcess::Tick);
        self.at(1, node, AtProcess::ReadNote);
        if let Some(record) = self.coordination.record.clone() {
            let after = 1 + self.up_to(20);
            self.schedule(after, Event::Watch { node, record });
        }
    }

    /// Every node that can notes its log id and commit index.
    fn note_all(&mut self) {
        self.schedule(NOTE_EVERY, Event::Note);
        if self.coordination.down_until > self.now {
            return;
        }
        for place in 0..self.nodes.len() {
            if self.nodes[place].run.is_some() && self.chance(IMAGES) {
                self.nodes[place].image = Some(self.nodes[place].disk.clone());
            }
            let node = &self.nodes[place];
            if node.stalled_until > self.now {
                continue;
            }
            let compared = node.run.as_ref().filter(|run| run.is_compared);
            if let Some(replica) = compared.and_then(|run| run.replica.as_ref()) {
                self.coordination.notes[place] = Some(Note {
                    log_id: node.disk.log.id,
                    commit: replica.commit().min(node.disk.log.last().index),
                });
            }
        }
    }

    fn renew_presences(&mut self) {
        self.schedule(PRESENCE_EVERY, Event::Presence);
        if self.coordination.down_until > self.now {
            return;
        }
        let now = self.now;
        for place in 0..self.nodes.len() {
            if self.nodes[place].run.is_some() && self.nodes[place].stalled_until <= now {
                self.coordination.alive_until[place] = now + PRESENCE_TTL;
            }
        }
        let alive = self.coordination.alive_until.clone();
        let present = names(&self.nodes, |place| alive[place] > now);
        for place in 0..self.nodes.len() {
            let event = MachineEvent::Present(present.clone());
            self.at(1, place, AtProcess::Machine(Box::new(event)));
        }
    }

    /// Sends a record to all watchers; some get it late or not at all.
    fn notify(&mut self) {
        let Some(record) = self.coordination.record.clone() else {
            return;
        };
        for node in 0..self.nodes.len() {
            let is_lost = !self.is_calm && self.chance(50);
            let late = if !self.is_calm && self.chance(50) {
                2_000
            } else {
                15
            };
            let after = 1 + self.up_to(late);
            if !is_lost {
                let record = record.clone();
                self.schedule(after, Event::Watch { node, record });
            }
        }
    }

    fn swap_arrives(
        &mut self,
        node: usize,
        machine: u64,
        number: u64,
        expected: u64,
        state: ClusterState,
        answers: bool,
    ) {
        if self.coordination.down_until > self.now {
            return self.swap_answer(node, machine, number, SwapOutcome::Unknown, answers);
        }
        let swapped = self.coordination.swap(expected, state);
        if swapped.is_some() {
            self.trace(node, || format!("record {:?}", self.coordination.record));
            self.check_listed();
            self.notify();
        }
        let outcome = swapped.map_or(SwapOutcome::Lost, SwapOutcome::Won);
        self.trace(node, || format!("swap {number} {outcome:?}"));
        self.swap_answer(node, machine, number, outcome, answers);
    }

    fn swap_answer(
        &mut self,
        node: usize,
        machine: u64,
        number: u64,
        outcome: SwapOutcome,
        answers: bool,
    ) {
        if answers {
            let event = MachineEvent::Swapped(number, outcome);
            let what = AtProcess::Machine(Box::new(event));
            let after = 1 + self.up_to(10);
            self.at_machine(after, node, machine, what);
        }
    }

    fn read_arrives(&mut self, node: usize, machine: u64) {
        let after = 1 + self.up_to(10);
        if self.coordination.down_until > self.now {
            return self.schedule(100 + after, Event::ReadRecord { node, machine });
        }
        let event = MachineEvent::Read(self.coordination.record.clone());
        let what = AtProcess::Machine(Box::new(event));
        self.at_machine(after, node, machine, what);
    }

    /// Every listed log has everything acknowledged (I1), unless its disk has lost something, which
    /// is only found at the node's start.
    fn check_listed(&mut self) {
        let Some(record) = &self.coordination.record else {
            return;
        };
        let needed = self.history.acknowledged_up_to;
        let mut lacking = None;
        for listed in &record.state.in_sync {
            let Some(place) = self.node_of(&listed.node) else {
                continue;
            };
            let node = &self.nodes[place];
            let is_it = node.disk.log.id == listed.log_id && !node.is_damaged;
            if is_it && node.disk.log.last().index < needed {
                lacking = Some(format!(
                    "I1: the log of {} ends at {} and is listed, record {needed} is acknowledged",
                    listed.node,
                    node.disk.log.last()
                ));
            }
        }
        for place in 0..self.nodes.len() {
            let (name, id) = (&self.nodes[place].name, self.nodes[place].disk.log.id);
            if self.nodes[place].is_damaged && record.state.lists(name, id) {
                let is_whole = self.nodes[place].disk.log.last().index >= needed;
                self.nodes[place].is_damaged = !is_whole;
            }
        }
        if let Some(lacking) = lacking {
            self.fail(Err(lacking));
        }
    }

    fn check_kind(kind: Kind) -> usize {
        match kind {
            Kind::Write { key, .. }
            | Kind::Latest { key }
            | Kind::Cached { key, .. }
            | Kind::Session { key, .. } => key,
        }
    }
}
