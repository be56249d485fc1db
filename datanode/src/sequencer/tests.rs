//! A sequencer whose driver is the test: nothing is applied before it says so.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tierkv_protocol::replication::{ClusterState, Founding, Restored, SwapOutcome};
use tierkv_storage::{RealDisk, StorageSettings};
use tierkv_types::{NodeId, Operation, OperationKind, SystemClock};
use tokio::time::{sleep, timeout};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
/// The log takes no record that is larger.
const SEGMENT_BYTES: u64 = 8 << 10;

struct Driven {
    sequencer: Sequencer,
    storage: Arc<Storage>,
    record: Option<(u64, ClusterState)>,
    events: VecDeque<Event>,
}

impl Driven {
    async fn start(dir: &Path) -> Self {
        let settings = StorageSettings {
            segment_bytes: SEGMENT_BYTES,
            ..StorageSettings::new(dir)
        };
        let (storage, found) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
        let node = NodeId::new("n1").unwrap();
        let founding = Founding {
            members: vec![node.clone()],
        };
        let restored = Restored {
            log_id: found.log_id,
            last: found.last,
            commit: found.commit,
            applied: found.applied,
            promised: found.promised,
            seen: None,
        };
        let clock = Arc::new(SystemClock);
        let replica = Replica::start(node, founding, restored, clock.boot_time());
        let storage_of = Arc::clone(&storage);
        Self {
            sequencer: Sequencer::new(replica, found.clock, found.tail, storage_of, clock),
            storage,
            record: None,
            events: VecDeque::from([Event::Observed(None)]),
        }
    }

    /// Does what the machine commands until it commits up to here; answers the records that
    /// are then to be applied.
    async fn until_committed(&mut self, index: Index) -> Vec<Arc<Record>> {
        let mut durable = self.storage.durable();
        let mut released = Vec::new();
        while released
            .last()
            .map(|record: &Arc<Record>| record.position.index)
            < Some(index)
        {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => {
                    let news = durable.wait_for(|at| at.index >= index);
                    Event::Durable(*timeout(DEADLINE, news).await.unwrap().unwrap())
                }
            };
            let mut commands = Vec::new();
            self.sequencer.step(event, &mut commands);
            for command in commands {
                match command {
                    Command::Promise { epoch, .. } => {
                        self.storage.promise(epoch, None).await.unwrap();
                        self.events.push_back(Event::Promised(epoch));
                    }
                    Command::Swap { state, .. } => {
                        let revision = self.record.as_ref().map_or(1, |(last, _)| last + 1);
                        self.record = Some((revision, state));
                        let won = SwapOutcome::Won(revision);
                        self.events.push_back(Event::Swapped(won));
                    }
                    Command::Read => self.events.push_back(Event::Read(self.record.clone())),
                    Command::AppendNoop(position) => {
                        self.sequencer.append_noop(position).unwrap();
                    }
                    Command::Commit(index) => released.extend(self.sequencer.release(index)),
                    Command::Vouched { .. } => {}
                    Command::Halt(why) => panic!("{why}"),
                }
            }
        }
        released
    }

    fn apply(&self, records: &[Arc<Record>]) {
        self.storage.apply(records);
        let last = records.last().unwrap().position.index;
        drop(self.sequencer.applied(records, last));
    }

    /// Waits until it may act as master.
    async fn until_master(&mut self) {
        let opening = self.until_committed(Index(1)).await;
        self.apply(&opening);
        let waiting = async {
            while self.sequencer.confirm(|_| ()).is_err() {
                self.sequencer.step(Event::Tick, &mut Vec::new());
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, waiting).await.unwrap();
    }

    fn propose(&self, writes: Vec<WriteRequest>) -> Vec<Result<Sequenced, Error>> {
        let deadline = Instant::now() + DEADLINE;
        let proposals = writes
            .into_iter()
            .map(|write| Proposal::new(1, write, deadline));
        let rows = Rows {
            generation: self.storage.generation(),
            priors: HashMap::from([(counter(), PriorValue::Absent)]),
        };
        let verdicts = self.sequencer.propose(proposals.collect(), &rows);
        assert!(verdicts.unknown.is_empty());
        let pending = verdicts
            .pending
            .into_iter()
            .flat_map(|pending| pending.answers);
        let answers = verdicts.settled.into_iter().chain(pending);
        answers.map(|answer| answer.result).collect()
    }

    /// A write that the log refuses.
    fn refuse(&self) {
        let value = vec![7; usize::try_from(SEGMENT_BYTES).unwrap()].into();
        let large = OperationKind::Put { value, ttl: None };
        let refused = self.propose(vec![write(99, large)]).pop().unwrap();
        assert_eq!(refused.err().unwrap().code, Code::ResourceExhausted);
    }
}

fn counter() -> ItemKey {
    ItemKey::new("n", b"counter").unwrap()
}

fn write(name: u8, kind: OperationKind) -> WriteRequest {
    WriteRequest {
        id: RequestId {
            birth_millis: SystemClock.wall_millis(),
            random: [name; 16],
        },
        conditions: Vec::new(),
        operations: vec![Operation {
            key: counter(),
            kind,
        }],
        return_previous: false,
    }
}

fn increment(name: u8) -> WriteRequest {
    write(name, OperationKind::Increment { delta: 1 })
}

fn number(answers: Vec<Result<Sequenced, Error>>) -> (Option<i64>, bool) {
    let sequenced = answers.into_iter().next().unwrap().unwrap();
    (sequenced.effects[0].number, sequenced.replayed)
}

/// A record is committed and not applied yet when the log refuses a later frame: what the
/// record did, and that its request was applied, is still known (I8).
#[tokio::test]
async fn taking_a_frame_back_forgets_nothing_that_is_about_to_be_applied() {
    let dir = TempDir::new().unwrap();
    let mut driven = Driven::start(dir.path()).await;
    driven.until_master().await;
    let first = increment(1);
    assert_eq!(
        number(driven.propose(vec![first.clone()])),
        (Some(1), false)
    );
    let released = driven.until_committed(Index(2)).await;
    assert_eq!(released.len(), 1);

    driven.refuse();
    assert_eq!(number(driven.propose(vec![first.clone()])), (Some(1), true));
    assert_eq!(number(driven.propose(vec![increment(2)])), (Some(2), false));
    driven.apply(&released);

    driven.refuse();
    assert_eq!(number(driven.propose(vec![first])), (Some(1), true));
    assert_eq!(number(driven.propose(vec![increment(3)])), (Some(3), false));
    let rest = driven.until_committed(Index(4)).await;
    driven.apply(&rest);
    let Residence::Found(item) = driven.storage.get(counter().as_bytes()) else {
        panic!("it is not in memory");
    };
    assert_eq!(item.value, "3");
    driven.storage.close().await.unwrap();
}
