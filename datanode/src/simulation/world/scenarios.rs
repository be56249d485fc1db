//! Scenarios without random faults: reproductions of earlier bugs.

use std::{collections::HashMap, time::Duration};

use tierkv_storage::{Residence, Storage};
use tierkv_types::{
    Clock, Code, Error, Index, ItemKey, Operation, OperationKind, RequestId, RequestName,
    WriteRequest,
};
use tokio::time::Instant;

use super::{super::cache::CacheFaults, *};
use crate::{
    applier::STEP,
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

/// A segment that has room for more than the log's queue: a client's write is accepted only into
/// space that the log has allocated.
const LARGE_SEGMENT: u64 = 2 * LOG_QUEUE_BYTES;

impl Stage {
    /// A node that serves, without faults.
    fn set() -> Self {
        Self::set_on(|_| {})
    }

    /// The same, on a machine that is changed before.
    fn set_on(change: impl FnOnce(&mut Machine)) -> Self {
        let mut world = World::on(0, Off::Nothing, change);
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

    fn write(&self, name: u128, kind: OperationKind) -> WriteRequest {
        WriteRequest {
            name: RequestName::Id(RequestId {
                birth_millis: self.world.machine.clock.wall_millis(),
                random: name.to_le_bytes(),
            }),
            conditions: Vec::new(),
            operations: vec![Operation {
                key: counter(),
                kind,
            }],
            return_previous: false,
        }
    }

    fn increment(&self, name: u128) -> WriteRequest {
        self.write(name, OperationKind::Increment { delta: 1 })
    }

    fn put(&self, name: u128, bytes: usize) -> WriteRequest {
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

    /// Lets time pass until all tasks have done what there was to do.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.world.scheduler.advance(1);
            self.world.scheduler.settle();
        }
    }

    /// The commit index, and the last applied one.
    fn progress(&self) -> (Index, Index) {
        let (_, commit, _) = self.node().sequencer.standing();
        (commit, self.storage().applied().0)
    }

    /// The number of heartbeat rounds that were started.
    fn rounds(&self) -> u64 {
        let (_, _, term) = self.node().sequencer.standing();
        term.unwrap().started().0
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
    let stage = Stage::set_on(|machine| machine.settings.segment_bytes = LARGE_SEGMENT);
    drop(stage.propose(stage.put(0, PIECE)).unwrap());
    let count = usize::try_from(LOG_QUEUE_BYTES).unwrap() / PIECE + 1_000;
    let touches = (1..=count as u128).map(|nth| {
        let kind = OperationKind::Touch { ttl: None };
        stage.write(nth, kind)
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
    let verdicts = stage.propose_all(vec![stage.increment(u128::MAX)]);
    assert_eq!(verdicts.waiting.len(), 1);
    assert_eq!(stage.storage().report().log_queue_bytes, queued);
}

/// The cache answers nothing for seconds, until the invalidator's queue is full and the applier
/// waits for it: heartbeat rounds are started as ever. Then everything is made up for.
#[test]
fn a_cache_that_stands_still_delays_no_heartbeat() {
    const WRITES: u64 = 600;
    const STANDSTILL: Duration = Duration::from_secs(10);
    let mut stage = Stage::set_on(|machine| machine.invalidation_wait = STANDSTILL);
    let silent = CacheFaults {
        unanswered: 100,
        ..CacheFaults::NONE
    };
    stage.world.machine.cache.set_faults(silent);
    let mut pending = Vec::new();
    for nth in 1..=WRITES {
        // Each in a commit of its own.
        let verdicts = stage.propose_all(vec![stage.put(nth.into(), 1)]);
        pending.extend(verdicts.pending);
        stage.world.write_log();
        stage.world.scheduler.settle();
    }
    let last = Index(FIRST.0 + WRITES - 1);
    let (commit, applied) = stage.progress();
    assert_eq!(commit, last, "commits wait for the cache");
    assert!(applied < last, "the applier does not wait for the cache");

    let before = stage.rounds();
    stage.pass(5_000);
    assert_eq!(stage.rounds() - before, 100, "one round each 50 ms");
    assert_eq!(stage.progress(), (commit, applied), "the cache is back");
    let answered = pending.iter_mut().map(|it| it.committed.try_recv());
    let answered = answered.filter(Result::is_ok).count();
    assert_eq!(answered, 0, "writers do not wait for the cache");

    stage.world.machine.cache.set_faults(CacheFaults::NONE);
    stage.pass(2 * 5_000);
    assert_eq!(stage.progress(), (last, last));
    for mut writer in pending {
        assert_eq!(writer.committed.try_recv(), Ok(()));
    }
}

/// Thousands of records are committed at once: they are applied in steps, between which other
/// tasks run.
#[test]
fn a_large_commit_is_applied_in_steps() {
    const WRITES: u64 = 5_000;
    let mut stage = Stage::set_on(|machine| {
        machine.apply_step = STEP;
        machine.settings.segment_bytes = LARGE_SEGMENT;
    });
    let writes = (1..=WRITES).map(|nth| stage.put(nth.into(), 1)).collect();
    let verdicts = stage.propose_all(writes);
    assert!(verdicts.waiting.is_empty());
    let last = Index(FIRST.0 + WRITES - 1);
    stage.until_committed(last);
    let (_, mut applied) = stage.progress();
    while applied < last {
        assert!(stage.world.scheduler.step(), "not all is applied");
        let (_, now) = stage.progress();
        let step = usize::try_from(now.0 - applied.0).unwrap();
        // Each record has one change.
        assert!(step <= STEP / 2, "{step} records are applied at once");
        applied = now;
    }
}

/// A node that stops applies what was committed before, and then its tasks end.
#[test]
fn what_is_committed_before_a_stop_is_applied() {
    let mut stage = Stage::set();
    let alive = stage.world.scheduler.alive(&stage.node().group);
    drop(stage.propose(stage.increment(1)).unwrap());
    stage.until_committed(FIRST);
    stage.node().stop.send_replace(true);
    stage.world.scheduler.settle();
    assert_eq!(stage.progress(), (FIRST, FIRST));
    // Those of driver, applier and invalidator.
    let ended = alive - stage.world.scheduler.alive(&stage.node().group);
    assert_eq!(ended, 3);
}
