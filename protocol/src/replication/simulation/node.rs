//! A node and its process, and what a driver does with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use tierkv_types::{
    BootTime, Change, ChangeKind, HybridClock, Incarnation, Index, ItemKey, NodeId, Payload,
    Position, Record, RequestId, Round, Version, Write,
};

use super::disk::{Content, Disk, Log, change_of, request_of};
use crate::replication::{CommandQueue, Moment, Process, Replica, rules::Rules};

/// What the wall clocks show when the world begins, in milliseconds.
const WALL: u64 = 1_700_000_000_000;

/// Machines have run for less than this when a process starts, in milliseconds.
const BOOTS: u64 = 1_000_000;

/// A client's operation at a node.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) client: usize,
    pub(super) operation: u64,
    pub(super) kind: Kind,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write { key: usize, number: i64 },
    Latest { key: usize },
    Cached { key: usize, bound: u64 },
    Session { key: usize, min: Version },
}

/// A running process.
pub(super) struct Run {
    pub(super) incarnation: Incarnation,
    /// `None` while it installs a snapshot.
    pub(super) replica: Option<Replica>,
    pub(super) queue: CommandQueue,
    /// The log with everything appended; the disk has what is durable.
    pub(super) log: Log,
    pub(super) clock: HybridClock,
    pub(super) content: Content,
    pub(super) applied: Index,
    /// The index of each request in the log.
    pub(super) requests: BTreeMap<u64, Index>,
    /// Writes that wait until their record is applied.
    pub(super) writes: Vec<(Index, Request)>,
    /// Reads that wait for a round, and those of replicas with the process that asked.
    pub(super) reads: Vec<(Round, Request)>,
    pub(super) questions: Vec<(Round, usize, u64)>,
    /// A replica's reads that wait for the master's index, and for being applied up to it.
    pub(super) confirming: BTreeMap<u64, Request>,
    pub(super) confirmed: Vec<(Index, Request)>,
    pub(super) vouched: Round,
    pub(super) is_flushing: bool,
    /// Whether the log was compared with the note; before, the note must not be replaced.
    pub(super) is_compared: bool,
    pub(super) is_applying: bool,
    pub(super) commit: Index,
}

/// A node.
pub(super) struct Node {
    pub(super) name: NodeId,
    pub(super) disk: Disk,
    /// An old image of the disk.
    pub(super) image: Option<Disk>,
    pub(super) run: Option<Run>,
    /// Machines that were started; the last one may run.
    machines: u64,
    pub(super) stalled_until: u64,
    /// Until then its machine is paused, and so its clocks stand still.
    pub(super) paused_until: u64,
    pub(super) slow_disk_until: u64,
    /// Whether its disk has lost something, until the record lists its log.
    pub(super) is_damaged: bool,
    /// How far its boot-time clock is behind, and how long it stood still without being noticed.
    pub(super) lost: u64,
    pub(super) stood_still_for: u64,
    pub(super) boot: u64,
    /// How far its wall clock is ahead.
    pub(super) wall: i64,
}

impl Node {
    pub(super) fn new(number: usize, disk: Disk, boot: u64) -> Self {
        Self {
            name: NodeId::new(&format!("n{number}")).expect("a name"),
            disk,
            image: None,
            run: None,
            machines: 0,
            stalled_until: 0,
            paused_until: 0,
            slow_disk_until: 0,
            is_damaged: false,
            lost: 0,
            stood_still_for: 0,
            boot,
            wall: 0,
        }
    }

    pub(super) fn boot_time(&self, now: u64) -> BootTime {
        BootTime::from_boot(std::time::Duration::from_millis(
            self.boot + now - self.lost,
        ))
    }

    pub(super) fn wall_millis(&self, now: u64) -> u64 {
        WALL.saturating_add_signed(self.wall) + now - self.lost
    }

    /// It is neither stalled nor paused from now on.
    pub(super) fn wake(&mut self, now: u64) {
        let rest = self.paused_until.saturating_sub(now);
        self.lost -= rest;
        self.stood_still_for = self.stood_still_for.saturating_sub(rest);
        self.paused_until = 0;
        self.stalled_until = 0;
    }

