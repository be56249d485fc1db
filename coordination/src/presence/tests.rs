use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::*;
use crate::{directory::DATA_NODES, memory::MemoryCoordination, watch::Watched};

/// How the next attempt to join fails.
enum Fault {
    Unavailable,
    /// The store joins, but its answer is lost. The membership lasts until the test drops it.
    LostAnswer,
}

/// A store whose attempts to join fail as scripted.
struct Faulty {
    store: Arc<MemoryCoordination>,
    faults: Mutex<VecDeque<Fault>>,
    unanswered: Mutex<Option<Membership>>,
    attempts: watch::Sender<usize>,
    lease_restarts: AtomicU64,
}

impl Faulty {
    fn new(faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryCoordination::ephemeral(),
            faults: Mutex::new(faults.into_iter().collect()),
            unanswered: Mutex::default(),
            attempts: watch::Sender::default(),
            lease_restarts: AtomicU64::new(0),
        })
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.pop_front()
    }

    async fn attempts(&self, count: usize) {
        let mut attempts = self.attempts.subscribe();
        attempts.wait_for(|made| *made >= count).await.unwrap();
    }

    /// Waits until this presence is seen under the name.
    async fn until_present(&self, presence: &Presence) {
        let mut members = self.store.observe(DATA_NODES).await.unwrap();
        let wanted = presence.encode();
        let seen = members.wait_for(|members| members.get("n1") == Some(&wanted));
        seen.await.unwrap();
    }
}

