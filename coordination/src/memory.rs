//! The backend in this process's memory: for `tierkv dev`, and for tests.
//!
//! With a data directory it persists there, so that revisions and epochs never repeat
//! over a durable log. Members and candidates are ephemeral: they end with their process.
//!
//! ```text
//!  trait call ─► Writer (one at a time) ─► ImageFile (durable first)
//!                                              │
//!  reads, watches ◄── State ◄──────────────────┘ then visible
//! ```
//!
//! Reading order: this file, then `image` (the persisted state), `image_file` and `disk` (how it is
//! stored), `records`, `groups` and `elections` (the three parts of the visible state), `offline`
//! (access to a directory without an open store).

mod disk;
mod elections;
mod groups;
mod image;
mod image_file;
mod offline;
mod records;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::Epoch;

pub use self::offline::{Offline, OfflineImage};
use self::{
    disk::{Disk, LocalDisk},
    elections::Elections,
    groups::Groups,
    image::{Expected, Image},
    image_file::ImageFile,
    records::Records,
};
use crate::{
    config::{ConfigStore, Revision, Swap, Versioned},
    election::{Candidacy, Leader, LeaderElection},
    error::CoordinationError,
    lease::Lease,
    limits::{check_key, check_member, check_prefix, check_value},
    membership::{GroupMembership, Membership},
    watch::{Watch, Watched},
};

/// Coordination inside one process, durable if it has a directory.
pub struct MemoryCoordination {
    core: Arc<Core>,
}

impl MemoryCoordination {
    /// A store without a directory; it ends with its last `Arc`.
    #[must_use]
    pub fn ephemeral() -> Arc<Self> {
        Self::new(Image::default(), None)
    }

    /// The store that persists in `dir`, which is created if it does not exist. This does blocking
    /// I/O, once at the start of a process.
    ///
    /// # Errors
    /// `Storage`, with the path, if the directory can't be used, another process uses it,
    /// or the file in it is damaged or of a newer format.
    pub fn open(dir: &Path) -> Result<Arc<Self>, CoordinationError> {
        Self::open_on(dir, LocalDisk)
    }

    fn open_on(dir: &Path, disk: impl Disk + 'static) -> Result<Arc<Self>, CoordinationError> {
        let (file, image) = ImageFile::open(dir, disk)?;
        Ok(Self::new(image, Some(file)))
    }

    fn new(image: Image, file: Option<ImageFile>) -> Arc<Self> {
        let writer = Writer {
            last: image.revision,
            file,
        };
        let state = State {
            records: Records::new(image),
            groups: Groups::default(),
            elections: Elections::default(),
        };
        Arc::new(Self {
            core: Arc::new(Core {
                state: Mutex::new(state),
                writer: Arc::new(tokio::sync::Mutex::new(writer)),
            }),
        })
    }

    /// A fault for operators and tests: ends the lease of `name` in the group or the election of
    /// this name (or in both), as if its process had died. The holder is notified before anyone can
    /// take its place (COORD-LEASE).
    ///
    /// Returns whether there was such a lease.
    pub fn expire(&self, group_or_election: &str, name: &str) -> bool {
        let mut state = self.core.state();
        let member = state.groups.expire(group_or_election, name);
        let candidate = state.elections.expire(group_or_election, name);
        member || candidate
    }

    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Option<Bytes>,
    ) -> Result<Swap, CoordinationError> {
        check_key(key)?;
        check_value(value.as_deref().unwrap_or_default())?;
        let key = key.to_owned();
        self.core
            .write(move |core, writer| {
                let mut image = core.state().records.image().clone();
                if !image.is(&key, expected) {
                    return Ok(Swap::Lost);
                }
                let revision = writer.next_revision();
                image.set(revision, &key, value);
                writer.persist(&image)?;
                core.state().records.install(image, &key);
                Ok(Swap::Won(revision))
            })
            .await
    }
}

impl fmt::Debug for MemoryCoordination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCoordination").finish_non_exhaustive()
    }
}

/// The state shared by the store and its handles. Handles hold it weakly: they must not keep a
/// closed store, and the lock on its directory, alive.
struct Core {
    state: Mutex<State>,
    writer: Arc<tokio::sync::Mutex<Writer>>,
}

/// The visible state; never ahead of the durable one.
struct State {
    records: Records,
    groups: Groups,
    elections: Elections,
}

/// The right to change the persisted state.
struct Writer {
    /// The highest revision used so far, failed changes included: a change of unknown outcome may
    /// be on disk, and no other change may share its revision.
    last: Revision,
    file: Option<ImageFile>,
}

impl Core {
    /// The state. A panic under this lock leaves each map consistent, so a poisoned lock is used
    /// anyway instead of failing every tier.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` as the only change, to its end even if the caller goes away: no change is left
    /// half done.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>, &mut Writer) -> Result<T, CoordinationError> + Send + 'static,
    ) -> Result<T, CoordinationError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        if writer.file.is_none() {
            return work(self, &mut writer);
        }
        let core = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let core = core;
            let mut writer = writer;
            work(&core, &mut writer)
        });
        match done.await {
            Ok(result) => result,
            // The runtime was shut down before the work started.
            Err(error) if error.is_cancelled() => Err(CoordinationError::Closed),
            Err(error) => Err(CoordinationError::OutcomeUnknown(format!(
                "the coordination store failed inside ({error})"
            ))),
        }
    }
}

