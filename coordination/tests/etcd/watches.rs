//! Compaction, silence, and the end of watches.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tierkv_coordination::{
    ConfigStore, CoordinationError, EtcdCoordination, GroupMembership, LeaderElection, Revision,
    Standing, Watch,
};
use tierkv_harness::{Line, Proxy, etcd::Setup};
use tokio::runtime::Handle;

use crate::servers::{alone, connect, eventually, new_name, one, value, within, won};

const LISTENERS: usize = 20;

/// Changes the record until etcd has compacted the revision `compacted`.
async fn change_until_compacted(
    store: &EtcdCoordination,
    address: &str,
    mut last: Revision,
    compacted: Revision,
) -> Revision {
    let client = etcd_client::Client::connect([address], None).await;
    let client = client.expect("a client");
    let at = i64::try_from(compacted.0).expect("a revision");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        last = won(store.compare_and_swap("key", last, value("newer")).await);
        let old = etcd_client::GetOptions::new().with_revision(at);
        match client.kv_client().get("any", Some(old)).await {
            Err(etcd_client::Error::GRpcStatus(status))
                if status.message().contains("compacted") =>
            {
                return last;
            }
            other => drop(other.expect("a read")),
        }
        assert!(tokio::time::Instant::now() < deadline, "no compaction");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a watch of which nothing is heard missed is compacted meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_a_compaction_of_what_it_missed() {
    let setup = Setup {
        arguments: vec!["--auto-compaction-retention=1s".to_owned()],
        ..Setup::default()
    };
    let etcd = alone(setup).await;
    let address = etcd.addresses().remove(0);
    let line = Proxy::start(&address).await.expect("a line");
    let store = connect(std::slice::from_ref(&line.address), "one").await;
    let direct = connect(std::slice::from_ref(&address), "one").await;
    let first = won(direct.put_if_absent("key", value("first")).await);
    let mut watched = store.watch("key").await.expect("a watch");
    let mut prefix = store.watch_prefix("k").await.expect("a watch");

    line.set_line(Line::Silent);
    let last = change_until_compacted(&direct, &address, first, first).await;
    line.set_line(Line::Closed);
    line.set_line(Line::Open);
    let newest = watched.wait_for(|it| it.as_ref().is_some_and(|it| it.revision == last));
    within("the watch", newest).await.expect("the store lives");
    let newest = prefix.wait_for(|it| it.get("key").is_some_and(|it| it.revision == last));
    within("the prefix", newest).await.expect("the store lives");
}

/// A line on which nothing is heard any more, though it is open, is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_watch_goes_on_at_another_endpoint() {
    let server = one().await;
    let address = server.addresses().remove(0);
    let name = new_name();
    let line = Proxy::start(&address).await.expect("a line");
    let store = connect(&[line.address.clone(), address.clone()], &name).await;
    let direct = connect(&[address], &name).await;
    let mut watched = store.watch("key").await.expect("a watch");
    line.set_line(Line::Silent);
    won(direct.put_if_absent("key", value("1")).await);
    let newest = watched.wait_for(Option::is_some);
    within("the watch", newest).await.expect("the store lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_are_notified_of_the_end_of_their_store() {
    let server = one().await;
    let name = new_name();
    let store = connect(&server.addresses(), &name).await;
    let mut watched = store.watch("key").await.expect("a watch");
    let member = store.join("group", "one", Bytes::new()).await;
    let mut member = member.expect("a membership");
    let candidacy = store.nominate("office", "one", Bytes::new()).await;
    let mut candidacy = candidacy.expect("a candidacy");
    assert!(within("leadership", candidacy.leading()).await.is_some());
    drop(store);
    let closed = within("the end", watched.changed()).await;
    assert_eq!(closed, Err(CoordinationError::Closed));
    within("the loss", member.lost()).await;
    assert!(member.is_lost());
    within("the loss", async {
        while candidacy.changed().await != Standing::Lost {}
    })
    .await;
    assert_eq!(candidacy.leading().await, None);
    // Their names are free again.
    let store = connect(&server.addresses(), &name).await;
    let again = eventually("the name", || async {
        store.join("group", "one", Bytes::new()).await.ok()
    });
    drop((again.await, member, candidacy));
}

/// No task outlives the last listener or holder that it works for.
#[tokio::test]
async fn tasks_end_with_their_last_handle() {
    let server = one().await;
    let store = connect(&server.addresses(), &new_name()).await;
    assert_eq!(store.get("key").await, Ok(None));
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut watches = Vec::new();
    for _ in 0..LISTENERS {
        let watched = store.watch("key").await.expect("a watch");
        watches.push((watched.clone(), watched));
    }
    let member = store.join("group", "one", Bytes::new()).await;
    let candidacy = store.nominate("office", "one", Bytes::new()).await;
    let handles = (
        member.expect("a membership"),
        candidacy.expect("a candidacy"),
    );
    assert!(tasks() > before + LISTENERS);
    drop((watches, handles));
    eventually("the end of the tasks", || async {
        (tasks() <= before).then_some(())
    })
    .await;
    assert_eq!(Arc::strong_count(&store), 1);
}
