//! [`Digest`]: what the end of a transfer says of everything before it.

use tierkv_rpc::proto::internal::SnapshotEnd;
use xxhash_rust::xxh3::Xxh3;

/// Counts and hashes what is sent, or received.
#[derive(Clone, Default)]
pub(super) struct Digest {
    pieces: u64,
    records: u64,
    bytes: Xxh3,
}

impl Digest {
    /// Adds the next piece.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.pieces += 1;
        self.bytes.update(piece);
    }

    /// Adds the next bytes of the log, in which so many records end.
    pub(super) fn log(&mut self, bytes: &[u8], records: usize) {
        self.records += records as u64;
        self.bytes.update(bytes);
    }

    /// The end of the transfer after all of it.
    pub(super) fn end(&self) -> SnapshotEnd {
        SnapshotEnd {
            pieces: self.pieces,
            records: self.records,
            digest: self.bytes.digest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_or_moved_shows() {
        let whole = |parts: &[&[u8]], records| {
            let mut digest = Digest::default();
            for part in parts {
                digest.piece(part);
            }
            digest.log(b"log", records);
            digest.end()
        };
        let sent = whole(&[b"one", b"two"], 3);
        assert_eq!(whole(&[b"one", b"two"], 3), sent);
        assert_ne!(whole(&[b"two", b"one"], 3), sent);
        assert_ne!(whole(&[b"one"], 3), sent);
        assert_ne!(whole(&[b"one", b"tw0"], 3), sent);
        assert_ne!(whole(&[b"one", b"two"], 2), sent);
        // Cut at another place.
        assert_ne!(whole(&[b"onetwo"], 3), sent);
    }
}
