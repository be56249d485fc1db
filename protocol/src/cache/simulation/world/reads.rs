//! The readers' side: questions, lookups, fills, and the check of every hit (I6).

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tierkv_types::{Round, SlotRun, SlotTable, Version};

use super::{Event, KEYS, World};
use crate::cache::{
    Entry, ReadBound, Verdict, Vouched,
    simulation::{
        node::Looked,
        reader::{ANY_REVISION, Read, SLOT, Step},
    },
};

impl World {
    pub(super) fn ask(&mut self, reader: usize) {
        self.soon(self.climate.ask_every * 2, Event::Ask { reader });
        let at = self.now;
        for cluster in 0..2 {
            // Now and then a reader still talks to a deposed master.
            let masters = self.clusters[cluster].masters.len();
            let master = match self.percent(25) {
                true => masters.saturating_sub(2),
                false => masters - 1,
            };
            self.send_or_lose(Event::Asked {
                reader,
                cluster,
                master,
                at,
            });
        }
    }

    pub(super) fn answer(&mut self, reader: usize, cluster: usize, master: usize, at: u64) {
        let clock = self.clock();
        let asked_at = self.readers[reader].boot(at);
        let state = self.master(cluster, master);
        let mut answer = Vouched {
            asked_at,
            epoch: state.epoch,
            round: Round(state.round),
            clock,
            slots: state.slots.clone(),
        };
        if !self.rules.owned_slot {
            let owned = SlotRun {
                first: SLOT,
                count: 1,
                revision: ANY_REVISION,
            };
            answer.slots = Arc::new(SlotTable::from_runs(vec![owned]).unwrap());
        }
        self.send_or_lose(Event::Answered {
            reader,
            cluster,
            answer,
        });
    }

    pub(super) fn learn(&mut self, reader: usize, cluster: usize, mut answer: Vouched) {
        let reader = &mut self.readers[reader];
        if !self.rules.age_from_question {
            answer.asked_at = reader.boot(self.now);
        }
        reader.freshness[cluster].learn(answer);
    }

    pub(super) fn start_read(&mut self, reader: usize) {
        self.soon(self.climate.read_every * 2, Event::Read { reader });
        let key = self.rng.random_range(0..KEYS);
        // The reader's placement map may be old.
        let known = self.placements.len();
        let stale = usize::from(self.percent(15)).min(known - 1);
        let (cluster, revision) = self.placements[known - 1 - stale];
        let max_age = self.rng.random_range(20..self.climate.max_age);
        let own_write = self.percent(25);
        let min_version = match self.histories[key].last() {
            Some(change) if own_write => change.version,
            _ => Version::ZERO,
        };
        let early = (!self.rules.read_after_lease).then(|| self.entry_at(key, self.now));
        let read = Read {
            reader,
            key,
            cluster,
            revision,
            bound: ReadBound {
                max_age: Duration::from_millis(max_age),
                min_version,
            },
            mark: None,
            early,
            step: Step::First,
        };
        self.go_on(Box::new(read));
    }

    pub(super) fn step(&mut self, mut read: Box<Read>) -> Result<(), String> {
        let key = self.node_key(read.key, read.revision);
        match std::mem::replace(&mut read.step, Step::First) {
            Step::First => {
                let mut looked = None;
                if self.rules.mark_before_entry {
                    read.mark = self.node.mark(read.cluster);
                } else {
                    looked = Some(self.node.look(key, self.now));
                }
                read.step = Step::Second(looked);
            }
            Step::Second(looked) => {
                let looked = match looked {
                    None => self.node.look(key, self.now),
                    Some(looked) => {
                        read.mark = self.node.mark(read.cluster);
                        looked
                    }
                };
                read.step = match looked {
                    Looked::Entry(entry) => Step::Judge(entry),
                    Looked::Leased(token) => Step::Below(token),
                    Looked::Busy => return Ok(()),
                };
            }
            Step::Judge(entry) => return self.judge(&read, &entry),
            Step::Below(token) => {
                // A master refuses a slot that its cluster doesn't own since that revision.
                if (read.cluster, read.revision) != self.owner() {
                    return Ok(());
                }
                let entry = match read.early.take() {
                    Some(early) => early,
                    None if self.rules.confirmed_read => self.entry_at(read.key, self.now),
                    None => {
                        let lag = self.rng.random_range(0..2_000);
                        self.entry_at(read.key, self.now.saturating_sub(lag))
                    }
                };
                read.step = Step::Fill(token, entry);
            }
            Step::Fill(token, entry) => {
                let blind = !self.rules.lease_token;
                let filled = self.node.fill(key, token, entry, self.now, blind);
                self.outcome.refused_fills += u64::from(!filled);
                return Ok(());
            }
        }
        self.go_on(read);
        Ok(())
    }

    pub(super) fn judge(&mut self, read: &Read, entry: &Entry) -> Result<(), String> {
        let Verdict::Hit { age } =
            self.readers[read.reader].judge(read, entry, self.now, self.rules)
        else {
            self.outcome.stale += 1;
            return Ok(());
        };
        let cluster = &self.clusters[read.cluster];
        let withheld = cluster
            .masters
            .last()
            .and_then(|master| master.withheld_until);
        self.outcome.hits += 1;
        self.outcome.hits_after_failover += u64::from(cluster.masters.len() > 1);
        self.outcome.hits_after_move += u64::from(read.revision > 1);
        self.outcome.hits_after_withholding += u64::from(withheld.is_some());
        self.check_i6(read, entry, age)
    }

    /// I6: no read is older than its bound or its `min_version`.
    pub(super) fn check_i6(&self, read: &Read, entry: &Entry, age: Duration) -> Result<(), String> {
        let history = &self.histories[read.key];
        let context = || {
            let Read {
                key,
                cluster,
                revision,
                bound,
                mark,
                ..
            } = read;
            format!(
                "at {} ms, key {key} of cluster {cluster} since {revision}, {bound:?}: \
                 {entry:?} under {mark:?}",
                self.now
            )
        };
        if age > read.bound.max_age {
            return Err(format!("a hit of {age:?} is over its bound, {}", context()));
        }
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if !history.was_current(entry, self.now.saturating_sub(age), self.now) {
            return Err(format!("a hit is staler than its {age} ms, {}", context()));
        }
        if let Some(since) = history.committed_at(read.bound.min_version)
            && !history.was_current(entry, since, self.now)
        {
            return Err(format!(
                "a hit is older than its min_version, {}",
                context()
            ));
        }
        Ok(())
    }
}
