use tierkv_coordination::{GroupMembership, LeaderElection, Membership, MemoryCoordination};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn presence(pid: u32) -> Presence {
    Presence {
        address: "127.0.0.1:1".to_owned(),
        host: "alpha".to_owned(),
        pid,
        incarnation: 1,
        cluster: None,
        rest: None,
        max_staleness_ms: None,
    }
}

async fn join(store: &MemoryCoordination, node: &str, pid: u32) -> Membership {
    let data = presence(pid).encode();
    store.join(SERVER_COORDINATORS, node, data).await.unwrap()
}

async fn follower(store: &MemoryCoordination) -> PeersFollower {
    let leader = store.observe_leader(PRIMARY).await.unwrap();
    let members = store.observe(SERVER_COORDINATORS).await.unwrap();
    PeersFollower::new(PlatformId(1), leader, members, watch::Sender::default())
}

/// The coordinators in the order in which they are asked now, with their process ids.
fn order(follower: &mut PeersFollower) -> Vec<(String, u32)> {
    let count = follower.peers().len();
    let leader = follower.leader.current();
    let primary = leader.as_ref().as_ref();
    let primary = primary.map(|leader| leader.candidate.as_str());
    let ordered = follower.ordered(primary).into_iter();
    let ordered: Vec<_> = ordered
        .map(|(node, entry)| (node.clone(), entry.presence.pid))
        .collect();
    assert_eq!(count, ordered.len());
    ordered
}

fn named(names: &[(&str, u32)]) -> Vec<(String, u32)> {
    let names = names.iter();
    names
        .map(|(name, pid)| ((*name).to_owned(), *pid))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_primary_is_asked_first_and_those_that_lapsed_last() {
    let store = MemoryCoordination::ephemeral();
    let mut follower = follower(&store).await;
    assert!(order(&mut follower).is_empty());
    let _first = join(&store, "s1", 1).await;
    let _second = join(&store, "s2", 2).await;
    let _third = join(&store, "s3", 3).await;
    let data = presence(2).encode();
    let office = store.nominate(PRIMARY, "s2", data).await.unwrap();
    let all = named(&[("s2", 2), ("s1", 1), ("s3", 3)]);
    assert_eq!(order(&mut follower), all);
    // A lapsed one is asked last, and a primary first as long as it is elected.
    assert!(store.expire(SERVER_COORDINATORS, "s1"));
    assert!(store.expire(SERVER_COORDINATORS, "s2"));
    let lapsed = named(&[("s2", 2), ("s3", 3), ("s1", 1)]);
    assert_eq!(order(&mut follower), lapsed);
    office.resign().await.unwrap();
    assert_eq!(
        order(&mut follower),
        named(&[("s3", 3), ("s1", 1), ("s2", 2)])
    );
    // Back again, and under another process.
    let _back = join(&store, "s1", 1).await;
    let _other = join(&store, "s2", 22).await;
    assert_eq!(
        order(&mut follower),
        named(&[("s1", 1), ("s2", 22), ("s3", 3)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_primary_is_found_though_its_presence_lapsed_before() {
    let store = MemoryCoordination::ephemeral();
    let _backup = join(&store, "s1", 1).await;
    let data = presence(2).encode();
    let _office = store.nominate(PRIMARY, "s2", data).await.unwrap();
    let mut follower = follower(&store).await;
    let both = named(&[("s2", 2), ("s1", 1)]);
    assert_eq!(order(&mut follower), both);
    // It is not forgotten while it is elected, and nothing spins meanwhile.
    let waited = timeout_at(Instant::now() + 3 * LAPSED_KEPT, follower.changed()).await;
    assert!(waited.is_err());
    assert_eq!(order(&mut follower), both);
}

#[tokio::test(start_paused = true)]
async fn one_that_lapsed_is_forgotten_once_others_live_without_it_for_long() {
    let store = MemoryCoordination::ephemeral();
    let (_first, _second) = (join(&store, "s1", 1).await, join(&store, "s2", 2).await);
    let mut follower = follower(&store).await;
    assert_eq!(order(&mut follower).len(), 2);
    assert!(store.expire(SERVER_COORDINATORS, "s1"));
    follower.changed().await.unwrap();
    assert_eq!(order(&mut follower), named(&[("s2", 2), ("s1", 1)]));
    let lapsed = Instant::now();
    follower.changed().await.unwrap();
    assert!(lapsed.elapsed() >= LAPSED_KEPT && lapsed.elapsed() < LAPSED_KEPT + SECOND);
    assert_eq!(order(&mut follower), named(&[("s2", 2)]));

    // Nobody is left: the last known addresses stay, however long that lasts.
    assert!(store.expire(SERVER_COORDINATORS, "s2"));
    follower.changed().await.unwrap();
    assert_eq!(order(&mut follower), named(&[("s2", 2)]));
    let waited = timeout_at(Instant::now() + 3 * LAPSED_KEPT, follower.changed()).await;
    assert!(waited.is_err());
    assert_eq!(order(&mut follower), named(&[("s2", 2)]));
    // From the day that another one is there, it has the same time.
    let _third = join(&store, "s3", 3).await;
    follower.changed().await.unwrap();
    assert_eq!(order(&mut follower), named(&[("s3", 3), ("s2", 2)]));
    let returned = Instant::now();
    follower.changed().await.unwrap();
    assert!(returned.elapsed() >= LAPSED_KEPT && returned.elapsed() < LAPSED_KEPT + SECOND);
    assert_eq!(order(&mut follower), named(&[("s3", 3)]));
}
