//! The world of one seed: a node that crashes and restarts (each run is a *life*), its clients,
//! and all faults around them.
//!
//! The world is synchronous code. At each turn the seed decides what happens next: a task is
//! polled, the log is written, time passes, a client sends a request, the process ends. After
//! each turn all visible state is checked against the log, which defines the order in which
//! everything must have happened.
//!
//! Reading order: this file (turns and crashes), `weather` (the faults of a seed), `node` (one
//! life), `history` and `model` (the expected state), `look` (the checks of the node),
//! `requests`, `writers` and `readers` (clients, and checks of their answers), `cached` (checks
//! of the cache), `steady` (checks of the clock), `ending` (the end of a world); `scenarios` are
//! reproductions without random decisions.

mod cached;
mod ending;
mod history;
mod inbox;
mod look;
mod model;
mod node;
mod readers;
mod requests;
mod scenarios;
mod steady;
mod tests;
mod weather;
mod writers;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use tierkv_protocol::replication::{ClusterState, DEFAULT_F_MS, Replica};
use tierkv_storage::{
    disk::{Tear, TestDisk},
    store::MemoryFile,
};
use tierkv_types::{Clock, Epoch, Index, ItemKey, NodeId, Version};

use self::{
    cached::Cached,
    history::{History, When},
    inbox::Inbox,
    node::{INVALIDATION_WAIT, Machine, Node, Opened, group, note_key, record_key},
    readers::Readers,
    steady::Steady,
    weather::Weather,
    writers::Writers,
};
use super::{
    cache::FaultyCache, chance::Chance, clock::MachineClock, coordination::FaultyCoordination,
    paced_store::StoreWeather, scheduler::Scheduler, trace::Trace,
};
use crate::{applier::STEP, rules::Rule};

pub(super) use self::tests::SEEDS;

/// Keys of a world: few, so that clients conflict.
const KEYS: usize = 6;
/// Turns of a world before its ending.
const TURNS: u64 = 8_000;
/// The wall clocks' time at a world's start, in milliseconds.
const EPOCH_MILLIS: i64 = 1_700_000_000_000;

/// The rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    Nothing,
    Rule(Rule),
    /// The log is not synced: a record counts as durable once it is written.
    LogSyncs,
    /// A process continues as the master that the one before it was (REP-START).
    FreshStarts,
}

/// Counts of events in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) trace: u64,
    /// Successful answers to writes, retries included.
    pub(super) acknowledged: u64,
    pub(super) replays: u64,
    pub(super) refusals: u64,
    /// Refusals because of a key's state, or of the request's id.
    pub(super) judged: u64,
    pub(super) reads: u64,
    pub(super) hits: u64,
    pub(super) marks: u64,
    pub(super) lives: u64,
    pub(super) power_cuts: u64,
    /// Records that expire keys.
    pub(super) expiries: u64,
    /// Steps of the wall clock under a running node.
    pub(super) steps: u64,
    /// Starts that continued from a stored time, and those of them in another boot.
    pub(super) went_on: u64,
    pub(super) in_another_boot: u64,
    /// Those of them with a synchronised wall clock, by whether it was when the time was stored.
    pub(super) counted: u64,
    pub(super) corrected: u64,
}

/// Why a world failed, and its last events.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) why: String,
    pub(super) trace: String,
}

pub(super) struct World {
    chance: Chance,
    weather: Weather,
    machine: Machine,
    // Before the scheduler, so that it is dropped while tokio is still there.
    node: Option<Node>,
    opening: Option<Rc<RefCell<Option<Opened>>>>,
    scheduler: Scheduler,
    trace: Trace,
    disk: TestDisk,
    keys: Vec<ItemKey>,
    turn: u64,
    life: u64,
    /// The machine of the life before, if it was a master.
    former: Option<Replica>,
    history: History,
    inbox: Arc<Inbox>,
    writers: Writers,
    readers: Readers,
    cached: Cached,
    /// A client or reader was answered with everything up to this index.
    acknowledged: Index,
    /// The last index applied in this life that was checked.
    looked: Index,
    /// The last cluster's time that clients saw.
    clock: Version,
    /// The allowed distance of the cluster's time from true time.
    steady: Option<Steady>,
    /// The holder and the proposer of each epoch.
    offices: BTreeMap<Epoch, u64>,
    proposers: BTreeMap<Epoch, u64>,
    proposals: usize,
    seen: Seen,
}

/// Runs the world of one seed.
///
/// # Errors
/// The check that failed.
pub(super) fn run(seed: u64, off: Off) -> Result<Seen, Broken> {
    let mut trace = None;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, off);
        trace = Some(world.trace.clone());
        world.live()
    }));
    lived.map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| {
            panic
                .downcast_ref::<&str>()
                .map(|words| (*words).to_owned())
        });
        Broken {
            why: words.unwrap_or_else(|| "it said nothing".to_owned()),
            trace: trace.map_or_else(String::new, |trace| trace.to_string()),
        }
    })
}

