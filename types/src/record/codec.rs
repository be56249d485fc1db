//! The bytes of a record, in a log and wherever a log's records travel.
//!
//! All numbers are little-endian. Format version 4, byte by byte:
//!
//! ```text
//! at  bytes
//!  0      4  length of the whole record, from here through the trailer
//!  4      4  CRC-32C of the length and of everything from 8 up to the trailer
//!  8      1  format version: 4
//!  9      1  kind: 1 noop, 2 write, 3 expire, 4 forget, 5 own
//! 10      8  epoch
//! 18      8  index
//! 26      8  commit index of the master when it appended the record
//! 34      8  version (hybrid logical clock)
//! 42      …  body
//!  …      4  trailer: the bytes 54 4B 56 A5
//! ```
//!
//! The body of a noop is empty. The body of a write:
//!
//! ```text
//!      8  birth of the request id, milliseconds
//!     16  random part of the request id
//!      4  fingerprint of what the client asked for
//!      4  number of changes, at least 1
//!         then for each change:
//!      1  tag: 1 put, 2 put that expires, 3 delete, 4 delete of an absent key,
//!         5 increment, 6 increment of a key that expires
//!      2  length of the key
//!      …  the item key: namespace, byte 0, key
//!      8  version at which it expires     (tags 2 and 6)
//!      4  length of the value             (tags 1 and 2)
//!      …  the value                       (tags 1 and 2)
//!      8  the number after it, signed     (tags 5 and 6)
//! ```
//!
//! The body of an expire is the number of changes and the changes, all with tag 3. The body of a
//! forget is the version up to which tombstones are removed, 8 bytes. The body of an own is
//! [`OwnedSlots`] as it encodes itself.
//!
//! Earlier formats are still read. Version 3 has no kind 5. Version 2 has no tags 5 and 6 either.
//! Version 1 has no fingerprint either, only the kinds 1 and 2, and only the tags 1 to 3, where tag
//! 3 does not record whether the key existed before.
//!
//! A log's unused space is zeros, so a length of zero marks the end. The trailer distinguishes a
//! torn record, whose write was cut short, from one that was damaged later (LOG-TORN). Numbers of
//! kinds and tags are never reused.

use bytes::Bytes;

use super::{
    Change, ChangeKind, Payload, Record, RequestId, Write,
    header::{
        DecodeError, FORMAT, HEADER_BYTES, MAX_RECORD_BYTES, MIN_RECORD_BYTES, RecordHeader,
        TRAILER,
    },
};
use crate::{key::ItemKey, owned_slots::OwnedSlots, version::Version};

const KIND_NOOP: u8 = 1;
const KIND_WRITE: u8 = 2;
const KIND_EXPIRE: u8 = 3;
const KIND_FORGET: u8 = 4;
const KIND_OWN: u8 = 5;

const TAG_PUT: u8 = 1;
const TAG_PUT_EXPIRING: u8 = 2;
const TAG_DELETE: u8 = 3;
const TAG_DELETE_ABSENT: u8 = 4;
const TAG_INCREMENT: u8 = 5;
const TAG_INCREMENT_EXPIRING: u8 = 6;

/// Request id and fingerprint.
const WRITE_HEADER_BYTES: usize = 8 + 16 + 4;
/// A delete of the shortest possible key: tag, length, one letter, separator, one byte.
const MIN_CHANGE_BYTES: usize = 1 + 2 + 3;

/// The number of bytes that [`encode`] appends for `record`.
#[must_use]
pub fn encoded_len(record: &Record) -> usize {
    encoded_len_with(&record.payload)
}

/// The number of bytes that [`encode`] appends for a record with this payload.
#[must_use]
pub fn encoded_len_with(payload: &Payload) -> usize {
    let body = match payload {
        Payload::Noop => 0,
        Payload::Write(write) => WRITE_HEADER_BYTES + changes_len(&write.changes),
        Payload::Expire(changes) => changes_len(changes),
        Payload::Forget { .. } => 8,
        Payload::Own(slots) => slots.encoded_len(),
    };
    MIN_RECORD_BYTES + body
}

fn changes_len(changes: &[Change]) -> usize {
    let changes = changes.iter().map(|change| {
        let kind = match &change.kind {
            ChangeKind::Put { value, expires } => expiry_len(*expires) + 4 + value.len(),
            ChangeKind::Increment { expires, .. } => expiry_len(*expires) + 8,
            ChangeKind::Delete { .. } => 0,
        };
        3 + change.key.as_bytes().len() + kind
    });
    4 + changes.sum::<usize>()
}

