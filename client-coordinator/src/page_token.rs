//! Page tokens: where a scan continues.
//!
//! Opaque to users. In bytes, numbers big-endian:
//!
//! ```text
//! 0        format version, 1
//! 1..n-4   the last key returned, without its namespace
//! n-4..n   CRC-32C of the selection (length of its start as 4 bytes, start, end) and of
//!          all bytes before
//! ```
//!
//! The checksum detects damaged tokens and those of other selections; a token is neither a secret
//! nor a proof. It holds only a key, so it stays valid over restarts, failovers and moves of slots.

use bytes::Bytes;
use tierkv_types::{Error, ItemKey, ItemRange};

/// The format this code writes, and the only one it reads.
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// The token of a scan of `range` that has returned everything up to `last`.
pub(crate) fn encode(range: &ItemRange, last: &ItemKey) -> Bytes {
    let key = last.key();
    let mut token = Vec::with_capacity(1 + key.len() + CHECKSUM_BYTES);
    token.push(FORMAT);
    token.extend_from_slice(&key);
    token.extend_from_slice(&checksum(range, &token).to_be_bytes());
    token.into()
}

/// The rest of `range` after the page that returned `token`; all of it if the token is empty.
///
/// # Errors
/// `InvalidArgument` if the token is malformed, damaged, or of another selection.
pub(crate) fn rest(range: ItemRange, token: &[u8]) -> Result<ItemRange, Error> {
    if token.is_empty() {
        return Ok(range);
    }
    let refused = || {
        Error::invalid(
            "the page token is not one of this selection; send it as it was given, with the \
             same namespace, prefix or range, or leave it out to start again",
        )
    };
    let (content, found) = token.split_last_chunk().ok_or_else(refused)?;
    if checksum(&range, content).to_be_bytes() != *found {
        return Err(refused());
    }
    let [FORMAT, key @ ..] = content else {
        return Err(Error::invalid(
            "the page token is of another release; leave it out to start again",
        ));
    };
    let last = ItemKey::new(range.namespace(), key).map_err(|_| refused())?;
    match range.contains(last.as_bytes()) {
        true => Ok(range.after(&last)),
        false => Err(refused()),
    }
}

fn checksum(range: &ItemRange, content: &[u8]) -> u32 {
    let start = range.start();
    // An item key is short enough.
    let length = u32::try_from(start.len()).unwrap_or(u32::MAX);
    let mut checksum = crc32c::crc32c(&length.to_be_bytes());
    for bytes in [&start[..], &range.end()[..], content] {
        checksum = crc32c::crc32c_append(checksum, bytes);
    }
    checksum
}

#[cfg(test)]
mod tests {
    use tierkv_types::limits::MAX_KEY_BYTES;

    use super::*;

    fn prefix(prefix: &[u8]) -> ItemRange {
        ItemRange::of_prefix("n", prefix).unwrap()
    }

    fn key(key: &[u8]) -> ItemKey {
        ItemKey::new("n", key).unwrap()
    }

    fn refused(range: ItemRange, token: &[u8]) -> String {
        rest(range, token).unwrap_err().to_string()
    }

    #[test]
    fn a_token_leads_behind_the_last_key() {
        let range = prefix(b"a");
        assert_eq!(rest(range.clone(), b"").unwrap(), range);
        for last in [&b"a"[..], b"a\0\xFF", &[b'a'; MAX_KEY_BYTES]] {
            let token = encode(&range, &key(last));
            let left = rest(range.clone(), &token).unwrap();
            assert_eq!(left, range.after(&key(last)));
        }
    }

    /// Fixed bytes, computed with another CRC-32C: clients keep tokens across releases.
    #[test]
    fn the_format_never_changes() {
        let token = encode(&prefix(b"a"), &key(b"ab"));
        assert_eq!(&token[..], GOLDEN);
    }

    const GOLDEN: &[u8] = b"\x01ab\x8C\xB3\x65\xB9";

    #[test]
    fn damage_in_any_byte_and_any_cut_is_found() {
        let token = encode(&prefix(b"a"), &key(b"abc"));
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut damaged = token.to_vec();
                damaged[at] ^= 1 << bit;
                refused(prefix(b"a"), &damaged);
            }
        }
        for length in 1..token.len() {
            refused(prefix(b"a"), &token[..length]);
        }
        let longer = [&token[..], &[0]].concat();
        refused(prefix(b"a"), &longer);
        refused(prefix(b"a"), b"not a token at all");
    }

    #[test]
    fn a_token_is_of_its_selection_alone() {
        let token = encode(&prefix(b"a"), &key(b"ab"));
        let others = [
            prefix(b""),
            prefix(b"ab"),
            ItemRange::between("n", b"a", b"").unwrap(),
            ItemRange::of_prefix("n2", b"a").unwrap(),
        ];
        for other in others {
            let words = refused(other, &token);
            assert!(words.contains("not one of this selection"), "{words}");
        }
        // The same keys, as a range.
        let same = ItemRange::between("n", b"a", b"b").unwrap();
        assert!(rest(same, &token).is_ok());
    }

    #[test]
    fn tokens_of_other_formats_and_of_foreign_keys_are_refused() {
        let range = prefix(b"a");
        let sealed = |content: &[u8]| [content, &checksum(&range, content).to_be_bytes()].concat();
        let words = refused(range.clone(), &sealed(b"\x02ab"));
        assert!(words.contains("another release"), "{words}");
        refused(range.clone(), &sealed(b""));
        refused(range.clone(), &sealed(b"\x01"));
        refused(range.clone(), &sealed(b"\x01b"));
        refused(range.clone(), &sealed(&[1; MAX_KEY_BYTES + 2]));
        assert!(rest(range.clone(), &sealed(b"\x01ab")).is_ok());
    }
}
