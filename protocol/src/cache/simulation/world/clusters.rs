//! The masters' side: changes, rounds, deletes, marks, and everything that goes wrong.

use rand::Rng;
use tierkv_types::{Epoch, Index, Round};

use super::{Change, Event, KEYS, Master, MasterEvent, NodeKey, Pending, World, boot};

impl World {
    pub(super) fn install(&mut self, cluster: usize) {
        let cut_log = self.percent(self.climate.cut_log);
        let slots = self.table(cluster);
        let masters = self.clusters[cluster].masters.len();
        let log = &self.clusters[cluster].log;
        let cut = match cut_log {
            // A log as short as can be is as likely as all others.
            true if self.rng.random_bool(0.5) => log.len(),
            true => self.rng.random_range(0..=log.len()),
            false => 0,
        };
        let before = self.clusters[cluster].masters.last();
        // Rounds of two epochs have nothing to do with each other.
        let round = before.map_or(0, |before| self.rng.random_range(0..before.round + 20));
        let epoch = Epoch(masters as u64 + 1);
        let master = Master::new(epoch, round, log, cut, slots, self.now, self.rules);
        self.clusters[cluster].masters.push(master);
        let master = masters;
        let round = MasterEvent::Round.at(cluster, master);
        self.soon(self.climate.round_every, round);
        self.soon(100, MasterEvent::Retry.at(cluster, master));
    }

    pub(super) fn happen_at(&mut self, cluster: usize, master: usize, event: MasterEvent) {
        match event {
            MasterEvent::Round => self.start_round(cluster, master),
            MasterEvent::Acknowledged { round, commit } => {
                // The members of a later epoch no longer acknowledge an earlier one.
                if self.is_live(cluster, master) || !self.rules.vouched_rounds_only {
                    self.send(MasterEvent::Vouched { round, commit }.at(cluster, master));
                }
            }
            MasterEvent::Vouched { round, commit } => {
                let writer = &mut self.master(cluster, master).writer;
                writer.vouched(Round(round), Index(commit));
                self.write_mark(cluster, master);
            }
            MasterEvent::Retry => self.retry(cluster, master),
            MasterEvent::DeleteArrives { .. } | MasterEvent::MarkArrives(_)
                if self.now < self.cut_off_until => {}
            MasterEvent::DeleteArrives { index, key } => {
                self.node.delete(key, self.rules.delete_revokes_lease);
                let confirmed = MasterEvent::DeleteConfirmed { index };
                self.send_or_lose(confirmed.at(cluster, master));
            }
            MasterEvent::DeleteConfirmed { index } => {
                let rules = self.rules;
                self.master(cluster, master).confirmed(index, rules);
                self.write_mark(cluster, master);
            }
            MasterEvent::MarkArrives(mark) => {
                self.node.write_mark(cluster, mark);
                self.send_or_lose(MasterEvent::MarkConfirmed(mark).at(cluster, master));
            }
            MasterEvent::MarkConfirmed(mark) => {
                self.master(cluster, master).writer.written(&mark);
            }
        }
    }

    pub(super) fn write(&mut self) {
        self.soon(self.climate.write_every * 2, Event::Write);
        let (cluster, revision) = self.owner();
        if self.clusters[cluster].pending.is_some() {
            return;
        }
        let key = self.rng.random_range(0..KEYS);
        let value = match self.rng.random_range(0..100) {
            0..60 => Some(None),
            60..80 => Some(Some(self.now + self.rng.random_range(100..3_000))),
            _ => None,
        };
        let ticket = self.scheduled;
        self.clusters[cluster].pending = Some(Pending { ticket, key, value });
        if !self.rules.delete_after_commit {
            let index = self.clusters[cluster].log.len() as u64 + 1;
            let master = self.clusters[cluster].masters.len() - 1;
            self.send_delete(cluster, master, index, self.node_key(key, revision));
        }
        self.send(Event::Commit { cluster, ticket });
    }

