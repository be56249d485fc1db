//! [`PresenceKeeper`]: keeps a process listed in its group (COORD-PRESENCE).
//!
//! ```text
//!   start ──► join ──► present ──► lost ──┐
//!              ▲ │                        │
//!              │ └── the name is held ──► wait ──► by another process, for too long: taken
//!              └──────────────────────────┴─ join again
//! ```
//!
//! A presence says where a process is found. It gives no right, so its owner serves with and
//! without it, and joining again revives no leadership.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    directory::Presence,
    error::CoordinationError,
    membership::{GroupMembership, Membership},
};

/// How long the lease of a presence outlives a process that died.
pub const PRESENCE_TTL: Duration = Duration::from_secs(5);
/// How long another process may hold the name before it counts as taken: a lease of a process that
/// died ends before, with a margin for the store to notice. The time is counted anew when the store
/// may have let all leases begin anew.
pub const NAME_PATIENCE: Duration = PRESENCE_TTL.saturating_add(Duration::from_secs(2));
/// Pause before joining again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Keeps one process listed in its group, until it leaves.
///
/// After a loss it joins again, however long that takes. A name that is still held is waited for:
/// after a quick restart, the lease of the earlier process ends soon. If another process holds it
/// for longer than a lease lasts, that process lives, and [`taken`](Self::taken) returns. Dropping
/// the keeper leaves the group without waiting.
#[must_use = "dropping a keeper leaves the group"]
pub struct PresenceKeeper {
    leaving: watch::Sender<bool>,
    taken: watch::Receiver<Option<String>>,
    keeping: JoinHandle<()>,
}

impl PresenceKeeper {
    /// Joins `group` under the name `member`, and keeps the membership in the background. Returns
    /// after the first attempt, also if it found the name held or the store unavailable.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no member can have; `Closed`.
    pub async fn start(
        coordination: Arc<dyn GroupMembership>,
        group: &'static str,
        member: &str,
        presence: Presence,
    ) -> Result<Self, CoordinationError> {
        Self::start_with_patience(coordination, group, member, presence, NAME_PATIENCE).await
    }

    /// As [`start`](Self::start), for a store whose leases last another time: the name counts as
    /// taken after `patience`, which must be longer.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_patience(
        coordination: Arc<dyn GroupMembership>,
        group: &'static str,
        member: &str,
        presence: Presence,
        patience: Duration,
    ) -> Result<Self, CoordinationError> {
        let (leaving, left) = watch::channel(false);
        let (taking, taken) = watch::channel(None);
        let keeping = Keeping {
            coordination,
            group,
            member: member.to_owned(),
            presence,
            patience,
            taken: taking,
        };
        let first = match keeping.attempt().await {
            Ok(membership) => Some(membership),
            Err(error @ (CoordinationError::InvalidArgument(_) | CoordinationError::Closed)) => {
                return Err(error);
            }
            // The keeper's first attempt in the background logs it.
            Err(_) => None,
        };
        Ok(Self {
            leaving,
            taken,
            keeping: tokio::spawn(keeping.run(first, left)),
        })
    }

    /// Waits until the name is taken by another process, and returns a message for operators: this
    /// process must then stop. Cancelling it loses nothing.
    pub async fn taken(&self) -> String {
        let mut taken = self.taken.clone();
        let why = match taken.wait_for(Option::is_some).await {
            Ok(why) => why.clone(),
            Err(_) => None,
        };
        match why {
            Some(why) => why,
            // The store was closed; nobody can take the name any more.
            None => std::future::pending().await,
        }
    }

    /// Leaves the group; returns once others can have the name. If the store can't be reached, they
    /// can have it after [`PRESENCE_TTL`].
    pub async fn leave(self) {
        self.leaving.send_replace(true);
        if let Err(error) = self.keeping.await {
            tracing::error!(%error, "the keeper of the presence failed");
        }
    }
}

impl fmt::Debug for PresenceKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceKeeper")
            .field("taken", &*self.taken.borrow())
            .finish_non_exhaustive()
    }
}

/// The background half of a [`PresenceKeeper`].
struct Keeping {
    coordination: Arc<dyn GroupMembership>,
    group: &'static str,
    member: String,
    presence: Presence,
    patience: Duration,
    taken: watch::Sender<Option<String>>,
}

