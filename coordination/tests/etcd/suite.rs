//! The conformance suite.

use std::sync::Arc;

use async_trait::async_trait;
use tierkv_coordination::{
    ConfigStore, Coordination, EtcdCoordination, conformance::Backend, coordination_conformance,
};
use tierkv_harness::{Etcd, etcd::Setup};

use crate::servers::{Shared, alone, connect, eventually, new_name, one};

/// A store on servers that tests share, under a name of its own.
struct OnShared {
    store: Arc<EtcdCoordination>,
    _servers: Arc<Etcd>,
}

impl OnShared {
    async fn new(servers: Arc<Etcd>) -> Self {
        let store = connect(&servers.addresses(), &new_name()).await;
        Self {
            store,
            _servers: servers,
        }
    }

    /// On three members, the first of which does not answer.
    async fn on_two_of_three(servers: Arc<Etcd>) -> Self {
        let this = Self::new(servers).await;
        // The first call finds that out; a member that was down or paused before the first change
        // makes none of them unknown.
        let first = this.store.put_if_absent("of-two-of-three", "".into()).await;
        assert!(first.is_ok(), "{first:?}");
        this
    }
}

#[async_trait]
impl Backend for OnShared {
    fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::<EtcdCoordination>::clone(&self.store)
    }

    async fn expire_member(&mut self, group: &str, member: &str) {
        self.store.cut_off(group, member);
    }

    async fn expire_candidate(&mut self, election: &str, candidate: &str) {
        self.store.cut_off(election, candidate);
    }

    async fn restart(&mut self) -> bool {
        panic!("other tests use these servers, too");
    }
}

/// A store on a server of its own.
struct OnOwn {
    store: Option<Arc<EtcdCoordination>>,
    server: Etcd,
}

impl OnOwn {
    async fn new() -> Self {
        let server = alone(Setup::default()).await;
        let store = connect(&server.addresses(), "own").await;
        Self {
            store: Some(store),
            server,
        }
    }
}

#[async_trait]
impl Backend for OnOwn {
    fn coordination(&self) -> Arc<dyn Coordination> {
        let store = self.store.as_ref().expect("the store is open");
        Arc::<EtcdCoordination>::clone(store)
    }

    async fn expire_member(&mut self, _: &str, _: &str) {
        panic!("the scenarios with restarts let no lease end");
    }

    async fn expire_candidate(&mut self, _: &str, _: &str) {
        panic!("the scenarios with restarts let no lease end");
    }

    async fn restart(&mut self) -> bool {
        self.store = None;
        self.server.restart().await.expect("a restart");
        self.store = Some(connect(&self.server.addresses(), "own").await);
        true
    }
}

/// Three members, the first of which is disturbed by `fault`.
async fn three(fault: impl FnOnce(&mut Etcd)) -> Etcd {
    let mut servers = Etcd::start(3).await.expect("an etcd");
    fault(&mut servers);
    for at in 1..3 {
        servers.member_up(at).await.expect("a majority");
    }
    // A majority answers, but may still lose its leader for a moment.
    let store = connect(&servers.addresses()[1..], "settled").await;
    eventually("a settled cluster", || async {
        store.get("any").await.ok()
    })
    .await;
    servers
}

mod one_member {
    use super::*;

    coordination_conformance!(at_once without_faults: OnShared::new(one().await).await);
    coordination_conformance!(restarts: OnOwn::new().await);
}

mod three_members {
    use super::*;

    static KILLED: Shared = Shared::new();
    static PAUSED: Shared = Shared::new();

    coordination_conformance!(at_once with_one_killed: {
        let killed = three(|servers| servers.process(0).kill9().expect("a kill"));
        OnShared::on_two_of_three(KILLED.or_start(killed).await).await
    });

    coordination_conformance!(at_once with_one_paused: {
        let paused = three(|servers| servers.process(0).pause().expect("a pause"));
        OnShared::on_two_of_three(PAUSED.or_start(paused).await).await
    });
}
