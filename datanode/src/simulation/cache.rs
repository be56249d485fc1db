//! A simulated cache tier that refuses, does not answer, or answers late.
//!
//! It wraps the production embedded cache with faults, and with a ledger of all events in order,
//! so that a world can check what each mark vouched for.
//!
//! Reading order: this file, then `ledger`.

mod ledger;

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use tierkv_cache::{Cache, CacheKey, EmbeddedCache, Fill, Found, Lease, NodeReport, Undelivered};
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::{Clock, ClusterId};
use tokio::time::{Duration, sleep};

use self::ledger::Ledger;
pub(super) use self::ledger::{CacheEvent, CachedKey, Held};
use super::{chance::Chance, pace::Pace, trace::Trace};

/// Large enough that nothing is evicted: evictions do not depend on the seed.
const CAPACITY_BYTES: u64 = 1 << 30;

/// The faults, each in calls of a hundred; the other calls succeed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheFaults {
    /// Deletes and marks that are refused; some of a delete's keys may be deleted.
    pub(super) undelivered: u32,
    /// Deletes and marks that are never answered, whether or not they arrived. A mark that did
    /// not arrive may arrive later.
    pub(super) unanswered: u32,
    /// Deletes and marks that arrived and are answered late.
    pub(super) late: u32,
    /// Longest time until a late answer, in milliseconds; not 0.
    pub(super) late_millis: u64,
    /// The delays of all other calls.
    pub(super) pace: Pace,
}

impl CacheFaults {
    pub(super) const NONE: Self = Self {
        undelivered: 0,
        unanswered: 0,
        late: 0,
        late_millis: 1,
        pace: Pace::PROMPT,
    };
}

/// The cache tier of a world.
pub(super) struct FaultyCache {
    inner: EmbeddedCache,
    chance: Chance,
    trace: Trace,
    faults: Mutex<CacheFaults>,
    ledger: Mutex<Ledger>,
    /// Marks that may still arrive.
    marks_on_their_way: Mutex<Vec<(ClusterId, Mark)>>,
}

/// The fate of a delete or a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Confirmed,
    Undelivered,
    /// Arrived, never answered.
    Unanswered,
    /// Neither arrived nor answered.
    Lost,
    Late,
}

impl FaultyCache {
    pub(super) fn new(
        seed: u64,
        faults: CacheFaults,
        clock: Arc<dyn Clock>,
        trace: Trace,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: EmbeddedCache::new(CAPACITY_BYTES, clock),
            chance: Chance::of(seed, "cache"),
            trace,
            faults: Mutex::new(faults),
            ledger: Mutex::default(),
            marks_on_their_way: Mutex::default(),
        })
    }

    /// Changes the faults from here on.
    pub(super) fn set_faults(&self, faults: CacheFaults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// The events since the last call, in order.
    pub(super) fn take_events(&self) -> Vec<CacheEvent> {
        self.ledger.lock().unwrap().take_events()
    }

    /// The entries it may hold; some may have expired.
    pub(super) fn held(&self) -> Held {
        self.ledger.lock().unwrap().held()
    }

    /// The cache's own task: delivers late marks.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let within = self.faults().late_millis;
            sleep(Duration::from_millis(1 + self.chance.below(within))).await;
            let late = {
                let mut marks = self.marks_on_their_way.lock().unwrap();
                let at = (!marks.is_empty()).then(|| self.chance.index(marks.len()));
                at.map(|at| marks.swap_remove(at))
            };
            if let Some((cluster, mark)) = late {
                self.take_mark(&cluster, mark).await;
            }
        }
    }

    fn faults(&self) -> CacheFaults {
        *self.faults.lock().unwrap()
    }

    async fn wait(&self) {
        let pace = self.faults().pace;
        pace.wait(&self.chance).await;
    }

    async fn wait_long(&self) {
        let longest = self.faults().late_millis;
        sleep(Duration::from_millis(1 + self.chance.below(longest))).await;
    }

    fn fate(&self, of: &str) -> Fate {
        let faults = self.faults();
        let fate = if self.chance.percent(faults.undelivered) {
            Fate::Undelivered
        } else if self.chance.percent(faults.unanswered) {
            [Fate::Unanswered, Fate::Lost][self.chance.index(2)]
        } else if self.chance.percent(faults.late) {
            Fate::Late
        } else {
            Fate::Confirmed
        };
        self.trace.note(format_args!("cache: {of} is {fate:?}"));
        fate
    }

    /// Removes keys and adds that to the ledger; the embedded cache does not wait in between.
    async fn remove(&self, keys: &[CacheKey<'_>]) {
        let removed = self.inner.delete(keys).await;
        removed.expect("the embedded cache confirms");
        self.ledger.lock().unwrap().removed(keys);
    }

    async fn take_mark(&self, cluster: &ClusterId, mark: Mark) {
        let written = self.inner.write_mark(cluster, mark).await;
        written.expect("the embedded cache confirms");
        self.trace.note(format_args!("cache: takes {mark:?}"));
        self.ledger.lock().unwrap().marked(mark);
    }
}

