//! One file of the log: a header of 64 bytes (numbers little-endian), records without gaps,
//! then zeros to its allocated end:
//!
//! ```text
//! at  bytes
//!  0      8  the letters TIERKVLG
//!  8      4  format version: 2
//! 12      4  CRC-32C of the header without these four bytes
//! 16      8  log id
//! 24      8  number of the segment
//! 32      8  index of its first record
//! 40      8  epoch of the record before its first, 0 if there is none
//! 48      8  version of the record before its first, 0 if there is none
//! 56      8  zeros
//! ```
//!
//! Format version 1, of earlier logs, is still read; it has zeros from 48 on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tierkv_types::{Epoch, Index, LogId, Position, Version};

use crate::{
    StorageError, WalSync,
    disk::{Disk, DiskDir, DiskFile},
    error::is_out_of_descriptors,
};

const MAGIC: [u8; 8] = *b"TIERKVLG";
const FORMAT: u32 = 2;
const SUFFIX: &str = ".log";
/// The file that holds the next segment's space.
const SPARE: &str = "spare";

/// Bytes before a segment's first record.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;

/// A log's directory, and how its files are created.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) log_id: LogId,
    pub(crate) segment_bytes: u64,
    pub(crate) sync: WalSync,
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    pub(crate) number: u64,
    pub(crate) first: Index,
    pub(crate) previous_epoch: Epoch,
    /// At least the version of the record before the first, 0 if unknown.
    pub(crate) clock: Version,
}

/// One open file of the log. Clones share its descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) header: SegmentHeader,
}

/// A file of the log that is not open, so it takes no descriptor.
#[derive(Clone, Debug)]
pub(crate) struct ClosedSegment {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
}

impl Segment {
    pub(crate) fn close(self) -> ClosedSegment {
        let Self { path, header, .. } = self;
        ClosedSegment { path, header }
    }
}

/// The files of a log open for writing.
#[derive(Debug)]
pub(crate) struct LogFiles {
    /// Their directory.
    pub(crate) names: Box<dyn DiskDir>,
    /// The segments before the active one, in order.
    pub(crate) older: Vec<ClosedSegment>,
    /// The segment that is written to.
    pub(crate) active: Segment,
    /// The next record's offset in it.
    pub(crate) offset: u64,
}

/// An open file that only reserves a descriptor: the log can open its next segment even when
/// the process has no other descriptor left.
pub(crate) type Reserve = Option<Box<dyn DiskDir>>;

/// Space allocated for the next segment.
#[derive(Debug)]
pub(crate) struct Spare(Box<dyn DiskFile>);

impl SegmentHeader {
    /// The position of the record before the segment's first.
    pub(crate) const fn previous(&self) -> Position {
        Position {
            epoch: self.previous_epoch,
            index: Index(self.first.0.saturating_sub(1)),
        }
    }

    fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_id.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_epoch.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.clock.to_bits().to_le_bytes());
        let checksum = header_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header that begins a segment's bytes.
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = |what: &str| StorageError::damaged(path, 0, what);
        let Some(bytes) = bytes.first_chunk::<64>() else {
            return Err(damaged("the segment is shorter than its header"));
        };
        if bytes[..8] != MAGIC {
            return Err(damaged("it is no segment of a log"));
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if (number(8) >> 32) != u64::from(header_checksum(bytes)) {
            return Err(damaged(
                "the checksum of the segment's header does not match",
            ));
        }
        let format = number(8) & u64::from(u32::MAX);
        if format > u64::from(FORMAT) {
            return Err(StorageError::Newer {
                file: path.to_owned(),
                found: format,
                known: u64::from(FORMAT),
            });
        }
        Ok(Self {
            log_id: LogId(number(16)),
            number: number(24),
            first: Index(number(32)),
            previous_epoch: Epoch(number(40)),
            clock: Version::from_bits(number(48)),
        })
    }
}

