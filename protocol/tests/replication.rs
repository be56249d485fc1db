//! The replication machine of a cluster of one, under a seeded simulation.
//!
//! One node with a disk that forgets what was not synced, a coordination store that
//! answers late, twice or never and shows old records, a driver that obeys at its leisure
//! while writes and reads go on, crashes at any moment. After every step the invariants
//! I1 and I2 are checked, and that whoever may confirm has everything acknowledged applied. Each test that switches a rule off shows that the default
//! seeds notice.

#![allow(clippy::unwrap_used)] // A simulation may panic: that is how it fails.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_protocol::replication::{
    ClusterState, Command, Event, Founding, Replica, Restored, SwapOutcome,
};
use tierkv_types::{BootTime, Epoch, Index, LogId, NodeId, Position};

const SEEDS: u64 = 2_000;
const STEPS: usize = 1_000;

/// A rule that the simulated driver breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Tells the machine that its log is durable when it was only written.
    DurableBeforeSync,
    /// Takes a swap of unknown outcome for won.
    CoordCas,
    /// Goes on as master after a restart.
    RepStart,
    /// Proposes an epoch that a crash makes it forget.
    RepPromise,
    /// Acknowledges when the record is appended instead of when it is committed.
    AckBeforeCommit,
    /// Tells the machine that a commit is applied before it is.
    ConfirmBeforeApply,
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    log: Vec<Position>,
    promised: Epoch,
    seen: Option<ClusterState>,
}

struct World {
    rng: StdRng,
    broken: Broken,
    now: BootTime,
    disk: Disk,
    record: Option<(u64, ClusterState)>,
    revision: u64,
    /// Swaps that were sent and may still land, also after their sender died.
    in_flight: Vec<(Option<u64>, ClusterState)>,
    incarnation: u64,
    replica: Replica,
    written: Vec<Position>,
    waiting: Vec<Position>,
    acknowledged: Vec<Position>,
    offices: HashMap<Epoch, u64>,
    proposals: HashMap<Epoch, u64>,
    events: Vec<Event>,
    /// What the driver has still to do, in order.
    commands: VecDeque<Command>,
    /// What reads see. The store is at zero: everything is applied anew after a crash.
    applied: Index,
    /// Records that a slow watch may still show.
    old_records: Vec<Option<(u64, ClusterState)>>,
}

