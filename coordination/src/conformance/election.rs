//! Elections: one leader at a time, and COORD-LEASE for candidacies.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tierkv_types::Epoch;
use tokio::task::JoinSet;

use super::{Backend, within};
use crate::{Candidacy, Coordination, CoordinationError, Leader, Standing};

const CONTENDERS: usize = 3;
const TERMS_EACH: usize = 15;

/// A lone candidate leads, each time with a greater epoch.
pub async fn a_lone_candidate_leads(backend: &mut impl Backend) {
    let store = backend.coordination();
    let mut last = Epoch::ZERO;
    for _ in 0..3 {
        let mut candidacy = nominate(&*store, "election/lone", "one").await;
        let epoch = leading(&mut candidacy).await;
        assert!(epoch > last, "{epoch} after {last}");
        assert_eq!(candidacy.standing(), Standing::Leading(epoch));
        last = epoch;
        candidacy.resign().await.expect("a resignation");
    }
}

/// Of three candidates, each waits for those before it and then leads.
pub async fn candidates_lead_in_turn(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/turns";
    let mut line = Vec::new();
    for name in ["one", "two", "three"] {
        line.push(nominate(&*store, election, name).await);
    }
    let mut last = Epoch::ZERO;
    while !line.is_empty() {
        let mut first = line.remove(0);
        let epoch = leading(&mut first).await;
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
        for waiting in &line {
            assert_eq!(waiting.standing(), Standing::Waiting);
        }
        first.resign().await.expect("a resignation");
    }
}

/// When a leader drops its candidacy, the next candidate leads.
pub async fn a_dropped_candidacy_resigns(backend: &mut impl Backend) {
    let store = backend.coordination();
    let mut first = nominate(&*store, "election/dropped", "one").await;
    let epoch = leading(&mut first).await;
    let mut second = nominate(&*store, "election/dropped", "two").await;
    assert_eq!(second.standing(), Standing::Waiting);
    drop(first);
    assert!(leading(&mut second).await > epoch);
}

/// A candidate that resigns before its turn changes nothing for the others.
pub async fn a_waiting_candidate_resigns_in_silence(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/silence";
    let mut first = nominate(&*store, election, "one").await;
    let epoch = leading(&mut first).await;
    let second = nominate(&*store, election, "two").await;
    let mut third = nominate(&*store, election, "three").await;
    second.resign().await.expect("a resignation");
    assert_eq!(first.standing(), Standing::Leading(epoch));
    assert_eq!(third.standing(), Standing::Waiting);
    first.resign().await.expect("a resignation");
    assert!(leading(&mut third).await > epoch);
}

/// **COORD-LEASE**: the old leader is notified of its loss before the next one leads.
pub async fn an_expired_leader_is_notified_before_the_next_leads(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/expired";
    let mut old = nominate(&*store, election, "one").await;
    let epoch = leading(&mut old).await;
    let mut next = nominate(&*store, election, "two").await;
    let waiting = tokio::spawn(async move {
        let epoch = leading(&mut next).await;
        (next, epoch)
    });
    backend.expire_candidate(election, "one").await;
    let (next, later) = within("the next leader", waiting)
        .await
        .expect("the next leads");
    assert_eq!(
        old.standing(),
        Standing::Lost,
        "the next led before the old leader knew"
    );
    assert_eq!(within("the signal", old.changed()).await, Standing::Lost);
    assert_eq!(
        within("the signal again", old.changed()).await,
        Standing::Lost
    );
    assert!(later > epoch);

    // The old leader stands again, at the end of the line.
    let again = nominate(&*store, election, "one").await;
    assert_eq!(again.standing(), Standing::Waiting);
    assert_eq!(next.standing(), Standing::Leading(later));
}

/// A candidate whose lease ends before its turn is notified of its loss.
pub async fn an_expired_waiting_candidate_is_notified(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/expired-waiting";
    let mut first = nominate(&*store, election, "one").await;
    let epoch = leading(&mut first).await;
    let mut second = nominate(&*store, election, "two").await;
    backend.expire_candidate(election, "two").await;
    assert_eq!(within("the signal", second.changed()).await, Standing::Lost);
    assert_eq!(within("an answer", second.leading()).await, None);
    assert_eq!(first.standing(), Standing::Leading(epoch));
}

/// The handle of an expired candidate, dropped or resigned late, can't depose a successor of the
/// same name.
pub async fn a_late_resignation_spares_the_successor(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/late";
    let mut first = nominate(&*store, election, "one").await;
    leading(&mut first).await;
    backend.expire_candidate(election, "one").await;
    assert_eq!(lost(&mut first).await, Standing::Lost);
    let mut second = renominate(&*store, election, "one").await;
    leading(&mut second).await;
    drop(first);
    backend.expire_candidate(election, "one").await;
    assert_eq!(lost(&mut second).await, Standing::Lost);
    let mut third = renominate(&*store, election, "one").await;
    let epoch = leading(&mut third).await;
    second
        .resign()
        .await
        .expect("a lost candidacy is over already");
    // As with members: once this one is through, earlier releases have arrived.
    let probe = nominate(&*store, election, "probe").await;
    probe.resign().await.expect("a resignation");
    assert_eq!(third.standing(), Standing::Leading(epoch));
}

