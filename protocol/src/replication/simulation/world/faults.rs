//! Faults of nodes, of their disks and clocks, of the network and of the metadata store.

use rand::Rng;
use tierkv_types::Index;

use super::{Event, World};
use crate::replication::{
    Change, Event as MachineEvent,
    simulation::{
        climate::{Fault, choose},
        disk::Disk,
    },
};

/// Faults that happen to nodes, each as likely as the others.
const FAULTS: [Fault; 24] = [
    Fault::Crash,
    Fault::Crash,
    Fault::TornTail,
    Fault::TornTail,
    Fault::WipedDisk,
    Fault::TruncatedLog,
    Fault::FlippedLog,
    Fault::StalledProcess,
    Fault::StalledProcess,
    Fault::PausedMachine,
    Fault::OldImage,
    Fault::OldImage,
    Fault::Partition,
    Fault::Partition,
    Fault::OneWayPartition,
    Fault::Suspend,
    Fault::Handover,
    Fault::Handover,
    Fault::ChangedF,
    Fault::SteppedClock,
    Fault::AddedNode,
    Fault::RemovedNode,
    Fault::TrimmedLog,
    Fault::SlowDisk,
];

impl World {
    pub(super) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let every = self.climate.fault_every;
        let next = 50 + self.up_to(every);
        self.schedule(next, Event::Fault);
        let fault = *choose(&mut self.rng, &FAULTS);
        // The master, as often as any other node.
        let node = match self.rng.random_bool(0.5) {
            true => self.master().unwrap_or_else(|| self.any_node()),
            false => self.any_node(),
        };
        self.trace(node, || format!("fault {fault:?}"));
        if self.happens(fault, node) {
            self.count(fault);
        }
    }

    /// The node of the newest master.
    pub(super) fn master(&self) -> Option<usize> {
        let terms = self.nodes.iter().enumerate().filter_map(|(place, node)| {
            let replica = node.run.as_ref()?.replica.as_ref()?;
            Some((replica.mastership()?.epoch(), place))
        });
        terms.max().map(|(_, place)| place)
    }

    fn happens(&mut self, fault: Fault, node: usize) -> bool {
        let length = *choose(&mut self.rng, &[100, 500, 1_500, 4_000, 9_000]);
        let length = 20 + self.up_to(length);
        match fault {
            Fault::Crash => {
                let all = self.rng.random_ratio(1, 10);
                let nodes = if all {
                    0..self.nodes.len()
                } else {
                    node..node + 1
                };
                for node in nodes {
                    self.crash(node, 0.5, length);
                }
                true
            }
            Fault::TornTail => self.crash(node, 0.9, length),
            Fault::WipedDisk | Fault::TruncatedLog | Fault::FlippedLog | Fault::OldImage => {
                self.damage(fault, node, length)
            }
            Fault::StalledProcess | Fault::Suspend | Fault::PausedMachine => {
                self.stall(fault, node, length)
            }
            Fault::Partition | Fault::OneWayPartition => {
                self.cut_off(fault, node, length);
                true
            }
            Fault::SteppedClock => {
                self.nodes[node].wall += self.rng.random_range(-120_000..120_000);
                true
            }
            Fault::TrimmedLog => self.trim(node),
            Fault::SlowDisk => {
                self.nodes[node].slow_disk_until = self.now + length;
                true
            }
            _ => self.operator_acts(fault, node),
        }
    }

    fn stall(&mut self, fault: Fault, node: usize, length: u64) -> bool {
        let it = &mut self.nodes[node];
        if it.stalled_until > self.now {
            return false;
        }
        it.stalled_until = self.now + length;
        if fault == Fault::PausedMachine {
            it.lost += length;
            it.paused_until = it.stalled_until;
            it.stood_still_for += length;
        }
        true
    }

    fn cut_off(&mut self, fault: Fault, node: usize, length: u64) {
        let until = self.now + length;
        if fault == Fault::OneWayPartition {
            let other = self.any_node();
            self.cuts.insert((node, other), until);
            return;
        }
        for other in 0..self.nodes.len() {
            self.cuts.insert((node, other), until);
            self.cuts.insert((other, node), until);
        }
    }

    /// What an operator may do at any time.
    fn operator_acts(&mut self, fault: Fault, node: usize) -> bool {
        match fault {
            Fault::Handover => {
                let Some(master) = self.master() else {
                    return false;
                };
                let leaves = self.rng.random_bool(0.3);
                let to = None;
                self.step(master, MachineEvent::HandOver { id: 1, to, leaves });
                true
            }
            Fault::ChangedF => {
                let f_ms = *choose(&mut self.rng, &[200, 400, 700, 1_000]);
                self.change(Change::SetF(f_ms))
            }
            Fault::AddedNode => self.add_node(),
            Fault::RemovedNode => self.remove_node(node),
            _ => false,
        }
    }

    fn change(&mut self, change: Change) -> bool {
        let Some(master) = self.master() else {
            return false;
        };
        self.step(master, MachineEvent::Change { id: 2, change });
        true
    }

    fn add_node(&mut self) -> bool {
        let Some(record) = self.coordination.record.clone() else {
            return false;
        };
        let members = record.state.members.len();
        let free = (0..self.nodes.len()).find(|it| !record.state.has(&self.nodes[*it].name));
        let Some(node) = free.filter(|_| members < 5) else {
            return false;
        };
        let id = self.new_log_id();
        if self.nodes[node].run.is_none() {
            self.nodes[node].disk = Disk::empty(id);
            self.nodes[node].is_damaged = false;
            self.start(node);
        }
        let name = self.nodes[node].name.clone();
        self.change(Change::AddNode(name))
    }

    fn remove_node(&mut self, node: usize) -> bool {
        let record = self.coordination.record.as_ref();
        let is_enough = record.is_some_and(|it| it.state.members.len() > 3);
        let name = self.nodes[node].name.clone();
        is_enough && self.change(Change::RemoveNode(name))
    }

    fn trim(&mut self, node: usize) -> bool {
        let it = &mut self.nodes[node];
        let Some(run) = &mut it.run else {
            return false;
        };
        let up_to = run.applied.min(it.disk.log.last().index);
        it.disk.stored = it.disk.stored.max(up_to);
        it.disk.log.trim(up_to);
        run.log.trim(up_to);
        true
    }

    /// The process ends; a part of what was not durable may be on the disk all the same.
    pub(super) fn crash(&mut self, node: usize, kept: f64, length: u64) -> bool {
        let Some(run) = self.nodes[node].run.take() else {
            return false;
        };
        let durable = self.nodes[node].disk.log.last().index;
        let rest: Vec<_> = (run.log.records.iter())
            .filter(|record| record.position.index > durable)
            .cloned()
            .collect();
        let is_continuing = rest.first().is_some_and(|first| {
            let last = self.nodes[node].disk.log.last();
            first.position.index == last.index.next() && first.position.epoch >= last.epoch
        });
        if is_continuing && self.rng.random_bool(kept) {
            let count = self.rng.random_range(0..=rest.len());
            let torn = rest.into_iter().take(count);
            self.nodes[node].disk.log.records.extend(torn);
        }
        self.nodes[node].wake(self.now);
        self.schedule(length, Event::Start { node });
        true
    }

    /// A disk loses something. At most one at a time, until its log is listed again: the promise is
    /// about the loss of any one.
    fn damage(&mut self, fault: Fault, node: usize, length: u64) -> bool {
        let record = self.coordination.record.as_ref();
        let Some(state) = record
            .map(|it| it.state.clone())
            .filter(|it| it.members.len() > 1)
        else {
            return false;
        };
        let others_are_whole = (0..self.nodes.len()).all(|place| {
            place == node || !self.nodes[place].is_damaged || !state.has(&self.nodes[place].name)
        });
        let listed = state
            .in_sync
            .iter()
            .filter(|it| it.node != self.nodes[node].name);
        if !others_are_whole || listed.count() == 0 || self.nodes[node].is_damaged {
            return false;
        }
        if fault == Fault::OldImage {
            return self.restore_image(node, length);
        }
        self.crash(node, 0.0, length);
        let id = self.new_log_id();
        let disk = &mut self.nodes[node].disk;
        match fault {
            Fault::WipedDisk => *disk = Disk::empty(id),
            // Found at the start: the log gets a new id (REP-LOGID).
            _ => {
                let last = self
                    .rng
                    .random_range(disk.stored.0..=disk.log.last().index.0.max(disk.stored.0));
                disk.log.truncate(Index(last));
                disk.log.id = id;
            }
        }
        self.nodes[node].is_damaged = true;
        true
    }

    /// The disk becomes an earlier image of itself.
    fn restore_image(&mut self, node: usize, length: u64) -> bool {
        let Some(image) = self.nodes[node].image.take() else {
            return false;
        };
        let note = self.coordination.notes[node];
        // The node's note shows that an image is old, if it was made after the image was taken.
        let is_noticed = note.is_some_and(|note| {
            note.log_id == image.log.id && note.commit > image.log.last().index
        });
        let is_same = image.log.id == self.nodes[node].disk.log.id;
        if !is_noticed || !is_same {
            return false;
        }
        self.crash(node, 0.0, length);
        self.nodes[node].disk = image;
        self.nodes[node].is_damaged = true;
        true
    }

    pub(super) fn trouble(&mut self) {
        if self.is_calm {
            return;
        }
        let every = self.climate.coordination_every;
        let next = 500 + self.up_to(every);
        self.schedule(next, Event::Trouble);
        let length = 200 + self.up_to(4_000);
        if self.rng.random_bool(0.5) {
            self.coordination.down_until = self.now + length;
            self.count(Fault::CoordinationDown);
        } else {
            self.coordination.slow_until = self.now + length;
            self.count(Fault::CoordinationSlow);
        }
    }
}
