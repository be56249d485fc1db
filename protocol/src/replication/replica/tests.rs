//! What operators ask of a master, and how soon a candidate stands. The rules themselves are tested
//! by the simulation.

use std::time::Duration;

use tierkv_types::{
    BootTime, Epoch, EpochTable, Incarnation, Index, LogId, NodeId, NodeRole, Position, Round,
    Version,
};

use super::{Event, Moment, Replica, Restored, SwapOutcome};
use crate::replication::{
    change::{Change, ChangeError},
    cluster_state::{ClusterState, Listed},
    command::Command,
    message::{Append, Ask, Confirm, Message, Process},
    seen::Seen,
};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn moment() -> Moment {
    at(9_000)
}

fn at(millis: u64) -> Moment {
    Moment {
        now: BootTime::from_boot(Duration::from_millis(millis)),
        clock: Version::ZERO,
    }
}

fn process(name: &str) -> Process {
    Process {
        node: node(name),
        incarnation: Incarnation(1),
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
            replica: Replica::start(process("n1"), restored, moment().now),
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

/// A replica of a cluster of three whose master `n2` is silent.
struct Candidate {
    replica: Replica,
    record: ClusterState,
}

impl Candidate {
    fn new() -> Self {
        Self::with_log(LogId(7))
    }

    /// The record lists the log 7.
    fn with_log(log_id: LogId) -> Self {
        let nodes = ["n1", "n2", "n3"];
        let listed = |name: &str| Listed {
            node: node(name),
            log_id: LogId(7),
        };
        let members = nodes.map(node).to_vec();
        let first = ClusterState::unfounded(members, 1_000);
        let in_sync = nodes.map(listed).to_vec();
        let record = first.succeeded_by(Epoch(1), Some(&process("n2")), in_sync);
        let restored = Restored {
            log_id,
            last: Position::default(),
            epochs: EpochTable::default(),
            commit: Index::ZERO,
            applied: Index::ZERO,
            promised: Epoch(1),
            seen: Some(seen(1, &record)),
        };
        let mut replica = Replica::start(process("n1"), restored, at(0).now);
        let mut commands = Vec::new();
        replica.step(at(0), Event::Compared, &mut commands);
        Self { replica, record }
    }

    /// Steps the machine, and returns whether it stands: it promises an epoch above this one.
    fn stands(&mut self, millis: u64, event: Event, above: Epoch) -> bool {
        let mut commands = Vec::new();
        self.replica.step(at(millis), event, &mut commands);
        (commands.iter()).any(|it| matches!(it, Command::Promise { epoch, .. } if *epoch > above))
    }

    /// It asks, and `n3` confirms: two of three.
    fn is_confirmed(&mut self, millis: u64) {
        let mut commands = Vec::new();
        (self.replica).step(at(millis), Event::Tick, &mut commands);
        let ask = commands.into_iter().find_map(|it| match it {
            Command::Send { to, message } if to == node("n3") => Some(message),
            _ => None,
        });
        let Some(Message::Ask(ask)) = ask else {
            panic!("it does not ask n3: {ask:?}");
        };
        let confirm = Confirm {
            number: ask.number,
            is_granted: true,
            log_id: LogId(7),
            last: Position::default(),
            promised: Epoch(1),
            seen: ask.seen,
        };
        let confirmed = Event::Received(process("n3"), Message::Confirm(confirm));
        let epoch = self.record.epoch;
        assert!(!self.stands(millis, confirmed, epoch), "n2 may answer, too");
    }
}

fn seen(revision: u64, state: &ClusterState) -> Seen {
    let state = state.clone();
    Seen { revision, state }
}

#[test]
fn a_candidate_stands_by_the_record_that_it_was_confirmed_under() {
    let mut candidate = Candidate::new();
    candidate.is_confirmed(1_000);
    assert!(candidate.stands(1_050, Event::Tick, Epoch(1)));
}

#[test]
fn a_candidate_leaves_a_master_alone_that_was_elected_meanwhile() {
    let mut candidate = Candidate::new();
    candidate.is_confirmed(1_000);
    let in_sync = (candidate.record.in_sync.iter())
        .filter(|it| it.node != node("n2"))
        .cloned();
    let (successor, in_sync) = (process("n3"), in_sync.collect());
    candidate.record = (candidate.record).succeeded_by(Epoch(2), Some(&successor), in_sync);
    let elected = Event::Observed(Some(seen(2, &candidate.record)));
    assert!(!candidate.stands(1_020, elected, Epoch(1)));
    let followed = candidate.replica.master(at(1_020).now);
    assert_eq!(followed, Some(&process("n3")));
    // It may need some time until it is heard: F.
    for millis in (1_050..2_020).step_by(50) {
        assert!(!candidate.stands(millis, Event::Tick, Epoch(1)), "{millis}");
    }
    // Then it is silent, and confirmations begin anew.
    candidate.is_confirmed(2_050);
    assert!(candidate.stands(2_100, Event::Tick, Epoch(2)));
}

#[test]
fn a_change_of_the_record_by_its_master_ends_a_question() {
    let mut candidate = Candidate::new();
    candidate.is_confirmed(1_000);
    let changed = Event::Observed(Some(seen(2, &candidate.record)));
    assert!(!candidate.stands(1_020, changed, Epoch(1)));
    // The master is as silent as before, so the others are asked again at once.
    candidate.is_confirmed(1_050);
    assert!(candidate.stands(1_100, Event::Tick, Epoch(1)));
}

/// A master's message to a node that has none of its records.
fn append(epoch: u64, lacking: Option<LogId>) -> Message {
    Message::Append(Append {
        epoch: Epoch(epoch),
        prev: Position::default(),
        records: Vec::new(),
        commit: Index::ZERO,
        round: Round(1),
        clock: Version::ZERO,
        acknowledged_clock: Version::ZERO,
        echo: None,
        lacking,
    })
}

#[test]
fn a_snapshot_replaces_only_a_state_that_no_other_master_counts_on() {
    // The first log of n1 was listed; this one is another.
    let mut candidate = Candidate::with_log(LogId(8));
    let mut heard = |event| {
        let mut commands = Vec::new();
        candidate.replica.step(at(10), event, &mut commands);
        for command in commands {
            if let Command::Promise { epoch, .. } = command {
                let mut commands = Vec::new();
                let promised = Event::Promised(epoch);
                candidate.replica.step(at(10), promised, &mut commands);
            }
        }
        let by = |name, epoch| {
            candidate
                .replica
                .may_be_replaced(&process(name), Epoch(epoch))
        };
        [by("n2", 1), by("n3", 2)]
    };
    let from = |name, epoch, lacking| Event::Received(process(name), append(epoch, lacking));
    let own = Some(LogId(8));
    assert_eq!(heard(from("n2", 1, None)), [false, false]);
    assert_eq!(heard(from("n2", 1, own)), [true, false]);
    // It has the records after all, or another log is meant.
    assert_eq!(heard(from("n2", 1, None)), [false, false]);
    assert_eq!(heard(from("n2", 1, Some(LogId(7)))), [false, false]);
    assert_eq!(heard(from("n2", 1, own)), [true, false]);
    // Another master, which may count on this log from now on.
    heard(from("n3", 2, None));
    assert_eq!(heard(from("n3", 2, None)), [false, false]);
    assert_eq!(heard(from("n3", 2, own)), [false, true]);
    // The earlier one is not believed any more.
    assert_eq!(heard(from("n2", 1, own)), [false, true]);
    let mut listing = record(2, 90, Some("n3"));
    listing.state.in_sync[0].log_id = LogId(8);
    assert_eq!(heard(Event::Observed(Some(listing))), [false, false]);
}

/// A record of n1, n2 and n3, with the log 7 of n1 in sync.
fn record(epoch: u64, revision: u64, master: Option<&str>) -> Seen {
    let listed = Listed {
        node: node("n1"),
        log_id: LogId(7),
    };
    let members = ["n1", "n2", "n3"].map(node).to_vec();
    let mut state = ClusterState::vacant(Epoch(epoch), vec![listed], members);
    state.master = master.map(node);
    Seen { revision, state }
}

#[test]
fn a_node_of_several_waits_while_coordination_is_behind_what_it_saw() {
    let seen = record(5, 90, Some("n2"));
    let restored = Restored {
        log_id: LogId(7),
        last: Position::default(),
        epochs: EpochTable::default(),
        commit: Index::ZERO,
        applied: Index::ZERO,
        promised: Epoch(5),
        seen: Some(seen.clone()),
    };
    let mut replica = Replica::start(process("n1"), restored, moment().now);
    let mut step = |event| {
        let mut commands = Vec::new();
        replica.step(moment(), event, &mut commands);
        (replica.is_waiting(), commands)
    };
    step(Event::Compared);
    // A watch may be late; a read shows that it is not.
    let old = record(2, 40, None);
    let (_, commands) = step(Event::Observed(Some(old.clone())));
    assert_eq!(commands, [Command::Read]);
    let (is_waiting, commands) = step(Event::Read(Some(old.clone())));
    assert!(is_waiting);
    assert_eq!(commands, [Command::Wait(Epoch(5))]);
    for _ in 0..100 {
        assert_eq!(step(Event::Tick).1, []);
    }
    // It confirms nobody, and shows what it saw.
    let ask = Ask {
        number: 1,
        last: Position::default(),
        seen: old.order(),
    };
    let (_, commands) = step(Event::Received(process("n3"), Message::Ask(ask)));
    let [
        Command::Send {
            message: Message::Confirm(confirm),
            ..
        },
    ] = &commands[..]
    else {
        panic!("{commands:?}");
    };
    assert!(!confirm.is_granted && confirm.seen == seen.order());
    // The same record again changes nothing.
    assert_eq!(step(Event::Observed(Some(old.clone()))).1, [Command::Read]);
    assert_eq!(step(Event::Read(Some(old))), (true, Vec::new()));

    let (is_waiting, commands) = step(Event::Observed(Some(record(6, 41, None))));
    assert!(!is_waiting);
    let asks = commands.iter().filter(|command| {
        matches!(
            command,
            Command::Send {
                message: Message::Ask(_),
                ..
            }
        )
    });
    assert_eq!(asks.count(), 2, "it stands for mastership: {commands:?}");
}
