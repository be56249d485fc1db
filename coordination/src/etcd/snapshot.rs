//! The state of a range of keys at one revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, Event, EventType, GetOptions, KeyValue, TxnOp, WatchOptions,
};

use super::cluster::{Cluster, MAX_ANSWER_BYTES};
use crate::{config::Revision, error::CoordinationError};

/// One key, or all keys with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    key: Vec<u8>,
    is_prefix: bool,
}

impl Range {
    pub(super) fn one(key: String) -> Self {
        Self {
            key: key.into_bytes(),
            is_prefix: false,
        }
    }

    pub(super) fn prefix(prefix: String) -> Self {
        Self {
            key: prefix.into_bytes(),
            is_prefix: true,
        }
    }

    /// The key, or the prefix.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key of `name` under this prefix.
    pub(super) fn under(&self, name: &str) -> Self {
        let mut key = self.key.clone();
        key.extend_from_slice(name.as_bytes());
        Self {
            key,
            is_prefix: false,
        }
    }

    /// What follows the prefix in `key`: the name of a member or a candidate. `None` for keys that
    /// this platform did not write.
    pub(super) fn name_of(&self, key: &[u8]) -> Option<String> {
        let name = key.strip_prefix(self.key.as_slice())?;
        let name = std::str::from_utf8(name).ok()?;
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    }

    pub(super) fn read_options(&self) -> GetOptions {
        if self.is_prefix {
            GetOptions::new().with_prefix()
        } else {
            GetOptions::new()
        }
    }

    /// Watches the range from `revision` on.
    pub(super) fn watch_options(&self, revision: i64) -> WatchOptions {
        let options = WatchOptions::new().with_start_revision(revision);
        if self.is_prefix {
            options.with_prefix()
        } else {
            options
        }
    }

    /// The condition that the key was last changed at `revision`; 0 means that it is absent.
    pub(super) fn is_at(&self, revision: i64) -> Compare {
        Compare::mod_revision(self.key.clone(), CompareOp::Equal, revision)
    }

    pub(super) fn get(&self) -> TxnOp {
        TxnOp::get(self.key.clone(), Some(self.read_options()))
    }
}

/// One key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Bytes,
    /// The revision at which the key was created.
    pub(super) created: u64,
    /// The revision of its last change.
    pub(super) modified: Revision,
}

/// All keys of a range at one revision.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
    /// The state is exact as of this revision.
    pub(super) revision: i64,
    /// The member that answered.
    pub(super) member: usize,
}

impl Snapshot {
    /// Reads the newest state (linearizable).
    pub(super) async fn read(cluster: &Cluster, range: &Range) -> Result<Self, CoordinationError> {
        let (mut answer, member) = cluster
            .read(|client| {
                let mut kv = client
                    .kv_client()
                    .max_decoding_message_size(MAX_ANSWER_BYTES);
                let (key, options) = (range.key.clone(), range.read_options());
                async move { kv.get(key, Some(options)).await }
            })
            .await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let entries = answer.take_kvs().into_iter().map(entry).collect();
        Ok(Self {
            entries,
            revision,
            member,
        })
    }

    /// Applies the events of one answer of a watch.
    pub(super) fn apply(&mut self, events: &[Event]) {
        let base = self.revision;
        for event in events {
            let Some(changed) = event.kv() else { continue };
            let revision = changed.mod_revision();
            if revision <= base {
                continue;
            }
            match event.event_type() {
                EventType::Put => {
                    let (key, entry) = entry(changed.clone());
                    self.entries.insert(key, entry);
                }
                EventType::Delete => {
                    self.entries.remove(changed.key());
                }
            }
            self.revision = self.revision.max(revision);
        }
    }
}

fn entry(found: KeyValue) -> (Vec<u8>, Entry) {
    let created = unsigned(found.create_revision());
    let modified = Revision(unsigned(found.mod_revision()));
    let (key, value) = found.into_key_value();
    let entry = Entry {
        value: Bytes::from(value),
        created,
        modified,
    };
    (key, entry)
}

/// A revision of etcd, which is never negative.
pub(super) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_follows_the_prefix() {
        let range = Range::prefix("n/groups/a/".to_owned());
        assert_eq!(range.under("one"), Range::one("n/groups/a/one".to_owned()));
        assert_eq!(range.name_of(b"n/groups/a/one").as_deref(), Some("one"));
        for foreign in [
            &b"n/groups/a/"[..],
            b"n/groups/a/b/c",
            b"n/groups/a/\xff",
            b"n/groups/b/x",
        ] {
            assert_eq!(range.name_of(foreign), None);
        }
    }
}