    /// The number of the machine that runs.
    pub(super) fn machine(&self) -> Option<u64> {
        self.run.as_ref().map(|_| self.machines)
    }

    pub(super) fn process(&self) -> Option<Process> {
        self.run.as_ref().map(|run| Process {
            node: self.name.clone(),
            incarnation: run.incarnation,
        })
    }

    pub(super) fn moment(&self, now: u64) -> Moment {
        let clock = self
            .run
            .as_ref()
            .map(|run| run.clock.now(self.wall_millis(now)));
        Moment {
            now: self.boot_time(now),
            clock: clock.unwrap_or_default(),
        }
    }

    /// Starts a process with what is on the disk.
    pub(super) fn start(&mut self, now: u64, incarnation: Incarnation, rules: Rules) {
        let process = Process {
            node: self.name.clone(),
            incarnation,
        };
        // Its machine may have been restarted, too.
        self.boot = incarnation.0.wrapping_mul(48_271) % BOOTS;
        let restored = self.disk.restored();
        let queue = CommandQueue::new(restored.promised, restored.last.index, restored.applied);
        let applied = restored.applied;
        let boot_time = self.boot_time(now);
        let mut run = Run {
            incarnation,
            queue,
            log: self.disk.log.clone(),
            clock: HybridClock::starting_above(self.disk.log.version()),
            content: self.disk.log.content_at(applied),
            applied,
            requests: BTreeMap::new(),
            writes: Vec::new(),
            reads: Vec::new(),
            questions: Vec::new(),
            confirming: BTreeMap::new(),
            confirmed: Vec::new(),
            vouched: Round::ZERO,
            is_flushing: false,
            is_compared: false,
            is_applying: false,
            commit: applied,
            replica: Some(Replica::start_with(process, restored, boot_time, rules)),
        };
        run.index_requests();
        self.run = Some(run);
        self.machines += 1;
    }
}

impl Run {
    /// Finds the requests in the log anew.
    pub(super) fn index_requests(&mut self) {
        self.requests.clear();
        let base = self.log.base_content.requests.iter();
        self.requests
            .extend(base.map(|(request, index)| (*request, *index)));
        for record in &self.log.records {
            if let Some((_, number)) = change_of(record) {
                self.requests
                    .insert(request_of(number), record.position.index);
            }
        }
    }

    /// Appends a record of this master's own.
    pub(super) fn append(
        &mut self,
        position: Position,
        payload: Payload,
        platform: u64,
        commit: Index,
    ) {
        let record = Record {
            position,
            commit,
            version: self.clock.tick(platform),
            payload,
        };
        self.push(Arc::new(record));
    }

    pub(super) fn push(&mut self, record: Arc<Record>) {
        self.clock.merge(record.version);
        if let Some((_, number)) = change_of(&record) {
            self.requests
                .insert(request_of(number), record.position.index);
        }
        self.log.records.push(record);
    }

    /// Up to `count` records after an index.
    pub(super) fn records_after(&self, index: Index, count: usize) -> Vec<Arc<Record>> {
        let skipped = usize::try_from(index.0 - self.log.base.index.0).unwrap_or(usize::MAX);
        let rest = self.log.records.get(skipped..).unwrap_or_default();
        rest.iter().take(count).cloned().collect()
    }
}

/// The payload of a write.
pub(super) fn write(key: usize, number: i64) -> Payload {
    let name = u8::try_from(key).expect("few keys");
    let mut random = [0; 16];
    random[..8].copy_from_slice(&number.to_le_bytes());
    let item = ItemKey::new("n", &Bytes::copy_from_slice(&[name])).expect("a key");
    Payload::Write(Write {
        request: RequestId {
            birth_millis: 0,
            random,
        },
        fingerprint: 0,
        changes: vec![Change {
            key: item,
            kind: ChangeKind::Increment {
                number,
                expires: None,
            },
        }],
    })
}

/// All names, for the liveness keys.
pub(super) fn names(nodes: &[Node], is_present: impl Fn(usize) -> bool) -> BTreeSet<NodeId> {
    let present = nodes
        .iter()
        .enumerate()
        .filter(|(place, _)| is_present(*place));
    present.map(|(_, node)| node.name.clone()).collect()
}
