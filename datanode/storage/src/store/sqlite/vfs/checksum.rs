//! The checksum of every page of the database file.
//!
//! It is in a page's last eight bytes, which SQLite does not use because the file's header
//! reserves them (numbers little-endian):
//!
//! ```text
//! at    bytes
//! 4088      4  the letters TKVp
//! 4092      4  CRC-32C of the page's number, four bytes, and of the bytes before this one
//! ```
//!
//! The checksum covers the number, so that a page that the disk wrote to a wrong place is found.
//! A page of zeros was never written: a growing file has such holes, and no page of SQLite's has
//! only zeros.

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Bytes of it that the checksum takes.
pub(crate) const RESERVED_BYTES: u8 = 8;

pub(crate) const MARK: [u8; 4] = *b"TKVp";
pub(crate) const MARK_AT: usize = PAGE_BYTES - RESERVED_BYTES as usize;
const CHECKSUM_AT: usize = PAGE_BYTES - 4;

/// The bytes of a page.
pub(crate) type Page = [u8; PAGE_BYTES];

/// The result of verifying a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Sound,
    /// Nothing but zeros.
    Blank,
    Damaged,
}

/// The number of the page at `offset`; the first is 1.
fn number(offset: u64) -> u32 {
    u32::try_from(offset / PAGE_BYTES as u64 + 1).unwrap_or(u32::MAX)
}

fn checksum(page: &Page, offset: u64) -> [u8; 4] {
    let number = crc32c::crc32c(&number(offset).to_le_bytes());
    crc32c::crc32c_append(number, &page[..CHECKSUM_AT]).to_le_bytes()
}

/// Sets the checksum of a page that is written at `offset`.
pub(crate) fn seal(page: &mut Page, offset: u64) {
    page[MARK_AT..CHECKSUM_AT].copy_from_slice(&MARK);
    let checksum = checksum(page, offset);
    page[CHECKSUM_AT..].copy_from_slice(&checksum);
}

/// Whether a page read at `offset` is what was written there.
pub(super) fn verify(page: &Page, offset: u64) -> Verdict {
    if page[CHECKSUM_AT..] == checksum(page, offset) && page[MARK_AT..CHECKSUM_AT] == MARK {
        Verdict::Sound
    } else if page.iter().all(|byte| *byte == 0) {
        Verdict::Blank
    } else {
        Verdict::Damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_other_place_is_found() {
        let mut page = [0; PAGE_BYTES];
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = u8::try_from(at * 7 % 251).unwrap();
        }
        seal(&mut page, 8_192);
        assert_eq!(verify(&page, 8_192), Verdict::Sound);
        assert_eq!(verify(&page, 4_096), Verdict::Damaged);
        for bit in 0..PAGE_BYTES * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&page, 8_192), Verdict::Damaged, "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(verify(&[0; PAGE_BYTES], 0), Verdict::Blank);
    }
}
