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
    proposal::{Proposal, Rows, Sequenced},
};

const TIME: Duration = Duration::from_secs(20);
/// A record over this fits no segment.
const LARGE: usize = 20 << 10;

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

    fn propose(&self, write: WriteRequest) -> Result<Sequenced, Error> {
        let rows = Rows {
            generation: self.storage().generation(),
            priors: HashMap::from([(counter(), PriorValue::Absent)]),
        };
        let verdicts = self.world.scheduler.within(|| {
            let proposal = Proposal::new(1, write, Instant::now() + TIME);
            self.node().sequencer.propose(vec![proposal], &rows)
        });
        assert!(verdicts.unknown.is_empty());
        let pending = verdicts.pending.into_iter();
        let pending = pending.flat_map(|pending| pending.answers);
        let mut answers = verdicts.settled.into_iter().chain(pending);
        answers.next().unwrap().result
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

    /// A write that the log refuses.
    fn refuse(&self) {
        let value = vec![7; LARGE].into();
        let large = self.write(99, OperationKind::Put { value, ttl: None });
        let refused = self.propose(large);
        assert_eq!(refused.err().unwrap().code, Code::ResourceExhausted);
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
    stage.until_committed(Index(2));

    stage.refuse();
    assert_eq!(number(stage.propose(first.clone())), (Some(1), true));
    let second = stage.increment(2);
    assert_eq!(number(stage.propose(second)), (Some(2), false));
    stage.world.scheduler.settle();
    assert_eq!(stage.storage().applied().0, Index(2));

    stage.refuse();
    assert_eq!(number(stage.propose(first)), (Some(1), true));
    let third = stage.increment(3);
    assert_eq!(number(stage.propose(third)), (Some(3), false));
    stage.until_committed(Index(4));
    stage.world.scheduler.settle();
    let Residence::Found(item) = stage.storage().get(counter().as_bytes()) else {
        panic!("it is not in memory");
    };
    assert_eq!(item.value, "3");
}
