use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    record::{OLDEST_FORMAT, is_whole_but_for_its_length},
    replication::{Epoch, Index, Position},
    slot_table::{SlotRun, SlotTable},
};

fn any_version() -> impl Strategy<Value = Version> {
    any::<u64>().prop_map(Version::from_bits)
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = ("[a-z0-9][a-z0-9_-]{0,20}", vec(any::<u8>(), 1..80))
        .prop_map(|(namespace, key)| ItemKey::new(&namespace, &key).unwrap());
    let put = (vec(any::<u8>(), 0..600), any::<Option<u64>>()).prop_map(|(value, expires)| {
        ChangeKind::Put {
            value: value.into(),
            expires: expires.map(Version::from_bits),
        }
    });
    let delete = any::<bool>().prop_map(|existed| ChangeKind::Delete { existed });
    let increment = any::<(i64, Option<u64>)>().prop_map(|(number, expires)| {
        let expires = expires.map(Version::from_bits);
        ChangeKind::Increment { number, expires }
    });
    let kind = prop_oneof![2 => put, 1 => increment, 1 => delete];
    (key, kind).prop_map(|(key, kind)| Change { key, kind })
}

fn any_record() -> impl Strategy<Value = Record> {
    let request = any::<(u64, [u8; 16])>().prop_map(|(birth_millis, random)| RequestId {
        birth_millis,
        random,
    });
    let write = (request, any::<u32>(), vec(any_change(), 1..6)).prop_map(
        |(request, fingerprint, changes)| {
            Payload::Write(Write {
                request,
                fingerprint,
                changes,
            })
        },
    );
    let expire = vec(any_change(), 1..6).prop_map(|mut changes| {
        let deletion = ChangeKind::Delete { existed: true };
        changes
            .iter_mut()
            .for_each(|change| change.kind = deletion.clone());
        Payload::Expire(changes)
    });
    let forget = any_version().prop_map(|up_to| Payload::Forget { up_to });
    let own = (
        any::<u64>(),
        vec((any::<u16>(), 1..50_u16, 1..u64::MAX), 0..40),
    )
        .prop_map(|(version, drawn)| {
            let mut end = 0;
            let mut runs = Vec::new();
            for (gap, count, revision) in drawn {
                let first = end + gap % 50;
                end = first + count;
                runs.push(SlotRun {
                    first,
                    count,
                    revision,
                });
            }
            let slots = SlotTable::from_runs(runs).unwrap();
            Payload::Own(OwnedSlots { version, slots })
        });
    let payload = prop_oneof![
        1 => Just(Payload::Noop),
        4 => write,
        1 => expire,
        1 => forget,
        1 => own,
    ];
    (any::<(u64, u64, u64)>(), any_version(), payload).prop_map(
        |((epoch, index, commit), version, payload)| Record {
            position: Position {
                epoch: Epoch(epoch),
                index: Index(index),
            },
            commit: Index(commit),
            version,
            payload,
        },
    )
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut buffer = Vec::new();
    encode(record, &mut buffer);
    buffer
}

proptest! {
    #[test]
    fn records_come_back_one_after_the_other(records in vec(any_record(), 1..5)) {
        let mut buffer = vec![0xEE; 7];
        for record in &records {
            encode(record, &mut buffer);
        }
        let bytes = Bytes::from(buffer);
        let mut at = 7;
        for record in &records {
            let (read, len) = decode(&bytes, at).unwrap();
            prop_assert_eq!(&read, record);
            prop_assert_eq!(len, encoded_len(record));
            at += len;
        }
        prop_assert_eq!(decode(&bytes, at), Err(DecodeError::End));
    }

    /// A write that stopped anywhere, over zeroed space, is torn (or empty): it is never read as a
    /// record nor reported as damage.
    #[test]
    fn a_record_cut_anywhere_is_torn(record in any_record(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&record);
        let cut = cut.index(bytes.len());
        bytes[cut..].fill(0);
        bytes.extend_from_slice(&[0; 64]);
        let first_word_unwritten = bytes[..4] == [0; 4];
        let expected = if first_word_unwritten { DecodeError::End } else { DecodeError::Torn };
        let read = decode(&Bytes::from(bytes), 0);
        prop_assert_eq!(read, Err(expected));
    }

    #[test]
    fn a_flipped_bit_is_never_read(record in any_record(), bit in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&record);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&Bytes::from(bytes), 0).is_err());
    }

    #[test]
    fn a_changed_length_is_not_a_torn_record(record in any_record(), length: u32) {
        let mut bytes = encoded(&record);
        prop_assume!(bytes[..4] != length.to_le_bytes());
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 64]);
        prop_assert!(is_whole_but_for_its_length(&bytes));
        let end = bytes.len() - 64;
        bytes[end - 1] = 0;
        prop_assert!(!is_whole_but_for_its_length(&bytes));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300), at in 0_usize..310) {
        let _ = decode(&Bytes::from(bytes), at);
    }

    /// The same behind the checksum: arbitrary bodies between a valid header and trailer.
    #[test]
    fn no_body_makes_it_panic(
        format in OLDEST_FORMAT..=FORMAT,
        kind in 0_u8..7,
        body in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = Vec::new();
        put_length(&mut bytes, MIN_RECORD_BYTES + body.len());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[format, kind]);
        bytes.extend_from_slice(&[7; 32]);
        bytes.extend_from_slice(&body);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&TRAILER);
        if let Err(error) = decode(&Bytes::from(bytes), 0) {
            prop_assert!(matches!(error, DecodeError::Damaged(_)));
        }
    }
}

