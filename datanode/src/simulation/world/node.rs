//! One life of the node: all parts of a process as a group of tasks, which a crash ends at any
//! point.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tierkv_coordination::{Coordination, directory};
use tierkv_protocol::replication::{CommandQueue, Process, Replica, Restored, Seen};
use tierkv_rpc::{
    Pace, ProcessName, Worker,
    proto::internal::{Read, ReadReply, Reply, reply},
};
use tierkv_storage::{
    Recovered, Steps, Storage, StorageError, StorageSettings,
    disk::TestDisk,
    store::{MemoryFile, MemoryStore},
};
use tierkv_types::{
    Clock, ClusterId, Incarnation, ItemKey, NodeId, OwnedSlots, PlatformId, SLOT_COUNT, SlotRun,
    SlotTable, Version,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    super::{
        cache::FaultyCache,
        chance::Chance,
        clock::MachineClock,
        coordination::FaultyCoordination,
        pace::give_way,
        paced_store::{PacedStore, StoreWeather},
        scheduler::Scheduler,
    },
    Off,
};
use crate::{
    applier::{Applier, ApplierHandle},
    driver::Driver,
    invalidator::Invalidator,
    log_work::LogWork,
    members::{Members, Peers},
    noter::Noter,
    orders::orders,
    ownership::Owned,
    platform_clock::PlatformClock,
    reads::{Basis, ReadView},
    reclaimer::Reclaimer,
    rules::Rules,
    sequencer::Sequencer,
    timekeeper::Timekeeper,
    write_path::WritePath,
};

/// How long a writer waits for the cache to confirm.
pub(super) const INVALIDATION_WAIT: Duration = Duration::from_millis(50);

/// How long a tombstone stays.
const TOMBSTONE_RETENTION: Duration = Duration::from_secs(1);

/// A process whose storage is being opened.
pub(super) struct Booted {
    pub(super) storage: Arc<Storage>,
    pub(super) found: Recovered,
    pub(super) steps: Steps,
    pub(super) time: Arc<PlatformClock>,
}

/// The result of opening the storage.
pub(super) type Opened = Result<Booted, StorageError>;

/// The parts that outlive the process.
pub(super) struct Machine {
    pub(super) seed: u64,
    pub(super) off: Off,
    pub(super) clock: Arc<MachineClock>,
    pub(super) settings: StorageSettings,
    pub(super) coordination: Arc<FaultyCoordination>,
    /// The node's note of its log.
    pub(super) notes: Arc<FaultyCoordination>,
    pub(super) cache: Arc<FaultyCache>,
    pub(super) store: Arc<StoreWeather>,
    pub(super) file: MemoryFile,
    /// How long a writer waits for the cache to confirm.
    pub(super) invalidation_wait: Duration,
    /// Most records and changes that are applied at once.
    pub(super) apply_step: usize,
    /// The version of the placement map.
    pub(super) placement: Cell<u64>,
}

/// A process that has opened its storage.
pub(super) struct Node {
    pub(super) group: String,
    pub(super) storage: Arc<Storage>,
    pub(super) sequencer: Arc<Sequencer>,
    pub(super) steps: Steps,
    owned: Arc<Owned>,
    /// Stops the driver.
    pub(super) stop: watch::Sender<bool>,
    /// Why the driver stopped by itself.
    pub(super) stopped: Rc<RefCell<Option<String>>>,
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}

/// The key of the cluster's record.
pub(super) fn record_key() -> String {
    directory::cluster_state(&cluster())
}

pub(super) fn note_key() -> String {
    directory::log_note(&cluster(), &NodeId::new("n1").unwrap())
}

pub(super) fn group(life: u64) -> String {
    format!("life {life}")
}

/// This cluster owns all slots, by this version of the map, in which all of them moved.
pub(super) fn owned_slots(version: u64) -> OwnedSlots {
    let all = SlotRun {
        first: 0,
        count: SLOT_COUNT,
        revision: version,
    };
    OwnedSlots {
        version,
        slots: SlotTable::from_runs(vec![all]).unwrap(),
    }
}

impl Machine {
    /// Starts a life: a task opens its storage.
    pub(super) fn boot(
        &self,
        scheduler: &mut Scheduler,
        life: u64,
        disk: &TestDisk,
    ) -> Rc<RefCell<Option<Opened>>> {
        let opened = Rc::new(RefCell::new(None));
        let (tell, settings) = (Rc::clone(&opened), self.settings.clone());
        let disk = Arc::new(disk.clone());
        let rows = Arc::new(MemoryStore::open(&self.file));
        let store = PacedStore::over(rows, Arc::clone(&self.store));
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let rules = self.rules();
        scheduler.spawn(&group(life), "boot", async move {
            let done = match Storage::open_stepped(settings, disk, store).await {
                Ok((storage, found, steps)) => {
                    let time =
                        PlatformClock::start(cluster(), clock, found.time, found.clock, rules);
                    let time = time.await;
                    Ok(Booted {
                        storage,
                        found,
                        steps,
                        time: Arc::new(time),
                    })
                }
                Err(error) => Err(error),
            };
            *tell.borrow_mut() = Some(done);
        });
        opened
    }

