//! Resume tokens: a position in the log of each cluster.
//!
//! A token names no node, so it outlives failovers and restarts. It is opaque to users. Its format,
//! byte by byte (numbers little-endian):
//!
//! ```text
//! at  bytes
//!  0      1  format version: 1, or 2 if it stands within a record
//!  1      2  number of clusters, at least 1
//!            then for each cluster, in the order of their names:
//!         1  length of its name
//!         …  its name
//!         8  epoch of the last record sent
//!         8  its index
//!         8  its version
//!         4  format 2 only: how many changes of that record were sent, of any prefix; 0 if
//!            all of them, as in format 1
//!  …      4  CRC-32C of everything before
//! ```
//!
//! The checksum detects tokens damaged in a client's storage. It does not stop anybody from making
//! one up. Such a token is checked like any other: it names a record of the log, or the watch is
//! refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use tierkv_rpc::proto::internal::WatchPosition;
use tierkv_types::{ClusterId, Error, SLOT_COUNT};

/// Of a token after whole records.
const FORMAT: u8 = 1;
/// Of a token within a record.
const FORMAT_WITHIN: u8 = 2;
const CHECKSUM_BYTES: usize = 4;
/// Every cluster owns a slot, so a token has at most this many clusters.
const MAX_CLUSTERS: usize = SLOT_COUNT as usize;
/// Maximum bytes of one cluster: a name has at most 63.
const MAX_CLUSTER_BYTES: usize = 1 + 63 + 3 * 8 + 4;
/// Maximum length of a token.
const MAX_TOKEN_BYTES: usize = 3 + MAX_CLUSTERS * MAX_CLUSTER_BYTES + CHECKSUM_BYTES;

/// A place in one cluster's log: after a record, or within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct After {
    epoch: u64,
    index: u64,
    version: u64,
    /// How many of its changes were sent; 0: all of them.
    changes_told: u32,
}

/// Where a watch continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchToken(BTreeMap<ClusterId, After>);

impl WatchToken {
    /// Records a cluster's new position.
    ///
    /// # Errors
    /// `InvalidArgument` if the cluster's name is invalid.
    pub(crate) fn advance(&mut self, position: &WatchPosition) -> Result<(), Error> {
        let after = After {
            epoch: position.epoch,
            index: position.index,
            version: position.version,
            changes_told: position.changes_told,
        };
        self.0.insert(ClusterId::new(&position.cluster)?, after);
        Ok(())
    }

