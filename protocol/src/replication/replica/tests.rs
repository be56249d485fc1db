//! What operators ask of a master. The rules themselves are tested by the simulation.

use tierkv_types::{
    BootTime, Epoch, EpochTable, Incarnation, Index, LogId, NodeId, NodeRole, Position, Version,
};

use super::{Event, Moment, Replica, Restored, SwapOutcome};
use crate::replication::{
    change::{Change, ChangeError},
    cluster_state::ClusterState,
    command::Command,
    message::Process,
    seen::Seen,
};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn moment() -> Moment {
    Moment {
        now: BootTime::from_boot(std::time::Duration::from_secs(9)),
        clock: Version::ZERO,
    }
}

/// A machine, and what it answers.
struct Lone {
    replica: Replica,
    revision: u64,
}

impl Lone {
    /// The only member of a cluster, as its master.
    fn master() -> Self {
        let process = Process {
            node: node("n1"),
            incarnation: Incarnation(1),
        };
        let restored = Restored {
            log_id: LogId(7),
            last: Position::default(),
            epochs: EpochTable::default(),
            commit: Index::ZERO,
            applied: Index::ZERO,
            promised: Epoch::ZERO,
            seen: None,
        };
        let mut lone = Self {
            replica: Replica::start(process, restored, moment().now),
            revision: 1,
        };
        assert_eq!(lone.replica.role(moment().now), NodeRole::Starting);
        lone.step(Event::Compared);
        let state = ClusterState::unfounded(vec![node("n1")], 1_000);
        lone.step(Event::Observed(Some(Seen { revision: 1, state })));
        assert_eq!(lone.replica.role(moment().now), NodeRole::Master);
        lone
    }

    /// Steps the machine, and carries its commands out at once. Returns the results of changes.
    fn step(&mut self, event: Event) -> Vec<(u64, Result<(), ChangeError>)> {
        let mut results = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut commands = Vec::new();
            self.replica.step(moment(), event, &mut commands);
            for command in commands {
                match command {
                    Command::Promise { epoch, .. } => events.push(Event::Promised(epoch)),
                    Command::Swap { number, .. } => {
                        self.revision += 1;
                        let won = SwapOutcome::Won(self.revision);
                        events.push(Event::Swapped(number, won));
                    }
                    Command::AppendNoop(position) => events.push(Event::Durable(position)),
                    Command::Commit(index) => events.push(Event::Applied(index)),
                    Command::Changed { id, result } => results.push((id, result)),
                    Command::Vouched { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        results
    }

    fn want(&mut self, id: u64, change: Change) {
        assert_eq!(self.step(Event::Change { id, change }), []);
    }
}

#[test]
fn a_change_that_is_none_ends_at_once_and_delays_no_other() {
    let mut lone = Lone::master();
    lone.want(1, Change::SetF(1_000));
    lone.want(2, Change::RemoveNode(node("n9")));
    lone.want(3, Change::SetF(500));
    let mut results = Vec::new();
    for _ in 0..3 {
        results.extend(lone.step(Event::Tick));
    }
    let no_member = Err(ChangeError::NoMember);
    assert_eq!(results, [(1, Ok(())), (2, no_member), (3, Ok(()))]);
    let record = lone.replica.mastership().unwrap().record();
    assert_eq!(record.f_ms, 500);
}
