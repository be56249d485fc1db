//! COORD-BACK: another cluster at the same address, or an older state of it, is noticed.

use tierkv_coordination::{ConfigStore, CoordinationError};
use tierkv_harness::{Line, Proxy, etcd::Setup};

use crate::servers::{alone, connect, eventually, one, value, won};

fn storage(error: CoordinationError) -> String {
    match error {
        CoordinationError::Storage(why) => why,
        other => panic!("not an error of the store itself: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() {
    let server = one().await;
    let other = alone(Setup::default()).await;
    let line = Proxy::start(&server.addresses()[0]).await.expect("a line");
    let store = connect(std::slice::from_ref(&line.address), "identity").await;
    won(store.put_if_absent("key", value("1")).await);

    line.turn_to(&other.addresses()[0]);
    line.set_line(Line::Closed);
    line.set_line(Line::Open);
    let refused = eventually("a refusal", || async {
        match store.get("key").await {
            Err(CoordinationError::Unavailable(_)) => None,
            other => Some(other),
        }
    });
    let why = storage(refused.await.expect_err("an answer of another cluster"));
    assert!(why.contains("check the endpoints"), "{why}");
    let change = store.put_if_absent("other", value("1")).await;
    assert!(
        matches!(
            change,
            Err(CoordinationError::Storage(_) | CoordinationError::OutcomeUnknown(_))
        ),
        "{change:?}"
    );

    line.turn_to(&server.addresses()[0]);
    line.set_line(Line::Closed);
    line.set_line(Line::Open);
    let seen = eventually("the first cluster", || async {
        store.get("key").await.ok()
    });
    assert!(seen.await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_changes_is_refused() {
    let mut server = alone(Setup::default()).await;
    let store = connect(&server.addresses(), "one").await;
    let first = won(store.put_if_absent("key", value("1")).await);
    won(store.compare_and_swap("key", first, value("2")).await);

    server.kill9().expect("a kill");
    server.wipe(0).expect("an empty disk");
    server.start_again(0).expect("a start");
    server.come_up().await.expect("the server");
    let refused = eventually("a refusal", || async {
        match store.get("key").await {
            Err(CoordinationError::Unavailable(_)) => None,
            other => Some(other),
        }
    });
    let why = storage(refused.await.expect_err("an answer of an older state"));
    assert!(why.contains("lost changes"), "{why}");
    let change = store.put_if_absent("key", value("3")).await;
    assert!(
        matches!(
            change,
            Err(CoordinationError::Storage(_) | CoordinationError::OutcomeUnknown(_))
        ),
        "{change:?}"
    );
}
