//! Reads: from memory at once, else from the store, several keys together.

use std::{sync::Arc, time::Duration};

use tierkv_rpc::{
    OperationTimes, Replies,
    proto::{
        convert,
        internal::{Read, ReadReply, Reply, reply},
    },
    tiers::reply,
};
use tierkv_storage::{Item, Residence, Storage};
use tierkv_types::{BootTime, Code, Error, ItemKey, NodeId, Version};
use tokio::time::Instant;

use crate::{ownership::Ownership, prior_rows::KEYS_PER_LOAD, sequencer::Sequencer};

/// Why answers are fresh enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// A proof from after their arrival (REP-CONFIRM).
    Proven,
    /// Everything that was committed before this time is applied; `None`: that is not known. Each
    /// read has a bound of its own (REP-AGE).
    Applied(Option<BootTime>),
}

/// What all reads of a frame share, sampled before any of them.
pub(crate) struct ReadView {
    /// Why answers are fresh enough; or why this node gives none.
    pub(crate) basis: Result<Basis, Error>,
    /// Whether this node is not its cluster's master.
    pub(crate) is_replica: bool,
    pub(crate) sequencer: Arc<Sequencer>,
    /// Everything up to this version is applied: an absent key is absent as of it.
    pub(crate) as_of: Version,
    /// The cluster clock, by which keys expire and cache entries are dated.
    pub(crate) clock: Version,
    pub(crate) owned: Arc<Ownership>,
    /// When the frame arrived, and at which node: for reads that are explained.
    pub(crate) arrived: Instant,
    pub(crate) node: Arc<NodeId>,
}

/// The name of this tier, in metrics and in the path of a read.
pub(crate) const TIER: &str = "datanode";

/// A read that memory could not answer.
pub(crate) struct Missing {
    pub(crate) id: u64,
    pub(crate) key: ItemKey,
    admitted: Admitted,
}

/// The fields of a read that its answer depends on.
#[derive(Clone, Copy)]
struct Admitted {
    slot_revision: u64,
    explain: bool,
    max_age: Duration,
}

impl ReadView {
    /// Answers a read from memory; `Err` if the store must be read.
    pub(crate) fn read(&self, id: u64, read: Read, storage: &Storage) -> Result<Reply, Missing> {
        let (key, admitted) = match self.admit(read) {
            Ok(admitted) => admitted,
            Err(error) => return Ok(reply(id, Err(error))),
        };
        match storage.get(key.as_bytes()) {
            Residence::Found(item) => Ok(reply(id, self.found(Some(item), admitted))),
            Residence::Absent => Ok(reply(id, self.found(None, admitted))),
            Residence::Unknown => Err(Missing { id, key, admitted }),
        }
    }

    /// Answers reads from the store's `items`, in the order of `missing`.
    pub(crate) fn answer(&self, missing: Vec<Missing>, items: Vec<Option<Item>>) -> Vec<Reply> {
        (missing.into_iter().zip(items))
            .map(|(miss, item)| reply(miss.id, self.found(item, miss.admitted)))
            .collect()
    }

    /// Whether the applied state is fresh enough for a read with a bound.
    pub(crate) fn fits(&self, read: &Read) -> bool {
        let is_applied = Version::from_bits(read.min_version) <= self.as_of;
        is_applied && self.age(max_age(read)).is_ok()
    }

    /// Whether this node is a replica that has not applied the read's `min_version` yet.
    pub(crate) fn is_behind(&self, read: &Read) -> bool {
        self.is_replica && Version::from_bits(read.min_version) > self.as_of
    }

