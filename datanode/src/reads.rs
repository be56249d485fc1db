//! Reads: from memory at once, else from the store, several keys together.

use std::sync::Arc;

use tierkv_rpc::{
    OperationTimes, Replies,
    proto::{
        convert,
        internal::{Read, ReadReply, Reply, reply},
    },
    tiers::reply,
};
use tierkv_storage::{Item, Residence, Storage};
use tierkv_types::{Code, Error, ItemKey, NodeId, Version};
use tokio::time::Instant;

use crate::{ownership::Ownership, prior_rows::KEYS_PER_LOAD};

/// What all reads of a frame share, sampled before any of them.
pub(crate) struct ReadView {
    /// Whether this node could prove after the frame's arrival that it is master.
    pub(crate) confirmed: Result<(), Error>,
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
}

impl ReadView {
    /// Answers a read from memory; `Err` if the store must be read.
    pub(crate) fn read(&self, id: u64, read: Read, storage: &Storage) -> Result<Reply, Missing> {
        let (key, admitted) = match self.admit(read) {
            Ok(admitted) => admitted,
            Err(error) => return Ok(reply(id, Err(error))),
        };
        match storage.get(key.as_bytes()) {
            Residence::Found(item) => Ok(reply(id, Ok(self.found(Some(item), admitted)))),
            Residence::Absent => Ok(reply(id, Ok(self.found(None, admitted)))),
            Residence::Unknown => Err(Missing { id, key, admitted }),
        }
    }

    /// Answers reads from the store's `items`, in the order of `missing`.
    pub(crate) fn answer(&self, missing: Vec<Missing>, items: Vec<Option<Item>>) -> Vec<Reply> {
        (missing.into_iter().zip(items))
            .map(|(miss, item)| reply(miss.id, Ok(self.found(item, miss.admitted))))
            .collect()
    }

    fn admit(&self, read: Read) -> Result<(ItemKey, Admitted), Error> {
        self.confirmed.clone()?;
        let key = ItemKey::from_bytes(read.item_key)?;
        let revision = self.owned.check(key.slot(), read.placement_version)?;
        if Version::from_bits(read.min_version) > self.as_of {
            return Err(Error::new(
                Code::InvalidArgument,
                "min_version is newer than anything the key's cluster has written; \
                 use a version that a write or read of this key answered",
            ));
        }
        let admitted = Admitted {
            slot_revision: revision,
            explain: read.explain,
        };
        Ok((key, admitted))
    }

    fn found(&self, item: Option<Item>, admitted: Admitted) -> reply::Kind {
        let Admitted {
            slot_revision,
            explain,
        } = admitted;
        let path = match explain {
            true => vec![convert::hop(
                TIER,
                self.node.as_str(),
                self.arrived.elapsed(),
            )],
            false => Vec::new(),
        };
        let item = item.filter(|item| item.expires.is_none_or(|at| at > self.clock));
        let clock = self.clock.to_bits();
        reply::Kind::Read(match item {
            Some(item) => ReadReply {
                found: true,
                value: item.value,
                version: item.version.to_bits(),
                expires: item.expires.unwrap_or_default().to_bits(),
                clock,
                slot_revision,
                confirmed: true,
                path,
                ..ReadReply::default()
            },
            None => ReadReply {
                version: self.as_of.to_bits(),
                clock,
                slot_revision,
                confirmed: true,
                path,
                ..ReadReply::default()
            },
        })
    }
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