    fn rules(&self) -> Rules {
        Rules::without(match self.off {
            Off::Rule(rule) => Some(rule),
            Off::Nothing | Off::LogSyncs | Off::FreshStarts => None,
        })
    }

    /// Starts the parts of a node, as the process does. `former`: the machine of the previous
    /// life, if the life continues with it.
    pub(super) fn start(
        &self,
        scheduler: &mut Scheduler,
        life: u64,
        booted: Booted,
        former: Option<Replica>,
    ) -> Node {
        let Booted {
            storage,
            found,
            mut steps,
            time,
        } = booted;
        let group = group(life);
        let (promised, last, applied) = (found.promised, found.last.index, found.applied);
        let replica = former.unwrap_or_else(|| replica(&found, &*self.clock));
        let rules = self.rules();
        let owned = Arc::new(Owned::new(cluster(), &found.owned));
        owned.ask(owned_slots(self.placement.get()));
        let sequencer = Arc::new(Sequencer::with_rules(
            replica,
            found.clock,
            found.tail,
            Arc::clone(&storage),
            Arc::clone(&time),
            Arc::clone(&owned),
            rules,
        ));
        let applier = self.apply(scheduler, &group, &sequencer, &storage, &owned);
        let choices = Chance::of(self.seed, &group);
        let commands = CommandQueue::new(promised, last, applied);
        let coordination = self.coordination.client_with(&self.notes, life);
        let coordination = coordination as Arc<dyn Coordination>;
        let compared = note(scheduler, &group, &coordination, &sequencer, &storage);
        // No other node sends anything.
        let (_, received) = mpsc::channel(1);
        let driver = Driver {
            cluster: cluster(),
            node: NodeId::new("n1").unwrap(),
            sequencer: Arc::clone(&sequencer),
            storage: Arc::clone(&storage),
            coordination,
            applier,
            commands: commands.choosing(Box::new(move |count| choices.index(count))),
            rules,
            log_work: LogWork::default(),
            members: members(life, &sequencer, &storage, &time),
            received,
            compared,
            snapshot_wanted: watch::Sender::new(None),
            orders: orders().1,
        };
        let (stop, stopped) = drive(scheduler, &group, driver);
        let checkpoints = steps.take_checkpoints().unwrap();
        scheduler.spawn(&group, "checkpoints", checkpoints);
        let timekeeper = Timekeeper::new(time, Arc::clone(&storage));
        scheduler.spawn(&group, "timekeeper", work(timekeeper));
        let node = Node {
            group,
            storage,
            sequencer,
            steps,
            owned,
            stop,
            stopped,
        };
        node.reclaim(scheduler);
        node
    }

    /// Starts the applier and the invalidator.
    fn apply(
        &self,
        scheduler: &mut Scheduler,
        group: &str,
        sequencer: &Arc<Sequencer>,
        storage: &Arc<Storage>,
        owned: &Arc<Owned>,
    ) -> ApplierHandle {
        let (cache, clock) = (Arc::clone(&self.cache), Arc::clone(&self.clock));
        let invalidator = Invalidator::new(cache, cluster(), clock, self.invalidation_wait);
        let (invalidator, invalidating) = invalidator.under(self.rules()).start();
        let (sequencer, storage) = (Arc::clone(sequencer), Arc::clone(storage));
        let applier = Applier::new(sequencer, storage, Arc::clone(owned), invalidator);
        let (handle, applying) = applier.under(self.rules(), self.apply_step).start();
        scheduler.spawn(group, "applier", applying);
        scheduler.spawn(group, "invalidator", invalidating);
        handle
    }
}

/// Runs a noter; returns the sender that lets it begin.
fn note(
    scheduler: &mut Scheduler,
    group: &str,
    coordination: &Arc<dyn Coordination>,
    sequencer: &Arc<Sequencer>,
    storage: &Arc<Storage>,
) -> watch::Sender<bool> {
    let (compared, is_compared) = watch::channel(false);
    let noter = Noter::new(
        (cluster(), NodeId::new("n1").unwrap()),
        Arc::clone(coordination),
        Arc::clone(sequencer),
        Arc::clone(storage),
        is_compared,
    );
    scheduler.spawn(group, "noter", work(noter));
    compared
}

