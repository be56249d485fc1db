//! Scenarios without random faults: reproductions of earlier bugs.

use std::{collections::HashMap, time::Duration};

use tierkv_storage::{Residence, Storage};
use tierkv_types::{
    Clock, Code, Error, Index, ItemKey, Operation, OperationKind, RequestId, RequestName,
    WriteRequest,
};
use tokio::time::Instant;

use super::*;
use crate::{
    judgement::PriorValue,
    proposal::{Answer, Proposal, Rows, Sequenced, Verdicts},
};

const TIME: Duration = Duration::from_secs(20);
/// The record of the first write, after those that open the term and own the slots.
const FIRST: Index = Index(3);
/// A record over this fits no segment.
const LARGE: usize = 20 << 10;
/// Some of these fit every segment.
const PIECE: usize = 1 << 10;
/// Bytes of queued records over which writers wait.
const LOG_QUEUE_BYTES: u64 = 16 << 20;

/// A node that the scenario steps.
struct Stage {
    world: World,
}

impl Stage {
    /// A node that serves, without faults.
    fn set() -> Self {
        let mut world = World::new(0, Off::Nothing);
        world.calm_down();
        world.settle("the node serves");
        Self { world }
    }

    fn node(&self) -> &Node {
        self.world.node.as_ref().unwrap()
    }

    fn storage(&self) -> &Storage {
        &self.node().storage
    }

    fn propose_all(&self, writes: Vec<WriteRequest>) -> Verdicts {
        let rows = Rows {
            generation: self.storage().generation(),
            priors: HashMap::from([(counter(), PriorValue::Absent)]),
        };
        let verdicts = self.world.scheduler.within(|| {
            let proposals = (1..).zip(writes).map(|(id, write)| {
                let deadline = Instant::now() + TIME;
                Proposal::new(id, write, deadline)
            });
            self.node().sequencer.propose(proposals.collect(), &rows)
        });
        assert!(verdicts.unknown.is_empty());
        verdicts
    }

    fn propose(&self, write: WriteRequest) -> Result<Sequenced, Error> {
        let mut answers = answers(self.propose_all(vec![write]));
        answers.pop().unwrap().result
    }

    fn write(&self, name: u8, kind: OperationKind) -> WriteRequest {
        WriteRequest {
            name: RequestName::Id(RequestId {
                birth_millis: self.world.machine.clock.wall_millis(),
                random: [name; 16],
            }),
            conditions: Vec::new(),
            operations: vec![Operation {
                key: counter(),
                kind,
            }],
            return_previous: false,
        }
    }

    fn increment(&self, name: u8) -> WriteRequest {
        self.write(name, OperationKind::Increment { delta: 1 })
    }

    fn put(&self, name: u8, bytes: usize) -> WriteRequest {
        let value = vec![b'7'; bytes].into();
        self.write(name, OperationKind::Put { value, ttl: None })
    }

    /// A write that the log refuses.
    fn refuse(&self) {
        self.node().steps.run_short(true);
        let refused = self.propose(self.put(99, 1)).err().unwrap();
        self.node().steps.run_short(false);
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("disk space"), "{refused}");
    }

    /// Steps until a committed record is not applied yet.
    fn until_committed(&mut self, index: Index) {
        self.world.write_log();
        while self.node().sequencer.standing().1 < index {
            assert!(self.world.scheduler.step(), "{index} is never committed");
        }
        let (applied, _) = self.storage().applied();
        assert!(applied < index, "{index} is applied at once");
    }
}

/// The answers in the order of the proposals.
fn answers(verdicts: Verdicts) -> Vec<Answer> {
    let pending = verdicts.pending.into_iter();
    let pending = pending.flat_map(|pending| pending.answers);
    let mut answers: Vec<Answer> = verdicts.settled.into_iter().chain(pending).collect();
    answers.sort_by_key(|answer| answer.id);
    answers
}

fn counter() -> ItemKey {
    ItemKey::new("n", b"counter").unwrap()
}

fn number(answer: Result<Sequenced, Error>) -> (Option<i64>, bool) {
    let sequenced = answer.unwrap();
    (sequenced.effects[0].number, sequenced.replayed)
}

/// The log refuses a frame while an earlier record is committed and not applied yet: the
/// record's effects and its request must still be known (I8).
#[test]
fn taking_a_frame_back_forgets_nothing_that_is_about_to_be_applied() {
    let mut stage = Stage::set();
    let first = stage.increment(1);
    assert_eq!(number(stage.propose(first.clone())), (Some(1), false));
    stage.until_committed(FIRST);

    stage.refuse();
    assert_eq!(number(stage.propose(first.clone())), (Some(1), true));
    let second = stage.increment(2);
    assert_eq!(number(stage.propose(second)), (Some(2), false));
    stage.world.scheduler.settle();
    assert_eq!(stage.storage().applied().0, FIRST);

    stage.refuse();
    assert_eq!(number(stage.propose(first)), (Some(1), true));
    let third = stage.increment(3);
    assert_eq!(number(stage.propose(third)), (Some(3), false));
    stage.until_committed(FIRST.next().next());
    stage.world.scheduler.settle();
    let Residence::Found(item) = stage.storage().get(counter().as_bytes()) else {
        panic!("it is not in memory");
    };
    assert_eq!(item.value, "3");
}

/// A write whose record fits no segment is refused by itself, and the others of its frame are
/// judged as if it had not come.
#[test]
fn a_record_over_the_limit_takes_no_write_with_it() {
    let mut stage = Stage::set();
    let writes = vec![stage.increment(1), stage.put(2, LARGE), stage.increment(3)];
    let verdicts = stage.propose_all(writes);
    assert!(verdicts.waiting.is_empty());
    let mut results = answers(verdicts).into_iter().map(|answer| answer.result);
    assert_eq!(number(results.next().unwrap()), (Some(1), false));
    let refused = results.next().unwrap().err().unwrap();
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.message.contains("max_record_bytes"), "{refused}");
    assert_eq!(number(results.next().unwrap()), (Some(2), false));
    stage.until_committed(FIRST.next());
}

/// A touch logs its key's value, so a frame of small requests can fill the log's queue: the rest
/// of it waits.
#[test]
fn touches_wait_for_room_in_the_log() {
    let stage = Stage::set();
    drop(stage.propose(stage.put(0, PIECE)).unwrap());
    let count = usize::try_from(LOG_QUEUE_BYTES).unwrap() / PIECE + 1_000;
    let touches = (0..count).map(|nth| {
        let mut touch = stage.write(0, OperationKind::Touch { ttl: None });
        touch.name = RequestName::Id(RequestId {
            birth_millis: stage.world.machine.clock.wall_millis(),
            random: (1 + nth as u128).to_le_bytes(),
        });
        touch
    });
    let verdicts = stage.propose_all(touches.collect());
    let queued = stage.storage().report().log_queue_bytes;
    assert!(queued >= LOG_QUEUE_BYTES, "{queued} bytes are queued");
    assert!(
        queued < LOG_QUEUE_BYTES + 2 * PIECE as u64,
        "{queued} bytes are queued"
    );
    let waiting = verdicts.waiting.len();
    let logged = answers(verdicts);
    assert!(
        waiting > 1_000 && logged.len() + waiting == count,
        "{waiting} wait"
    );
    assert!(logged.into_iter().all(|answer| answer.result.is_ok()));
    // Nothing more is logged until there is room.
    let verdicts = stage.propose_all(vec![stage.increment(200)]);
    assert_eq!(verdicts.waiting.len(), 1);
    assert_eq!(stage.storage().report().log_queue_bytes, queued);
}
