//! The bytes of outcomes with their request ids, in the store and in the pieces of a node's
//! snapshot, one after the other (numbers little-endian):
//!
//! ```text
//! bytes
//!     8  birth of the request id, milliseconds
//!    16  random part of the request id: the key
//!     8  version
//!     4  fingerprint of the request's content
//!     2  length of the next part; the highest bit is set if numbers follow it
//!     …  which operations deleted a present key, one bit each, lowest first
//!     2  how many numbers follow                (only with that bit)
//!     …  the numbers after increments, signed, eight bytes each
//! ```

use tierkv_types::{RequestId, Version};

use super::outcome::{Existed, Outcome};

/// Set in a length if numbers follow; no length is as large.
const HAS_NUMBERS: u16 = 1 << 15;

/// Appends an outcome.
pub(crate) fn encode_outcome(id: &RequestId, outcome: &Outcome, bytes: &mut Vec<u8>) {
    let existed = outcome.existed.as_bytes();
    bytes.extend_from_slice(&id.birth_millis.to_le_bytes());
    bytes.extend_from_slice(&id.random);
    bytes.extend_from_slice(&outcome.version.to_bits().to_le_bytes());
    bytes.extend_from_slice(&outcome.fingerprint.to_le_bytes());
    // A request has a thousand operations at most.
    let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let flag = if outcome.numbers.is_empty() {
        0
    } else {
        HAS_NUMBERS
    };
    bytes.extend_from_slice(&(length(existed.len()) | flag).to_le_bytes());
    bytes.extend_from_slice(existed);
    if flag != 0 {
        bytes.extend_from_slice(&length(outcome.numbers.len()).to_le_bytes());
        let numbers = outcome
            .numbers
            .iter()
            .flat_map(|number| number.to_le_bytes());
        bytes.extend(numbers);
    }
}

/// Appends the outcomes in `bytes`; `None` if they are not what [`encode_outcome`] writes.
pub(crate) fn decode_outcomes(
    mut bytes: &[u8],
    outcomes: &mut Vec<(RequestId, Outcome)>,
) -> Option<()> {
    while !bytes.is_empty() {
        let birth_millis = u64::from_le_bytes(take(&mut bytes)?);
        let random = take(&mut bytes)?;
        let version = Version::from_bits(u64::from_le_bytes(take(&mut bytes)?));
        let fingerprint = u32::from_le_bytes(take(&mut bytes)?);
        let length = u16::from_le_bytes(take(&mut bytes)?);
        let (existed, rest) = bytes.split_at_checked(usize::from(length & !HAS_NUMBERS))?;
        bytes = rest;
        let mut numbers = Vec::new();
        if length & HAS_NUMBERS != 0 {
            for _ in 0..u16::from_le_bytes(take(&mut bytes)?) {
                numbers.push(i64::from_le_bytes(take(&mut bytes)?));
            }
        }
        let id = RequestId {
            birth_millis,
            random,
        };
        let outcome = Outcome {
            version,
            fingerprint,
            existed: Existed::from_bytes(existed.to_vec()),
            numbers,
        };
        outcomes.push((id, outcome));
    }
    Some(())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}
