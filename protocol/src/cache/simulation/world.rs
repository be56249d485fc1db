//! The world: two clusters, one slot, one cache node, some readers, and chance.
//!
//! Reading order: this file (the events, and when they happen), [`clusters`] (the masters' side),
//! [`reads`] (the readers' side, and the check of I6).

mod clusters;
mod reads;

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_types::{SlotRun, SlotTable, Version};

use super::{
    Rules,
    climate::Climate,
    history::{Change, History},
    master::{Master, boot},
    node::{Node, NodeKey},
    reader::{Read, Reader, SLOT},
};
use crate::cache::{AbsentEntry, Entry, Freshness, Mark, ValueEntry, Vouched};

const KEYS: usize = 2;
const READERS: usize = 3;
/// What the cluster clocks show when the world begins, in milliseconds.
const CLOCK_OFFSET: u64 = 1_700_000_000_000;

/// Counts of a run's events, so that a test can check that there were some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) hits: u64,
    pub(super) stale: u64,
    pub(super) hits_after_failover: u64,
    pub(super) hits_after_move: u64,
    pub(super) hits_after_withholding: u64,
    pub(super) refused_fills: u64,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.stale += other.stale;
        self.hits_after_failover += other.hits_after_failover;
        self.hits_after_move += other.hits_after_move;
        self.hits_after_withholding += other.hits_after_withholding;
        self.refused_fills += other.refused_fills;
    }
}

enum Event {
    Write,
    Commit {
        cluster: usize,
        ticket: u64,
    },
    /// At one master of a cluster, deposed or not.
    Master {
        cluster: usize,
        master: usize,
        event: MasterEvent,
    },
    Ask {
        reader: usize,
    },
    Asked {
        reader: usize,
        cluster: usize,
        master: usize,
        at: u64,
    },
    Answered {
        reader: usize,
        cluster: usize,
        answer: Vouched,
    },
    Read {
        reader: usize,
    },
    Step(Box<Read>),
    Failover,
    Fall {
        cluster: usize,
    },
    Move,
    Forget,
    CutOff,
}

/// What happens to one master, and to what it sends.
#[derive(Clone, Copy)]
enum MasterEvent {
    Round,
    Acknowledged { round: u64, commit: u64 },
    Vouched { round: u64, commit: u64 },
    Retry,
    DeleteArrives { index: u64, key: NodeKey },
    DeleteConfirmed { index: u64 },
    MarkArrives(Mark),
    MarkConfirmed(Mark),
}

impl MasterEvent {
    const fn at(self, cluster: usize, master: usize) -> Event {
        Event::Master {
            cluster,
            master,
            event: self,
        }
    }
}

/// A change that is logged and not committed.
struct Pending {
    ticket: u64,
    key: usize,
    value: Option<Option<u64>>,
}

#[derive(Default)]
struct Cluster {
    /// The last one is the master; the others don't know that they were deposed.
    masters: Vec<Master>,
    /// The committed changes' cache keys; the first has index 1.
    log: Vec<NodeKey>,
    pending: Option<Pending>,
}

struct World {
    rules: Rules,
    rng: StdRng,
    climate: Climate,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    scheduled: u64,
    clusters: [Cluster; 2],
    /// Who owns the slot, newest last, by revision.
    placements: Vec<(usize, u64)>,
    histories: [History; KEYS],
    last_version: Version,
    node: Node,
    /// Until then no master reaches the node.
    cut_off_until: u64,
    readers: Vec<Reader>,
    outcome: Outcome,
}