#[async_trait]
impl GroupMembership for Faulty {
    async fn join(
        &self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<Membership, CoordinationError> {
        self.attempts.send_modify(|made| *made += 1);
        let unavailable = Err(CoordinationError::Unavailable("as the test wants".into()));
        match self.next_fault() {
            None => self.store.join(group, member, data).await,
            Some(Fault::Unavailable) => unavailable,
            Some(Fault::LostAnswer) => {
                let joined = self.store.join(group, member, data).await?;
                *self.unanswered.lock().unwrap() = Some(joined);
                unavailable
            }
        }
    }

    async fn list(&self, group: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError> {
        self.store.list(group).await
    }

    async fn observe(
        &self,
        group: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError> {
        self.store.observe(group).await
    }

    fn lease_restarts(&self) -> u64 {
        self.lease_restarts.load(Ordering::SeqCst)
    }
}

fn presence(pid: u32) -> Presence {
    Presence {
        address: format!("127.0.0.1:{pid}"),
        host: "alpha".to_owned(),
        pid,
        incarnation: u64::from(pid) << 32,
        cluster: None,
        rest: None,
        max_staleness_ms: None,
    }
}

async fn keep(store: Arc<dyn GroupMembership>, presence: &Presence) -> PresenceKeeper {
    PresenceKeeper::start(store, DATA_NODES, "n1", presence.clone())
        .await
        .unwrap()
}

/// Whether the name is reported as taken within `time`.
async fn is_taken_within(keeper: &PresenceKeeper, time: Duration) -> bool {
    timeout(time, keeper.taken()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_presence_is_back_as_often_as_it_lapses() {
    let faulty = Faulty::new([]);
    let own = presence(1);
    let keeper = keep(faulty.clone(), &own).await;
    for lapses in 1..=3 {
        faulty.until_present(&own).await;
        assert!(faulty.store.expire(DATA_NODES, "n1"));
        faulty.attempts(lapses + 1).await;
    }
    faulty.until_present(&own).await;
    keeper.leave().await;
    assert!(faulty.list(DATA_NODES).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_store_is_tried_until_it_answers() {
    let away = (0..5_000).map(|_| Fault::Unavailable);
    let faulty = Faulty::new(away);
    let own = presence(1);
    let keeper = keep(faulty.clone(), &own).await;
    assert!(!is_taken_within(&keeper, 10 * NAME_PATIENCE).await);
    faulty.until_present(&own).await;
    assert_eq!(*faulty.attempts.borrow(), 5_001);
    keeper.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_quick_restart_waits_for_its_own_old_lease() {
    let faulty = Faulty::new([]);
    let (earlier, own) = (presence(1), presence(2));
    let old = faulty.store.join(DATA_NODES, "n1", earlier.encode());
    let old = old.await.unwrap();
    let keeper = keep(faulty.clone(), &own).await;
    assert!(!is_taken_within(&keeper, PRESENCE_TTL).await);
    drop(old);
    faulty.until_present(&own).await;
    assert!(!is_taken_within(&keeper, 2 * NAME_PATIENCE).await);
    keeper.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_process_holds_on_to_is_taken() {
    let faulty = Faulty::new([]);
    let (other, own) = (presence(1), presence(2));
    let first = keep(faulty.clone(), &other).await;
    let started = Instant::now();
    let second = keep(faulty.clone(), &own).await;
    let why = second.taken().await;
    let waited = started.elapsed();
    assert!(waited >= NAME_PATIENCE && waited < NAME_PATIENCE + 2 * RETRY_PAUSE);
    for part in ["'n1'", "data-nodes", "pid 1", "'alpha'", "127.0.0.1:1"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // Every listener is told, also later; the other process notices nothing.
    assert_eq!(second.taken().await, why);
    second.leave().await;
    assert!(!is_taken_within(&first, 2 * NAME_PATIENCE).await);
    faulty.until_present(&other).await;
    first.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_taken_while_the_presence_was_lapsed_stops_the_earlier_process() {
    // The rejoin finds the store away, and meanwhile a later process takes the name.
    let faulty = Faulty::new([]);
    let (own, later) = (presence(1), presence(2));
    let keeper = keep(faulty.clone(), &own).await;
    let away = (0..10).map(|_| Fault::Unavailable);
    faulty.faults.lock().unwrap().extend(away);
    assert!(faulty.store.expire(DATA_NODES, "n1"));
    let taking = faulty.store.join(DATA_NODES, "n1", later.encode());
    let _taking = taking.await.unwrap();
    let why = keeper.taken().await;
    assert!(why.contains("pid 2"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn patience_begins_anew_after_the_store_was_away() {
    let faulty = Faulty::new([]);
    let (earlier, own) = (presence(1), presence(2));
    let old = faulty.store.join(DATA_NODES, "n1", earlier.encode());
    let _old = old.await.unwrap();
    let keeper = keep(faulty.clone(), &own).await;
    assert!(!is_taken_within(&keeper, NAME_PATIENCE - RETRY_PAUSE).await);
    // Back from an outage, a store may let all leases begin anew.
    let attempts = *faulty.attempts.borrow();
    faulty.faults.lock().unwrap().push_back(Fault::Unavailable);
    faulty.attempts(attempts + 1).await;
    assert!(!is_taken_within(&keeper, NAME_PATIENCE - RETRY_PAUSE).await);
    assert!(is_taken_within(&keeper, 4 * RETRY_PAUSE).await);
}

#[tokio::test(start_paused = true)]
async fn patience_begins_anew_when_the_leases_did() {
    let faulty = Faulty::new([]);
    let (earlier, own) = (presence(1), presence(2));
    let old = faulty.store.join(DATA_NODES, "n1", earlier.encode());
    let _old = old.await.unwrap();
    let keeper = keep(faulty.clone(), &own).await;
    for _ in 0..3 {
        assert!(!is_taken_within(&keeper, NAME_PATIENCE - RETRY_PAUSE).await);
        faulty.lease_restarts.fetch_add(1, Ordering::SeqCst);
    }
    assert!(!is_taken_within(&keeper, NAME_PATIENCE - RETRY_PAUSE).await);
    assert!(is_taken_within(&keeper, 4 * RETRY_PAUSE).await);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_no_other_process() {
    let faulty = Faulty::new([Fault::LostAnswer]);
    let own = presence(1);
    let keeper = keep(faulty.clone(), &own).await;
    assert!(!is_taken_within(&keeper, 5 * NAME_PATIENCE).await);
    assert!(*faulty.attempts.borrow() > 10);
    // The lease of the unanswered join ends at last.
    let unanswered = faulty.unanswered.lock().unwrap().take();
    drop(unanswered.unwrap());
    let attempts = *faulty.attempts.borrow();
    faulty.attempts(attempts + 1).await;
    faulty.until_present(&own).await;
    keeper.leave().await;
    assert!(faulty.list(DATA_NODES).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn data_that_is_no_presence_is_another_process() {
    let faulty = Faulty::new([]);
    let alien = Bytes::from_static(b"something else");
    let _alien = faulty.store.join(DATA_NODES, "n1", alien).await.unwrap();
    let keeper = keep(faulty.clone(), &presence(2)).await;
    let why = keeper.taken().await;
    assert!(why.contains("can't read"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_can_have_fails_at_once() {
    let store = MemoryCoordination::ephemeral();
    let started = PresenceKeeper::start(store, DATA_NODES, "a/b", presence(1));
    let error = started.await.unwrap_err();
    assert!(
        matches!(error, CoordinationError::InvalidArgument(_)),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_waiting_and_dropping_leaves() {
    let faulty = Faulty::new([]);
    let (other, own) = (presence(1), presence(2));
    let first = keep(faulty.clone(), &other).await;
    // It waits for the name: there is nothing to leave.
    let second = keep(faulty.clone(), &own).await;
    second.leave().await;
    faulty.until_present(&other).await;
    drop(first);
    let mut members = faulty.observe(DATA_NODES).await.unwrap();
    members.wait_for(BTreeMap::is_empty).await.unwrap();
}
