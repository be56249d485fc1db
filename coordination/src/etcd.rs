//! The backend in an etcd cluster, for platforms of several machines.
//!
//! ```text
//!  records ──────────► Cluster::change, Cluster::read ──► one member, else the next
//!  watches ──────────► follow: read, watch, read again ──► …
//!  members, candidates ► Claims: a key under a lease, renewed until it is lost (Term)
//! ```
//!
//! - **COORD-CAS**: changes are transactions on the record's `mod_revision`. A change is repeated
//!   only if it certainly did not happen; `failure` decides that.
//! - **COORD-WATCH**: every end of a watch is followed by a read; see `follow`.
//! - **COORD-LEASE**: see `term`. The epoch of a candidate is the `create_revision` of its key; the
//!   candidate with the lowest one leads.
//! - **COORD-BACK**: an answer of another cluster, or of an older state than was seen before, is
//!   an error of its call and in the log; see `history`.
//!
//! The store is usable while etcd is not: calls then return `Unavailable`, and watches, members
//! and candidates go on by themselves as soon as a member answers.
//!
//! Reading order: this file, `layout` (the keys), `options`, `cluster` with `failure` and
//! `history` (calls), `snapshot` and `follow` (watches), `term` and `claim` (leases), `cut_off`
//! (a fault for tests).

mod claim;
mod cluster;
mod cut_off;
mod failure;
mod follow;
mod history;
mod layout;
mod options;
mod snapshot;
mod term;

use std::{collections::BTreeMap, fmt, future::pending, ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Txn, TxnOp};
use tierkv_types::{Epoch, clock::SystemClock};
use tokio::sync::watch;

pub use self::options::{DEFAULT_LEASE_TTL, EtcdOptions, MAX_LEASE_TTL, MIN_LEASE_TTL};
use self::{
    claim::Claims,
    cluster::Cluster,
    cut_off::CutOff,
    follow::{follow, watched},
    layout::Layout,
    snapshot::{Entry, Range, Snapshot, unsigned},
};
use crate::{
    config::{ConfigStore, Revision, Swap, Versioned},
    election::{Candidacy, Leader, LeaderElection, Standing},
    error::CoordinationError,
    limits::{check_key, check_member, check_prefix, check_value},
    location::EtcdLocation,
    membership::{GroupMembership, Membership},
    watch::{Watch, Watched},
};

/// Coordination in an etcd cluster.
pub struct EtcdCoordination {
    location: EtcdLocation,
    cluster: Arc<Cluster>,
    claims: Arc<Claims>,
    layout: Layout,
    /// Dropped with the store: then its watches are closed, and its claims lost and released.
    _open: watch::Sender<()>,
}

impl EtcdCoordination {
    /// The platform's store in the etcd cluster at `location`. It does not wait for etcd, and also
    /// succeeds while that is down.
    ///
    /// Needs a tokio runtime for as long as the store and its handles are used.
    ///
    /// # Errors
    /// `InvalidArgument` if `options` are not usable.
    pub async fn connect(
        location: &EtcdLocation,
        options: &EtcdOptions,
    ) -> Result<Arc<Self>, CoordinationError> {
        let layout = Layout::new(location.prefix());
        let ttl = options.checked_lease_ttl()?;
        let (open, closed) = watch::channel(());
        let cluster = Cluster::new(
            location,
            options.connections(location)?,
            options.credentials()?,
            layout.records("").key().to_vec(),
            closed,
        );
        let cluster = Arc::new(cluster.await?);
        let claims = Claims {
            cluster: Arc::clone(&cluster),
            clock: Arc::new(SystemClock),
            ttl,
            cut_off: CutOff::default(),
        };
        Ok(Arc::new(Self {
            location: location.clone(),
            cluster,
            claims: Arc::new(claims),
            layout,
            _open: open,
        }))
    }

