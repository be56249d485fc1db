//! Clients that read: past the cache with `LATEST`, and through it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use tierkv_cache::{Cache, CacheKey, State};
use tierkv_protocol::cache::{
    AbsentEntry, Entry, Freshness, ReadBound, ValueEntry, Verdict, Vouched, judge,
};
use tierkv_rpc::proto::internal::ReadReply;
use tierkv_types::{Clock, Index, ItemKey, SlotTable, Version};
use tokio::sync::oneshot;

use super::{
    super::{
        cache::FaultyCache, chance::Chance, clock::MachineClock, clock::VirtualTime, pace::Pace,
    },
    KEYS, World,
    inbox::{Hit, Inbox, News, Word},
    node::{cluster, owned_slots},
    writers::Asking,
};

/// Readers under way at once.
const MOST_READERS: usize = 6;
/// The staleness that readers accept.
const BOUND: ReadBound = ReadBound {
    max_age: Duration::from_secs(5),
    min_version: Version::ZERO,
};
/// How long a reader's own work takes.
const PACE: Pace = Pace {
    steps: 3,
    late: 10,
    late_millis: 200,
};
/// The group of their tasks.
pub(super) const GROUP: &str = "readers";

/// A read sent to the master.
struct Reading {
    key: ItemKey,
    asking: Asking,
    /// Gets the answer too, beside the world.
    tell: Option<oneshot::Sender<ReadReply>>,
}

/// The readers of one process.
pub(super) struct Readers {
    under_way: BTreeMap<u64, Reading>,
    last: u64,
    through: Rc<Through>,
}

/// The parts that a reader through the cache needs.
struct Through {
    cache: Arc<FaultyCache>,
    clock: MachineClock,
    freshness: RefCell<Freshness>,
    /// The slots by the last answer of a master.
    slots: RefCell<Arc<SlotTable>>,
    inbox: Arc<Inbox>,
    chance: Chance,
}

impl Readers {
    pub(super) fn new(
        seed: u64,
        time: VirtualTime,
        cache: Arc<FaultyCache>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            under_way: BTreeMap::new(),
            last: 0,
            through: Rc::new(Through {
                cache,
                clock: MachineClock::new(time, 0),
                freshness: RefCell::new(Freshness::new()),
                slots: RefCell::new(Arc::new(owned_slots(1).slots)),
                inbox,
                chance: Chance::of(seed, "readers"),
            }),
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Breaks the connections of all reads.
    pub(super) fn cut_off(&mut self) {
        self.under_way.clear();
    }
}

impl Through {
    async fn read(&self, key: ItemKey) {
        let Some(revision) = self.slots.borrow().revision_of(key.slot()) else {
            return;
        };
        let cached = CacheKey {
            item: key.as_bytes(),
            slot_revision: revision,
        };
        let arrived = self.clock.boot_time();
        let mut found = Vec::new();
        self.cache.lookup(&cluster(), &[cached], &mut found).await;
        let found = found.pop().unwrap();
        match found.state {
            State::Entry(entry) => {
                let verdict = {
                    let freshness = self.freshness.borrow();
                    let clock = freshness.cluster_clock(arrived);
                    let (mark, slot) = (found.mark.as_ref(), key.slot());
                    judge(
                        &freshness, mark, &entry, slot, revision, &BOUND, arrived, clock,
                    )
                };
                if let Verdict::Hit { age } = verdict {
                    let since_boot = arrived.since(tierkv_types::BootTime::default());
                    self.inbox.push(News::Hit(Hit {
                        version: entry.version(),
                        value: match entry {
                            Entry::Value(entry) => Some(entry.value),
                            Entry::Absent(_) => None,
                        },
                        as_of_millis: u64::try_from((since_boot - age).as_millis()).unwrap(),
                        key,
                    }));
                }
            }
            State::Leased(lease) => {
                let (tell, told) = oneshot::channel();
                PACE.wait(&self.chance).await;
                self.inbox.push(News::Missed(key.clone(), tell));
                match told.await {
                    // The slot moved meanwhile.
                    Ok(read) if read.slot_revision != revision => {
                        self.cache.release(cached, lease).await;
                    }
                    Ok(read) => {
                        PACE.wait(&self.chance).await;
                        let _filled = self.cache.fill(cached, lease, entry_of(read)).await;
                    }
                    Err(_) => self.cache.release(cached, lease).await,
                }
            }
            State::Busy | State::Unreachable => {}
        }
    }

    async fn ask(&self) {
        let asked_at = self.clock.boot_time();
        PACE.wait(&self.chance).await;
        let (tell, told) = oneshot::channel();
        self.inbox.push(News::Asked(tell));
        let Ok(Word {
            epoch,
            round,
            clock,
            slots,
        }) = told.await
        else {
            return;
        };
        PACE.wait(&self.chance).await;
        *self.slots.borrow_mut() = Arc::clone(&slots);
        self.freshness.borrow_mut().learn(Vouched {
            asked_at,
            epoch,
            round,
            clock,
            slots,
        });
    }
}

/// The cache entry for a master's answer.
fn entry_of(read: ReadReply) -> Entry {
    let (version, filled) = (
        Version::from_bits(read.version),
        Version::from_bits(read.clock),
    );
    match read.found {
        true => Entry::Value(ValueEntry {
            version,
            expires: (read.expires != 0).then(|| Version::from_bits(read.expires)),
            filled,
            value: read.value,
        }),
        false => Entry::Absent(AbsentEntry { version, filled }),
    }
}

impl World {
    /// Sends a read with `LATEST`.
    pub(super) fn send_read(&mut self) {
        if self.readers.under_way() < MOST_READERS {
            let key = self.keys[self.chance.index(KEYS)].clone();
            self.read_latest(key, None);
        }
    }