impl Keeping {
    /// Keeps the membership until `leaving` becomes true or loses its sender, or the name is taken.
    async fn run(self, first: Option<Membership>, mut leaving: watch::Receiver<bool>) {
        let mut held = first;
        loop {
            let joined = match held.take() {
                Some(membership) => Some(membership),
                None => tokio::select! {
                    biased;
                    () = left(&mut leaving) => return,
                    joined = self.join() => joined,
                },
            };
            let Some(mut membership) = joined else {
                return;
            };
            let is_leaving = tokio::select! {
                biased;
                () = left(&mut leaving) => true,
                () = membership.lost() => false,
            };
            if is_leaving {
                if let Err(error) = membership.leave().await {
                    tracing::info!(group = self.group, %error, "left without the store's answer");
                }
                return;
            }
            tracing::warn!(
                group = self.group,
                member = self.member,
                "the presence in coordination lapsed; joining again"
            );
        }
    }

    async fn attempt(&self) -> Result<Membership, CoordinationError> {
        self.coordination
            .join(self.group, &self.member, self.presence.encode())
            .await
    }

    /// Joins, however long it takes. `None`: never, because the name was taken or the store closed.
    async fn join(&self) -> Option<Membership> {
        // Since when another process is seen under the name, without a gap.
        let mut other_since: Option<Instant> = None;
        let mut lease_restarts = self.coordination.lease_restarts();
        let mut logged = None;
        loop {
            let error = match self.attempt().await {
                Ok(membership) => {
                    if logged.is_some() {
                        tracing::info!(group = self.group, member = self.member, "joined");
                    }
                    return Some(membership);
                }
                Err(error) => error,
            };
            let holder = match &error {
                CoordinationError::AlreadyExists(_) => self.holder().await,
                CoordinationError::InvalidArgument(why) => {
                    self.taken.send_replace(Some(why.clone()));
                    return None;
                }
                CoordinationError::Closed => return None,
                // While the store is away, and some time after, leases may last longer.
                CoordinationError::Unavailable(_)
                | CoordinationError::OutcomeUnknown(_)
                | CoordinationError::Storage(_) => Holder::Unseen,
            };
            // The lease of a process that died may have begun anew.
            let restarts = self.coordination.lease_restarts();
            if std::mem::replace(&mut lease_restarts, restarts) != restarts {
                other_since = None;
            }
            other_since = match holder {
                Holder::Another(_) => other_since.or_else(|| Some(Instant::now())),
                Holder::Unseen => None,
            };
            if let Holder::Another(holder) = holder
                && other_since.is_some_and(|since| since.elapsed() >= self.patience)
            {
                self.report_taken(holder.as_ref());
                return None;
            }
            if logged.as_ref() != Some(&error) {
                tracing::warn!(
                    group = self.group,
                    member = self.member,
                    %error,
                    "not present in coordination yet; trying again"
                );
                logged = Some(error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Who holds the name.
    async fn holder(&self) -> Holder {
        let Ok(members) = self.coordination.list(self.group).await else {
            return Holder::Unseen;
        };
        let Some(data) = members.get(&self.member) else {
            return Holder::Unseen;
        };
        match Presence::decode(data) {
            // The key of an earlier attempt or membership of this process; its lease ends.
            Some(presence) if presence.is_same_process(&self.presence) => Holder::Unseen,
            other => Holder::Another(other),
        }
    }

    fn report_taken(&self, holder: Option<&Presence>) {
        let holder = match holder {
            Some(Presence {
                address, host, pid, ..
            }) => format!("pid {pid} on host '{host}', which listens on {address}"),
            None => "one whose presence this release can't read".to_owned(),
        };
        let why = format!(
            "the name '{}' in the group '{}' is taken by another process ({holder}): stop that \
             one, or start this one under a name of its own",
            self.member, self.group
        );
        self.taken.send_replace(Some(why));
    }
}

/// Who holds the name.
enum Holder {
    /// Another process; `None` if its data is no presence.
    Another(Option<Presence>),
    /// Nobody now, this process itself, or unknown.
    Unseen,
}

/// Waits until the keeper is left or dropped.
async fn left(leaving: &mut watch::Receiver<bool>) {
    // A dropped sender leaves, too.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

#[cfg(test)]
mod tests;
