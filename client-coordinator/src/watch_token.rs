//! Where a watch goes on, as users keep it: a position in the log of each cluster.
//!
//! A token names no node, so it outlives failovers and restarts. To users it is opaque;
//! here it is, byte by byte (numbers little-endian):
//!
//! ```text
//! at  bytes
//!  0      1  format version: 1
//!  1      2  number of clusters, at least 1
//!            then for each cluster, in the order of their names:
//!         1  length of its name
//!         …  its name
//!         8  epoch of the last record told
//!         8  its index
//!         8  its version
//!  …      4  CRC-32C of everything before
//! ```
//!
//! The checksum finds what was cut or mixed up on its way through a client's storage; it
//! keeps nobody from making a token up. One that is made up is checked like any other: it
//! names a record of the log, or the watch is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use tierkv_rpc::proto::internal::WatchPosition;
use tierkv_types::{ClusterId, Error, SLOT_COUNT};

const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Every cluster owns a slot, so a token has no more of them.
const MAX_CLUSTERS: usize = SLOT_COUNT as usize;
/// A name has at most 63 bytes.
const MAX_CLUSTER_BYTES: usize = 1 + 63 + 3 * 8;
/// Longest token there can be.
const MAX_TOKEN_BYTES: usize = 3 + MAX_CLUSTERS * MAX_CLUSTER_BYTES + CHECKSUM_BYTES;

/// A place in one cluster's log: after this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct After {
    epoch: u64,
    index: u64,
    version: u64,
}

/// Where a watch goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchToken(BTreeMap<ClusterId, After>);

impl WatchToken {
    /// Takes in how far a cluster has told.
    ///
    /// # Errors
    /// `InvalidArgument` if the cluster's name is none.
    pub(crate) fn advance(&mut self, position: &WatchPosition) -> Result<(), Error> {
        let after = After {
            epoch: position.epoch,
            index: position.index,
            version: position.version,
        };
        self.0.insert(ClusterId::new(&position.cluster)?, after);
        Ok(())
    }

    /// Whether it says of each cluster that it knows of the same as `other`.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        (self.0.iter()).all(|(cluster, after)| other.0.get(cluster) == Some(after))
    }

    /// The positions as they go to a server coordinator.
    pub(crate) fn positions(&self) -> Vec<WatchPosition> {
        (self.0.iter())
            .map(|(cluster, after)| WatchPosition {
                cluster: cluster.to_string(),
                epoch: after.epoch,
                index: after.index,
                version: after.version,
            })
            .collect()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = vec![FORMAT];
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
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.into()
    }

    /// Reads a token that a user kept.
    ///
    /// # Errors
    /// `InvalidArgument` if this platform never gave it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(bytes).ok_or_else(|| {
            Error::invalid(
                "the resume token is none that a watch gave, or it is damaged; pass it on as it \
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
        if format != FORMAT {
            return None;
        }
        let count = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let mut positions = BTreeMap::new();
        for _ in 0..count {
            let [length] = take(&mut rest)?;
            let (name, behind) = rest.split_at_checked(length.into())?;
            rest = behind;
            let cluster = ClusterId::new(std::str::from_utf8(name).ok()?).ok()?;
            // One form for each token: names rise.
            if positions.keys().next_back() >= Some(&cluster) {
                return None;
            }
            let mut number = || take(&mut rest).map(u64::from_le_bytes);
            let after = After {
                epoch: number()?,
                index: number()?,
                version: number()?,
            };
            positions.insert(cluster, after);
        }
        (rest.is_empty() && count > 0).then_some(Self(positions))
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
        let after = any::<[u64; 3]>().prop_map(|[epoch, index, version]| After {
            epoch,
            index,
            version,
        });
        let cluster = "[a-z0-9][a-z0-9_-]{0,62}".prop_map(|name| ClusterId::new(&name).unwrap());
        collection::btree_map(cluster, after, 1..20).prop_map(WatchToken)
    }

    fn refused(bytes: &[u8]) {
        let error = WatchToken::decode(bytes).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{bytes:?}");
    }

    /// With a checksum that matches.
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

        /// Of any bytes at all, only those are read that a token is written as.
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
    fn what_no_watch_gives_is_refused_though_its_checksum_matches() {
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
            token(2, 1, &[&a]),
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

    /// The format is for good: clients keep tokens over upgrades.
    #[test]
    fn a_token_of_this_format_is_read_for_ever() {
        let mut token = WatchToken::default();
        token
            .advance(&WatchPosition {
                cluster: "c1".into(),
                epoch: 2,
                index: 300,
                version: 4,
            })
            .unwrap();
        let bytes =
            signed(b"\x01\x01\x00\x02c1\x02\0\0\0\0\0\0\0\x2C\x01\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        assert_eq!(token.encode(), bytes);
        assert_eq!(WatchToken::decode(&bytes), Ok(token));
    }
}
