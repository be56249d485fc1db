//! Members that die, are paused, and all stop and start again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierkv_coordination::{
    ConfigStore, CoordinationError, GroupMembership, LeaderElection, Standing, Watch,
    directory::{DATA_NODES, Presence},
    presence::{NAME_PATIENCE, PresenceKeeper},
};
use tierkv_harness::{Etcd, etcd::Setup};

use crate::servers::{connect, connect_with, eventually, text, value, within, won};

/// The time to live of leases that must outlive an election of etcd.
const TTL: Duration = Duration::from_secs(5);
/// Timeout of a call of the store.
const CALL_LIMIT: Duration = Duration::from_secs(2);

async fn client(address: &String) -> etcd_client::Client {
    etcd_client::Client::connect([address], None)
        .await
        .expect("a client")
}

/// Makes the member `at` the leader of the cluster.
async fn lead(addresses: &[String], at: usize) {
    let status = client(&addresses[at])
        .await
        .status()
        .await
        .expect("a status");
    let wanted = status.header().expect("a header").member_id();
    eventually("the leader", || async {
        for address in addresses {
            let mut client = client(address).await;
            let status = client.status().await.ok()?;
            if status.leader() == wanted {
                return Some(());
            }
            if status.leader() == status.header()?.member_id() {
                // It may be moving already.
                drop(client.move_leader(wanted).await);
            }
        }
        None
    })
    .await;
}

