//! One file that SQLite has open.

use std::{path::PathBuf, sync::Arc};

use sqlite_plugin::{
    flags::LockLevel,
    vars,
    vfs::{VfsHandle, VfsResult},
};

use super::{
    checksum::{self, PAGE_BYTES, Page, Verdict},
    frames::{FRAME_HEADER_BYTES, Part, frame_offset},
    role::Role,
    seal::Seal,
    shared_memory::SharedMemoryUse,
    volume::{PageFormat, Volume},
};
use crate::{disk::DiskFile, locked};

/// Bytes of the database's header, which SQLite reads alone when it opens the file. They can't
/// be verified then: a power cut may have torn the first page, and the complete page is in the
/// write-ahead file. The bytes that SQLite uses are checked before it opens the file, see
/// `format`.
const HEADER_BYTES: usize = 100;

/// An open file.
#[derive(Debug)]
pub(super) enum Handle {
    /// A file of a database.
    Stored(Stored),
    /// A temporary file, kept in memory.
    Scratch(Vec<u8>),
}

impl VfsHandle for Handle {
    fn readonly(&self) -> bool {
        matches!(self, Self::Stored(file) if file.is_read_only)
    }

    fn in_memory(&self) -> bool {
        false
    }
}

/// A file of a database.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) volume: Arc<Volume>,
    role: Role,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    is_read_only: bool,
    level: LockLevel,
    pub(super) index: SharedMemoryUse,
    /// The seal to write after the next sync, if the last frame ends a transaction.
    unsealed: Option<Seal>,
}

impl Stored {
    pub(super) fn new(
        volume: Arc<Volume>,
        role: Role,
        file: Box<dyn DiskFile>,
        is_read_only: bool,
    ) -> Self {
        Self {
            path: volume.path(role),
            volume,
            role,
            file,
            is_read_only,
            level: LockLevel::Unlocked,
            index: SharedMemoryUse::default(),
            unsealed: None,
        }
    }

    fn is_checked(&self) -> bool {
        self.volume.format() == PageFormat::Checked
    }

    pub(super) fn size(&self) -> VfsResult<u64> {
        let failed = |error| {
            let code = vars::SQLITE_IOERR_FSTAT;
            self.volume.failed("measure", &self.path, error, code)
        };
        self.file.size().map_err(failed)
    }

    fn fetch(&self, offset: usize, buffer: &mut [u8]) -> VfsResult<usize> {
        let failed = |error| {
            let code = vars::SQLITE_IOERR_READ;
            self.volume.failed("read", &self.path, error, code)
        };
        self.file.read_at(offset as u64, buffer).map_err(failed)
    }

    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> VfsResult<usize> {
        match self.role {
            Role::Main if self.is_checked() => self.read_main(offset, buffer),
            Role::WriteAhead if self.is_checked() => self.read_frame(offset, buffer),
            _ => self.fetch(offset, buffer),
        }
    }

    fn read_main(&self, offset: usize, buffer: &mut [u8]) -> VfsResult<usize> {
        if offset.is_multiple_of(PAGE_BYTES)
            && let Ok(page) = <&mut Page>::try_from(&mut *buffer)
        {
            return self.read_page(offset, page);
        }
        if offset + buffer.len() <= HEADER_BYTES {
            return self.fetch(offset, buffer);
        }
        // SQLite reads only a part of a page at the end of a long value. The whole page is read
        // then, as the checksum covers all of it.
        let (mut read, mut page) = (0, [0; PAGE_BYTES]);
        while read < buffer.len() {
            let (at, inside) = (offset + read, (offset + read) % PAGE_BYTES);
            let found = self.read_page(at - inside, &mut page)?;
            let part = page[..found].get(inside..).unwrap_or_default();
            let count = part.len().min(buffer.len() - read);
            buffer[read..read + count].copy_from_slice(&part[..count]);
            read += count;
            if count == 0 {
                break;
            }
        }
        Ok(read)
    }

    /// Reads the page at `offset` and verifies it.
    fn read_page(&self, offset: usize, page: &mut Page) -> VfsResult<usize> {
        let read = self.fetch(offset, page)?;
        let what = match checksum::verify(page, offset as u64) {
            Verdict::Sound if read == PAGE_BYTES => return Ok(read),
            // SQLite reads pages after the end of the file, or holes, only to overwrite them. If it
            // expected content it returns an error, for which the place is noted.
            _ if read == 0 => {
                self.volume.faults.blank(offset as u64);
                return Ok(read);
            }
            Verdict::Blank if read == PAGE_BYTES => {
                self.volume.faults.blank(offset as u64);
                return Ok(read);
            }
            Verdict::Sound | Verdict::Blank => "the page is incomplete",
            Verdict::Damaged => "the checksum of the page does not match",
        };
        self.volume.faults.damaged(&self.path, offset as u64, what);
        Err(vars::SQLITE_IOERR_DATA)
    }

