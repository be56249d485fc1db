//! The persisted state: the records and the revision counter, and their encoding.
//!
//! The file is two lines of JSON, each ended by a line feed:
//!
//! ```text
//! {"format":1,"crc32c":<checksum of the second line, its line feed included>}
//! {"revision":<n>,"records":{"<key>":{"revision":<n>,"value_base64":"<text>"}, …}}
//! ```
//!
//! The first line keeps its meaning in every later format, so that a file of a newer format is
//! distinguished from a damaged one. `revision` is the counter: at least as high as every revision
//! and every election epoch ever issued.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Revision, Versioned},
    limits::{check_key, check_value},
};

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The records and the revision counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) revision: Revision,
    pub(super) records: BTreeMap<String, Versioned>,
}

/// The expected state of a record before a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    Absent,
    At(Revision),
}

/// Why bytes are not a valid image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadImage {
    #[error(
        "it has format {0}, this program reads up to {FORMAT}; run the newer tierkv that wrote it"
    )]
    Newer(u32),
    #[error(
        "it is damaged ({0}); restore it from a backup, or begin it anew: `tierkv admin recover \
         --data-dir DIR`"
    )]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    crc32c: u32,
}

#[derive(Serialize, Deserialize)]
struct Body {
    revision: u64,
    records: BTreeMap<String, StoredRecord>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecord {
    revision: u64,
    value_base64: String,
}

impl Image {
    pub(super) fn get(&self, key: &str) -> Option<Versioned> {
        self.records.get(key).cloned()
    }

    pub(super) fn is(&self, key: &str, expected: Expected) -> bool {
        match (self.records.get(key), expected) {
            (None, Expected::Absent) => true,
            (Some(record), Expected::At(revision)) => record.revision == revision,
            (None, Expected::At(_)) | (Some(_), Expected::Absent) => false,
        }
    }

    /// Sets the record, or removes it if `value` is `None`, with the change `revision`.
    pub(super) fn set(&mut self, revision: Revision, key: &str, value: Option<Bytes>) {
        self.revision = revision;
        match value {
            Some(value) => {
                self.records
                    .insert(key.to_owned(), Versioned { value, revision });
            }
            None => {
                self.records.remove(key);
            }
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let body = Body {
            revision: self.revision.0,
            records: self
                .records
                .iter()
                .map(|(key, record)| {
                    let stored = StoredRecord {
                        revision: record.revision.0,
                        value_base64: STANDARD.encode(&record.value),
                    };
                    (key.clone(), stored)
                })
                .collect(),
        };
        let mut body = serde_json::to_vec(&body)?;
        body.push(b'\n');
        let header = Header {
            format: FORMAT,
            crc32c: crc32c::crc32c(&body),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.append(&mut body);
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadImage> {
        let damaged = |what: &str| BadImage::Damaged(what.to_owned());
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| damaged("its first line has no end"))?;
        let (header, body) = bytes.split_at(end + 1);
        let header: Header =
            serde_json::from_slice(header).map_err(|_| damaged("its first line can't be read"))?;
        if header.format > FORMAT {
            return Err(BadImage::Newer(header.format));
        }
        if header.format != FORMAT {
            return Err(damaged("it names a format that never was"));
        }
        if header.crc32c != crc32c::crc32c(body) {
            return Err(damaged("its checksum does not match"));
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            BadImage::Damaged(format!("its second line can't be read: {error}"))
        })?;
        let mut records = BTreeMap::new();
        for (key, stored) in body.records {
            let value = STANDARD
                .decode(&stored.value_base64)
                .map_err(|_| BadImage::Damaged(format!("the value of {key:?} is not base64")))?;
            check_key(&key)
                .and_then(|()| check_value(&value))
                .map_err(|error| BadImage::Damaged(error.to_string()))?;
            if stored.revision > body.revision {
                return Err(BadImage::Damaged(format!(
                    "the record {key:?} is newer than the file"
                )));
            }
            let record = Versioned {
                value: value.into(),
                revision: Revision(stored.revision),
            };
            records.insert(key, record);
        }
        Ok(Self {
            revision: Revision(body.revision),
            records,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut image = Image::default();
        image.set(Revision(1), "placement", Some(Bytes::from_static(b"one")));
        image.set(
            Revision(2),
            "clusters/c1",
            Some(Bytes::from_static(&[0, 0xff])),
        );
        image.set(Revision(3), "clusters/\u{e9}\"", Some(Bytes::new()));
        image.set(Revision(4), "placement", None);
        image
    }

    #[test]
    fn an_encoded_value_is_decoded() {
        for image in [Image::default(), image()] {
            assert_eq!(Image::decode(&image.encode().unwrap()).unwrap(), image);
        }
    }

    /// The format is on users' disks: a change of it needs a new number.
    #[test]
    fn the_encoding_never_changes() {
        let mut image = Image::default();
        image.set(Revision(7), "a/b", Some(Bytes::from_static(b"value")));
        image.revision = Revision(9);
        let expected = concat!(
            "{\"format\":1,\"crc32c\":2867070775}\n",
            "{\"revision\":9,\"records\":{\"a/b\":{\"revision\":7,\"value_base64\":\"dmFsdWU=\"}}}\n",
        );
        assert_eq!(
            String::from_utf8(image.encode().unwrap()).unwrap(),
            expected
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = image().encode().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(
                    Image::decode(&flipped).is_err(),
                    "byte {at}, bit {bit} was not noticed"
                );
            }
            assert!(Image::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut longer = bytes;
        longer.push(b'\n');
        assert!(Image::decode(&longer).is_err());
    }

    #[test]
    fn a_newer_format_is_not_damage() {
        let newer = b"{\"format\":2,\"crc32c\":0,\"compression\":\"zstd\"}\nwhatever";
        assert_eq!(Image::decode(newer), Err(BadImage::Newer(2)));
        let never = b"{\"format\":0,\"crc32c\":0}\n";
        assert!(matches!(Image::decode(never), Err(BadImage::Damaged(_))));
    }
}