    pub(super) fn commit(&mut self, cluster: usize, ticket: u64) {
        if self.clusters[cluster]
            .pending
            .as_ref()
            .map(|pending| pending.ticket)
            != Some(ticket)
        {
            return;
        }
        let Some(Pending { key, value, .. }) = self.clusters[cluster].pending.take() else {
            return;
        };
        self.last_version = self.last_version.next().max(self.clock());
        self.histories[key].push(Change {
            at: self.now,
            version: self.last_version,
            value,
        });
        let (_, revision) = self.owner();
        let node_key = self.node_key(key, revision);
        let state = &mut self.clusters[cluster];
        state.log.push(node_key);
        let index = state.log.len() as u64;
        let master = state.masters.len() - 1;
        self.master(cluster, master).commit = index;
        let rules = self.rules;
        if rules.delete_after_commit {
            self.send_delete(cluster, master, index, node_key);
        }
        self.master(cluster, master).tell_delivered(rules);
    }

    pub(super) fn send_delete(&mut self, cluster: usize, master: usize, index: u64, key: NodeKey) {
        self.master(cluster, master).unconfirmed.insert(index, key);
        self.send_or_lose(MasterEvent::DeleteArrives { index, key }.at(cluster, master));
    }

    pub(super) fn start_round(&mut self, cluster: usize, master: usize) {
        let state = self.master(cluster, master);
        let commit = state.commit;
        state.round += 1;
        let round = state.round;
        self.send_or_lose(MasterEvent::Acknowledged { round, commit }.at(cluster, master));
        let again = self.climate.round_every / 2;
        let jitter = self.rng.random_range(0..=self.climate.round_every);
        self.after(again + jitter, MasterEvent::Round.at(cluster, master));
    }

    /// The invalidator: what was not confirmed is sent again, a lost mark written again.
    pub(super) fn retry(&mut self, cluster: usize, master: usize) {
        let held = self.node.mark(cluster);
        let state = self.master(cluster, master);
        if held.is_none() {
            state.writer.lost();
        }
        let unconfirmed: Vec<_> = state
            .unconfirmed
            .iter()
            .map(|(n, key)| (*n, *key))
            .collect();
        for (index, key) in unconfirmed {
            self.send_or_lose(MasterEvent::DeleteArrives { index, key }.at(cluster, master));
        }
        self.write_mark(cluster, master);
        // A deposed master continues for a while, then notices it.
        if self.is_live(cluster, master) || self.percent(80) {
            let again = MasterEvent::Retry.at(cluster, master);
            self.soon(self.climate.retry_every * 2, again);
        }
    }

    pub(super) fn write_mark(&mut self, cluster: usize, master: usize) {
        let now = boot(self.now);
        if let Some(mark) = self.master(cluster, master).writer.due(now) {
            self.send_or_lose(MasterEvent::MarkArrives(mark).at(cluster, master));
        }
    }

    /// The master of `cluster` is deposed, and another wins.
    pub(super) fn fall(&mut self, cluster: usize) {
        // The new master may hold what the old one did not commit, or not.
        if self.rng.random_bool(0.5) {
            self.clusters[cluster].pending = None;
        }
        self.install(cluster);
    }

    pub(super) fn move_slot(&mut self) {
        self.soon(self.climate.move_every * 2, Event::Move);
        let (from, revision) = self.owner();
        if self.clusters[from].pending.is_some() {
            return;
        }
        self.placements.push((1 - from, revision + 1));
        for cluster in 0..2 {
            let slots = self.table(cluster);
            let master = self.clusters[cluster].masters.len() - 1;
            self.master(cluster, master).slots = slots;
        }
    }

    pub(super) fn forget(&mut self) {
        self.soon(self.climate.forget_every * 2, Event::Forget);
        let cluster = self.rng.random_range(0..2);
        let key = self.rng.random_range(0..KEYS);
        let (_, revision) = self.owner();
        match self.rng.random_range(0..10) {
            0 => self.node.restart(),
            1..4 => self.node.evict_mark(cluster),
            _ => self.node.evict(self.node_key(key, revision)),
        }
    }

    /// Masters can't reach the node for a while; they may be deposed meanwhile.
    pub(super) fn cut_off(&mut self) {
        self.soon(self.climate.cut_off_every * 2, Event::CutOff);
        let duration = self.rng.random_range(0..=self.climate.cut_off_for);
        self.cut_off_until = self.now + duration;
        if self.rng.random_bool(0.5) {
            let (owner, _) = self.owner();
            self.soon(duration, Event::Fall { cluster: owner });
        }
    }
}