fn key(nth: usize) -> ItemKey {
    ItemKey::new("n", format!("k{nth}").as_bytes()).unwrap()
}

impl World {
    fn new(seed: u64, off: Off) -> Self {
        Self::on(seed, off, |_| {})
    }

    /// The same, on a machine that is changed before the first start.
    fn on(seed: u64, off: Off, change: impl FnOnce(&mut Machine)) -> Self {
        let chance = Chance::of(seed, "world");
        let mut scheduler = Scheduler::new(seed);
        let (trace, time) = (scheduler.trace().clone(), scheduler.time().clone());
        let weather = Weather::of(&chance);
        let clock = Arc::new(MachineClock::new(time.clone(), EPOCH_MILLIS));
        let (faults, notes) = (weather.coordination, trace.clone());
        let first =
            ClusterState::unfounded(vec![NodeId::new("n1").unwrap()], DEFAULT_F_MS).encode();
        let coordination = FaultyCoordination::new(seed, record_key(), Some(first), faults, notes);
        let notes = FaultyCoordination::new(!seed, note_key(), None, faults, trace.clone());
        // The cache runs on another machine, which is never rebooted.
        let steady = Arc::new(MachineClock::new(time.clone(), EPOCH_MILLIS));
        let cache = FaultyCache::new(seed, weather.cache, steady, trace.clone());
        scheduler.spawn("around", "coordination", Arc::clone(&coordination).run());
        scheduler.spawn("around", "notes", Arc::clone(&notes).run());
        scheduler.spawn("around", "cache", Arc::clone(&cache).run());
        let inbox = Arc::new(Inbox::default());
        let machine = Machine {
            seed,
            off,
            clock,
            settings: weather::settings(&chance),
            coordination,
            notes,
            cache: Arc::clone(&cache),
            store: StoreWeather::new(seed, weather.store, trace.clone()),
            file: MemoryFile::default(),
            invalidation_wait: INVALIDATION_WAIT,
            // Also small ones, so that other tasks run in the middle of a commit.
            apply_step: [3, STEP, STEP, STEP][Chance::of(seed, "applier").index(4)],
            placement: Cell::new(1),
        };
        let mut world = Self {
            chance,
            weather,
            machine,
            node: None,
            opening: None,
            scheduler,
            trace,
            disk: TestDisk::default(),
            keys: (0..KEYS).map(key).collect(),
            turn: 0,
            life: 0,
            former: None,
            history: History::default(),
            readers: Readers::new(seed, time, cache, Arc::clone(&inbox)),
            inbox,
            writers: Writers::default(),
            cached: Cached::default(),
            acknowledged: Index::ZERO,
            looked: Index::ZERO,
            clock: Version::from_millis(EPOCH_MILLIS.unsigned_abs()),
            steady: None,
            offices: BTreeMap::new(),
            proposers: BTreeMap::new(),
            proposals: 0,
            seen: Seen::default(),
        };
        change(&mut world.machine);
        world.boot();
        world
    }

    fn live(&mut self) -> Seen {
        for _ in 0..TURNS {
            self.happen();
            self.look();
        }
        self.end();
        self.seen.trace = self.trace.hash();
        self.seen
    }

    fn now(&self) -> When {
        When {
            millis: self.scheduler.time().millis(),
            turn: self.turn,
        }
    }

    fn is_acting(&self) -> bool {
        self.node.as_ref().is_some_and(Node::is_acting)
    }

    /// All slots leave the cluster and come back, under a new revision.
    fn move_slots(&mut self) {
        let version = self.machine.placement.get() + 1;
        self.machine.placement.set(version);
        if let Some(node) = &self.node {
            node.move_slots(version);
        }
    }

    // --- Turns ---

