//! [`Outcome`]: the result of a request.

use tierkv_types::{ChangeKind, Version, Write};

/// Bytes of an outcome, beyond those that fit one place, that take another place.
const PLACE_BYTES: usize = 64;

/// The result of an applied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The version of everything it changed.
    pub version: Version,
    /// The fingerprint of its content; 0 if unknown.
    pub fingerprint: u32,
    /// Which of its operations deleted a present key.
    pub existed: Existed,
    /// The numbers after its increments, in their order.
    pub numbers: Vec<i64>,
}

impl Outcome {
    /// The outcome of a write that a record of this version applies.
    #[must_use]
    pub(super) fn of(write: &Write, version: Version) -> Self {
        let kinds = || write.changes.iter().map(|change| &change.kind);
        Self {
            version,
            fingerprint: write.fingerprint,
            existed: kinds()
                .map(|kind| *kind == ChangeKind::Delete { existed: true })
                .collect(),
            numbers: kinds()
                .filter_map(|kind| match kind {
                    ChangeKind::Increment { number, .. } => Some(*number),
                    ChangeKind::Put { .. } | ChangeKind::Delete { .. } => None,
                })
                .collect(),
        }
    }

    /// The places it takes of `REQUEST_LIMIT`.
    pub(crate) fn places(&self) -> usize {
        let bytes = self.existed.as_bytes().len() + 8 * self.numbers.len();
        1 + bytes / PLACE_BYTES
    }
}

/// A set of small numbers: the places of operations in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Existed(Vec<u8>);

impl Existed {
    /// Whether the operation at this place deleted a present key.
    #[must_use]
    pub fn contains(&self, place: usize) -> bool {
        self.0
            .get(place / 8)
            .is_some_and(|byte| byte & (1 << (place % 8)) != 0)
    }

    /// Eight places in a byte, lowest bit first; zero bytes at the end are dropped.
    pub(crate) fn from_bytes(mut bytes: Vec<u8>) -> Self {
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromIterator<bool> for Existed {
    fn from_iter<I: IntoIterator<Item = bool>>(places: I) -> Self {
        let mut bytes = Vec::new();
        for (place, existed) in places.into_iter().enumerate() {
            if existed {
                bytes.resize(place / 8 + 1, 0);
                bytes[place / 8] |= 1 << (place % 8);
            }
        }
        Self(bytes)
    }
}
