//! Several server coordinators over one coordination store: one is primary, another takes over from
//! it.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{sync::Arc, time::Duration};

use tierkv_coordination::{
    GroupMembership, LeaderElection, MemoryCoordination,
    directory::{PRIMARY, Presence, SERVER_COORDINATORS},
};
use tierkv_harness::poll_until;
use tierkv_rpc::{
    AddressedChannel, CallError, Multiplexer, channel,
    proto::internal::{Read, request},
    tiers::ToServerCoordinator,
};
use tierkv_server_coordinator::{ServerCoordinator, ServerCoordinatorSettings, StartError};
use tierkv_types::{Code, Epoch, ItemKey, NodeId, PlatformId};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

fn settings(node: &str) -> ServerCoordinatorSettings {
    ServerCoordinatorSettings::new(PlatformId(1), NodeId::new(node).unwrap())
}

async fn start(coordination: &Arc<MemoryCoordination>, node: &str) -> ServerCoordinator {
    let coordination = Arc::clone(coordination);
    ServerCoordinator::start(settings(node), coordination)
        .await
        .unwrap()
}

/// A channel to a coordinator.
fn to(coordinator: &ServerCoordinator) -> AddressedChannel {
    let channel = channel(&coordinator.address().to_string()).unwrap();
    AddressedChannel::new(channel, coordinator.name())
}

async fn until_primary(coordinator: &ServerCoordinator) -> Epoch {
    let elected = poll_until(PATIENCE, || async { coordinator.primary() });
    elected.await.expect("it becomes primary")
}

/// The coordinators that are present, with the epoch of the one that is primary.
async fn offices(coordination: &MemoryCoordination) -> Vec<(String, Option<Epoch>)> {
    let leader = coordination
        .observe_leader(PRIMARY)
        .await
        .unwrap()
        .current();
    let members = coordination.list(SERVER_COORDINATORS).await.unwrap();
    let epoch_of = |node: &str| {
        let leader = leader.as_ref().as_ref();
        let elected = leader.filter(|leader| leader.candidate == node);
        elected.map(|leader| leader.epoch)
    };
    let named = members.into_keys();
    named.map(|node| (node.clone(), epoch_of(&node))).collect()
}

fn named(offices: &[(&str, Option<Epoch>)]) -> Vec<(String, Option<Epoch>)> {
    let offices = offices.iter();
    offices
        .map(|(node, epoch)| ((*node).to_owned(), *epoch))
        .collect()
}

