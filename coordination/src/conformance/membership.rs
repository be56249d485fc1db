//! Groups and their members: COORD-LEASE for memberships.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Backend, within};
use crate::{Coordination, CoordinationError};

/// Joins and leaves are visible to list and observe.
pub async fn members_are_seen_until_they_leave(backend: &mut impl Backend) {
    let store = backend.coordination();
    let group = "members/seen";
    let mut observed = store.observe(group).await.expect("an observer");
    assert!(observed.current().is_empty());
    let one = store
        .join(group, "one", Bytes::from_static(b"at 1"))
        .await
        .expect("a membership");
    let two = store
        .join(group, "two", Bytes::from_static(b"at 2"))
        .await
        .expect("a membership");
    let both = members(&[("one", "at 1"), ("two", "at 2")]);
    assert_eq!(store.list(group).await, Ok(both.clone()));
    within("both members", observed.wait_for(|seen| *seen == both))
        .await
        .expect("the store lives");
    assert_eq!(
        *store.observe(group).await.expect("an observer").current(),
        both
    );
    assert!(!one.is_lost() && !two.is_lost());

    one.leave().await.expect("a farewell");
    let rest = members(&[("two", "at 2")]);
    assert_eq!(store.list(group).await, Ok(rest.clone()));
    within("the other member", observed.wait_for(|seen| *seen == rest))
        .await
        .expect("the store lives");
    assert!(!two.is_lost());
    two.leave().await.expect("a farewell");
    within("nobody", observed.wait_for(BTreeMap::is_empty))
        .await
        .expect("the store lives");
}

/// Dropping a membership leaves the group, if not at once then soon.
pub async fn a_dropped_membership_leaves(backend: &mut impl Backend) {
    let store = backend.coordination();
    let group = "members/dropped";
    let mut observed = store.observe(group).await.expect("an observer");
    let place = join(&*store, group, "one").await;
    within("the member", observed.wait_for(|seen| seen.len() == 1))
        .await
        .expect("the store lives");
    drop(place);
    within("nobody", observed.wait_for(BTreeMap::is_empty))
        .await
        .expect("the store lives");
    let again = join(&*store, group, "one").await;
    again.leave().await.expect("a farewell");
}

/// A second member of the same name is refused while the first lives, and does not disturb it.
pub async fn a_living_members_name_is_taken(backend: &mut impl Backend) {
    let store = backend.coordination();
    let group = "members/taken";
    let first = store
        .join(group, "one", Bytes::from_static(b"first"))
        .await
        .expect("a membership");
    let refused = store
        .join(group, "one", Bytes::from_static(b"second"))
        .await;
    assert!(
        matches!(refused, Err(CoordinationError::AlreadyExists(_))),
        "{refused:?}"
    );
    assert!(!first.is_lost());
    assert_eq!(store.list(group).await, Ok(members(&[("one", "first")])));
    first.leave().await.expect("a farewell");
    let second = join(&*store, group, "one").await;
    second.leave().await.expect("a farewell");
}

/// **COORD-LEASE**: the old holder is notified of its loss before its name is free.
pub async fn an_expired_member_is_notified_before_its_name_is_free(backend: &mut impl Backend) {
    let store = backend.coordination();
    let group = "members/expired";
    let mut observed = store.observe(group).await.expect("an observer");
    let mut old = join(&*store, group, "one").await;
    let other = join(&*store, group, "two").await;
    backend.expire_member(group, "one").await;
    let new = within("the name", async {
        loop {
            match store.join(group, "one", Bytes::from_static(b"new")).await {
                Ok(new) => return new,
                Err(CoordinationError::AlreadyExists(_)) => {
                    observed.changed().await.expect("the store lives");
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    assert!(old.is_lost(), "the name was free before its holder knew");
    within("the signal", old.lost()).await;
    assert!(!new.is_lost() && !other.is_lost());
    assert_eq!(
        store.list(group).await,
        Ok(members(&[("one", "new"), ("two", "")]))
    );
    old.leave().await.expect("a lost place is left already");
}

/// The handle of an expired member, dropped or left late, can't remove its successor.
pub async fn a_late_leave_spares_the_successor(backend: &mut impl Backend) {
    let store = backend.coordination();
    let group = "members/late";
    let mut first = join(&*store, group, "one").await;
    backend.expire_member(group, "one").await;
    within("the signal", first.lost()).await;
    let mut second = rejoin(&*store, group, "one").await;
    drop(first);
    backend.expire_member(group, "one").await;
    within("the signal", second.lost()).await;
    let third = rejoin(&*store, group, "one").await;
    second.leave().await.expect("a lost place is left already");
    // The first member's drop may still have been in progress: once a later member has joined and
    // left, it has arrived.
    let probe = join(&*store, group, "probe").await;
    probe.leave().await.expect("a farewell");
    assert!(!third.is_lost());
    assert_eq!(store.list(group).await, Ok(members(&[("one", "")])));
}

/// Groups share no members, even if one's name is a prefix of the other's.
pub async fn groups_are_apart(backend: &mut impl Backend) {
    let store = backend.coordination();
    let outer = join(&*store, "members/apart", "one").await;
    let inner = join(&*store, "members/apart/inner", "one").await;
    let near = join(&*store, "members/apart2", "one").await;
    let only = members(&[("one", "")]);
    assert_eq!(store.list("members/apart").await, Ok(only.clone()));
    outer.leave().await.expect("a farewell");
    assert_eq!(store.list("members/apart").await, Ok(BTreeMap::new()));
    assert_eq!(store.list("members/apart/inner").await, Ok(only.clone()));
    assert_eq!(store.list("members/apart2").await, Ok(only));
    drop((inner, near));
}

async fn join(store: &dyn Coordination, group: &str, member: &str) -> crate::Membership {
    store
        .join(group, member, Bytes::new())
        .await
        .expect("a membership")
}

/// Joins as soon as the name is free.
async fn rejoin(store: &dyn Coordination, group: &str, member: &str) -> crate::Membership {
    let mut observed = store.observe(group).await.expect("an observer");
    within(
        "the name",
        observed.wait_for(|seen| !seen.contains_key(member)),
    )
    .await
    .expect("the store lives");
    join(store, group, member).await
}

fn members(members: &[(&'static str, &'static str)]) -> BTreeMap<String, Bytes> {
    members
        .iter()
        .map(|(name, data)| ((*name).to_owned(), Bytes::from_static(data.as_bytes())))
        .collect()
}
