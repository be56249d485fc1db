//! The keys of a platform in etcd.
//!
//! `NAME` is the platform's name, which has no `/`:
//!
//! ```text
//! NAME/records/KEY                   a record; KEY as it is
//! NAME/groups/GROUP/MEMBER           a member, under its lease
//! NAME/elections/ELECTION/CANDIDATE  a candidate, under its lease
//! ```
//!
//! In `GROUP` and `ELECTION`, `%` is written as `%25` and `/` as `%2F`, so that the keys of one
//! group are exactly those with its prefix; the names of members and candidates have no `/`.
//! Values and data are stored as they are. The revision of a record is its `mod_revision`, the
//! epoch of a candidate its `create_revision`.

use super::snapshot::Range;

/// The keys of one platform.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    name: String,
}

impl Layout {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The key of a record.
    pub(super) fn record(&self, key: &str) -> Range {
        Range::one(format!("{}/records/{key}", self.name))
    }

    /// The keys of the records that begin with `prefix`.
    pub(super) fn records(&self, prefix: &str) -> Range {
        Range::prefix(format!("{}/records/{prefix}", self.name))
    }

    /// The length of what all keys of records begin with.
    pub(super) fn record_offset(&self) -> usize {
        self.name.len() + "/records/".len()
    }

    /// The keys of a group's members, each followed by the member's name.
    pub(super) fn group(&self, group: &str) -> Range {
        Range::prefix(format!("{}/groups/{}/", self.name, escaped(group)))
    }

    /// The keys of an election's candidates, each followed by the candidate's name.
    pub(super) fn election(&self, election: &str) -> Range {
        Range::prefix(format!("{}/elections/{}/", self.name, escaped(election)))
    }
}

fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_as_documented() {
        let layout = Layout::new("shop");
        let text = |range: Range| String::from_utf8(range.key().to_vec()).unwrap();
        assert_eq!(
            text(layout.record("clusters/c1/state")),
            "shop/records/clusters/c1/state"
        );
        assert_eq!(text(layout.records("clu")), "shop/records/clu");
        assert_eq!(text(layout.group("a/b%")), "shop/groups/a%2Fb%25/");
        assert_eq!(text(layout.election("primary")), "shop/elections/primary/");
        assert_eq!(layout.record_offset(), "shop/records/".len());
    }

    #[test]
    fn no_group_is_among_anothers_keys() {
        let layout = Layout::new("n");
        let names = ["a", "a/", "a/b", "a%2Fb", "a%252Fb", "a%", "a2", "/a"];
        let prefixes: BTreeSet<Vec<u8>> = names
            .iter()
            .map(|name| layout.group(name).key().to_vec())
            .collect();
        assert_eq!(prefixes.len(), names.len());
        for one in &prefixes {
            for other in &prefixes {
                assert!(one == other || !one.starts_with(other), "{one:?} {other:?}");
            }
        }
    }
}