#[tokio::test]
async fn one_is_primary_and_the_other_follows_it() {
    let coordination = MemoryCoordination::ephemeral();
    let first = start(&coordination, "s1").await;
    let first_epoch = until_primary(&first).await;
    let second = start(&coordination, "s2").await;

    // Only one is primary.
    assert_eq!(second.primary(), None);
    let expected = named(&[("s1", Some(first_epoch)), ("s2", None)]);
    assert_eq!(offices(&coordination).await, expected);

    first.stop().await;
    let second_epoch = until_primary(&second).await;
    assert!(second_epoch > first_epoch);
    let expected = named(&[("s2", Some(second_epoch))]);
    assert_eq!(offices(&coordination).await, expected);

    // A coordinator that returns under its old name is a backup.
    let returned = start(&coordination, "s1").await;
    let expected = named(&[("s1", None), ("s2", Some(second_epoch))]);
    assert_eq!(offices(&coordination).await, expected);
    assert_eq!(returned.primary(), None);
    second.stop().await;
    assert!(until_primary(&returned).await > second_epoch);
    returned.stop().await;
    assert!(
        coordination
            .list(SERVER_COORDINATORS)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn many_candidates_have_one_primary_at_a_time() {
    let coordination = MemoryCoordination::ephemeral();
    let mut standing = Vec::new();
    for n in 1..=5 {
        standing.push(start(&coordination, &format!("s{n}")).await);
    }
    let mut last = Epoch::ZERO;
    while !standing.is_empty() {
        let at = poll_until(PATIENCE, || async {
            standing
                .iter()
                .position(|candidate| candidate.primary() > Some(last))
        });
        let at = at.await.expect("a primary of a later epoch");
        let primaries = standing
            .iter()
            .filter(|candidate| candidate.primary().is_some());
        assert_eq!(primaries.count(), 1);
        let epoch = standing[at].primary().unwrap();
        let leader = coordination.observe_leader(PRIMARY).await.unwrap();
        let current = leader.current();
        assert_eq!(
            current.as_ref().as_ref().map(|leader| leader.epoch),
            Some(epoch)
        );
        last = epoch;
        standing.remove(at).stop().await;
    }
}

#[tokio::test]
async fn one_whose_lease_ends_steps_down_and_stands_again() {
    let coordination = MemoryCoordination::ephemeral();
    let first = start(&coordination, "s1").await;
    let second = start(&coordination, "s2").await;
    let epoch = until_primary(&first).await;
    assert!(coordination.expire(PRIMARY, "s1"));
    let next = until_primary(&second).await;
    assert!(next > epoch);
    let stepped_down = poll_until(PATIENCE, || async {
        first.primary().is_none().then_some(())
    });
    stepped_down
        .await
        .expect("the first is notified of its loss");
    second.stop().await;
    let again = poll_until(PATIENCE, || async {
        first.primary().filter(|again| *again > next)
    });
    again.await.expect("the first stands again");
    first.stop().await;
}

#[tokio::test]
async fn one_whose_presence_lapses_is_present_again_and_stays_primary() {
    let coordination = MemoryCoordination::ephemeral();
    let first = start(&coordination, "s1").await;
    let epoch = until_primary(&first).await;
    let mut members = coordination.observe(SERVER_COORDINATORS).await.unwrap();
    let listed = members.current();
    for _ in 0..3 {
        assert!(coordination.expire(SERVER_COORDINATORS, "s1"));
        let again = members.wait_for(|members| *members == *listed);
        timeout(PATIENCE, again).await.unwrap().unwrap();
    }
    assert_eq!(first.primary(), Some(epoch));
    first.stop().await;
}

#[tokio::test]
async fn a_quick_restart_serves_while_it_waits_for_its_name() {
    let coordination = MemoryCoordination::ephemeral();
    // The process before was killed; its lease lives on.
    let earlier = Presence {
        address: "127.0.0.1:1".to_owned(),
        ..Presence::of_this_process(String::new())
    };
    let lease = coordination.join(SERVER_COORDINATORS, "s1", earlier.encode());
    let lease = lease.await.unwrap();
    let returned = start(&coordination, "s1").await;
    until_primary(&returned).await;
    assert_eq!(offices(&coordination).await.len(), 1);
    drop(lease);
    let mut members = coordination.observe(SERVER_COORDINATORS).await.unwrap();
    let own = returned.address().to_string();
    let present = members.wait_for(|members| {
        let data = members.get("s1").and_then(|data| Presence::decode(data));
        data.is_some_and(|presence| presence.address == own)
    });
    timeout(PATIENCE, present).await.unwrap().unwrap();
    returned.stop().await;
}

#[tokio::test]
async fn a_name_is_taken_once_and_so_is_an_address() {
    let coordination = MemoryCoordination::ephemeral();
    let first = start(&coordination, "s1").await;
    let twin = start(&coordination, "s1").await;
    // It can't tell at once whether the name's process lives; the first one notices nothing.
    let why = tokio::select! {
        why = twin.failed() => why,
        why = first.failed() => panic!("the first one fails: {why}"),
    };
    let own = Presence::of_this_process(String::new());
    let (pid, address) = (format!("pid {}", own.pid), first.address().to_string());
    for part in ["'s1'", &pid, &own.host, &address] {
        assert!(why.contains(part), "{part}: {why}");
    }
    twin.stop().await;
    let listed = coordination.list(SERVER_COORDINATORS).await.unwrap();
    let presence = Presence::decode(&listed["s1"]).unwrap();
    assert_eq!(presence.address, address);
    let mut elsewhere = settings("s2");
    elsewhere.listen = first.address();
    let neighbour = ServerCoordinator::start(elsewhere, Arc::clone(&coordination) as _);
    let error = neighbour.await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&first.address().to_string()));
    first.stop().await;
}

#[tokio::test]
async fn without_a_data_node_requests_are_refused_within_their_time() {
    let coordination = MemoryCoordination::ephemeral();
    let coordinator = start(&coordination, "s1").await;
    let caller: Multiplexer<ToServerCoordinator> = Multiplexer::new(vec![to(&coordinator)], 8);
    let read = request::Kind::Read(Read {
        item_key: ItemKey::new("n", b"k").unwrap().into(),
        ..Read::default()
    });
    // Whether the placement map or the master is missing: nothing was done, and the error arrives
    // shortly before the deadline. On a slow machine it may be too late.
    let refused = poll_until(PATIENCE, || async {
        let deadline = Instant::now() + Duration::from_millis(300);
        match caller.call(read.clone(), deadline).await.unwrap_err() {
            CallError::Refused(refused) => Some(refused),
            error => {
                assert_eq!(error.for_read().code, Code::DeadlineExceeded);
                None
            }
        }
    });
    assert_eq!(refused.await.unwrap().code, Code::Unavailable);
    coordinator.stop().await;
}
