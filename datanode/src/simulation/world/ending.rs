//! The end of a world: without faults, all requests are answered, and the state equals the log's,
//! also after one more start.

use super::{World, readers::GROUP, weather::Weather};

/// The limit of virtual time for this, in milliseconds.
const PATIENCE_MILLIS: u64 = 15_000;
/// The limit of turns for this.
const MOST_TURNS: u64 = 100_000;

impl World {
    /// Ends all faults.
    pub(super) fn calm_down(&mut self) {
        let fair = Weather::FAIR;
        self.weather = fair;
        self.machine.coordination.set_faults(fair.coordination);
        self.machine.notes.set_faults(fair.coordination);
        self.machine.cache.set_faults(fair.cache);
        self.machine.store.set_faults(fair.store);
        self.trace
            .note(format_args!("world: nothing goes wrong any more"));
        self.synchronise();
        if self.disk.is_cut() {
            self.crash();
        }
        self.disk.cut_after(u64::MAX);
    }

    pub(super) fn end(&mut self) {
        self.calm_down();
        self.settle("the node serves again");
        for _ in 0..self.writers.doubtful() {
            self.send_doubtful();
        }
        self.settle("what was in doubt is answered");
        let before = self.seen.acknowledged;
        self.send_last_writes();
        self.settle("the last writes are answered");
        assert!(
            self.seen.acknowledged > before,
            "nothing can be written at the end"
        );
        self.read_all();
        self.crash();
        self.disk.cut_after(u64::MAX);
        self.settle("the node serves after its last start");
        self.read_all();
    }

    /// Reads every key; the answers are checked where they arrive.
    fn read_all(&mut self) {
        let before = self.seen.reads;
        for key in self.keys.clone() {
            self.read_latest(key, None);
        }
        self.settle("the last reads are answered");
        let count = self.seen.reads - before;
        assert!(
            count >= self.keys.len() as u64,
            "only {count} keys can be read at the end"
        );
        let last = self.history.last();
        assert_eq!(
            self.history.committed(),
            last,
            "the log is not committed at the end"
        );
    }

    /// Runs until a master serves and no client waits.
    pub(super) fn settle(&mut self, what: &str) {
        let until = self.now().millis + PATIENCE_MILLIS;
        for _ in 0..MOST_TURNS {
            self.turn += 1;
            if !self.scheduler.step() {
                self.write_log();
                self.look();
                let is_quiet = self.writers.under_way() + self.readers.under_way() == 0;
                if is_quiet && self.is_acting() && self.scheduler.alive(GROUP) == 0 {
                    return;
                }
                if !self.scheduler.step() {
                    self.scheduler.advance(3);
                }
            }
            self.look();
            assert!(self.now().millis < until, "not even in the end: {what}");
        }
        panic!("it goes round in circles before {what}");
    }
}
