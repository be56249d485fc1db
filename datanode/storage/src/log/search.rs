//! Finds sound records after a damaged place of a log, by trying every byte. They are counted,
//! to report what a recovery gives up.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tierkv_types::{Epoch, Index, record::RecordHeader};

use super::{LogPlace, scan::bytes_of};
use crate::StorageError;

/// Records in one file after a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundBehind {
    pub(crate) file: PathBuf,
    /// The first record's offset, in bytes.
    pub(crate) offset: u64,
    pub(crate) records: u64,
    pub(crate) first: Index,
    pub(crate) last: Index,
    /// Their highest epoch.
    pub(crate) epoch: Epoch,
}

/// Searches all files of the log in `place` for sound records after `last`.
pub(crate) fn search(place: &LogPlace, last: Index) -> Result<Vec<FoundBehind>, StorageError> {
    let mut found = Vec::new();
    for number in place.numbers()? {
        let path = place.path(number);
        found.extend(search_bytes(&path, &bytes_of(place, &path)?, last));
    }
    Ok(found)
}

fn search_bytes(file: &Path, bytes: &Bytes, last: Index) -> Option<FoundBehind> {
    let mut found: Option<FoundBehind> = None;
    let mut at = 0;
    // A record's length word has a nonzero byte, so a record begins at most three bytes before
    // the next one.
    while let Some(skip) = bytes[at..].iter().position(|byte| *byte != 0) {
        let begin = (at + skip).saturating_sub(3).max(at);
        let frame = (begin..=at + skip)
            .filter_map(|start| Some((start, RecordHeader::read(&bytes[start..]).ok()?)))
            .next();
        let Some((start, frame)) = frame else {
            at += skip + 1;
            continue;
        };
        at = start + frame.len;
        let index = frame.position.index;
        if index <= last {
            continue;
        }
        let found = found.get_or_insert_with(|| FoundBehind {
            file: file.to_owned(),
            offset: start as u64,
            records: 0,
            first: index,
            last: index,
            epoch: frame.position.epoch,
        });
        found.records += 1;
        found.first = found.first.min(index);
        found.last = found.last.max(index);
        found.epoch = found.epoch.max(frame.position.epoch);
    }
    found
}

#[cfg(test)]
mod tests {
    use tierkv_types::record::encode;

    use super::*;
    use crate::tests::put;

    #[test]
    fn records_are_found_wherever_they_begin() {
        for junk in [0_usize, 1, 2, 3, 17] {
            // 256 bytes and more: the length word's first byte may be zero.
            for length in [1, 170, 171, 172, 200, 60_000] {
                let mut bytes = vec![0_u8; 64];
                bytes.extend(vec![0x55; junk]);
                bytes.extend([0, 0]);
                let begin = bytes.len();
                for index in 3..=6 {
                    encode(&put(1, index, "k", length), &mut bytes);
                    bytes.extend([0, 0, 0]);
                }
                let found = search_bytes(Path::new("f"), &bytes.into(), Index(4)).unwrap();
                assert_eq!(
                    (found.records, found.first, found.last),
                    (2, Index(5), Index(6))
                );
                assert!(found.offset > begin as u64, "{junk} {length}");
            }
        }
        assert_eq!(
            search_bytes(Path::new("f"), &vec![7; 5_000].into(), Index(0)),
            None
        );
    }
}
