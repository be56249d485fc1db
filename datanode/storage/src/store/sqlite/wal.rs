//! Checks the write-ahead file at a start, before SQLite reads it.
//!
//! SQLite uses the file up to its last complete transaction and ignores the rest without an
//! error. Mostly the rest was never synced. But if a seal in it (`vfs::seal`) shows that it was,
//! the file is damaged. The file's format is SQLite's (all numbers big-endian): a header of 32
//! bytes, then frames of a header and a page. Each checksum covers everything before it too,
//! and the salts change each time the file starts again.

use std::{io, path::Path};

use super::vfs::{
    checksum::PAGE_BYTES,
    frames::{FILE_HEADER_BYTES, FRAME_BYTES, FRAME_HEADER_BYTES, frame_offset},
    role::Role,
    seal::{SEAL_BYTES, Seal},
};
use crate::{
    StorageError,
    disk::{Disk, DiskFile},
};

/// The first four bytes. The last bit: checksums use big-endian words.
const MAGIC: u32 = 0x377F_0682;
/// Frames per read.
const FRAMES_A_READ: usize = 64;

/// The running checksum of the file.
#[derive(Clone, Copy, Debug)]
struct Chain {
    is_big_endian: bool,
    sums: [u32; 2],
}

impl Chain {
    /// Adds bytes, as pairs of words, by the file format.
    fn add(&mut self, bytes: &[u8]) {
        let [first, second] = &mut self.sums;
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.is_big_endian {
                    u32::from_be_bytes(word)
                } else {
                    u32::from_le_bytes(word)
                }
            };
            *first = first.wrapping_add(word(0)).wrapping_add(*second);
            *second = second.wrapping_add(word(4)).wrapping_add(*first);
        }
    }

    fn is(&self, stored: &[u8]) -> bool {
        let [first, second] = self.sums;
        stored == [first.to_be_bytes(), second.to_be_bytes()].concat()
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// Refuses a write-ahead file that lost durable content. Blocks.
pub(super) fn check(disk: &dyn Disk, store: &Path) -> Result<(), StorageError> {
    let path = Role::WriteAhead.path(store);
    let failed = |error| StorageError::io("read", &path, error);
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut header = [0; FILE_HEADER_BYTES];
    file.read_at(0, &mut header).map_err(failed)?;
    // The header was never synced. It is synced before the first transaction, so there is none.
    if header == [0; FILE_HEADER_BYTES] {
        return Ok(());
    }
    let magic = number(&header, 0);
    let mut chain = Chain {
        is_big_endian: magic & 1 == 1,
        sums: [0; 2],
    };
    chain.add(&header[..24]);
    if magic & !1 != MAGIC || !chain.is(&header[24..]) {
        let what = "the header of the write-ahead file does not match its checksum";
        return Err(StorageError::damaged(&path, 0, what));
    }
    if number(&header, 8) as usize != PAGE_BYTES {
        let what = "the write-ahead file is not one of this store";
        return Err(StorageError::damaged(&path, 0, what));
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(&header[16..24]);
    let run = follow(&*file, chain, salts).map_err(failed)?;
    let frames = last_sealed(&*file, salts, run.committed).map_err(failed)?;
    match frames {
        None => Ok(()),
        Some(frames) => Err(StorageError::damaged(
            &path,
            frame_offset(run.sound) as u64,
            format!("{frames} frames were synced, but the checksum of this one does not match"),
        )),
    }
}

/// The sound frames at the start of the file.
struct Run {
    /// Frames from the start whose checksums match.
    sound: usize,
    /// Those up to the end of the last complete transaction.
    committed: usize,
}

fn follow(file: &dyn DiskFile, mut chain: Chain, salts: [u8; 8]) -> io::Result<Run> {
    let mut run = Run {
        sound: 0,
        committed: 0,
    };
    let mut buffer = vec![0; FRAMES_A_READ * FRAME_BYTES];
    loop {
        let read = file.read_at(frame_offset(run.sound) as u64, &mut buffer)?;
        let frames = buffer[..read].chunks_exact(FRAME_BYTES);
        let is_end = frames.len() < FRAMES_A_READ;
        for frame in frames {
            let (header, page) = frame.split_at(FRAME_HEADER_BYTES);
            chain.add(&header[..8]);
            chain.add(page);
            let is_sound = number(header, 0) != 0 && header[8..16] == salts;
            if !is_sound || !chain.is(&header[16..24]) {
                return Ok(run);
            }
            run.sound += 1;
            if number(header, 4) != 0 {
                run.committed = run.sound;
            }
        }
        if is_end {
            return Ok(run);
        }
    }
}

/// The number of synced frames in the last seal, if it is more than `committed`.
fn last_sealed(file: &dyn DiskFile, salts: [u8; 8], committed: usize) -> io::Result<Option<usize>> {
    let mut found = None;
    let mut seal = Seal {
        salts,
        frames: committed + 1,
    };
    let mut buffer = vec![0; FRAMES_A_READ * FRAME_BYTES];
    loop {
        let read = file.read_at(seal.offset() as u64, &mut buffer)?;
        for place in buffer[..read].chunks(FRAME_BYTES) {
            if place.get(..SEAL_BYTES) == Some(&seal.to_bytes()) {
                found = Some(seal.frames);
            }
            seal.frames += 1;
        }
        if read < buffer.len() {
            return Ok(found);
        }
    }
}
