//! The pieces in which a node's whole state is sent to another node.
//!
//! A snapshot's pieces come in this order: entries in the order of their keys, outcomes, rows of
//! small tables, the end. A piece holds one kind of them (numbers little-endian):
//!
//! ```text
//! bytes
//!     1  format: 1
//!     1  kind: 1 entries, 2 outcomes, 3 rows, 4 the end
//!     …  what it holds, without gaps
//!
//! an entry                              a row
//!     2  length of the item key             1  table
//!     …  item key                           2  length of the key
//!     1  1 a value, 2 one that expires,     …  key
//!        3 a tombstone                      4  length of the value
//!     8  version                            …  value
//!     8  expiry        (only with 2)
//!     4  length        (only of values)  the end
//!     …  value         (only of values)     8  values, 8 tombstones, 8 outcomes, 8 rows: how many
//!                                          16  digest of all pieces before
//! ```
//!
//! Outcomes are in the format of `state::outcome_list`; a later one replaces an earlier one with
//! the same random part. A key has one entry: a tombstone that a later value covers is left out,
//! so that the entries depend only on the records, not on when checkpoints were taken.

use bytes::Bytes;
use tierkv_types::{ItemKey, RequestId, Version};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{
    Entry, Item, Outcome, Row, Table,
    state::{decode_outcomes, encode_outcome},
};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 2;
const VALUE: u8 = 1;
const EXPIRING_VALUE: u8 = 2;
const TOMBSTONE: u8 = 3;

/// The kinds of pieces, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Entries = 1,
    Outcomes = 2,
    Rows = 3,
    End = 4,
}

/// A decoded piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Entries(Vec<(ItemKey, Entry)>),
    Outcomes(Vec<(RequestId, Outcome)>),
    Rows(Vec<Row>),
    End(Totals),
}

/// The outcomes in a piece, with the ids of their requests, for whoever compares nodes; `None` if it
/// holds something else.
#[must_use]
pub fn outcomes_in(piece: &Bytes) -> Option<Vec<(RequestId, Outcome)>> {
    match Piece::decode(piece) {
        Some(Piece::Outcomes(outcomes)) => Some(outcomes),
        _ => None,
    }
}

/// What all pieces before the end hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) values: u64,
    pub(crate) tombstones: u64,
    pub(crate) outcomes: u64,
    pub(crate) rows: u64,
    digest: u128,
}

impl Totals {
    /// Counts an entry.
    pub(crate) fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Value(_) => self.values += 1,
            Entry::Tombstone(_) => self.tombstones += 1,
        }
    }

    /// Adds the bytes of the next piece to the digest.
    pub(crate) fn digest(&mut self, piece: &[u8]) {
        // Each digest is the seed of the next one, so that the order counts too.
        #[allow(clippy::cast_possible_truncation)]
        let seed = (self.digest >> 64) as u64 ^ self.digest as u64;
        self.digest = xxh3_128_with_seed(piece, seed);
    }
}

/// Cuts a state into encoded pieces. What it is given must be in the order of the pieces.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    /// Bytes over which a piece is full; a larger element comes alone.
    bytes: usize,
    buffer: Vec<u8>,
    totals: Totals,
}

impl PieceWriter {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            buffer: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Adds an entry; returns the piece before it, if that is complete now.
    pub(crate) fn entry(&mut self, key: &[u8], entry: &Entry) -> Option<Bytes> {
        self.totals.entry(entry);
        self.add(Kind::Entries, |buffer| encode_entry(key, entry, buffer))
    }

    /// Adds an outcome; returns the piece before it, if that is complete now.
    pub(crate) fn outcome(&mut self, id: &RequestId, outcome: &Outcome) -> Option<Bytes> {
        self.totals.outcomes += 1;
        self.add(Kind::Outcomes, |buffer| {
            encode_outcome(id, outcome, buffer);
        })
    }

    /// Adds a row; returns the piece before it, if that is complete now.
    pub(crate) fn row(&mut self, row: &Row) -> Option<Bytes> {
        self.totals.rows += 1;
        self.add(Kind::Rows, |buffer| encode_row(row, buffer))
    }

    /// The last pieces.
    pub(crate) fn end(mut self) -> impl Iterator<Item = Bytes> {
        let rest = self.cut();
        let mut end = vec![FORMAT, Kind::End as u8];
        let totals = &self.totals;
        for count in [
            totals.values,
            totals.tombstones,
            totals.outcomes,
            totals.rows,
        ] {
            end.extend_from_slice(&count.to_le_bytes());
        }
        end.extend_from_slice(&totals.digest.to_le_bytes());
        rest.into_iter().chain([end.into()])
    }

    fn add(&mut self, kind: Kind, encode: impl Fn(&mut Vec<u8>)) -> Option<Bytes> {
        let before = self.buffer.len();
        let is_of_kind = self.buffer.get(1) == Some(&(kind as u8));
        if is_of_kind {
            encode(&mut self.buffer);
            if self.buffer.len() <= self.bytes {
                return None;
            }
        }
        // The element begins the next piece.
        let last = self.buffer.split_off(before);
        let full = self.cut();
        self.buffer.extend_from_slice(&[FORMAT, kind as u8]);
        match is_of_kind {
            true => self.buffer.extend_from_slice(&last),
            false => encode(&mut self.buffer),
        }
        full
    }