    pub(super) fn read_latest(&mut self, key: ItemKey, tell: Option<oneshot::Sender<ReadReply>>) {
        let Some(node) = &self.node else { return };
        self.readers.last += 1;
        let id = self.readers.last;
        let asking = Asking {
            acknowledged: self.acknowledged,
            clock: node.clock(),
        };
        let reading = Reading {
            key: key.clone(),
            asking,
            tell,
        };
        self.readers.under_way.insert(id, reading);
        let (read, inbox) = (node.read(key), Arc::clone(&self.inbox));
        let group = node.group.clone();
        self.scheduler.spawn(&group, "read", async move {
            let answer = read.await;
            inbox.push(News::Read(id, answer));
        });
    }

    /// Starts a reader through the cache, or asks the master to vouch.
    pub(super) fn use_cache(&mut self) {
        if self.scheduler.alive(GROUP) >= MOST_READERS {
            return;
        }
        let through = Rc::clone(&self.readers.through);
        if self.chance.percent(30) {
            self.scheduler
                .spawn(GROUP, "asks", async move { through.ask().await });
        } else {
            // Keys that are written less often, so that there are hits.
            let key = self.keys[KEYS / 2 + self.chance.index(KEYS / 2)].clone();
            self.scheduler
                .spawn(GROUP, "reads", async move { through.read(key).await });
        }
    }

    /// The master's answer to a vouch question, if there is a master.
    pub(super) fn give_word(&self, tell: oneshot::Sender<Word>) {
        let Some(node) = &self.node else { return };
        let sequencer = &node.sequencer;
        if let Ok((epoch, round)) = sequencer.confirm(|term| (term.epoch(), term.started())) {
            let clock = sequencer.now();
            let _ = tell.send(Word {
                epoch,
                round,
                clock,
                slots: node.slots(),
            });
        }
    }

    pub(super) fn judge_read(&mut self, id: u64, answer: Option<ReadReply>) {
        let Some(reading) = self.readers.under_way.remove(&id) else {
            return;
        };
        let Some(read) = answer else { return };
        let node = self.node.as_ref().expect("an answer of nobody");
        assert!(
            node.is_acting(),
            "REP-CONFIRM: a read is answered by no master"
        );
        let (applied, _) = node.storage.applied();
        let known = self.check_read(&reading, &read, applied);
        self.trace.note(format_args!(
            "client: a read of {:?} finds {} as of record {known}",
            reading.key.key(),
            read.found
        ));
        self.acknowledged = self.acknowledged.max(known);
        self.seen.reads += 1;
        if let Some(tell) = reading.tell {
            drop(tell.send(read));
        }
    }

    /// Checks an answer against the states between request and answer; returns the record that it
    /// shows.
    fn check_read(&self, reading: &Reading, read: &ReadReply, applied: Index) -> Index {
        let (key, asking) = (reading.key.as_bytes(), reading.asking);
        let (version, clock) = (
            Version::from_bits(read.version),
            Version::from_bits(read.clock),
        );
        assert!(clock >= asking.clock, "the cluster's clock went back");
        let index = match self.history.index_of(version) {
            None if version == Version::ZERO => Index::ZERO,
            index => index.expect("a read shows a version of no record"),
        };
        assert!(
            index <= applied,
            "a read shows record {index}, and {applied} is applied"
        );
        if read.found {
            let item = self
                .history
                .at(key, index)
                .expect("a read shows what was deleted");
            let told = (
                item.version,
                &item.value,
                item.expires.unwrap_or_default().to_bits(),
            );
            assert_eq!(
                told,
                (version, &read.value, read.expires),
                "I5: a read is of no record"
            );
            assert!(item.is_live(clock), "a read shows what is over");
            assert!(
                self.history.last_change(key, asking.acknowledged) <= version,
                "REP-CONFIRM: a read misses what was acknowledged before it"
            );
        } else {
            assert!(
                index >= asking.acknowledged,
                "REP-CONFIRM: an absence is older than what was acknowledged before it"
            );
            let states = self
                .history
                .states(std::slice::from_ref(&reading.key), index, applied);
            let is_absent = |state: &Index| {
                let item = self.history.at(key, *state);
                item.is_none_or(|item| !item.is_live(clock))
            };
            assert!(states.iter().any(is_absent), "a read misses what is there");
        }
        index
    }

    /// I6: a hit is not older than its age.
    pub(super) fn judge_hit(&mut self, hit: &Hit) {
        let key = hit.key.as_bytes();
        let seen = self.history.applied_before(hit.as_of_millis);
        let newest = self.history.last_change(key, seen);
        assert!(
            hit.version >= newest,
            "I6: a hit of {:?} is of version {}, and {newest} was there before {} ms",
            hit.key.key(),
            hit.version,
            hit.as_of_millis
        );
        if let Some(value) = &hit.value {
            let index = self
                .history
                .index_of(hit.version)
                .expect("a hit of no record");
            let item = self.history.at(key, index).expect("a hit of a deletion");
            assert_eq!(item.value, *value, "I5: a hit has another value");
        }
        self.seen.hits += 1;
    }
}
