//! What survives a restart of the store, for backends that persist.

use std::collections::BTreeMap;

use bytes::Bytes;
use tierkv_types::Epoch;

use super::{
    Backend,
    config::won,
    election::{leading, nominate, renominate},
    within,
};
use crate::{Revision, Swap, Versioned};

/// Records keep their values and revisions; deleted ones stay deleted.
pub async fn records_outlive_a_restart(backend: &mut impl Backend) {
    let (kept, gone) = ("restart/kept", "restart/gone");
    let value = Bytes::from_static(&[0, 1, 0xfe, 0xff]);
    let store = backend.coordination();
    let first = won(store.put_if_absent(kept, Bytes::from_static(b"old")).await);
    let revision = won(store.compare_and_swap(kept, first, value.clone()).await);
    let created = won(store.put_if_absent(gone, Bytes::new()).await);
    won(store.delete(gone, created).await);
    drop(store);
    if !backend.restart().await {
        return;
    }
    let store = backend.coordination();
    let expected = Versioned { value, revision };
    assert_eq!(store.get(kept).await, Ok(Some(expected)));
    assert_eq!(store.get(gone).await, Ok(None));
    assert_eq!(
        store.compare_and_swap(kept, first, Bytes::new()).await,
        Ok(Swap::Lost)
    );
    won(store.compare_and_swap(kept, revision, Bytes::new()).await);
}

/// No revision is issued twice, not even those of deleted records.
pub async fn revisions_grow_over_a_restart(backend: &mut impl Backend) {
    let key = "restart/revisions";
    let mut last = Revision(0);
    for _ in 0..3 {
        let store = backend.coordination();
        let created = won(store.put_if_absent(key, Bytes::new()).await);
        assert!(created > last, "{created} after {last}");
        last = won(store.delete(key, created).await);
        drop(store);
        if !backend.restart().await {
            return;
        }
    }
}

/// No epoch is won twice, whether its winner resigned or expired.
pub async fn epochs_grow_over_a_restart(backend: &mut impl Backend) {
    let mut last = Epoch::ZERO;
    for round in 0..4 {
        let store = backend.coordination();
        let mut candidacy = renominate(&*store, "restart/epochs", "one").await;
        let epoch = leading(&mut candidacy).await;
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
        if round % 2 == 0 {
            candidacy.resign().await.expect("a resignation");
        } else {
            drop(candidacy);
        }
        drop(store);
        if !backend.restart().await {
            return;
        }
    }
}

/// Members and candidates end with their process: they must join and stand again. A backend may
/// keep them until their leases end.
pub async fn members_and_candidates_end_with_a_restart(backend: &mut impl Backend) {
    let store = backend.coordination();
    let member = store
        .join("restart/members", "one", Bytes::new())
        .await
        .expect("a membership");
    let candidacy = nominate(&*store, "restart/candidates", "one").await;
    drop((member, candidacy, store));
    if !backend.restart().await {
        return;
    }
    let store = backend.coordination();
    let mut members = store.observe("restart/members").await.expect("an observer");
    within("nobody", members.wait_for(BTreeMap::is_empty))
        .await
        .expect("the store lives");
    assert_eq!(store.list("restart/members").await, Ok(BTreeMap::new()));
    let mut leader = store
        .observe_leader("restart/candidates")
        .await
        .expect("an observer");
    within("no leader", leader.wait_for(Option::is_none))
        .await
        .expect("the store lives");
}
