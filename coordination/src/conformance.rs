//! The conformance suite of the backends, one public function per scenario.
//!
//! A backend's integration test implements [`Backend`] and passes it to
//! [`coordination_conformance!`](crate::coordination_conformance), which makes a test of each
//! scenario. A scenario panics if the backend breaks a promise of the traits. The backend may be
//! shared: every scenario uses its own names, which are new when it starts.
//!
//! What covers each rule:
//!
//! - **COORD-LEASE**: `an_expired_member_is_notified_before_its_name_is_free`,
//!   `an_expired_leader_is_notified_before_the_next_leads`,
//!   `an_expired_waiting_candidate_is_notified`, `a_late_leave_spares_the_successor`,
//!   `a_late_resignation_spares_the_successor`, `under_churn_one_leads_at_a_time`,
//!   `epochs_grow_over_a_restart`, `members_and_candidates_end_with_a_restart`
//! - **COORD-WATCH**: `a_watch_starts_with_the_present_state`, `a_watch_ends_on_the_newest_state`,
//!   `a_prefix_watch_ends_on_the_newest_state`, `clones_of_a_watch_listen_on_their_own`,
//!   `observers_end_on_the_leader`, `members_are_seen_until_they_leave`
//! - **COORD-CAS**: `of_concurrent_swappers_exactly_one_wins_each_revision`,
//!   `of_concurrent_creators_exactly_one_wins`, `a_swap_needs_the_revision_it_expects`,
//!   `a_delete_needs_the_revision_it_expects`, `revisions_grow_over_all_records`,
//!   `records_outlive_a_restart`, `revisions_grow_over_a_restart`
//!
//! Outcomes that are unknown, and a store that went back (COORD-BACK), need faults of the backend
//! itself; its own tests inject these.

mod config;
mod election;
mod membership;
mod restart;
mod watches;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{config::*, election::*, membership::*, restart::*, watches::*};
use crate::Coordination;

/// Timeout of everything that a scenario waits for, far above any lease.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A backend under test, with the faults that the suite needs.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A client of the store.
    fn coordination(&self) -> Arc<dyn Coordination>;

    /// Lets the lease of a member end, at once or soon, as if its process had died or was cut off.
    async fn expire_member(&mut self, group: &str, member: &str);

    /// Lets the lease of a candidate end, at once or soon, as if its process had died or was cut
    /// off.
    async fn expire_candidate(&mut self, election: &str, candidate: &str);

    /// Stops the store and starts it again over its persisted state; false if it persists nothing.
    /// Called once the scenario has dropped all clients and handles.
    async fn restart(&mut self) -> bool;
}

/// Waits for `future`, at most [`DEADLINE`].
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Makes a test of every scenario. `$fresh` is an expression that creates a
/// [`Backend`](crate::conformance::Backend); it may await.
///
/// With `shared:`, it makes those that don't restart the store, and with `restarts:` the others.
/// With `at_once NAME:`, it makes one test, which runs those of `shared:` at the same time.
#[macro_export]
macro_rules! coordination_conformance {
    (shared: $fresh:expr) => {
        $crate::coordination_conformance! { @shared (@tests $fresh) }
    };
    (at_once $name:ident: $fresh:expr) => {
        $crate::coordination_conformance! { @shared (@at_once $name $fresh) }
    };
    (restarts: $fresh:expr) => {
        $crate::coordination_conformance! { @tests $fresh;
            records_outlive_a_restart,
            revisions_grow_over_a_restart,
            epochs_grow_over_a_restart,
            members_and_candidates_end_with_a_restart,
        }
    };
    (@shared ($($what:tt)*)) => {
        $crate::coordination_conformance! { $($what)*;
            a_record_is_created_once,
            a_swap_needs_the_revision_it_expects,
            a_delete_needs_the_revision_it_expects,
            of_concurrent_swappers_exactly_one_wins_each_revision,
            of_concurrent_creators_exactly_one_wins,
            revisions_grow_over_all_records,
            anything_over_a_limit_is_refused,
            a_watch_starts_with_the_present_state,
            a_watch_ends_on_the_newest_state,
            a_prefix_watch_ends_on_the_newest_state,
            a_prefix_watch_sees_its_prefix_only,
            clones_of_a_watch_listen_on_their_own,
            members_are_seen_until_they_leave,
            a_dropped_membership_leaves,
            a_living_members_name_is_taken,
            an_expired_member_is_notified_before_its_name_is_free,
            a_late_leave_spares_the_successor,
            groups_are_apart,
            a_lone_candidate_leads,
            candidates_lead_in_turn,
            a_dropped_candidacy_resigns,
            a_waiting_candidate_resigns_in_silence,
            an_expired_leader_is_notified_before_the_next_leads,
            an_expired_waiting_candidate_is_notified,
            a_late_resignation_spares_the_successor,
            a_living_candidates_name_is_taken,
            observers_end_on_the_leader,
            elections_are_apart,
            under_churn_one_leads_at_a_time,
        }
    };
    (@at_once $name:ident $fresh:expr; $($scenario:ident,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let scenarios = tokio::task::LocalSet::new();
            let running = [ $( (
                stringify!($scenario),
                scenarios.spawn_local(async {
                    let mut backend = $fresh;
                    $crate::conformance::$scenario(&mut backend).await;
                }),
            ), )* ];
            let ended = scenarios.run_until(async {
                let mut failed = Vec::new();
                for (scenario, running) in running {
                    if running.await.is_err() {
                        failed.push(scenario);
                    }
                }
                failed
            });
            let failed = ended.await;
            assert!(failed.is_empty(), "these scenarios failed: {failed:?}");
        }
    };
    (@tests $fresh:expr; $($scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let mut backend = $fresh;
            $crate::conformance::$scenario(&mut backend).await;
        }
    )* };
    ($fresh:expr) => {
        $crate::coordination_conformance! { shared: $fresh }
        $crate::coordination_conformance! { restarts: $fresh }
    };
}