impl Writer {
    fn next_revision(&mut self) -> Revision {
        self.last = Revision(self.last.0 + 1);
        self.last
    }

    fn persist(&mut self, image: &Image) -> Result<(), CoordinationError> {
        match &mut self.file {
            Some(file) => file.replace(image),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ConfigStore for MemoryCoordination {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, CoordinationError> {
        check_key(key)?;
        Ok(self.core.state().records.image().get(key))
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<Swap, CoordinationError> {
        self.swap(key, Expected::Absent, Some(value)).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Swap, CoordinationError> {
        self.swap(key, Expected::At(expected), Some(value)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, CoordinationError> {
        self.swap(key, Expected::At(expected), None).await
    }
}

#[async_trait]
impl Watch for MemoryCoordination {
    async fn watch(&self, key: &str) -> Result<Watched<Option<Versioned>>, CoordinationError> {
        check_key(key)?;
        Ok(self.core.state().records.watch(key))
    }

    async fn watch_prefix(
        &self,
        prefix: &str,
    ) -> Result<Watched<BTreeMap<String, Versioned>>, CoordinationError> {
        check_prefix(prefix)?;
        Ok(self.core.state().records.watch_prefix(prefix))
    }
}

#[async_trait]
impl GroupMembership for MemoryCoordination {
    async fn join(
        &self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<Membership, CoordinationError> {
        check_key(group)?;
        check_member(member)?;
        check_value(&data)?;
        let (session, lost) = self.core.state().groups.join(group, member, data)?;
        let lease = Claim {
            core: Arc::downgrade(&self.core),
            kind: ClaimKind::Member { session },
            scope: group.to_owned(),
            name: member.to_owned(),
        };
        Ok(Membership::new(lost, lease))
    }

    async fn list(&self, group: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError> {
        check_key(group)?;
        Ok(self.core.state().groups.list(group))
    }

    async fn observe(
        &self,
        group: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError> {
        check_key(group)?;
        Ok(self.core.state().groups.observe(group))
    }
}

#[async_trait]
impl LeaderElection for MemoryCoordination {
    async fn nominate(
        &self,
        election: &str,
        candidate: &str,
        data: Bytes,
    ) -> Result<Candidacy, CoordinationError> {
        check_key(election)?;
        check_member(candidate)?;
        check_value(&data)?;
        let (election, candidate) = (election.to_owned(), candidate.to_owned());
        self.core
            .write(move |core, writer| {
                core.state().elections.check_free(&election, &candidate)?;
                let epoch = reserve_epoch(core, writer)?;
                let standing = core
                    .state()
                    .elections
                    .nominate(&election, &candidate, data, epoch);
                let lease = Claim {
                    core: Arc::downgrade(core),
                    kind: ClaimKind::Candidate { epoch },
                    scope: election,
                    name: candidate,
                };
                Ok(Candidacy::new(standing, lease))
            })
            .await
    }

    async fn observe_leader(
        &self,
        election: &str,
    ) -> Result<Watched<Option<Leader>>, CoordinationError> {
        check_key(election)?;
        Ok(self.core.state().elections.observe(election))
    }
}

/// Reserves the epoch of a candidate: a revision of the store, durable before the candidate stands.
/// Candidates lead in the order of nomination, so the epochs of leaders only grow, and a change of
/// leader needs no disk.
fn reserve_epoch(core: &Arc<Core>, writer: &mut Writer) -> Result<Epoch, CoordinationError> {
    let mut image = core.state().records.image().clone();
    let revision = writer.next_revision();
    image.revision = revision;
    match writer.persist(&image) {
        Ok(()) => {
            core.state().records.advance(revision);
            Ok(Epoch(revision.0))
        }
        // At most a number that nobody uses is on disk: there is certainly no candidacy.
        Err(CoordinationError::OutcomeUnknown(why)) => Err(CoordinationError::Storage(why)),
        Err(error) => Err(error),
    }
}

/// A membership or candidacy, for its handle.
struct Claim {
    core: Weak<Core>,
    kind: ClaimKind,
    scope: String,
    name: String,
}

/// Distinguishes a claim from a later one of the same name.
enum ClaimKind {
    Member { session: u64 },
    Candidate { epoch: Epoch },
}

#[async_trait]
impl Lease for Claim {
    async fn release(&self) -> Result<(), CoordinationError> {
        self.abandon();
        Ok(())
    }

    fn abandon(&self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let mut state = core.state();
        match self.kind {
            ClaimKind::Member { session } => {
                state.groups.leave(&self.scope, &self.name, session);
            }
            ClaimKind::Candidate { epoch } => {
                state.elections.resign(&self.scope, &self.name, epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests;
