//! Stores on etcd servers, for all tests of this file.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tierkv_coordination::{
    CoordinationError, EtcdCoordination, EtcdLocation, EtcdOptions, Location, Revision, Swap,
    Versioned, etcd::MIN_LEASE_TTL,
};
use tierkv_harness::{Etcd, etcd::Setup, poll_until};
use tokio::sync::Mutex;

/// Timeout of everything that a test waits for, far above any lease or election.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Servers that tests share while they run at the same time. They end with the last of them.
pub(crate) struct Shared(Mutex<Weak<Etcd>>);

impl Shared {
    pub(crate) const fn new() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    /// The running servers, or else new ones.
    pub(crate) async fn or_start(&self, start: impl Future<Output = Etcd>) -> Arc<Etcd> {
        let mut shared = self.0.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(start.await);
        *shared = Arc::downgrade(&started);
        started
    }
}

/// One member without faults.
pub(crate) async fn one() -> Arc<Etcd> {
    static ONE: Shared = Shared::new();
    ONE.or_start(alone(Setup::default())).await
}

/// A lone member with `setup`. It need not wait long for the votes of others, so it starts fast.
pub(crate) async fn alone(mut setup: Setup) -> Etcd {
    let quick = ["--heartbeat-interval=10", "--election-timeout=100"];
    setup.arguments.extend(quick.map(str::to_owned));
    Etcd::start_as(1, &setup).await.expect("an etcd")
}

/// A platform's name that no other test has.
pub(crate) fn new_name() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", LAST.fetch_add(1, Ordering::SeqCst))
}

pub(crate) fn location(addresses: &[String], name: &str) -> EtcdLocation {
    located(&format!("etcd://{}/{name}", addresses.join(",")))
}

pub(crate) fn located(text: &str) -> EtcdLocation {
    match text.parse() {
        Ok(Location::Etcd(etcd)) => etcd,
        other => panic!("{text}: {other:?}"),
    }
}

/// A store with the shortest leases.
pub(crate) async fn connect(addresses: &[String], name: &str) -> Arc<EtcdCoordination> {
    connect_with(addresses, name, MIN_LEASE_TTL).await
}

pub(crate) async fn connect_with(
    addresses: &[String],
    name: &str,
    lease_ttl: Duration,
) -> Arc<EtcdCoordination> {
    let options = EtcdOptions {
        lease_ttl,
        ..EtcdOptions::default()
    };
    EtcdCoordination::connect(&location(addresses, name), &options)
        .await
        .expect("a store")
}

/// The revision of a change that must win.
pub(crate) fn won(swap: Result<Swap, CoordinationError>) -> Revision {
    match swap {
        Ok(Swap::Won(revision)) => revision,
        other => panic!("a change that should win ended in {other:?}"),
    }
}

/// A value.
pub(crate) fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// The value of a record that must be there.
pub(crate) fn text(record: Option<&Versioned>) -> String {
    let record = record.expect("a record");
    String::from_utf8_lossy(&record.value).into_owned()
}

/// Calls `question` until it returns `Some`.
pub(crate) async fn eventually<T, F>(what: &str, question: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    match poll_until(DEADLINE, question).await {
        Some(answer) => answer,
        None => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits for `future`.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}
