//! Records as a stream of bytes, cut into parts at any place: a part has at most a megabyte, and a
//! record may be larger.

use bytes::{Bytes, BytesMut};
use tierkv_types::{
    Record,
    record::{self, DecodeError, MAX_RECORD_BYTES},
};

use super::PART_BYTES;

/// The bytes of a record's length, with which it begins.
const LENGTH_BYTES: usize = 4;

/// Encodes records and cuts their bytes into parts.
#[derive(Debug, Default)]
pub(super) struct LogCutter {
    buffer: Vec<u8>,
}

impl LogCutter {
    /// Adds the next record.
    pub(super) fn add(&mut self, record: &Record) {
        record::encode(record, &mut self.buffer);
    }

    /// Whether there are enough bytes for a whole part.
    pub(super) const fn is_full(&self) -> bool {
        self.buffer.len() >= PART_BYTES
    }

    /// The next part; `None` if there are no bytes.
    pub(super) fn part(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            return None;
        }
        let rest = self.buffer.split_off(self.buffer.len().min(PART_BYTES));
        Some(std::mem::replace(&mut self.buffer, rest).into())
    }
}

/// Puts records together again. It keeps at most one record that is not complete, and one part.
#[derive(Debug, Default)]
pub(super) struct LogAssembler {
    buffer: BytesMut,
}

impl LogAssembler {
    /// Adds the next part; returns the records that are complete with it.
    ///
    /// # Errors
    /// The words for a part that is no part of a log.
    pub(super) fn take(&mut self, part: &[u8]) -> Result<Vec<Record>, String> {
        self.buffer.extend_from_slice(part);
        let whole = self.whole()?;
        let bytes = self.buffer.split_to(whole).freeze();
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let decoded = record::decode(&bytes, at);
            let (record, length) = decoded.map_err(|error: DecodeError| error.to_string())?;
            records.push(record);
            at += length;
        }
        Ok(records)
    }

    /// Whether the last record is complete.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How many bytes at the start are complete records.
    fn whole(&self) -> Result<usize, String> {
        let mut end = 0;
        while let Some(length) = self.buffer[end..].first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            if !(LENGTH_BYTES..=MAX_RECORD_BYTES).contains(&length) {
                return Err(format!("a record of its log has {length} bytes"));
            }
            if self.buffer.len() - end < length {
                break;
            }
            end += length;
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tierkv_types::{
        Change, ChangeKind, Epoch, Index, ItemKey, Payload, Position, RequestId, Version, Write,
    };

    use super::*;

    fn written(index: u64, bytes: usize) -> Record {
        Record {
            position: Position {
                epoch: Epoch(3),
                index: Index(index),
            },
            commit: Index(index - 1),
            version: Version::from_bits(index + 7),
            payload: Payload::Write(Write {
                request: RequestId {
                    birth_millis: 1,
                    random: [7; 16],
                },
                fingerprint: 5,
                changes: vec![Change {
                    key: ItemKey::new("default", b"key").unwrap(),
                    kind: ChangeKind::Put {
                        value: vec![9; bytes].into(),
                        expires: None,
                    },
                }],
            }),
        }
    }

    proptest! {
        #[test]
        fn records_come_back_wherever_they_are_cut(
            sizes in vec(0_usize..300, 1..30),
            cuts in vec(1_usize..700, 1..60),
        ) {
            let records: Vec<Record> = (1..).zip(&sizes).map(|(at, size)| written(at, *size)).collect();
            let mut cutter = LogCutter::default();
            records.iter().for_each(|record| cutter.add(record));
            let mut bytes = cutter.part().unwrap();
            prop_assert!(cutter.part().is_none());
            let (mut assembler, mut joined) = (LogAssembler::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                let part = bytes.split_to((*cut).min(bytes.len()));
                joined.extend(assembler.take(&part).unwrap());
                if bytes.is_empty() {
                    break;
                }
            }
            prop_assert!(assembler.is_empty());
            prop_assert_eq!(joined, records);
        }
    }

    #[test]
    fn a_large_record_takes_several_parts() {
        let record = written(1, 5 * PART_BYTES / 2);
        let mut cutter = LogCutter::default();
        cutter.add(&record);
        assert!(cutter.is_full());
        let (mut assembler, mut parts) = (LogAssembler::default(), 0);
        let mut joined = Vec::new();
        while let Some(part) = cutter.part() {
            assert!(part.len() <= PART_BYTES);
            joined.extend(assembler.take(&part).unwrap());
            parts += 1;
            assert_eq!(assembler.is_empty(), parts == 3);
        }
        assert_eq!(joined, [record]);
    }

    #[test]
    fn what_is_no_log_is_refused_in_words() {
        let too_long = u32::try_from(MAX_RECORD_BYTES + 1).unwrap().to_le_bytes();
        let refused = LogAssembler::default().take(&too_long).unwrap_err();
        assert!(refused.contains("33554433 bytes"), "{refused}");
        assert!(LogAssembler::default().take(&[0; 8]).is_err());
        let mut cutter = LogCutter::default();
        cutter.add(&written(1, 100));
        let mut damaged = cutter.part().unwrap().to_vec();
        damaged[60] ^= 1;
        let refused = LogAssembler::default().take(&damaged).unwrap_err();
        assert!(refused.contains("checksum"), "{refused}");
    }
}