fn golden() -> Record {
    Record {
        position: Position {
            epoch: Epoch(3),
            index: Index(4),
        },
        commit: Index(2),
        version: Version::from_bits(5),
        payload: Payload::Write(Write {
            request: RequestId {
                birth_millis: 6,
                random: [9; 16],
            },
            fingerprint: 0x0807_0605,
            changes: vec![Change {
                key: ItemKey::new("n", b"k").unwrap(),
                kind: ChangeKind::Put {
                    value: Bytes::from_static(b"v"),
                    expires: Some(Version::from_bits(7)),
                },
            }],
        }),
    }
}

/// The bytes of [`golden`] in formats 2 to 4; they differ only in the checksum.
fn golden_bytes(format: u8, checksum: u32) -> Vec<u8> {
    let mut bytes = vec![97, 0, 0, 0];
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&[format, 2]);
    for number in [3_u64, 4, 2, 5, 6] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[9; 16]);
    bytes.extend_from_slice(&[5, 6, 7, 8]);
    bytes.extend_from_slice(&[1, 0, 0, 0, 2, 3, 0, b'n', 0, b'k']);
    bytes.extend_from_slice(&7_u64.to_le_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, b'v', 0x54, 0x4B, 0x56, 0xA5]);
    bytes
}

/// A changed format needs a new version number: logs on disk have this one.
#[test]
fn the_format_never_changes() {
    assert_eq!(encoded(&golden()), golden_bytes(4, CHECKSUM));
}

/// Computed with another implementation of CRC-32C than the one under test.
const CHECKSUM: u32 = 4_277_782_344;

#[test]
fn the_record_of_owned_slots_never_changes_and_earlier_formats_have_none() {
    let run = |first, count, revision| SlotRun {
        first,
        count,
        revision,
    };
    let own = Record {
        payload: Payload::Own(OwnedSlots {
            version: 9,
            slots: SlotTable::from_runs(vec![run(0, 5, 1), run(7, 1, 9)]).unwrap(),
        }),
        ..golden()
    };
    let mut bytes = vec![82, 0, 0, 0];
    bytes.extend_from_slice(&3_710_122_667_u32.to_le_bytes());
    bytes.extend_from_slice(&[4, 5]);
    for number in [3_u64, 4, 2, 5, 9] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[7, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0x54, 0x4B, 0x56, 0xA5]);
    assert_eq!(encoded(&own), bytes);
    let read = decode(&Bytes::from(in_format(3, bytes)), 0);
    assert!(matches!(read, Err(DecodeError::Damaged(_))), "{read:?}");
}

/// An encoded record with another format version and the checksum for it.
fn in_format(format: u8, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8] = format;
    let end = bytes.len() - TRAILER.len();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..end]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn the_third_format_is_still_read() {
    let bytes = golden_bytes(3, 1_167_324_743);
    assert_eq!(decode(&Bytes::from(bytes), 0), Ok((golden(), 97)));
}

#[test]
fn the_second_format_is_still_read_and_has_no_increments() {
    let bytes = golden_bytes(2, 396_647_125);
    assert_eq!(decode(&Bytes::from(bytes), 0), Ok((golden(), 97)));
    let mut increment = golden();
    if let Payload::Write(write) = &mut increment.payload {
        write.changes[0].kind = ChangeKind::Increment {
            number: -1,
            expires: None,
        };
    }
    let read = decode(&Bytes::from(in_format(2, encoded(&increment))), 0);
    assert!(matches!(read, Err(DecodeError::Damaged(_))), "{read:?}");
}

/// The same record in the first format, with its checksum.
#[test]
fn the_first_format_is_still_read() {
    let mut bytes = vec![93, 0, 0, 0];
    bytes.extend_from_slice(&2_885_869_041_u32.to_le_bytes());
    bytes.extend_from_slice(&[1, 2]);
    for number in [3_u64, 4, 2, 5, 6] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[9; 16]);
    bytes.extend_from_slice(&[1, 0, 0, 0, 2, 3, 0, b'n', 0, b'k']);
    bytes.extend_from_slice(&7_u64.to_le_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, b'v', 0x54, 0x4B, 0x56, 0xA5]);
    let mut expected = golden();
    if let Payload::Write(write) = &mut expected.payload {
        write.fingerprint = 0;
    }
    assert_eq!(decode(&Bytes::from(bytes), 0), Ok((expected, 93)));
}

#[test]
fn a_newer_format_is_not_damage() {
    let newer = in_format(FORMAT + 1, encoded(&golden()));
    let read = decode(&Bytes::from(newer), 0);
    assert_eq!(read, Err(DecodeError::Newer(FORMAT + 1)));
}

#[test]
fn a_length_no_record_can_have_is_torn() {
    for length in [
        1,
        45,
        u32::try_from(MAX_RECORD_BYTES).unwrap() + 1,
        u32::MAX,
    ] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(4096, 0x11);
        assert_eq!(RecordHeader::read(&bytes), Err(DecodeError::Torn));
    }
    assert_eq!(RecordHeader::read(&[0, 0]), Err(DecodeError::End));
    assert_eq!(RecordHeader::read(&[0, 1]), Err(DecodeError::Torn));
    assert_eq!(RecordHeader::read(&[]), Err(DecodeError::End));
}