    fn happen(&mut self) {
        self.turn += 1;
        let rare = self.chance.below(10_000);
        if rare < self.weather.kills {
            return self.crash();
        }
        if rare < self.weather.kills + self.weather.naps {
            let nap = [3_000, 130_000, 500_000][self.chance.index(3)];
            return self.scheduler.advance(nap);
        }
        if rare < self.weather.kills + self.weather.naps + self.weather.moves {
            return self.move_slots();
        }
        if rare >= 10_000 - self.weather.steps {
            return self.step_wall_clock();
        }
        if self.chance.below(1_000) < 2 {
            // Time without work, in which keys expire.
            return self.scheduler.advance(100 + self.chance.below(2_000));
        }
        let is_idle = !self.is_acting();
        match self.chance.below(100) {
            // The node can't take requests yet; it may wait for a clock.
            0..1 if self.node.is_none() => self.await_clock(),
            0..18 if is_idle => self.scheduler.advance(1 + self.chance.below(40)),
            18..20 if is_idle => self.send_writes(),
            0..8 => self.send_writes(),
            8..10 => drop(self.send_doubtful()),
            10..14 => self.send_read(),
            14..20 => self.use_cache(),
            20..30 => self.write_log(),
            30..34 => self.scheduler.advance(1 + self.chance.below(15)),
            34..36 => self.tend(),
            _ => {
                if !self.scheduler.step() {
                    self.write_log();
                    self.scheduler.advance(1 + self.chance.below(10));
                }
            }
        }
    }

    fn write_log(&mut self) {
        let is_full = self.chance.percent(self.weather.log_full);
        if let Some(node) = &mut self.node {
            node.steps.write_log();
            node.steps.run_short(is_full);
        }
    }

    /// Lets the node do one of its periodic tasks now.
    fn tend(&mut self) {
        let Some(node) = &self.node else { return };
        if self.chance.percent(50) {
            return node.reclaim(&mut self.scheduler);
        }
        let (storage, group) = (Arc::clone(&node.storage), node.group.clone());
        self.scheduler.spawn(&group, "asks", async move {
            drop(storage.checkpoint().await);
        });
    }

    /// Ends the process, with or without a power cut.
    fn crash(&mut self) {
        self.hear();
        let is_cut = self.disk.is_cut() || self.chance.percent(50);
        self.trace.note(format_args!(
            "world: life {} ends{}",
            self.life,
            if is_cut { " with the power" } else { "" }
        ));
        self.former = None;
        if let Some(node) = &self.node {
            let replica = node.sequencer.replica();
            self.former = replica.mastership().is_some().then_some(replica);
        }
        self.scheduler.kill_group(&group(self.life));
        let (node, opening) = (self.node.take(), self.opening.take());
        self.scheduler.within(|| drop((node, opening)));
        self.writers.cut_off();
        self.readers.cut_off();
        self.disk = match is_cut {
            true => {
                self.seen.power_cuts += 1;
                self.disk.crash(self.chance.below(u64::MAX), Tear::InOrder)
            }
            false => self.disk.kill(),
        };
        self.stay_down(is_cut);
        self.boot();
    }

    /// No node serves for a while; meanwhile the wall clock may be set.
    fn stay_down(&mut self, is_cut: bool) {
        let down = self.chance.below(self.weather.down);
        if down > 0 {
            self.scheduler.advance(down);
        }
        let step = self.chance.below(self.weather.wall_steps);
        self.step_wall_by(step);
        if is_cut {
            self.machine.clock.reboot();
            if self.chance.percent(self.weather.synchronised) {
                self.synchronise();
            }
        }
    }

    /// Time passes, after which a time daemon may have set the wall clock right.
    fn await_clock(&mut self) {
        self.scheduler.advance(10_000);
        if self.chance.percent(self.weather.synchronised) {
            self.synchronise();
        }
    }

    /// A time daemon sets the wall clock right.
    fn synchronise(&mut self) {
        if !self.machine.clock.is_synchronised() {
            self.trace
                .note(format_args!("world: the wall clock is synchronised"));
            // No other reading is of the same millisecond.
            self.scheduler.advance(1);
            self.machine.clock.synchronise();
        }
    }

    /// Sets the wall clock while the node runs: wrong, or right again.
    fn step_wall_clock(&mut self) {
        let is_wrong = !self.machine.clock.is_synchronised();
        if is_wrong && self.chance.percent(self.weather.synchronised) {
            return self.synchronise();
        }
        let step = [20, 15_000, 60_000, 3_600_000][self.chance.index(4)];
        self.trace
            .note(format_args!("world: the wall clock is set"));
        self.seen.steps += 1;
        self.step_wall_by(step);
    }

    fn step_wall_by(&mut self, millis: u64) {
        if millis == 0 {
            return;
        }
        // No other reading is of the same millisecond.
        self.scheduler.advance(1);
        let step = i64::try_from(millis).unwrap();
        let back = self.chance.percent(50);
        let clock = &self.machine.clock;
        clock.step_wall(if back { -step } else { step });
    }

    fn boot(&mut self) {
        self.life += 1;
        self.seen.lives += 1;
        if self.chance.percent(self.weather.power_cuts) {
            let most = if self.chance.percent(15) { 30 } else { 900 };
            self.disk.cut_after(1 + self.chance.below(most));
        }
        let opening = self
            .machine
            .boot(&mut self.scheduler, self.life, &self.disk);
        self.opening = Some(opening);
    }
}