fn me() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn restart(disk: &Disk, now: BootTime) -> Replica {
    let restored = Restored {
        log_id: LogId(1),
        last: disk.log.last().copied().unwrap_or_default(),
        commit: Index::ZERO,
        applied: Index::ZERO,
        promised: disk.promised,
        seen: disk.seen.clone(),
    };
    Replica::start(
        me(),
        Founding {
            members: vec![me()],
        },
        restored,
        now,
    )
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let now = BootTime::default();
        let disk = Disk::default();
        let replica = restart(&disk, now);
        Self {
            rng: StdRng::seed_from_u64(seed),
            broken,
            now,
            disk,
            record: None,
            revision: 0,
            in_flight: vec![],
            incarnation: 1,
            replica,
            written: vec![],
            waiting: vec![],
            acknowledged: vec![],
            offices: HashMap::new(),
            proposals: HashMap::new(),
            events: vec![Event::Observed(None)],
            commands: VecDeque::new(),
            applied: Index::ZERO,
            old_records: vec![None],
        }
    }

    fn step(&mut self) {
        self.now = self
            .now
            .after(Duration::from_millis(self.rng.random_range(0..200)));
        match self.rng.random_range(0..200) {
            0..1 => self.crash(),
            1..40 => self.write(),
            40..80 => self.sync(),
            80..90 => self.land(),
            90..96 => self.events.push(Event::Observed(self.record.clone())),
            96..100 => {
                let at = self.rng.random_range(0..self.old_records.len());
                self.events
                    .push(Event::Observed(self.old_records[at].clone()));
            }
            100..105 => self.events.push(Event::Tick),
            105..155 => self.deliver(),
            _ => {
                if let Some(command) = self.commands.pop_front() {
                    self.obey(command);
                }
            }
        }
        self.check();
    }

    fn write(&mut self) {
        if let Ok(position) = self.replica.propose(self.now) {
            self.written.push(position);
            self.waiting.push(position);
            if self.broken == Broken::AckBeforeCommit {
                self.acknowledged.push(position);
            }
            if self.broken == Broken::DurableBeforeSync {
                self.events.push(Event::Durable(position));
            }
        }
    }

    /// The disk syncs some of what was written, in order.
    fn sync(&mut self) {
        let many = self.rng.random_range(0..=self.written.len());
        self.disk.log.extend(self.written.drain(..many));
        if let Some(last) = self.disk.log.last() {
            self.events.push(Event::Durable(*last));
        }
    }

    /// A swap that hung on the way arrives.
    fn land(&mut self) {
        if !self.in_flight.is_empty() {
            let at = self.rng.random_range(0..self.in_flight.len());
            let (expected, state) = self.in_flight.swap_remove(at);
            self.apply_swap(expected, state);
        }
    }

    fn apply_swap(&mut self, expected: Option<u64>, state: ClusterState) -> SwapOutcome {
        if self.record.as_ref().map(|(revision, _)| *revision) != expected {
            return SwapOutcome::Lost;
        }
        self.revision += 1;
        self.record = Some((self.revision, state));
        self.old_records.push(self.record.clone());
        SwapOutcome::Won(self.revision)
    }

    fn crash(&mut self) {
        // Some of what was not synced may still have reached the disk.
        let kept = self.rng.random_range(0..=self.written.len());
        self.disk.log.extend(self.written.drain(..kept));
        self.written.clear();
        self.waiting.clear();
        self.events.clear();
        self.commands.clear();
        self.applied = Index::ZERO;
        self.incarnation += 1;
        if self.broken == Broken::RepStart && self.replica.mastership().is_some() {
            let epoch = self.replica.mastership().unwrap().epoch();
            self.took_office(epoch);
            return;
        }
        self.replica = restart(&self.disk, self.now);
        self.events.push(Event::Observed(self.record.clone()));
    }

    fn deliver(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let event = self.events.remove(0);
        let mut commands = vec![];
        let was_master = self.replica.mastership().is_some();
        self.replica.step(self.now, event, &mut commands);
        if self.broken == Broken::ConfirmBeforeApply {
            let commit = self.replica.commit();
            self.replica
                .step(self.now, Event::Applied(commit), &mut vec![]);
        }
        if !was_master && let Some(term) = self.replica.mastership() {
            let epoch = term.epoch();
            self.took_office(epoch);
        }
        self.commands.extend(commands);
    }

    fn took_office(&mut self, epoch: Epoch) {
        let holder = *self.offices.entry(epoch).or_insert(self.incarnation);
        assert_eq!(
            holder, self.incarnation,
            "I2: two processes held epoch {epoch}"
        );
        let (_, record) = self.record.as_ref().expect("a term without a record");
        assert_eq!(record.epoch, epoch, "REP-RECORD: mastership is the record");
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Promise { epoch, seen } => {
                if self.broken != Broken::RepPromise {
                    self.disk.promised = self.disk.promised.max(epoch);
                    self.disk.seen = seen;
                }
                self.events.push(Event::Promised(epoch));
            }
            Command::Swap { expected, state } => {
                let proposer = *self
                    .proposals
                    .entry(state.epoch)
                    .or_insert(self.incarnation);
                assert_eq!(
                    proposer, self.incarnation,
                    "I2: an epoch was proposed twice"
                );
                let outcome = match self.rng.random_range(0..4) {
                    0 => {
                        // The answer is lost; the swap itself may land now, later or never.
                        match self.rng.random_range(0..3) {
                            0 => drop(self.apply_swap(expected, state)),
                            1 => self.in_flight.push((expected, state)),
                            _ => {}
                        }
                        SwapOutcome::Unknown
                    }
                    _ => self.apply_swap(expected, state),
                };
                let told = match outcome {
                    SwapOutcome::Unknown if self.broken == Broken::CoordCas => SwapOutcome::Won(0),
                    other => other,
                };
                self.events.push(Event::Swapped(told));
            }
            Command::Read => self.events.push(Event::Read(self.record.clone())),
            Command::AppendNoop(position) => self.written.push(position),
            Command::Commit(index) => {
                self.applied = self.applied.max(index);
                self.replica
                    .step(self.now, Event::Applied(index), &mut vec![]);
                let (done, waiting) = self
                    .waiting
                    .drain(..)
                    .partition(|position| position.index <= index);
                self.waiting = waiting;
                self.acknowledged.extend::<Vec<Position>>(done);
            }
            Command::Vouched { commit, .. } => {
                assert!(
                    commit <= self.replica.commit(),
                    "a round vouched for the future"
                );
            }
            Command::Halt(why) => panic!("a healthy node gave up: {why}"),
        }
    }

    fn check(&self) {
        if self.replica.confirm(self.now).is_ok() {
            let newest = self.acknowledged.last().copied().unwrap_or_default();
            assert!(
                newest.index <= self.applied,
                "I6: a confirmed read misses {newest}"
            );
        }
        for position in self.acknowledged.iter().rev().take(8) {
            let at = usize::try_from(position.index.0).unwrap() - 1;
            assert_eq!(
                self.disk.log.get(at),
                Some(position),
                "I1: an acknowledged write is lost"
            );
        }
        for pair in self.disk.log.windows(2).rev().take(8) {
            assert_eq!(pair[1].index, pair[0].index.next(), "the log has a gap");
            assert!(pair[1].epoch >= pair[0].epoch, "the log's epochs go back");
        }
    }
}

fn run(seed: u64, broken: Broken) -> usize {
    let mut world = World::new(seed, broken);
    for _ in 0..STEPS {
        world.step();
    }
    world.acknowledged.len()
}

#[test]
fn a_cluster_of_one_keeps_its_promise_under_crashes_and_lost_answers() {
    let mut acknowledged = 0;
    for seed in 0..SEEDS {
        let result = catch_unwind(|| run(seed, Broken::Nothing));
        acknowledged += result.unwrap_or_else(|broken| {
            let why = broken.downcast_ref::<String>().map(String::as_str);
            panic!("seed {seed} broke an invariant: {why:?}")
        });
    }
    assert!(
        acknowledged > 10_000,
        "the simulation wrote next to nothing: {acknowledged}"
    );
}

fn caught(broken: Broken) {
    let failures = (0..SEEDS)
        .filter(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, broken))).is_err())
        .count();
    assert!(failures > 0, "{broken:?} went unnoticed in {SEEDS} seeds");
}

#[test]
fn every_broken_rule_is_noticed() {
    caught(Broken::DurableBeforeSync);
    caught(Broken::CoordCas);
    caught(Broken::RepStart);
    caught(Broken::RepPromise);
    caught(Broken::AckBeforeCommit);
    caught(Broken::ConfirmBeforeApply);
}
