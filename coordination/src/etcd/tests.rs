//! What only the inside of the backend can bring about, on a real etcd.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use tierkv_harness::Etcd;

use super::{claim::revoke, *};
use crate::location::Location;

const DEADLINE: Duration = Duration::from_secs(30);

async fn store() -> (Etcd, Arc<EtcdCoordination>) {
    let etcd = Etcd::start(1).await.unwrap();
    let text = format!("etcd://{}/inside", etcd.addresses()[0]);
    let Ok(Location::Etcd(location)) = text.parse() else {
        panic!("{text} is no location");
    };
    let options = EtcdOptions::default();
    let store = EtcdCoordination::connect(&location, &options).await;
    (etcd, store.unwrap())
}

/// A creation whose answer was lost is sent again, and must find its own key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_is_sent_twice_happens_once() {
    let (_etcd, store) = store().await;
    let claims = &store.claims;
    let key = store.layout.group("group").under("one");
    let (lease, _) = claims.grant().await.unwrap();
    let first = claims.create(&key, Bytes::new(), lease).await.unwrap();
    assert!(first.is_some());
    let again = claims.create(&key, Bytes::new(), lease).await.unwrap();
    assert_eq!(again, first);

    let (other, _) = claims.grant().await.unwrap();
    let taken = claims.create(&key, Bytes::new(), other).await.unwrap();
    assert_eq!(taken, None);

    // A creation that arrives after the claim was released does nothing.
    revoke(&store.cluster, lease).await.unwrap();
    revoke(&store.cluster, lease).await.unwrap();
    let late = claims.create(&key, Bytes::new(), lease).await;
    assert!(
        matches!(late, Err(CoordinationError::Unavailable(_))),
        "{late:?}"
    );
    assert!(store.list("group").await.unwrap().is_empty());
}

/// etcd cancels a watch from a compacted revision by an ordinary answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_a_compacted_revision_reads_again() {
    let (etcd, store) = store().await;
    let range = store.layout.record("key");
    let mut newest = store
        .put_if_absent("key", Bytes::new())
        .await
        .unwrap()
        .won()
        .unwrap();
    let old = Snapshot::read(&store.cluster, &range).await.unwrap();
    for _ in 0..3 {
        let swap = store.compare_and_swap("key", newest, Bytes::new()).await;
        newest = swap.unwrap().won().unwrap();
    }
    let client = Client::connect(etcd.addresses(), None).await.unwrap();
    let physical = CompactionOptions::new().with_physical();
    let at = i64::try_from(newest.0).unwrap();
    client
        .kv_client()
        .compact(at, Some(physical))
        .await
        .unwrap();

    let mut seen = Vec::new();
    let following = follow(&store.cluster, &range, Some(old), |snapshot| {
        let revision = record(snapshot).map(|it| it.revision);
        seen.push(revision);
        if revision == Some(newest) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    tokio::time::timeout(DEADLINE, following).await.unwrap();
    assert_eq!(seen.len(), 2, "the states between are gone: {seen:?}");
}

/// A lease that an operator revokes is lost, long before its term would be over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_lease_is_noticed() {
    let (etcd, store) = store().await;
    let mut member = store.join("group", "one", Bytes::new()).await.unwrap();
    let candidacy = store.nominate("office", "one", Bytes::new()).await;
    let mut candidacy = candidacy.unwrap();
    assert!(candidacy.leading().await.is_some());
    let client = Client::connect(etcd.addresses(), None).await.unwrap();
    for lease in client.lease_client().leases().await.unwrap().leases() {
        client.lease_client().revoke(lease.id()).await.unwrap();
    }
    let lost = async {
        member.lost().await;
        while candidacy.standing() != Standing::Lost {
            candidacy.changed().await;
        }
    };
    tokio::time::timeout(DEADLINE, lost).await.unwrap();
}