    /// A fault for tests: from now on, the lease of `name` in the group and the election of this
    /// name is not renewed, as if its process had died or was cut off from etcd. A later claim of
    /// the name is not affected.
    #[cfg(feature = "conformance")]
    pub fn cut_off(&self, group_or_election: &str, name: &str) {
        let cut_off = &self.claims.cut_off;
        cut_off.cut(&self.layout.group(group_or_election).under(name));
        cut_off.cut(&self.layout.election(group_or_election).under(name));
    }

    /// Makes `change` if the record's revision is `expected`; 0 means that it is absent.
    async fn swap(
        &self,
        record: &Range,
        expected: i64,
        change: TxnOp,
    ) -> Result<Swap, CoordinationError> {
        let txn = Txn::new().when([record.is_at(expected)]).and_then([change]);
        let swapping = self.cluster.change(|client| {
            let mut kv = client.kv_client();
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        });
        let answer = swapping.await?;
        if !answer.succeeded() {
            return Ok(Swap::Lost);
        }
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(Swap::Won(Revision(unsigned(revision))))
    }
}

impl fmt::Debug for EtcdCoordination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdCoordination")
            .field("location", &self.location.to_string())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ConfigStore for EtcdCoordination {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, CoordinationError> {
        check_key(key)?;
        let snapshot = Snapshot::read(&self.cluster, &self.layout.record(key)).await?;
        Ok(record(&snapshot))
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<Swap, CoordinationError> {
        check_key(key)?;
        check_value(&value)?;
        let record = self.layout.record(key);
        self.swap(&record, 0, TxnOp::put(record.key(), value, None))
            .await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Swap, CoordinationError> {
        check_key(key)?;
        check_value(&value)?;
        let record = self.layout.record(key);
        let Some(expected) = present(expected) else {
            return Ok(Swap::Lost);
        };
        self.swap(&record, expected, TxnOp::put(record.key(), value, None))
            .await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, CoordinationError> {
        check_key(key)?;
        let record = self.layout.record(key);
        let Some(expected) = present(expected) else {
            return Ok(Swap::Lost);
        };
        self.swap(&record, expected, TxnOp::delete(record.key(), None))
            .await
    }
}

#[async_trait]
impl Watch for EtcdCoordination {
    async fn watch(&self, key: &str) -> Result<Watched<Option<Versioned>>, CoordinationError> {
        check_key(key)?;
        watched(&self.cluster, self.layout.record(key), record).await
    }

    async fn watch_prefix(
        &self,
        prefix: &str,
    ) -> Result<Watched<BTreeMap<String, Versioned>>, CoordinationError> {
        check_prefix(prefix)?;
        let offset = self.layout.record_offset();
        watched(
            &self.cluster,
            self.layout.records(prefix),
            move |snapshot| records(snapshot, offset),
        )
        .await
    }
}

#[async_trait]
impl GroupMembership for EtcdCoordination {
    async fn join(
        &self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<Membership, CoordinationError> {
        check_key(group)?;
        check_member(member)?;
        check_value(&data)?;
        let key = self.layout.group(group).under(member);
        let Some(claimed) = self.claims.claim(key, data).await? else {
            return Err(CoordinationError::AlreadyExists(format!(
                "the group {group:?} has a living member {member:?}; choose another name, or stop \
                 that one"
            )));
        };
        let (lost, receiver) = watch::channel(false);
        let claim = self.claims.hold(claimed, pending(), move || {
            lost.send_replace(true);
        });
        Ok(Membership::new(receiver, claim))
    }

    async fn list(&self, group: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError> {
        check_key(group)?;
        let range = self.layout.group(group);
        let snapshot = Snapshot::read(&self.cluster, &range).await?;
        Ok(members(&range, &snapshot))
    }

    async fn observe(
        &self,
        group: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError> {
        check_key(group)?;
        let range = self.layout.group(group);
        watched(&self.cluster, range.clone(), move |snapshot| {
            members(&range, snapshot)
        })
        .await
    }

    /// A new leader lets all leases begin anew.
    fn lease_restarts(&self) -> u64 {
        self.cluster.history.term()
    }
}

#[async_trait]
impl LeaderElection for EtcdCoordination {
    async fn nominate(
        &self,
        election: &str,
        candidate: &str,
        data: Bytes,
    ) -> Result<Candidacy, CoordinationError> {
        check_key(election)?;
        check_member(candidate)?;
        check_value(&data)?;
        let range = self.layout.election(election);
        let key = range.under(candidate);
        let Some(claimed) = self.claims.claim(key.clone(), data).await? else {
            return Err(CoordinationError::AlreadyExists(format!(
                "the election {election:?} has a living candidate {candidate:?}; choose another \
                 name, or stop that one"
            )));
        };
        let (standing, receiver) = watch::channel(Standing::Waiting);
        let standing = Arc::new(standing);
        let cluster = Arc::clone(&self.cluster);
        let (epoch, leading) = (Epoch(claimed.created), Arc::clone(&standing));
        let standing_for = async move {
            follow(&cluster, &range, None, |snapshot| {
                stand(snapshot, &key, epoch, &leading)
            })
            .await;
        };
        let claim = self.claims.hold(claimed, standing_for, move || {
            standing.send_replace(Standing::Lost);
        });
        Ok(Candidacy::new(receiver, claim))
    }

    async fn observe_leader(
        &self,
        election: &str,
    ) -> Result<Watched<Option<Leader>>, CoordinationError> {
        check_key(election)?;
        let range = self.layout.election(election);
        watched(&self.cluster, range.clone(), move |snapshot| {
            leader(&range, snapshot)
        })
        .await
    }
}

/// The revision of a record that exists. No record has any other.
fn present(expected: Revision) -> Option<i64> {
    i64::try_from(expected.0).ok().filter(|it| *it > 0)
}

/// Signals leadership once no older candidate is left; breaks when the own key is gone.
fn stand(
    snapshot: &Snapshot,
    key: &Range,
    epoch: Epoch,
    standing: &watch::Sender<Standing>,
) -> ControlFlow<()> {
    let own = snapshot.entries.get(key.key());
    if own.is_none_or(|own| own.created != epoch.0) {
        return ControlFlow::Break(());
    }
    let is_first = snapshot
        .entries
        .values()
        .all(|other| other.created >= epoch.0);
    standing.send_if_modified(|standing| {
        let wins = is_first && *standing == Standing::Waiting;
        if wins {
            *standing = Standing::Leading(epoch);
        }
        wins
    });
    ControlFlow::Continue(())
}

fn versioned(entry: &Entry) -> Versioned {
    Versioned {
        value: entry.value.clone(),
        revision: entry.modified,
    }
}

fn record(snapshot: &Snapshot) -> Option<Versioned> {
    snapshot.entries.values().next().map(versioned)
}

/// The records, by their names, which begin at `offset` of their keys.
fn records(snapshot: &Snapshot, offset: usize) -> BTreeMap<String, Versioned> {
    let entries = snapshot.entries.iter();
    entries
        .filter_map(|(key, entry)| {
            let name = std::str::from_utf8(key.get(offset..)?).ok()?;
            Some((name.to_owned(), versioned(entry)))
        })
        .collect()
}

fn members(range: &Range, snapshot: &Snapshot) -> BTreeMap<String, Bytes> {
    let entries = snapshot.entries.iter();
    entries
        .filter_map(|(key, entry)| Some((range.name_of(key)?, entry.value.clone())))
        .collect()
}

fn leader(range: &Range, snapshot: &Snapshot) -> Option<Leader> {
    let entries = snapshot.entries.iter();
    let candidates = entries.filter_map(|(key, entry)| Some((range.name_of(key)?, entry)));
    let (candidate, entry) = candidates.min_by_key(|(_, entry)| entry.created)?;
    Some(Leader {
        candidate,
        data: entry.value.clone(),
        epoch: Epoch(entry.created),
    })
}

#[cfg(test)]
mod tests;
