//! Fuzzing of the record decoder: whatever a log's file contains, decoding neither panics nor
//! allocates without bound, and accepts only valid records.
//!
//! `corpus/` holds records of every kind and format, byte for byte as releases wrote them. Add each
//! failing input there by hand.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{alloc::System, fs, path::Path};

use bytes::Bytes;
use cap::Cap;
use proptest::{collection::vec, prelude::*, sample::Index as Place};
use tierkv_types::record::{self, DecodeError, FORMAT, MAX_RECORD_BYTES, RecordHeader};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What decoding may allocate beside a multiple of its input's length.
const SPARE_BYTES: usize = 64 << 10;
/// How many times its encoded length a record may take in memory: a change of six bytes becomes a
/// struct.
const STRUCTS_PER_BYTE: usize = 32;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "bin"))
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() >= 8, "the corpus is not there");
    files
}

/// Decodes under a memory limit; exceeding it aborts the test.
fn decode(bytes: &[u8]) -> Result<(record::RecordHeader, usize), DecodeError> {
    let owned = Bytes::copy_from_slice(bytes);
    let allowed = SPARE_BYTES + bytes.len() * STRUCTS_PER_BYTE;
    let limit = ALLOCATOR.allocated() + allowed;
    ALLOCATOR.set_limit(limit).unwrap();
    let decoded = record::decode(&owned, 0);
    let _ = record::is_whole_but_for_its_length(&owned);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    let (record, length) = decoded?;
    let header = RecordHeader::read(bytes).unwrap();
    assert_eq!((header.len, header.position), (length, record.position));
    if bytes[8] == FORMAT {
        let mut again = Vec::new();
        record::encode(&record, &mut again);
        assert_eq!(again, bytes[..length], "one record, two encodings");
    }
    Ok((header, length))
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Spoil {
    Flip(Place, u8),
    Set(Place, Vec<u8>),
    Cut(Place),
    Insert(Place, Vec<u8>),
    Copy(Place, Place, usize),
    /// The length word, which no checksum protects before it is used.
    Length(u32),
}

impl Spoil {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Flip(place, bits) => bytes[place.index(length)] ^= bits,
            Self::Set(place, with) => {
                let at = place.index(length);
                let count = with.len().min(length - at);
                bytes[at..at + count].copy_from_slice(&with[..count]);
            }
            Self::Cut(place) => bytes.truncate(place.index(length)),
            Self::Insert(place, new) => {
                let at = place.index(length);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Copy(from, to, count) => {
                let (from, to) = (from.index(length), to.index(length));
                let count = (*count).min(length - from).min(length - to);
                bytes.copy_within(from..from + count, to);
            }
            Self::Length(word) => {
                let count = length.min(4);
                bytes[..count].copy_from_slice(&word.to_le_bytes()[..count]);
            }
        }
    }
}

/// Repairs length, trailer and checksum, so that the decoder reads the contents.
fn repair(bytes: &mut [u8]) {
    let length = bytes.len();
    if length < 46 {
        return;
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    bytes[length - 4..].copy_from_slice(&[0x54, 0x4B, 0x56, 0xA5]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..length - 4]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn any_spoil() -> impl Strategy<Value = Spoil> {
    let place = any::<Place>;
    let numbers = prop_oneof![
        any::<u32>(),
        Just(0),
        Just(u32::MAX),
        Just(u32::try_from(MAX_RECORD_BYTES).unwrap()),
        0_u32..200
    ];
    prop_oneof![
        3 => (place(), 1_u8..).prop_map(|(at, bits)| Spoil::Flip(at, bits)),
        2 => (place(), vec(any::<u8>(), 1..9)).prop_map(|(at, with)| Spoil::Set(at, with)),
        2 => (place(), prop_oneof![Just([0xFF; 4]), Just([0; 4])])
            .prop_map(|(at, with)| Spoil::Set(at, with.to_vec())),
        1 => place().prop_map(Spoil::Cut),
        1 => (place(), vec(any::<u8>(), 1..40)).prop_map(|(at, new)| Spoil::Insert(at, new)),
        1 => (place(), place(), 1_usize..60).prop_map(|(a, b, count)| Spoil::Copy(a, b, count)),
        1 => numbers.prop_map(Spoil::Length),
    ]
}

/// All in one test: the memory limit is the process's.
#[test]
fn nothing_in_a_log_makes_the_decoder_panic_or_hoard() {
    let corpus = corpus();
    for (name, bytes) in &corpus {
        let (_, length) = decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(length, bytes.len(), "{name}");
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
    }
    let spoiled = (0..corpus.len(), vec(any_spoil(), 1..6), any::<bool>());
    let config = ProptestConfig {
        cases: 30_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |((nth, spoils, repaired) in spoiled)| {
        let mut bytes = corpus[nth].1.clone();
        spoils.iter().for_each(|spoil| spoil.apply(&mut bytes));
        if repaired {
            repair(&mut bytes);
        }
        let decoded = decode(&bytes);
        if !repaired && bytes != corpus[nth].1 && bytes.len() <= corpus[nth].1.len() {
            // Bytes after a record do not matter to it; all others do.
            let begins_the_same = bytes == corpus[nth].1[..bytes.len()];
            prop_assert!(decoded.is_err() || begins_the_same);
        }
    });
}