/// Runs a driver; returns the handle that stops it, and the cell for its reason to stop.
fn drive(
    scheduler: &mut Scheduler,
    group: &str,
    driver: Driver,
) -> (watch::Sender<bool>, Rc<RefCell<Option<String>>>) {
    let (stop, stopping) = watch::channel(false);
    let stopped = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&stopped);
    scheduler.spawn(group, "driver", async move {
        if let Err(why) = driver.run(stopping).await {
            *tell.borrow_mut() = Some(why);
        }
    });
    (stop, stopped)
}

/// A running worker.
async fn work(mut worker: impl Worker) {
    loop {
        match worker.work().await {
            Pace::Busy => give_way().await,
            Pace::Idle(pause) | Pace::Retry(pause) => sleep(pause).await,
            Pace::Done => return,
        }
    }
}

fn replica(found: &Recovered, clock: &dyn Clock) -> Replica {
    let node = NodeId::new("n1").unwrap();
    let seen = found.cluster_state.as_deref().map(Seen::decode);
    let restored = Restored {
        log_id: found.log_id,
        last: found.last,
        epochs: found.epochs.clone(),
        commit: found.commit,
        applied: found.applied,
        promised: found.promised,
        seen: seen.transpose().unwrap(),
    };
    // Later processes start later.
    let now = clock.boot_time();
    let process = Process {
        node,
        incarnation: Incarnation(u64::try_from(now.since_boot().as_nanos()).unwrap()),
    };
    Replica::start(process, restored, now)
}

/// No links: the node is alone.
fn members(
    life: u64,
    sequencer: &Arc<Sequencer>,
    storage: &Arc<Storage>,
    time: &Arc<PlatformClock>,
) -> Members {
    let own = ProcessName {
        platform: PlatformId(1),
        cluster: Some(cluster()),
        node: NodeId::new("n1").unwrap(),
        incarnation: Incarnation(life),
    };
    let (storage, time) = (Arc::clone(storage), Arc::clone(time));
    Members::new(own, Arc::clone(sequencer), storage, time, Peers::default())
}

impl Node {
    /// Restarts the reclaimer: its first round is at once.
    pub(super) fn reclaim(&self, scheduler: &mut Scheduler) {
        scheduler.kill_task(&self.group, "reclaimer");
        let (sequencer, storage) = (Arc::clone(&self.sequencer), Arc::clone(&self.storage));
        let reclaimer = Reclaimer::new(sequencer, storage, TOMBSTONE_RETENTION);
        scheduler.spawn(&self.group, "reclaimer", work(reclaimer));
    }

    /// The cluster's time; zero while it may be set back.
    pub(super) fn clock(&self) -> Version {
        self.sequencer.settled_now().unwrap_or_default()
    }

    pub(super) fn write_path(&self) -> WritePath {
        WritePath {
            sequencer: Arc::clone(&self.sequencer),
            storage: Arc::clone(&self.storage),
        }
    }

    /// Has the slots leave the cluster and come back, by this version of the map.
    pub(super) fn move_slots(&self, version: u64) {
        self.owned.ask(owned_slots(version));
    }

    /// The slots that it owns.
    pub(super) fn slots(&self) -> Arc<SlotTable> {
        Arc::new(match self.owned.now().version() {
            0 => SlotTable::default(),
            version => owned_slots(version).slots,
        })
    }

    /// Whether it may answer as a master now.
    pub(super) fn is_acting(&self) -> bool {
        self.sequencer.confirm(|_| ()).is_ok()
    }

    /// Reads one key, as for a frame with one read.
    pub(super) fn read(&self, key: ItemKey) -> impl Future<Output = Option<ReadReply>> + 'static {
        let (sequencer, storage) = (Arc::clone(&self.sequencer), Arc::clone(&self.storage));
        let owned = Arc::clone(&self.owned);
        async move {
            let clock = sequencer.confirm_read().await.ok()?;
            let view = ReadView {
                basis: Ok(Basis::Proven),
                is_replica: false,
                sequencer: Arc::clone(&sequencer),
                as_of: storage.applied().1,
                clock,
                owned: owned.now(),
                arrived: Instant::now(),
                node: Arc::new(NodeId::new("n1").unwrap()),
            };
            let read = Read {
                item_key: key.as_bytes().clone(),
                placement_version: 1,
                ..Read::default()
            };
            let answer = match view.read(1, read, &storage) {
                Ok(answer) => answer,
                Err(missing) => {
                    let items = storage.load(&[key]).await.ok()?;
                    view.answer(vec![missing], items).pop()?
                }
            };
            match answer {
                Reply {
                    kind: Some(reply::Kind::Read(read)),
                    ..
                } => Some(read),
                _ => None,
            }
        }
    }
}