    fn read_frame(&self, offset: usize, buffer: &mut [u8]) -> VfsResult<usize> {
        let read = self.fetch(offset, buffer)?;
        let (frame, page) = match Part::of(offset, buffer.len()) {
            Part::Page(frame) => (frame, &buffer[..]),
            Part::Frame(frame) => (frame, &buffer[FRAME_HEADER_BYTES..]),
            Part::FileHeader | Part::FrameHeader(_) | Part::Other => return Ok(read),
        };
        if read < buffer.len() || self.volume.frames.is_sound(frame, page) {
            return Ok(read);
        }
        let what = "the page of the frame is not what was written";
        let offset = frame_offset(frame) as u64;
        self.volume.faults.damaged(&self.path, offset, what);
        Err(vars::SQLITE_IOERR_DATA)
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> VfsResult<()> {
        if self.is_read_only {
            return Err(vars::SQLITE_READONLY);
        }
        match self.role {
            Role::Main if self.is_checked() => self.write_page(offset, bytes),
            Role::WriteAhead if self.is_checked() => self.write_frame(offset, bytes),
            _ => self.put(offset, bytes),
        }
    }

    fn put(&self, offset: usize, bytes: &[u8]) -> VfsResult<()> {
        let code = vars::SQLITE_IOERR_WRITE;
        self.volume.check_writable(code)?;
        let written = self.file.write_at(offset as u64, bytes);
        written.map_err(|error| self.volume.write_failed("write", &self.path, error, code))
    }

    fn write_page(&self, offset: usize, bytes: &[u8]) -> VfsResult<()> {
        let page = <&Page>::try_from(bytes);
        let (Ok(page), true) = (page, offset.is_multiple_of(PAGE_BYTES)) else {
            // SQLite writes the database in pages, and the size of ours never changes.
            return Err(vars::SQLITE_IOERR_WRITE);
        };
        let mut page = *page;
        checksum::seal(&mut page, offset as u64);
        self.put(offset, &page)
    }

    fn write_frame(&mut self, offset: usize, bytes: &[u8]) -> VfsResult<()> {
        let part = Part::of(offset, bytes.len());
        match part {
            // The file starts again: all earlier frames are invalid.
            Part::FileHeader => self.volume.frames.forget(0, usize::MAX),
            // The page after it is unchanged.
            Part::FrameHeader(_) => {}
            Part::Page(_) | Part::Frame(_) | Part::Other => {
                self.volume.frames.forget(offset, bytes.len());
            }
        }
        self.put(offset, bytes)?;
        match part {
            Part::FileHeader => self.unsealed = None,
            Part::FrameHeader(frame) => self.unsealed = Seal::of(frame, bytes),
            Part::Page(frame) => self.volume.frames.know(frame, bytes),
            Part::Frame(_) | Part::Other => {}
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> VfsResult<()> {
        let code = vars::SQLITE_IOERR_FSYNC;
        self.volume.check_writable(code)?;
        let synced = self.file.sync_data();
        synced.map_err(|error| self.volume.sync_failed(&self.path, error, code))?;
        self.volume.sync_new_names()?;
        if let Some(seal) = self.unsealed.take() {
            self.write_seal(seal)?;
        }
        Ok(())
    }

    /// Writes a seal after a synced transaction. A full disk is no failure here: the transaction
    /// is durable without it.
    fn write_seal(&self, seal: Seal) -> VfsResult<()> {
        let bytes = seal.to_bytes();
        let offset = seal.offset();
        self.volume.frames.forget(offset, bytes.len());
        match self.put(offset, &bytes) {
            Err(code) if code != vars::SQLITE_FULL => Err(code),
            _ => Ok(()),
        }
    }

    pub(super) fn truncate(&mut self, bytes: usize) -> VfsResult<()> {
        let code = vars::SQLITE_IOERR_TRUNCATE;
        self.volume.check_writable(code)?;
        if self.role == Role::WriteAhead {
            self.volume.frames.forget(bytes, usize::MAX);
            self.unsealed = None;
        }
        let cut = self.file.truncate(bytes as u64);
        cut.map_err(|error| {
            self.volume
                .write_failed("set the length of", &self.path, error, code)
        })
    }

    pub(super) fn lock(&mut self, level: LockLevel) -> VfsResult<()> {
        let mut locks = locked(&self.volume.locks);
        let raised = locks.raise(&mut self.level, level);
        raised.map_err(|_| vars::SQLITE_BUSY)
    }

    pub(super) fn unlock(&mut self, level: LockLevel) {
        locked(&self.volume.locks).lower(&mut self.level, level);
    }

    pub(super) fn is_reserved(&self) -> bool {
        locked(&self.volume.locks).is_reserved()
    }
}

impl Drop for Stored {
    /// Releases the file's locks, however it is closed.
    fn drop(&mut self) {
        self.unlock(LockLevel::Unlocked);
        let Self { volume, index, .. } = self;
        volume.index.unmap(index);
    }
}
