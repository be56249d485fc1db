//! A checksum in memory for each frame of the write-ahead file.
//!
//! A frame here is SQLite's (not one of the log or the wire): a header of 24 bytes and a page.
//! Frames follow the file's header of 32 bytes without gaps. SQLite verifies them only when it
//! recovers the file. So the checksum of each page that was written, or read in the recovery, is
//! kept here, and each later read is compared with it.

use std::sync::{PoisonError, RwLock};

use super::checksum::PAGE_BYTES;

/// Bytes before the first frame.
pub(crate) const FILE_HEADER_BYTES: usize = 32;
/// Bytes before a frame's page.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Bytes of a frame.
pub(crate) const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// The part of the write-ahead file that a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The file's header.
    FileHeader,
    /// The header of a frame; the first frame is 0.
    FrameHeader(usize),
    /// The page of a frame.
    Page(usize),
    /// A frame of the write-ahead file, whole.
    Frame(usize),
    /// Anything else.
    Other,
}

impl Part {
    pub(super) fn of(offset: usize, bytes: usize) -> Self {
        let Some(behind) = offset.checked_sub(FILE_HEADER_BYTES) else {
            return match (offset, bytes) {
                (0, FILE_HEADER_BYTES) => Self::FileHeader,
                _ => Self::Other,
            };
        };
        let frame = behind / FRAME_BYTES;
        match (behind % FRAME_BYTES, bytes) {
            (0, FRAME_HEADER_BYTES) => Self::FrameHeader(frame),
            (FRAME_HEADER_BYTES, PAGE_BYTES) => Self::Page(frame),
            (0, FRAME_BYTES) => Self::Frame(frame),
            _ => Self::Other,
        }
    }
}

/// A frame's offset in the file.
pub(crate) fn frame_offset(frame: usize) -> usize {
    FILE_HEADER_BYTES + frame * FRAME_BYTES
}

/// A checksum for each frame whose page is known.
#[derive(Debug, Default)]
pub(super) struct Frames(RwLock<Vec<Option<u32>>>);

impl Frames {
    /// Remembers the page of a frame.
    pub(super) fn know(&self, frame: usize, page: &[u8]) {
        let checksum = crc32c::crc32c(page);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() <= frame {
            known.resize(frame + 1, None);
        }
        known[frame] = Some(checksum);
    }

    /// Forgets the frames that `bytes` at `offset` are part of.
    pub(super) fn forget(&self, offset: usize, bytes: usize) {
        let first = offset.saturating_sub(FILE_HEADER_BYTES) / FRAME_BYTES;
        let end = offset.saturating_add(bytes);
        let end = end.saturating_sub(FILE_HEADER_BYTES).div_ceil(FRAME_BYTES);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let end = end.min(known.len());
        if first < end {
            known[first..end].fill(None);
        }
    }

    /// Whether the page of a frame is unchanged. The first read of a frame is accepted: it is by
    /// SQLite's recovery, which verifies it.
    pub(super) fn is_sound(&self, frame: usize, page: &[u8]) -> bool {
        let known = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            known.get(frame).copied().flatten()
        };
        match known {
            Some(checksum) => checksum == crc32c::crc32c(page),
            None => {
                self.know(frame, page);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_apart() {
        assert_eq!(Part::of(0, 32), Part::FileHeader);
        assert_eq!(Part::of(0, 24), Part::Other);
        assert_eq!(Part::of(32, 24), Part::FrameHeader(0));
        assert_eq!(Part::of(56, 4096), Part::Page(0));
        assert_eq!(Part::of(32 + 2 * 4120, 4120), Part::Frame(2));
        assert_eq!(Part::of(frame_offset(3), 8), Part::Other);
    }

    #[test]
    fn a_page_is_held_against_what_is_known_of_its_frame() {
        let frames = Frames::default();
        frames.know(1, b"one");
        assert!(frames.is_sound(1, b"one"));
        assert!(!frames.is_sound(1, b"two"));
        // The first look counts, until something is written over it.
        assert!(frames.is_sound(0, b"zero"));
        assert!(!frames.is_sound(0, b"one"));
        frames.forget(frame_offset(1) + 4119, 1);
        assert!(!frames.is_sound(0, b"one"));
        assert!(frames.is_sound(1, b"two"));
        frames.forget(0, usize::MAX);
        assert!(frames.is_sound(0, b"one") && frames.is_sound(1, b"one"));
        frames.forget(frame_offset(1), 1);
        assert!(!frames.is_sound(0, b"two") && frames.is_sound(1, b"two"));
    }
}