    fn cut(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            return None;
        }
        self.totals.digest(&self.buffer);
        let next = Vec::with_capacity(self.buffer.capacity().min(2 * self.bytes));
        Some(std::mem::replace(&mut self.buffer, next).into())
    }
}

fn encode_entry(key: &[u8], entry: &Entry, buffer: &mut Vec<u8>) {
    put_short(key, buffer);
    match entry {
        Entry::Value(item) => {
            buffer.push(match item.expires {
                Some(_) => EXPIRING_VALUE,
                None => VALUE,
            });
            buffer.extend_from_slice(&item.version.to_bits().to_le_bytes());
            if let Some(expires) = item.expires {
                buffer.extend_from_slice(&expires.to_bits().to_le_bytes());
            }
            put_long(&item.value, buffer);
        }
        Entry::Tombstone(version) => {
            buffer.push(TOMBSTONE);
            buffer.extend_from_slice(&version.to_bits().to_le_bytes());
        }
    }
}

fn encode_row(row: &Row, buffer: &mut Vec<u8>) {
    buffer.push(row.table.number());
    put_short(&row.key, buffer);
    put_long(row.value.as_deref().unwrap_or_default(), buffer);
}

/// Appends the bytes of a key, which has 2,048 at most.
fn put_short(bytes: &[u8], buffer: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(bytes);
}

/// Appends the bytes of a value, which are fewer than those of a record.
fn put_long(bytes: &[u8], buffer: &mut Vec<u8>) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(bytes);
}

impl Piece {
    /// Decodes a piece; `None` if it is not what a [`PieceWriter`] makes.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let kind = match bytes.get(..HEAD_BYTES)? {
            [FORMAT, kind] => *kind,
            _ => return None,
        };
        let mut rest = Rest(bytes.slice(HEAD_BYTES..));
        if kind == Kind::Outcomes as u8 {
            let mut outcomes = Vec::new();
            decode_outcomes(&rest.0, &mut outcomes)?;
            return Some(Self::Outcomes(outcomes));
        }
        if kind == Kind::Entries as u8 {
            return rest.all(Rest::entry).map(Self::Entries);
        }
        if kind == Kind::Rows as u8 {
            return rest.all(Rest::row).map(Self::Rows);
        }
        if kind != Kind::End as u8 {
            return None;
        }
        let totals = rest.totals()?;
        rest.0.is_empty().then_some(Self::End(totals))
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Entries(_) => Kind::Entries,
            Self::Outcomes(_) => Kind::Outcomes,
            Self::Rows(_) => Kind::Rows,
            Self::End(_) => Kind::End,
        }
    }
}

/// The part of a piece that was not decoded yet.
struct Rest(Bytes);

impl Rest {
    fn all<T>(&mut self, decode: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut elements = Vec::new();
        while !self.0.is_empty() {
            elements.push(decode(self)?);
        }
        Some(elements)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.0.first_chunk()?;
        self.0 = self.0.slice(N..);
        Some(array)
    }