/// Reads, changes, watches, members and candidates go on while the first of three members fails,
/// which is the one that the store uses. Returns how long the first call took.
async fn goes_on(etcd: &mut Etcd, fault: impl FnOnce(&mut Etcd)) -> Duration {
    let addresses = etcd.addresses();
    let store = connect_with(&addresses, "one", TTL).await;
    let other = connect(&addresses[1..], "one").await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let mut watched = store.watch("key").await.expect("a watch");
    let mut leader = other.observe_leader("office").await.expect("a watch");
    let member = store.join("group", "one", value("data")).await;
    let member = member.expect("a membership");
    let candidacy = store.nominate("office", "one", Bytes::new()).await;
    let mut candidacy = candidacy.expect("a candidacy");
    let epoch = within("leadership", candidacy.leading()).await;
    let epoch = epoch.expect("the candidacy lives");

    let failed = Instant::now();
    fault(etcd);
    let seen = eventually("a read", || async { store.get("key").await.ok() }).await;
    let took = failed.elapsed();
    assert_eq!(text(seen.as_ref()), "1");
    // The member that failed is not asked again, so this has a certain outcome.
    let second = won(store.compare_and_swap("key", first, value("2")).await);
    let newest = within(
        "the watch",
        watched.wait_for(|it| it.as_ref().is_some_and(|it| it.revision == second)),
    );
    newest.await.expect("the store lives");

    // Longer than any lease lives without its renewals.
    while failed.elapsed() < TTL + Duration::from_secs(1) {
        assert_eq!(candidacy.standing(), Standing::Leading(epoch));
        assert!(!member.is_lost());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let members = other.list("group").await.expect("a list");
    assert_eq!(members, BTreeMap::from([("one".to_owned(), value("data"))]));
    let leads = within(
        "the observer",
        leader.wait_for(|it| it.as_ref().is_some_and(|it| it.epoch == epoch)),
    );
    leads.await.expect("the store lives");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_member_costs_one_timeout() {
    let mut etcd = Etcd::start(3).await.expect("an etcd");
    // The cluster itself goes on at once.
    lead(&etcd.addresses(), 1).await;
    let took = goes_on(&mut etcd, |etcd| etcd.process(0).pause().expect("a pause")).await;
    assert!(took < CALL_LIMIT, "the first read took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced() {
    // A new leader is elected within two of these, which a lease outlives.
    let arguments = ["--heartbeat-interval=50", "--election-timeout=500"];
    let setup = Setup {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let mut etcd = Etcd::start_as(3, &setup).await.expect("an etcd");
    lead(&etcd.addresses(), 0).await;
    goes_on(&mut etcd, |etcd| etcd.process(0).kill9().expect("a kill")).await;
}

fn presence(pid: u32) -> Presence {
    Presence {
        address: format!("127.0.0.1:{pid}"),
        host: "alpha".to_owned(),
        pid,
        incarnation: u64::from(pid),
        cluster: None,
        rest: None,
        max_staleness_ms: None,
    }
}

/// A new leader lets the lease of a process that died begin anew, so its name is held for longer
/// than a lease lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_makes_no_name_taken() {
    let etcd = Etcd::start(3).await.expect("an etcd");
    let addresses = etcd.addresses();
    lead(&addresses, 0).await;
    let died = connect_with(&addresses, "one", TTL).await;
    let member = died.join(DATA_NODES, "n1", presence(1).encode()).await;
    let _member = member.expect("a membership");
    died.cut_off(DATA_NODES, "n1");
    let store = connect_with(&addresses, "one", TTL).await;
    let (began, own) = (Instant::now(), presence(2));
    let keeper = PresenceKeeper::start(store.clone(), DATA_NODES, "n1", own.clone()).await;
    let keeper = keeper.expect("a keeper");
    // Most of the lease passes under the old leader.
    tokio::time::sleep(TTL * 3 / 5).await;
    lead(&addresses, 1).await;
    let listed = eventually("the presence", || async {
        let members = store.list(DATA_NODES).await.ok()?;
        (members.get("n1") == Some(&own.encode())).then_some(())
    });
    tokio::select! {
        () = listed => {}
        why = keeper.taken() => panic!("{why}"),
    }
    // Otherwise this test would show nothing.
    assert!(began.elapsed() > NAME_PATIENCE, "{:?}", began.elapsed());
    keeper.leave().await;
}

/// A store that is not there makes no change, and all goes on once it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_stop_and_start_again() {
    let mut etcd = Etcd::start(3).await.expect("an etcd");
    let addresses = etcd.addresses();
    let store = connect(&addresses, "one").await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let mut one = store.watch("key").await.expect("a watch");
    let mut all = store.watch_prefix("").await.expect("a watch");
    let mut members = store.observe("group").await.expect("a watch");
    let member = store.join("group", "one", Bytes::new()).await;
    let mut member = member.expect("a membership");
    let candidacy = store.nominate("office", "one", Bytes::new()).await;
    let mut candidacy = candidacy.expect("a candidacy");
    let epoch = within("leadership", candidacy.leading()).await;
    let epoch = epoch.expect("the candidacy lives");

    etcd.kill9().expect("a kill");
    let down = store.compare_and_swap("key", first, value("lost")).await;
    assert!(
        matches!(
            down,
            Err(CoordinationError::Unavailable(_) | CoordinationError::OutcomeUnknown(_))
        ),
        "{down:?}"
    );
    let down = store.compare_and_swap("key", first, value("lost")).await;
    // By now, the broken connections are known: nothing was sent.
    assert!(
        matches!(down, Err(CoordinationError::Unavailable(_))),
        "{down:?}"
    );
    let late = connect(&addresses, "one").await;
    let read = late.get("key").await;
    assert!(
        matches!(read, Err(CoordinationError::Unavailable(_))),
        "{read:?}"
    );
    within("the loss", member.lost()).await;
    within("the loss", async {
        while candidacy.standing() != Standing::Lost {
            candidacy.changed().await;
        }
    })
    .await;
    assert_eq!(text(one.current().as_ref().as_ref()), "1");

    for at in 0..3 {
        etcd.start_again(at).expect("a start");
    }
    etcd.come_up().await.expect("the cluster");
    let seen = eventually("a read", || async { late.get("key").await.ok() }).await;
    assert_eq!(text(seen.as_ref()), "1", "a change that was not made");
    let second = won(late.compare_and_swap("key", first, value("2")).await);
    let newest = one.wait_for(|it| it.as_ref().is_some_and(|it| it.revision == second));
    within("the watch", newest).await.expect("the store lives");
    let newest = all.wait_for(|it| it.get("key").is_some_and(|it| it.revision == second));
    within("the prefix", newest).await.expect("the store lives");
    let gone = members.wait_for(BTreeMap::is_empty);
    within("the old lease", gone)
        .await
        .expect("the store lives");

    let again = store.nominate("office", "two", Bytes::new()).await;
    let mut again = again.expect("a candidacy");
    let later = within("leadership", again.leading()).await;
    assert!(later.expect("the candidacy lives") > epoch);
}