    fn admit(&self, read: Read) -> Result<(ItemKey, Admitted), Error> {
        let basis = self.basis.clone()?;
        let max_age = max_age(&read);
        self.age(max_age)?;
        let key = ItemKey::from_bytes(read.item_key)?;
        let revision = self.owned.check(key.slot(), read.placement_version)?;
        if Version::from_bits(read.min_version) > self.as_of {
            return Err(match basis {
                Basis::Proven => Error::new(
                    Code::InvalidArgument,
                    "min_version is newer than anything the key's cluster has written; \
                     use a version that a write or read of this key answered",
                ),
                Basis::Applied(_) => Error::new(
                    Code::NotMaster,
                    "this replica has not applied min_version yet; ask the master",
                ),
            });
        }
        let admitted = Admitted {
            slot_revision: revision,
            explain: read.explain,
            max_age,
        };
        Ok((key, admitted))
    }

    /// How stale an answer is now at most.
    ///
    /// # Errors
    /// `NotMaster` if that is more than `max_age`, or not known.
    fn age(&self, max_age: Duration) -> Result<Duration, Error> {
        let since = match self.basis.clone()? {
            Basis::Proven => return Ok(Duration::ZERO),
            Basis::Applied(since) => since,
        };
        let age = since.map(|since| self.sequencer.boot_time().since(since));
        age.filter(|age| *age <= max_age).ok_or_else(|| {
            Error::new(
                Code::NotMaster,
                "what this node has applied may be older than the read's bound; ask the master",
            )
        })
    }

    fn found(&self, item: Option<Item>, admitted: Admitted) -> Result<reply::Kind, Error> {
        let Admitted {
            slot_revision,
            explain,
            max_age,
        } = admitted;
        // Once more, after the read: the node may have stood still meanwhile.
        let age = self.age(max_age)?;
        let path = match explain {
            true => vec![convert::hop(
                TIER,
                self.node.as_str(),
                self.arrived.elapsed(),
            )],
            false => Vec::new(),
        };
        let common = ReadReply {
            clock: self.clock.to_bits(),
            slot_revision,
            confirmed: matches!(self.basis, Ok(Basis::Proven)),
            path,
            age_ms: convert::age_ms(age),
            from_replica: self.is_replica,
            ..ReadReply::default()
        };
        let item = item.filter(|item| item.expires.is_none_or(|at| at > self.clock));
        Ok(reply::Kind::Read(match item {
            Some(item) => ReadReply {
                found: true,
                value: item.value,
                version: item.version.to_bits(),
                expires: item.expires.unwrap_or_default().to_bits(),
                ..common
            },
            None => ReadReply {
                version: self.as_of.to_bits(),
                ..common
            },
        }))
    }
}

/// The largest age that a read accepts.
fn max_age(read: &Read) -> Duration {
    Duration::from_millis(read.max_staleness_ms.into())
}

/// Reads from the store the keys that are not in memory, a few at a time, so that many large
/// values are never held together.
pub(crate) async fn load(
    view: &ReadView,
    mut missing: Vec<Missing>,
    mut places: tierkv_rpc::OperationPermits,
    storage: &Storage,
    times: &OperationTimes,
    replies: &Replies<Reply>,
) {
    while !missing.is_empty() {
        let count = missing.len().min(KEYS_PER_LOAD);
        let rest = missing.split_off(count);
        let some = std::mem::replace(&mut missing, rest);
        let keys: Vec<ItemKey> = some.iter().map(|miss| miss.key.clone()).collect();
        match storage.load(&keys).await {
            Ok(items) => {
                times.ended(view.arrived, count);
                replies.send(view.answer(some, items)).await;
            }
            // One row that can't be read must not fail the others: read them one by one.
            Err(_) => {
                for (miss, key) in some.into_iter().zip(keys) {
                    let answer = match storage.load(&[key]).await {
                        Ok(items) => view.answer(vec![miss], items),
                        Err(error) => {
                            match error.is_passing() {
                                true => tracing::warn!(%error, "a read was refused"),
                                false => tracing::error!(%error, "a read was refused"),
                            }
                            vec![reply(miss.id, Err(error.to_error()))]
                        }
                    };
                    times.ended(view.arrived, 1);
                    replies.send(answer).await;
                }
            }
        }
        places.answered(count);
    }
}