    /// Whether both have the same position for every cluster of this token.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        (self.0.iter()).all(|(cluster, after)| other.0.get(cluster) == Some(after))
    }

    /// The positions in wire form, for a server coordinator.
    pub(crate) fn positions(&self) -> Vec<WatchPosition> {
        (self.0.iter())
            .map(|(cluster, after)| WatchPosition {
                cluster: cluster.to_string(),
                epoch: after.epoch,
                index: after.index,
                version: after.version,
                changes_told: after.changes_told,
            })
            .collect()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let is_within = self.0.values().any(|after| after.changes_told > 0);
        let mut bytes = vec![if is_within { FORMAT_WITHIN } else { FORMAT }];
        // There are at most as many clusters as slots, and a name has at most 63 bytes.
        let count = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for (cluster, after) in &self.0 {
            let name = cluster.as_str().as_bytes();
            bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(name);
            for number in [after.epoch, after.index, after.version] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            if is_within {
                bytes.extend_from_slice(&after.changes_told.to_le_bytes());
            }
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.into()
    }

    /// Decodes a token from a user.
    ///
    /// # Errors
    /// `InvalidArgument` if this platform never issued it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(bytes).ok_or_else(|| {
            Error::invalid(
                "the resume token is invalid or damaged; send it as it \
                 came, or leave it out to watch from now",
            )
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = content;
        let [format] = take(&mut rest)?;
        let is_within = match format {
            FORMAT => false,
            FORMAT_WITHIN => true,
            _ => return None,
        };
        let count = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let mut positions = BTreeMap::new();
        for _ in 0..count {
            let [length] = take(&mut rest)?;
            let (name, behind) = rest.split_at_checked(length.into())?;
            rest = behind;
            let cluster = ClusterId::new(std::str::from_utf8(name).ok()?).ok()?;
            // Each token has one form: names ascend.
            if positions.keys().next_back() >= Some(&cluster) {
                return None;
            }
            let mut number = || take(&mut rest).map(u64::from_le_bytes);
            let mut after = After {
                epoch: number()?,
                index: number()?,
                version: number()?,
                changes_told: 0,
            };
            if is_within {
                after.changes_told = u32::from_le_bytes(take(&mut rest)?);
            }
            positions.insert(cluster, after);
        }
        // One form here, too: format 2 only within a record.
        let stands_within = positions.values().any(|after| after.changes_told > 0);
        let is_whole = rest.is_empty() && count > 0;
        (is_whole && stands_within == is_within).then_some(Self(positions))
    }
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};
    use tierkv_types::Code;

    use super::*;

    fn tokens() -> impl Strategy<Value = WatchToken> {
        let numbers = (any::<[u64; 3]>(), prop_oneof![Just(0), any::<u32>()]);
        let after = numbers.prop_map(|([epoch, index, version], changes_told)| After {
            epoch,
            index,
            version,
            changes_told,
        });
        let cluster = "[a-z0-9][a-z0-9_-]{0,62}".prop_map(|name| ClusterId::new(&name).unwrap());
        collection::btree_map(cluster, after, 1..20).prop_map(WatchToken)
    }

    fn refused(bytes: &[u8]) {
        let error = WatchToken::decode(bytes).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{bytes:?}");
    }

    /// With a valid checksum.
    fn signed(content: &[u8]) -> Vec<u8> {
        [content, &crc32c::crc32c(content).to_le_bytes()].concat()
    }

    proptest! {
        #[test]
        fn a_token_comes_back_as_it_went(token in tokens()) {
            let bytes = token.encode();
            prop_assert!(bytes.len() <= MAX_TOKEN_BYTES);
            prop_assert_eq!(WatchToken::decode(&bytes), Ok(token.clone()));
            let mut again = WatchToken::default();
            for position in token.positions() {
                again.advance(&position).unwrap();
            }
            prop_assert_eq!(again, token);
        }

        #[test]
        fn a_token_with_a_flipped_bit_or_an_end_missing_is_refused(
            token in tokens(), place in any::<prop::sample::Index>(), bit in 0..8,
        ) {
            let bytes = token.encode();
            refused(&bytes[..place.index(bytes.len())]);
            let mut flipped = bytes.to_vec();
            flipped[place.index(bytes.len())] ^= 1_u8 << bit;
            refused(&flipped);
        }

        /// Bytes are decoded only if encoding the token gives the same bytes.
        #[test]
        fn any_bytes_are_refused_or_are_the_only_form_of_a_token(
            content in collection::vec(any::<u8>(), 0..100),
        ) {
            for bytes in [content.clone(), signed(&content)] {
                if let Ok(token) = WatchToken::decode(&bytes) {
                    prop_assert_eq!(&token.encode()[..], &bytes[..]);
                }
            }
        }
    }

    #[test]
    fn an_invalid_token_is_refused_though_its_checksum_matches() {
        let entry = |name: &[u8]| {
            let length = u8::try_from(name.len()).unwrap();
            [&[length], name, &[7; 24]].concat()
        };
        let (a, b) = (entry(b"a"), entry(b"b"));
        let token = |format: u8, count: u16, entries: &[&[u8]]| {
            signed(&[&[format][..], &count.to_le_bytes(), &entries.concat()].concat())
        };
        assert!(WatchToken::decode(&token(1, 2, &[&a, &b])).is_ok());
        for bytes in [
            token(1, 0, &[]),
            token(3, 1, &[&a]),
            // Format 2 has one number more, at least one of them not 0.
            token(2, 1, &[&a]),
            token(2, 1, &[&a, &[0; 4]]),
            token(1, 1, &[&a, &[1, 0, 0, 0]]),
            token(1, 1, &[&a, &b]),
            token(1, 3, &[&a, &b]),
            token(1, 2, &[&b, &a]),
            token(1, 2, &[&a, &a]),
            token(1, 1, &[&entry(b"A")]),
            token(1, 1, &[&entry(b"")]),
            token(1, 1, &[&entry(b"\xff")]),
            token(1, u16::MAX, &[&a]),
            vec![0; MAX_TOKEN_BYTES + 1],
        ] {
            refused(&bytes);
        }
    }

    /// The format never changes: clients keep tokens across upgrades.
    #[test]
    fn a_token_of_this_format_is_read_for_ever() {
        let mut token = WatchToken::default();
        token
            .advance(&WatchPosition {
                cluster: "c1".into(),
                epoch: 2,
                index: 300,
                version: 4,
                changes_told: 0,
            })
            .unwrap();
        let bytes =
            signed(b"\x01\x01\x00\x02c1\x02\0\0\0\0\0\0\0\x2C\x01\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        assert_eq!(token.encode(), bytes);
        assert_eq!(WatchToken::decode(&bytes), Ok(token.clone()));

        let position = WatchPosition {
            changes_told: 5,
            ..token.positions()[0].clone()
        };
        token.advance(&position).unwrap();
        let bytes = signed(
            b"\x02\x01\x00\x02c1\x02\0\0\0\0\0\0\0\x2C\x01\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0",
        );
        assert_eq!(token.encode(), bytes);
        assert_eq!(WatchToken::decode(&bytes), Ok(token));
    }
}
