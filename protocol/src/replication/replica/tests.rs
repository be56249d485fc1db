//! What a machine does about records that come late.

use super::*;
use crate::replication::Listed;

fn me() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn record(revision: u64, epoch: u64) -> Option<(u64, ClusterState)> {
    let listed = Listed {
        node: me(),
        log_id: LogId(1),
    };
    let state = match epoch {
        0 => ClusterState::unfounded(vec![me()], 1_000),
        _ => ClusterState::new(Epoch(epoch), me(), vec![listed], vec![me()]),
    };
    Some((revision, state))
}

/// A node whose earlier process promised epoch 1, and may have a swap under way.
fn restarted() -> Replica {
    let restored = Restored {
        log_id: LogId(1),
        last: Position::default(),
        commit: Index::ZERO,
        applied: Index::ZERO,
        promised: Epoch(1),
        seen: None,
    };
    Replica::start(me(), restored, BootTime::default())
}

fn commanded(replica: &mut Replica, event: Event) -> Vec<Command> {
    let mut commands = Vec::new();
    replica.step(BootTime::default(), event, &mut commands);
    commands
}

/// The earlier process's swap lands, this one's is lost, and a read is asked for. While it
/// is under way the node takes office all the same, and a watch shows an old record: what
/// the read then finds is old, and no sign that coordination forgot.
#[test]
fn a_read_that_was_under_way_is_not_held_against_what_was_learned_since() {
    let mut replica = restarted();
    assert_eq!(commanded(&mut replica, Event::Observed(None)), []);
    commanded(&mut replica, Event::Observed(record(1, 0)));
    let swap = commanded(&mut replica, Event::Promised(Epoch(2)));
    assert!(matches!(swap[..], [Command::Swap { expected: 1, .. }]));
    let lost = commanded(&mut replica, Event::Swapped(SwapOutcome::Lost));
    assert_eq!(lost, [Command::Read]);

    commanded(&mut replica, Event::Observed(record(2, 1)));
    commanded(&mut replica, Event::Promised(Epoch(3)));
    commanded(&mut replica, Event::Swapped(SwapOutcome::Won(3)));
    assert_eq!(replica.mastership().map(Mastership::epoch), Some(Epoch(3)));
    let shown = commanded(&mut replica, Event::Observed(None));
    assert_eq!(shown, [], "a read is under way");

    let found = commanded(&mut replica, Event::Read(record(2, 1)));
    assert_eq!(found, [Command::Read], "it is read again");
    let found = commanded(&mut replica, Event::Read(record(3, 3)));
    assert_eq!(found, []);
    let forgot = commanded(&mut replica, Event::Observed(None));
    assert_eq!(forgot, [Command::Read]);
    let forgot = commanded(&mut replica, Event::Read(None));
    assert!(matches!(forgot[..], [Command::Halt(_)]));
}

/// A log that is not empty belongs to another cluster, and a founder that crashed after its promise
/// founds with its next start.
#[test]
fn only_an_empty_log_founds_a_cluster() {
    let mut founder = restarted();
    let promise = commanded(&mut founder, Event::Observed(record(1, 0)));
    let [Command::Promise { epoch, seen: None }] = promise[..] else {
        panic!("{promise:?}");
    };
    assert_eq!(epoch, Epoch(2));
    let swap = commanded(&mut founder, Event::Promised(epoch));
    let [Command::Swap { expected: 1, state }] = &swap[..] else {
        panic!("{swap:?}");
    };
    assert!(state.lists(&me(), LogId(1)) && state.master == Some(me()));

    let used = Restored {
        log_id: LogId(1),
        last: Position {
            epoch: Epoch(4),
            index: Index(9),
        },
        commit: Index(9),
        applied: Index(9),
        promised: Epoch(4),
        seen: None,
    };
    let mut other = Replica::start(me(), used, BootTime::default());
    let refused = commanded(&mut other, Event::Observed(record(1, 0)));
    assert!(matches!(&refused[..], [Command::Halt(why)] if why.contains("another cluster")));
}