const fn expiry_len(expires: Option<Version>) -> usize {
    if expires.is_some() { 8 } else { 0 }
}

/// Appends `record` to `buffer`.
///
/// # Panics
/// If the record is over [`MAX_RECORD_BYTES`] or has no changes: the log refuses such a record
/// before it gets here, and a record that can't be read back must not be written.
pub fn encode(record: &Record, buffer: &mut Vec<u8>) {
    let len = encoded_len(record);
    assert!(
        len <= MAX_RECORD_BYTES,
        "a record of {len} bytes is over max_record_bytes"
    );
    let start = buffer.len();
    buffer.reserve(len);
    put_length(buffer, len);
    buffer.extend_from_slice(&[0; 4]);
    buffer.push(FORMAT);
    buffer.push(match &record.payload {
        Payload::Noop => KIND_NOOP,
        Payload::Write(_) => KIND_WRITE,
        Payload::Expire(_) => KIND_EXPIRE,
        Payload::Forget { .. } => KIND_FORGET,
        Payload::Own(_) => KIND_OWN,
    });
    buffer.extend_from_slice(&record.position.epoch.0.to_le_bytes());
    buffer.extend_from_slice(&record.position.index.0.to_le_bytes());
    buffer.extend_from_slice(&record.commit.0.to_le_bytes());
    buffer.extend_from_slice(&record.version.to_bits().to_le_bytes());
    match &record.payload {
        Payload::Noop => {}
        Payload::Write(write) => {
            buffer.extend_from_slice(&write.request.birth_millis.to_le_bytes());
            buffer.extend_from_slice(&write.request.random);
            buffer.extend_from_slice(&write.fingerprint.to_le_bytes());
            encode_changes(&write.changes, buffer);
        }
        Payload::Expire(changes) => encode_changes(changes, buffer),
        Payload::Forget { up_to } => buffer.extend_from_slice(&up_to.to_bits().to_le_bytes()),
        Payload::Own(slots) => slots.encode(buffer),
    }
    let checksum = {
        let content = &buffer[start..];
        crc32c::crc32c_append(crc32c::crc32c(&content[..4]), &content[8..])
    };
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(&TRAILER);
    assert_eq!(
        buffer.len() - start,
        len,
        "a record's length is computed wrongly"
    );
}

fn encode_changes(changes: &[Change], buffer: &mut Vec<u8>) {
    assert!(
        !changes.is_empty(),
        "a record that changes keys changes none"
    );
    put_length(buffer, changes.len());
    for change in changes {
        let (tag, expires) = match &change.kind {
            ChangeKind::Put { expires: None, .. } => (TAG_PUT, None),
            ChangeKind::Put { expires, .. } => (TAG_PUT_EXPIRING, *expires),
            ChangeKind::Increment { expires: None, .. } => (TAG_INCREMENT, None),
            ChangeKind::Increment { expires, .. } => (TAG_INCREMENT_EXPIRING, *expires),
            ChangeKind::Delete { existed: true } => (TAG_DELETE, None),
            ChangeKind::Delete { existed: false } => (TAG_DELETE_ABSENT, None),
        };
        buffer.push(tag);
        let key = change.key.as_bytes();
        // An item key is at most a namespace, a separator and 1,024 bytes long.
        buffer.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        buffer.extend_from_slice(key);
        if let Some(expires) = expires {
            buffer.extend_from_slice(&expires.to_bits().to_le_bytes());
        }
        match &change.kind {
            ChangeKind::Put { value, .. } => {
                put_length(buffer, value.len());
                buffer.extend_from_slice(value);
            }
            ChangeKind::Increment { number, .. } => {
                buffer.extend_from_slice(&number.to_le_bytes());
            }
            ChangeKind::Delete { .. } => {}
        }
    }
}