/// Runs the world of one seed to its end, or to the first read that breaks I6.
pub(super) fn run(seed: u64, rules: Rules) -> Result<Outcome, String> {
    let mut world = World::new(seed, rules);
    while let Some(Reverse((at, id))) = world.queue.pop() {
        if at > world.climate.until {
            break;
        }
        world.now = at;
        if let Some(event) = world.events.remove(&id) {
            world.happen(event)?;
        }
    }
    Ok(world.outcome)
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let climate = Climate::of(&mut rng);
        let readers = (0..READERS).map(|_| Reader {
            freshness: [Freshness::new(), Freshness::new()],
            offset: rng.random_range(0..1_000_000_000),
        });
        let readers = readers.collect();
        let mut world = Self {
            rules,
            rng,
            climate,
            now: 0,
            queue: BinaryHeap::new(),
            events: std::collections::HashMap::new(),
            scheduled: 0,
            clusters: [Cluster::default(), Cluster::default()],
            placements: vec![(0, 1)],
            histories: Default::default(),
            last_version: Version::from_millis(CLOCK_OFFSET),
            node: Node::default(),
            cut_off_until: 0,
            readers,
            outcome: Outcome::default(),
        };
        for cluster in 0..2 {
            world.install(cluster);
        }
        for reader in 0..READERS {
            world.soon(10, Event::Ask { reader });
            world.soon(50, Event::Read { reader });
        }
        world.soon(world.climate.write_every, Event::Write);
        world.soon(world.climate.failover_every * 2, Event::Failover);
        world.soon(world.climate.move_every * 2, Event::Move);
        world.soon(world.climate.forget_every * 2, Event::Forget);
        world.soon(world.climate.cut_off_every * 2, Event::CutOff);
        world
    }

    // --- Chance ---

    fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + delay, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    fn soon(&mut self, within: u64, event: Event) {
        let delay = self.rng.random_range(0..=within);
        self.after(delay, event);
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.random_range(0..100) < chance
    }

    /// Over the network: mostly quick, sometimes late.
    fn send(&mut self, event: Event) {
        let delay = match self.rng.random_range(0..100) {
            0..80 => self.rng.random_range(0..10),
            80..95 => self.rng.random_range(0..200),
            _ => self.rng.random_range(0..4_000),
        };
        self.after(delay, event);
    }

    fn send_or_lose(&mut self, event: Event) {
        if !self.percent(self.climate.loss) {
            self.send(event);
        }
    }

    /// A process goes on at once, or pauses.
    fn go_on(&mut self, read: Box<Read>) {
        let delay = match self.percent(self.climate.pause) {
            true => self.rng.random_range(0..4_000),
            false => self.rng.random_range(0..3),
        };
        self.after(delay, Event::Step(read));
    }

    // --- What is ---

    fn owner(&self) -> (usize, u64) {
        *self.placements.last().unwrap()
    }

    fn table(&self, cluster: usize) -> Arc<SlotTable> {
        let (owner, revision) = self.owner();
        let owned = (owner == cluster).then_some(SlotRun {
            first: SLOT,
            count: 1,
            revision,
        });
        Arc::new(SlotTable::from_runs(owned.into_iter().collect()).unwrap())
    }

    fn clock(&self) -> Version {
        Version::from_millis(self.now + CLOCK_OFFSET).max(self.last_version)
    }

    fn node_key(&self, key: usize, revision: u64) -> NodeKey {
        (
            key,
            if self.rules.revision_in_key {
                revision
            } else {
                0
            },
        )
    }

    fn is_live(&self, cluster: usize, master: usize) -> bool {
        master + 1 == self.clusters[cluster].masters.len()
    }

    fn master(&mut self, cluster: usize, master: usize) -> &mut Master {
        &mut self.clusters[cluster].masters[master]
    }

    /// What a read below finds of `key` as it was at `time`.
    fn entry_at(&self, key: usize, time: u64) -> Entry {
        let filled = self.clock();
        match self.histories[key].at(time) {
            Some(present) => Entry::Value(ValueEntry {
                version: present.version,
                expires: present
                    .expires
                    .map(|at| Version::from_millis(at + CLOCK_OFFSET)),
                filled,
                value: Bytes::new(),
            }),
            None => Entry::Absent(AbsentEntry {
                version: self
                    .last_version
                    .min(Version::from_millis(time + 1 + CLOCK_OFFSET)),
                filled,
            }),
        }
    }

    // --- What happens ---

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let calm = self.now >= self.climate.calm_from;
        match event {
            Event::Write | Event::Failover | Event::Fall { .. } | Event::Move | Event::CutOff
                if calm => {}
            Event::Write => self.write(),
            Event::Commit { cluster, ticket } => self.commit(cluster, ticket),
            Event::Master {
                cluster,
                master,
                event,
            } => self.happen_at(cluster, master, event),
            Event::Ask { reader } => self.ask(reader),
            Event::Asked {
                reader,
                cluster,
                master,
                at,
            } => self.answer(reader, cluster, master, at),
            Event::Answered {
                reader,
                cluster,
                answer,
            } => self.learn(reader, cluster, answer),
            Event::Read { reader } => self.start_read(reader),
            Event::Step(read) => self.step(read)?,
            Event::Failover => {
                self.soon(self.climate.failover_every * 2, Event::Failover);
                let cluster = self.rng.random_range(0..2);
                self.fall(cluster);
            }
            Event::Fall { cluster } => self.fall(cluster),
            Event::Move => self.move_slot(),
            Event::Forget => self.forget(),
            Event::CutOff => self.cut_off(),
        }
        Ok(())
    }
}