    fn bytes(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn short(&mut self) -> Option<Bytes> {
        let length = u16::from_le_bytes(self.array()?);
        self.bytes(length.into())
    }

    fn long(&mut self) -> Option<Bytes> {
        let length = u32::from_le_bytes(self.array()?);
        self.bytes(usize::try_from(length).ok()?)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn entry(&mut self) -> Option<(ItemKey, Entry)> {
        let key = ItemKey::from_bytes(self.short()?).ok()?;
        let [kind] = self.array()?;
        let version = Version::from_bits(self.number()?);
        let expires = match kind {
            VALUE => None,
            EXPIRING_VALUE => Some(Version::from_bits(self.number()?)),
            TOMBSTONE => return Some((key, Entry::Tombstone(version))),
            _ => return None,
        };
        let item = Item {
            version,
            expires,
            value: self.long()?,
        };
        Some((key, Entry::Value(item)))
    }

    fn row(&mut self) -> Option<Row> {
        let [number] = self.array()?;
        Some(Row {
            table: Table::from_number(number),
            key: self.short()?,
            value: Some(self.long()?),
        })
    }

    fn totals(&mut self) -> Option<Totals> {
        Some(Totals {
            values: self.number()?,
            tombstones: self.number()?,
            outcomes: self.number()?,
            rows: self.number()?,
            digest: u128::from_le_bytes(self.array()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(ItemKey, Entry)>> {
        let entry = (any::<u64>(), option::of(any::<u64>()), vec(0..9_u8, 0..200));
        let entry = entry.prop_map(|(version, expires, value)| Item {
            version: Version::from_bits(version),
            expires: expires.map(Version::from_bits),
            value: value.into(),
        });
        let entry = (entry, any::<bool>()).prop_map(|(item, is_value)| match is_value {
            true => Entry::Value(item),
            false => Entry::Tombstone(item.version),
        });
        let key = vec(any::<u8>(), 1..40).prop_map(|key| ItemKey::new("n", &key).unwrap());
        vec((key, entry), 0..30)
    }

    fn outcomes() -> impl Strategy<Value = Vec<(RequestId, Outcome)>> {
        let existed = vec(any::<bool>(), 0..50);
        let outcome = (
            any::<u64>(),
            any::<[u8; 16]>(),
            existed,
            vec(any::<i64>(), 0..4),
        );
        let outcome = outcome.prop_map(|(birth_millis, random, existed, numbers)| {
            let id = RequestId {
                birth_millis,
                random,
            };
            let outcome = Outcome {
                version: Version::from_bits(birth_millis / 3),
                fingerprint: 7,
                existed: existed.into_iter().collect(),
                numbers,
            };
            (id, outcome)
        });
        vec(outcome, 0..20)
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let row = (
            any::<u8>(),
            vec(any::<u8>(), 0..20),
            vec(any::<u8>(), 0..99),
        );
        let row = row.prop_map(|(table, key, value)| Row {
            table: Table::from_number(table),
            key: key.into(),
            value: Some(value.into()),
        });
        vec(row, 0..10)
    }

    proptest! {
        /// Whatever the size of the pieces: what they hold is the same, no piece is larger than
        /// asked unless it has a single element, and the end counts and covers all of it.
        #[test]
        fn pieces_hold_exactly_what_was_added(
            entries in entries(),
            outcomes in outcomes(),
            rows in rows(),
            bytes in 1_usize..2_000,
        ) {
            let mut writer = PieceWriter::new(bytes);
            let mut pieces = Vec::new();
            for (key, entry) in &entries {
                pieces.extend(writer.entry(key.as_bytes(), entry));
            }
            for (id, outcome) in &outcomes {
                pieces.extend(writer.outcome(id, outcome));
            }
            for row in &rows {
                pieces.extend(writer.row(row));
            }
            pieces.extend(writer.end());
            let (mut found, mut totals) = ((Vec::new(), Vec::new(), Vec::new()), Totals::default());
            let mut last = Kind::Entries;
            for (nth, piece) in pieces.iter().enumerate() {
                let decoded = Piece::decode(piece).unwrap();
                prop_assert!(decoded.kind() >= last);
                last = decoded.kind();
                let count = match decoded {
                    Piece::Entries(some) => {
                        some.iter().for_each(|(_, entry)| totals.entry(entry));
                        found.0.extend(some.iter().cloned());
                        some.len()
                    }
                    Piece::Outcomes(some) => {
                        totals.outcomes += some.len() as u64;
                        found.1.extend(some.iter().cloned());
                        some.len()
                    }
                    Piece::Rows(some) => {
                        totals.rows += some.len() as u64;
                        found.2.extend(some.iter().cloned());
                        some.len()
                    }
                    Piece::End(end) => {
                        prop_assert_eq!(nth, pieces.len() - 1);
                        prop_assert_eq!(end, totals);
                        continue;
                    }
                };
                prop_assert!(count == 1 || piece.len() <= bytes, "{} of {}", piece.len(), count);
                totals.digest(piece);
            }
            prop_assert_eq!(last, Kind::End);
            prop_assert_eq!(found, (entries, outcomes, rows));
        }

        #[test]
        fn no_bytes_make_a_piece_panic(bytes in vec(any::<u8>(), 0..60), kind in 0..6_u8) {
            let bytes = [&[FORMAT, kind], &bytes[..]].concat();
            let _ = Piece::decode(&bytes.into());
        }
    }

    #[test]
    fn bytes_that_are_no_piece_are_refused() {
        let mut writer = PieceWriter::new(1 << 20);
        let key = ItemKey::new("n", b"k").unwrap();
        let item = Item {
            version: Version::from_bits(1),
            expires: None,
            value: Bytes::from_static(b"value"),
        };
        writer.entry(key.as_bytes(), &Entry::Value(item));
        let pieces: Vec<Bytes> = writer.end().collect();
        for piece in &pieces {
            assert!(Piece::decode(piece).is_some());
            for length in 0..piece.len() {
                let cut = Piece::decode(&piece.slice(..length));
                // Without elements it is a piece, too, though none is sent.
                assert_eq!(
                    cut.is_some(),
                    length == HEAD_BYTES && piece[1] != 4,
                    "{length}"
                );
            }
            for at in 0..HEAD_BYTES {
                let mut other = piece.to_vec();
                other[at] = 9;
                assert_eq!(Piece::decode(&other.into()), None);
            }
        }
    }

    #[test]
    fn the_order_of_pieces_is_part_of_the_digest() {
        let digest = |pieces: [&[u8]; 3]| {
            let mut totals = Totals::default();
            pieces.iter().for_each(|piece| totals.digest(piece));
            totals
        };
        assert_ne!(digest([b"a", b"b", b"c"]), digest([b"b", b"a", b"c"]));
        assert_ne!(digest([b"a", b"b", b"c"]), digest([b"a", b"b", b"b"]));
    }
}