/// Appends a length, which is below [`MAX_RECORD_BYTES`] for every part of a record.
fn put_length(buffer: &mut Vec<u8>, length: usize) {
    buffer.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Decodes the record at `at` of `bytes`; returns it with its length.
///
/// Its keys and values are slices of `bytes`, so decode a record that is kept for long from a
/// buffer of its own.
///
/// # Errors
/// `End`, `Torn` or `Damaged`, see [`RecordHeader::read`].
pub fn decode(bytes: &Bytes, at: usize) -> Result<(Record, usize), DecodeError> {
    let header = RecordHeader::read(bytes.get(at..).unwrap_or_default())?;
    let mut body = Body {
        bytes,
        at: at + HEADER_BYTES,
        end: at + header.len - TRAILER.len(),
    };
    let payload = match header.kind {
        KIND_NOOP => Payload::Noop,
        KIND_WRITE => Payload::Write(body.write(header.format)?),
        KIND_EXPIRE if header.format > 1 => Payload::Expire(body.expired(header.format)?),
        KIND_FORGET if header.format > 1 => Payload::Forget {
            up_to: Version::from_bits(u64::from_le_bytes(body.array()?)),
        },
        KIND_OWN if header.format > 3 => Payload::Own(body.slots()?),
        _ => {
            return Err(DecodeError::Damaged(
                "its kind is unknown; a newer release may have written it",
            ));
        }
    };
    if body.at != body.end {
        return Err(DecodeError::Damaged("bytes follow its content"));
    }
    let record = Record {
        position: header.position,
        commit: header.commit,
        version: header.version,
        payload,
    };
    Ok((record, header.len))
}

/// The unread rest of a record's body.
struct Body<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl Body<'_> {
    fn write(&mut self, format: u8) -> Result<Write, DecodeError> {
        let request = RequestId {
            birth_millis: u64::from_le_bytes(self.array()?),
            random: self.array()?,
        };
        let fingerprint = match format {
            1 => 0,
            _ => u32::from_le_bytes(self.array()?),
        };
        Ok(Write {
            request,
            fingerprint,
            changes: self.changes(format)?,
        })
    }

    fn expired(&mut self, format: u8) -> Result<Vec<Change>, DecodeError> {
        let changes = self.changes(format)?;
        let is_deletion = |change: &Change| change.kind == ChangeKind::Delete { existed: true };
        if changes.iter().all(is_deletion) {
            Ok(changes)
        } else {
            Err(DecodeError::Damaged("it expires keys and does more"))
        }
    }

    fn slots(&mut self) -> Result<OwnedSlots, DecodeError> {
        let bytes = self.slice(self.end - self.at)?;
        OwnedSlots::decode(&bytes)
            .map_err(|_| DecodeError::Damaged("its slots are out of order, or no slots"))
    }

    fn changes(&mut self, format: u8) -> Result<Vec<Change>, DecodeError> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count == 0 {
            return Err(DecodeError::Damaged("it changes nothing"));
        }
        // The count is limited to what the remaining bytes could hold.
        if count > (self.end - self.at) / MIN_CHANGE_BYTES {
            return Err(DecodeError::Damaged("it counts more changes than it holds"));
        }
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            changes.push(self.change(format)?);
        }
        Ok(changes)
    }

    fn change(&mut self, format: u8) -> Result<Change, DecodeError> {
        let [tag] = self.array()?;
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let key = ItemKey::from_bytes(self.slice(length)?)
            .map_err(|_| DecodeError::Damaged("a key is no item key"))?;
        let kind = match tag {
            TAG_PUT => ChangeKind::Put {
                value: self.value()?,
                expires: None,
            },
            TAG_PUT_EXPIRING => {
                let expires = Some(self.version()?);
                ChangeKind::Put {
                    value: self.value()?,
                    expires,
                }
            }
            TAG_INCREMENT if format > 2 => ChangeKind::Increment {
                number: i64::from_le_bytes(self.array()?),
                expires: None,
            },
            TAG_INCREMENT_EXPIRING if format > 2 => {
                let expires = Some(self.version()?);
                ChangeKind::Increment {
                    number: i64::from_le_bytes(self.array()?),
                    expires,
                }
            }
            TAG_DELETE => ChangeKind::Delete { existed: true },
            TAG_DELETE_ABSENT => ChangeKind::Delete { existed: false },
            _ => return Err(DecodeError::Damaged("a change has an unknown tag")),
        };
        Ok(Change { key, kind })
    }

    fn version(&mut self) -> Result<Version, DecodeError> {
        Ok(Version::from_bits(u64::from_le_bytes(self.array()?)))
    }

    fn value(&mut self) -> Result<Bytes, DecodeError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        self.slice(length)
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.end - self.at {
            return Err(DecodeError::Damaged("a part is longer than the record"));
        }
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = self.bytes[self.at..self.end]
            .first_chunk()
            .ok_or(DecodeError::Damaged("a part is longer than the record"))?;
        self.at += N;
        Ok(*array)
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
