//! Checks of a world's visible state against the log, after each turn.

use bytes::Bytes;
use futures::FutureExt as _;
use tierkv_protocol::replication::ClusterState;
use tierkv_storage::{Recovered, Residence, Store, store::MemoryStore};
use tierkv_types::{Epoch, Index, Payload};

use super::{Off, World, inbox::News, weather::DIR};

impl World {
    /// Runs all checks after a turn.
    pub(super) fn look(&mut self) {
        self.wake();
        self.look_at_log();
        self.check_time();
        self.check_cache();
        self.hear();
        self.look_at_memory();
        self.look_at_proposals();
        self.sabotage();
        self.look_after_process();
    }

    /// Starts the node once its storage is open.
    fn wake(&mut self) {
        let opened = self.opening.as_ref().and_then(|opening| opening.take());
        let Some(opened) = opened else { return };
        self.opening = None;
        let booted = match opened {
            Ok(booted) => booted,
            Err(error) => {
                let may_be = self.disk.is_cut() || error.is_passing();
                assert!(may_be, "I1: the node does not start: {error}");
                return self.crash();
            }
        };
        self.check_recovered(&booted.found);
        self.check_time_at_start(&booted);
        self.looked = Index::ZERO;
        let former = match self.machine.off {
            Off::FreshStarts => self.former.take(),
            _ => None,
        };
        let node = self
            .machine
            .start(&mut self.scheduler, self.life, booted, former);
        self.node = Some(node);
    }

    /// I1: the log holds all acknowledged records, and the store the state it claims.
    fn check_recovered(&mut self, found: &Recovered) {
        let (last, applied) = (found.last.index, found.applied);
        self.trace.note(format_args!(
            "world: life {} finds records up to {last}, {applied} of them stored",
            self.life
        ));
        let committed = self.history.committed().max(self.acknowledged);
        assert!(
            last >= committed,
            "I1: record {committed} was committed, and the log ends with record {last}"
        );
        assert!(last <= self.history.last(), "I1: records were made up");
        self.history.truncate(last);
        let tail: Vec<_> = self.history.after(applied).collect();
        assert!(
            tail.into_iter().eq(found.tail.iter()),
            "I1: the log does not hold what was appended"
        );
        let store = MemoryStore::open(&self.machine.file);
        let rows = store.get_many(&self.keys).now_or_never().unwrap().unwrap();
        for (key, row) in self.keys.iter().zip(rows) {
            let held = self.history.at(key.as_bytes(), applied);
            assert_eq!(
                row.as_ref(),
                held,
                "I7: the store has another {:?}",
                key.key()
            );
        }
    }

    /// Reads appended records and the commit index; checks I2 for masters.
    fn look_at_log(&mut self) {
        let Some(node) = &self.node else { return };
        let (_, commit, term) = node.sequencer.standing();
        let durable = node.storage.durable().borrow().index;
        self.clock = node.sequencer.now();
        if let Some(term) = term {
            self.check_office(term.epoch());
        }
        let node = self.node.as_ref().unwrap();
        let records = node.sequencer.appended_after(self.history.last());
        let applied = node.storage.applied().0;
        for record in records {
            self.seen.expiries += u64::from(matches!(record.payload, Payload::Expire(_)));
            let effects = self.judge_logged(&record);
            self.history.push(record, effects);
        }
        assert!(
            commit <= durable,
            "I1: record {commit} is committed, {durable} is durable"
        );
        self.history.commit(commit);
        let now = self.now();
        self.history.apply(applied, now);
    }

    fn check_office(&mut self, epoch: Epoch) {
        let known = self.offices.len();
        let holder = *self.offices.entry(epoch).or_insert(self.life);
        assert_eq!(holder, self.life, "I2: two processes hold epoch {epoch}");
        if self.offices.len() > known {
            let record = self.machine.coordination.newest();
            let record = record.expect("COORD-CAS: mastership without a record");
            let record = ClusterState::decode(&record.value).unwrap();
            assert_eq!(
                record.epoch, epoch,
                "COORD-CAS: mastership is not what the record says"
            );
        }
    }

    /// Handles the messages of tasks.
    pub(super) fn hear(&mut self) {
        for news in self.inbox.take() {
            match news {
                News::Written(answer) => self.judge_written(answer),
                News::Read(id, answer) => self.judge_read(id, answer),
                News::Missed(key, tell) => self.read_latest(key, Some(tell)),
                News::Asked(tell) => self.give_word(tell),
                News::Hit(hit) => self.judge_hit(&hit),
            }
        }
    }

    /// I4, I5, I7: memory holds the state of the applied records, whole records only.
    fn look_at_memory(&mut self) {
        let Some(node) = &self.node else { return };
        let (applied, _) = node.storage.applied();
        if applied == self.looked && !self.turn.is_multiple_of(16) {
            return;
        }
        self.looked = applied;
        for key in &self.keys {
            let held = self.history.at(key.as_bytes(), applied);
            match node.storage.get(key.as_bytes()) {
                Residence::Unknown => {}
                Residence::Absent => {
                    assert_eq!(None, held, "I4: {:?} is missing after {applied}", key.key());
                }
                Residence::Found(item) => {
                    assert_eq!(
                        Some(&item),
                        held,
                        "I4: another {:?} after {applied}",
                        key.key()
                    );
                }
            }
        }
    }

    /// I2: no epoch is proposed by two processes.
    fn look_at_proposals(&mut self) {
        let proposals = self.machine.coordination.proposals_after(self.proposals);
        self.proposals += proposals.len();
        for proposal in proposals {
            let epoch = epoch_of(&proposal.value);
            let proposer = *self.proposers.entry(epoch).or_insert(proposal.life);
            assert_eq!(
                proposer, proposal.life,
                "I2: epoch {epoch} is proposed by two processes"
            );
        }
    }

    /// Ends a process that halted, or whose machine is off.
    fn look_after_process(&mut self) {
        let stopped = self.node.as_ref().and_then(|node| node.stopped.take());
        if let Some(why) = stopped {
            let may_be = self.disk.is_cut() || why.contains("the simulated store refuses");
            assert!(may_be, "a healthy node gave up: {why}");
            return self.crash();
        }
        // Its remaining tasks run for a moment, and must not acknowledge anything.
        if self.disk.is_cut() && self.chance.percent(5) {
            self.crash();
        }
    }

    /// Makes syncs of the log report success without syncing, once there is a master.
    fn sabotage(&self) {
        if self.machine.off == Off::LogSyncs && self.is_acting() {
            let log = format!("{DIR}/log/");
            self.disk
                .ignore_syncs(move |path| path.to_string_lossy().starts_with(&log));
        }
    }
}

fn epoch_of(record: &Bytes) -> Epoch {
    ClusterState::decode(record).unwrap().epoch
}