/// A second candidate of the same name is refused while the first lives, and does not disturb it.
pub async fn a_living_candidates_name_is_taken(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/taken";
    let mut first = nominate(&*store, election, "one").await;
    let epoch = leading(&mut first).await;
    let refused = store.nominate(election, "one", Bytes::new()).await;
    assert!(
        matches!(refused, Err(CoordinationError::AlreadyExists(_))),
        "{refused:?}"
    );
    assert_eq!(first.standing(), Standing::Leading(epoch));
}

/// Observers see each leader with its data and epoch, and see when there is none.
pub async fn observers_end_on_the_leader(backend: &mut impl Backend) {
    let store = backend.coordination();
    let election = "election/observed";
    let mut observed = store.observe_leader(election).await.expect("an observer");
    assert_eq!(*observed.current(), None);
    let mut first = nominate(&*store, election, "one").await;
    let mut second = nominate(&*store, election, "two").await;
    for (candidacy, name) in [(&mut first, "one"), (&mut second, "two")] {
        let leader = Leader {
            candidate: name.to_owned(),
            data: Bytes::from(format!("data of {name}")),
            epoch: leading(candidacy).await,
        };
        within(
            "the leader",
            observed.wait_for(|seen| seen.as_ref() == Some(&leader)),
        )
        .await
        .expect("the store lives");
        let late = store.observe_leader(election).await.expect("an observer");
        assert_eq!(*late.current(), Some(leader));
        backend.expire_candidate(election, name).await;
    }
    within("no leader", observed.wait_for(Option::is_none))
        .await
        .expect("the store lives");
}

/// Elections share no candidates, even if one's name is a prefix of the other's.
pub async fn elections_are_apart(backend: &mut impl Backend) {
    let store = backend.coordination();
    let mut candidacies = Vec::new();
    for election in ["election/apart", "election/apart/inner", "election/apart2"] {
        let mut candidacy = nominate(&*store, election, "one").await;
        leading(&mut candidacy).await;
        candidacies.push(candidacy);
    }
    candidacies.remove(0).resign().await.expect("a resignation");
    for other in &candidacies {
        assert!(matches!(other.standing(), Standing::Leading(_)));
    }
}

/// Candidates stand, lead, resign or expire, and stand again: never two lead at a time, and every
/// epoch is above the last.
pub async fn under_churn_one_leads_at_a_time(backend: &mut impl Backend) {
    let office = Arc::new(AtomicU64::new(0));
    let highest = Arc::new(AtomicU64::new(0));
    let mut contenders = JoinSet::new();
    for contender in 0..CONTENDERS {
        let store = backend.coordination();
        let (office, highest) = (Arc::clone(&office), Arc::clone(&highest));
        contenders.spawn(async move {
            let name = format!("contender-{contender}");
            for term in 0..TERMS_EACH {
                let mut candidacy = renominate(&*store, "election/churn", &name).await;
                let epoch = leading(&mut candidacy).await;
                assert_eq!(
                    office.swap(epoch.0, Ordering::SeqCst),
                    0,
                    "two led at a time"
                );
                let before = highest.swap(epoch.0, Ordering::SeqCst);
                assert!(epoch.0 > before, "{epoch} after {before}");
                tokio::task::yield_now().await;
                assert_eq!(candidacy.standing(), Standing::Leading(epoch));
                assert_eq!(
                    office.swap(0, Ordering::SeqCst),
                    epoch.0,
                    "two led at a time"
                );
                if term % 2 == 0 {
                    candidacy.resign().await.expect("a resignation");
                } else {
                    drop(candidacy);
                }
            }
        });
    }
    within("the contenders", contenders.join_all()).await;
}

/// Stands as soon as the name is free.
pub(super) async fn renominate(
    store: &dyn Coordination,
    election: &str,
    candidate: &str,
) -> Candidacy {
    let mut observed = store.observe_leader(election).await.expect("an observer");
    within("the name", async {
        loop {
            match store.nominate(election, candidate, Bytes::new()).await {
                Ok(candidacy) => return candidacy,
                Err(CoordinationError::AlreadyExists(_)) => {
                    observed.changed().await.expect("the store lives");
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

pub(super) async fn nominate(
    store: &dyn Coordination,
    election: &str,
    candidate: &str,
) -> Candidacy {
    store
        .nominate(
            election,
            candidate,
            Bytes::from(format!("data of {candidate}")),
        )
        .await
        .expect("a candidacy")
}

/// The epoch of a candidate that must lead, now or soon.
pub(super) async fn leading(candidacy: &mut Candidacy) -> Epoch {
    within("leadership", candidacy.leading())
        .await
        .expect("the candidacy lives")
}

async fn lost(candidacy: &mut Candidacy) -> Standing {
    within("the loss", async {
        loop {
            if candidacy.standing() == Standing::Lost {
                return Standing::Lost;
            }
            candidacy.changed().await;
        }
    })
    .await
}
