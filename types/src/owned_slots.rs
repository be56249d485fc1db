//! [`OwnedSlots`]: the slots that a cluster owns, as its log records them (PLACE-OWN).
//!
//! As bytes, in a record and in a store alike, all numbers little-endian:
//!
//! ```text
//!      8  version of the placement map
//!      4  number of runs
//!         then for each run, in the order of their slots:
//!      2  first slot
//!      2  number of slots, at least 1
//!      8  revision, at least 1
//! ```

use crate::slot_table::{SlotRun, SlotTable};

const HEADER_BYTES: usize = 8 + 4;
const RUN_BYTES: usize = 2 + 2 + 8;

/// The slots that one cluster owns by one version of the placement map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedSlots {
    /// The version of the placement map; 0 before the first.
    pub version: u64,
    /// The slots.
    pub slots: SlotTable,
}

/// Bytes that are not the slots of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not the slots of a cluster")]
pub struct NotOwnedSlots;

impl OwnedSlots {
    /// The number of bytes that [`OwnedSlots::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.slots.runs().len() * RUN_BYTES
    }

    /// Appends the bytes to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.version.to_le_bytes());
        let runs = self.slots.runs();
        // At most one run for each slot.
        let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&count.to_le_bytes());
        for run in runs {
            buffer.extend_from_slice(&run.first.to_le_bytes());
            buffer.extend_from_slice(&run.count.to_le_bytes());
            buffer.extend_from_slice(&run.revision.to_le_bytes());
        }
    }

    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// [`NotOwnedSlots`] if they are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotOwnedSlots> {
        let (version, rest) = bytes.split_first_chunk().ok_or(NotOwnedSlots)?;
        let (count, rest) = rest.split_first_chunk().ok_or(NotOwnedSlots)?;
        let (runs, odd) = rest.as_chunks::<RUN_BYTES>();
        if !odd.is_empty() || runs.len() != u32::from_le_bytes(*count) as usize {
            return Err(NotOwnedSlots);
        }
        let runs = runs.iter().map(|[f0, f1, c0, c1, revision @ ..]| SlotRun {
            first: u16::from_le_bytes([*f0, *f1]),
            count: u16::from_le_bytes([*c0, *c1]),
            revision: u64::from_le_bytes(*revision),
        });
        let slots = SlotTable::from_runs(runs.collect()).map_err(|_| NotOwnedSlots)?;
        Ok(Self {
            version: u64::from_le_bytes(*version),
            slots,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_from_their_bytes_and_nothing_else_does() {
        let run = |first, count, revision| SlotRun {
            first,
            count,
            revision,
        };
        for runs in [
            vec![],
            vec![run(0, 4_096, 1)],
            vec![run(3, 1, 7), run(4, 2, u64::MAX), run(4_095, 1, 1)],
        ] {
            let owned = OwnedSlots {
                version: 9,
                slots: SlotTable::from_runs(runs).unwrap(),
            };
            let mut bytes = Vec::new();
            owned.encode(&mut bytes);
            assert_eq!(bytes.len(), owned.encoded_len());
            assert_eq!(OwnedSlots::decode(&bytes), Ok(owned));
            for cut in 0..bytes.len() {
                assert_eq!(OwnedSlots::decode(&bytes[..cut]), Err(NotOwnedSlots));
            }
            bytes.push(0);
            assert_eq!(OwnedSlots::decode(&bytes), Err(NotOwnedSlots));
        }
    }
}