fn header_checksum(bytes: &[u8; 64]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

impl LogPlace {
    /// The numbers of all segments, in order.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StorageError::io("list", &self.dir, error)),
        };
        let numbers = names.iter().filter_map(|name| name.strip_suffix(SUFFIX));
        let mut numbers: Vec<u64> = numbers.filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}{SUFFIX}"))
    }

    /// Allocates the space of one segment. If all descriptors are in use, the one of `reserve`
    /// is closed and used for the file.
    ///
    /// # Errors
    /// `NoSpace` and `NoDescriptors` leave nothing behind and may be retried.
    pub(crate) fn set_aside(&self, reserve: &mut Reserve) -> Result<Spare, StorageError> {
        let path = self.dir.join(SPARE);
        let file = match self.disk.create(&path) {
            Err(error) if is_out_of_descriptors(&error) && reserve.take().is_some() => {
                self.disk.create(&path)
            }
            created => created,
        };
        let file = file.map_err(|error| StorageError::io("create", &path, error))?;
        let allocated = file
            .allocate(self.segment_bytes)
            .and_then(|()| self.flush(&*file));
        if let Err(error) = allocated {
            self.remove(&path)?;
            return Err(StorageError::io("allocate", &path, error));
        }
        Ok(Spare(file))
    }

    /// Removes the spare space of an earlier process.
    pub(crate) fn drop_spare(&self) -> Result<(), StorageError> {
        let path = self.dir.join(SPARE);
        match self.disk.remove(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| StorageError::io("remove", &path, error)),
        }
    }

    /// Opens the directory of the log's files.
    pub(crate) fn open_names(&self) -> Result<Box<dyn DiskDir>, StorageError> {
        let names = self.disk.dir(&self.dir);
        names.map_err(|error| StorageError::io("open", &self.dir, error))
    }

    /// Opens a segment.
    pub(crate) fn open(&self, segment: ClosedSegment) -> Result<Segment, StorageError> {
        let ClosedSegment { path, header } = segment;
        let file = self.disk.open(&path);
        let file = file.map_err(|error| StorageError::io("open", &path, error))?;
        let file = file.into();
        Ok(Segment { path, file, header })
    }

    /// Turns spare space into the segment with `header`. The file gets its name only after its
    /// header is durable, so a named segment without a header is damage. `names` is the log's
    /// directory, already open: an open that fails half-way could not be undone.
    pub(crate) fn begin(
        &self,
        spare: Spare,
        header: SegmentHeader,
        names: &dyn DiskDir,
    ) -> Result<Segment, StorageError> {
        let path = self.path(header.number);
        let Spare(file) = spare;
        let fail = |action| move |error| (action, error);
        let begun = file
            .write_at(0, &header.to_bytes())
            .map_err(fail("write"))
            .and_then(|()| self.flush(&*file).map_err(fail("sync")))
            .and_then(|()| {
                let renamed = self.disk.rename(&self.dir.join(SPARE), &path);
                renamed.map_err(fail("name"))
            });
        begun.map_err(|(action, error)| in_allocated_space(action, &path, error))?;
        self.flush_names_in(names)?;
        let file = file.into();
        Ok(Segment { path, file, header })
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.disk
            .remove(path)
            .map_err(|error| StorageError::io("remove", path, error))
    }

    /// Removes all segments and the spare space, durably.
    pub(crate) fn remove_all(&self) -> Result<(), StorageError> {
        self.drop_spare()?;
        // Newest first, so that after a crash the remaining log ends too early.
        for number in self.numbers()?.into_iter().rev() {
            self.remove(&self.path(number))?;
        }
        self.flush_names()
    }

    /// Syncs all segments and their names.
    pub(crate) fn sync_all(&self) -> Result<(), StorageError> {
        for number in self.numbers()? {
            let path = self.path(number);
            let file = self.disk.open(&path);
            let file = file.map_err(|error| StorageError::io("open", &path, error))?;
            self.flush(&*file)
                .map_err(|error| in_allocated_space("sync", &path, error))?;
        }
        self.flush_names()
    }

    /// Makes the names of the log's files durable.
    pub(crate) fn flush_names(&self) -> Result<(), StorageError> {
        self.flush_names_in(&*self.open_names()?)
    }

    /// Makes the names of the log's files durable; `names` is their directory, already open.
    pub(crate) fn flush_names_in(&self, names: &dyn DiskDir) -> Result<(), StorageError> {
        if !self.sync.syncs() {
            return Ok(());
        }
        let synced = names.sync();
        synced.map_err(|error| in_allocated_space("sync", &self.dir, error))
    }

    /// Syncs a file, unless the sync mode has no syncs.
    pub(crate) fn flush(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        if self.sync.syncs() {
            file.sync_data()
        } else {
            Ok(())
        }
    }
}

/// The error of a write into allocated space. It is never `NoSpace`, whatever the system
/// reports, and it stops the node (LOG-SPACE).
pub(crate) fn in_allocated_space(
    action: &'static str,
    path: &Path,
    source: std::io::Error,
) -> StorageError {
    StorageError::Io {
        action,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
