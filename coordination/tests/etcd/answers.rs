//! Lost requests and answers: the outcome is reported as unknown, and COORD-CAS settles it.

use std::sync::Arc;

use bytes::Bytes;
use tierkv_coordination::{
    ConfigStore, CoordinationError, EtcdCoordination, GroupMembership, Revision, Swap,
};
use tierkv_harness::{Etcd, Line, Proxy};
use tokio::task::JoinHandle;

use crate::servers::{connect, eventually, new_name, one, text, value, within, won};

/// More bytes than connections send by themselves between two requests.
const MORE_THAN_A_PING: usize = 64;

/// A store behind a line that can lose answers, and another that sees what happened.
struct Stage {
    line: Proxy,
    store: Arc<EtcdCoordination>,
    witness: Arc<EtcdCoordination>,
    /// The revision of the record `key`, whose value is `old`.
    created: Revision,
    _server: Arc<Etcd>,
}

impl Stage {
    async fn new() -> Self {
        let server = one().await;
        let name = new_name();
        let line = Proxy::start(&server.addresses()[0]).await.expect("a line");
        let store = connect(std::slice::from_ref(&line.address), &name).await;
        let witness = connect(&server.addresses(), &name).await;
        let created = won(store.put_if_absent("key", value("old")).await);
        Self {
            line,
            store,
            witness,
            created,
            _server: server,
        }
    }

    /// Starts a change of the record.
    fn change(&self) -> JoinHandle<Result<Swap, CoordinationError>> {
        let (store, created) = (Arc::clone(&self.store), self.created);
        tokio::spawn(async move { store.compare_and_swap("key", created, value("new")).await })
    }

    /// Closes the line, so that the outcome of `change` is known to be unknown, and opens it.
    /// Returns once the store has a connection that was made afterwards: one that was made before
    /// may still end with a request on it.
    async fn cut(&self, change: JoinHandle<Result<Swap, CoordinationError>>) {
        self.line.set_line(Line::Closed);
        let outcome = within("the outcome", change).await.expect("no panic");
        assert!(
            matches!(outcome, Err(CoordinationError::OutcomeUnknown(_))),
            "{outcome:?}"
        );
        self.line.set_line(Line::Open);
        eventually("a read", || async { self.store.get("key").await.ok() }).await;
    }

    /// Swaps again, until the outcome of that is certain.
    async fn swap_again(&self) -> Swap {
        eventually("a certain outcome", || async {
            let swap = self
                .store
                .compare_and_swap("key", self.created, value("again"));
            match swap.await {
                Ok(swap) => Some(swap),
                Err(CoordinationError::Unavailable(_)) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_was_lost_is_settled_by_swapping_again() {
    let stage = Stage::new().await;
    stage.line.set_line(Line::AnswersLost);
    let change = stage.change();
    let happened = eventually("the change", || async {
        let seen = stage.witness.get("key").await.expect("a read");
        seen.filter(|seen| seen.value == value("new"))
    })
    .await;
    stage.cut(change).await;
    assert_eq!(stage.swap_again().await, Swap::Lost);
    let settled = stage.store.get("key").await.expect("a read");
    assert_eq!(settled, Some(happened), "it had happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_request_was_lost_is_settled_by_swapping_again() {
    let stage = Stage::new().await;
    stage.line.set_line(Line::Silent);
    let change = stage.change();
    eventually("the request", || async {
        (stage.line.lost_bytes() > MORE_THAN_A_PING).then_some(())
    })
    .await;
    stage.cut(change).await;
    let seen = stage.witness.get("key").await.expect("a read");
    assert_eq!(text(seen.as_ref()), "old");
    assert!(
        stage.swap_again().await.won().is_some(),
        "it had not happened"
    );
    let settled = stage.store.get("key").await.expect("a read");
    assert_eq!(text(settled.as_ref()), "again");
}

/// A change over a silent line ends by its timeout, and reads fail with a certain outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_line_ends_in_a_timeout() {
    let stage = Stage::new().await;
    stage.line.set_line(Line::Silent);
    let outcome = within("the timeout", stage.change())
        .await
        .expect("no panic");
    assert!(
        matches!(outcome, Err(CoordinationError::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    let read = within("the timeout", stage.store.get("key")).await;
    assert!(
        matches!(read, Err(CoordinationError::Unavailable(_))),
        "{read:?}"
    );
    // A change that found no answering connection was not sent.
    let outcome = within("the timeout", stage.change())
        .await
        .expect("no panic");
    assert!(
        matches!(outcome, Err(CoordinationError::Unavailable(_))),
        "{outcome:?}"
    );
}

/// A membership whose answers were lost leaves nothing behind for longer than a lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_membership_does_not_keep_its_name() {
    let stage = Stage::new().await;
    stage.line.set_line(Line::AnswersLost);
    let joined = within(
        "the outcome",
        stage.store.join("group", "one", Bytes::new()),
    )
    .await;
    assert!(
        matches!(joined, Err(CoordinationError::Unavailable(_))),
        "{joined:?}"
    );
    stage.line.set_line(Line::Closed);
    stage.line.set_line(Line::Open);
    let joined = eventually("the name", || async {
        stage.store.join("group", "one", Bytes::new()).await.ok()
    });
    assert!(!joined.await.is_lost());
}