impl Cache for FaultyCache {
    async fn lookup(&self, cluster: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        self.wait().await;
        self.inner.lookup(cluster, keys, results).await;
        self.wait().await;
    }

    async fn fill(&self, key: CacheKey<'_>, lease: Lease, entry: Entry) -> Fill {
        self.wait().await;
        let version = entry.version();
        let filled = self.inner.fill(key, lease, entry).await;
        if filled == Fill::Stored {
            self.ledger.lock().unwrap().filled(key, version);
        }
        self.trace
            .note(format_args!("cache: a fill of {version} is {filled:?}"));
        self.wait().await;
        filled
    }

    async fn release(&self, key: CacheKey<'_>, lease: Lease) {
        self.wait().await;
        self.inner.release(key, lease).await;
    }

    async fn delete(&self, keys: &[CacheKey<'_>]) -> Result<(), Undelivered> {
        self.wait().await;
        match self.fate(&format!("a delete of {}", keys.len())) {
            Fate::Lost => return pending().await,
            Fate::Undelivered => {
                let some = self.chance.index(keys.len() + 1);
                self.remove(&keys[..some]).await;
                self.wait().await;
                self.ledger.lock().unwrap().refused(keys);
                return Err(Undelivered);
            }
            Fate::Unanswered => {
                self.remove(keys).await;
                return pending().await;
            }
            Fate::Late => {
                self.remove(keys).await;
                self.wait_long().await;
            }
            Fate::Confirmed => {
                self.remove(keys).await;
                self.wait().await;
            }
        }
        self.ledger.lock().unwrap().confirmed(keys);
        Ok(())
    }

    async fn write_mark(&self, cluster: &ClusterId, mark: Mark) -> Result<(), Undelivered> {
        self.wait().await;
        match self.fate("a mark") {
            Fate::Lost => {
                let late = (cluster.clone(), mark);
                self.marks_on_their_way.lock().unwrap().push(late);
                return pending().await;
            }
            Fate::Undelivered => {
                self.wait().await;
                return Err(Undelivered);
            }
            Fate::Unanswered => {
                self.take_mark(cluster, mark).await;
                return pending().await;
            }
            Fate::Late => {
                self.take_mark(cluster, mark).await;
                self.wait_long().await;
            }
            Fate::Confirmed => {
                self.take_mark(cluster, mark).await;
                self.wait().await;
            }
        }
        Ok(())
    }

    async fn read_marks(&self, cluster: &ClusterId) -> Vec<(String, Option<Mark>)> {
        self.wait().await;
        self.inner.read_marks(cluster).await
    }

    async fn holds_anything(&self) -> bool {
        self.wait().await;
        let holds = self.inner.holds_anything().await;
        self.wait().await;
        holds
    }

    fn node_of(&self, key: CacheKey<'_>) -> &str {
        self.inner.node_of(key)
    }

    async fn nodes(&self) -> Vec<NodeReport> {
        self.inner.nodes().await
    }
}

#[cfg(test)]
mod tests;
