//! A spool: a file into which a snapshot of the whole store is copied as fast as the disk can, and
//! from which it is read at the pace of the reader.
//!
//! So the store's read transaction, which keeps its write-ahead file growing, ends soon, however
//! long the transfer to the other node takes. The file loses its name as soon as it is open: its
//! space is free when it is closed, also by a crash.
//!
//! The file holds the pieces one after the other, each after 8 bytes (little-endian): its length
//! and its CRC-32C.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    StorageError,
    blocking::blocking,
    disk::{Disk, DiskFile},
};

const HEAD_BYTES: usize = 8;

/// An open file without a name.
#[derive(Clone, Debug)]
struct File {
    /// Its former name, for errors.
    path: Arc<PathBuf>,
    file: Arc<dyn DiskFile>,
}

/// How far the file is written.
#[derive(Clone, Debug, Default)]
struct Written {
    bytes: u64,
    /// Set once nothing more is written.
    ended: Option<Result<(), StorageError>>,
}

/// Writes the pieces.
#[derive(Debug)]
pub(super) struct SpoolWriter {
    file: File,
    written: watch::Sender<Written>,
}

/// Reads the pieces, while they are being written.
#[derive(Debug)]
pub(super) struct SpoolReader {
    file: File,
    offset: u64,
    written: watch::Receiver<Written>,
}

/// Creates the spool of the store in `store`. Blocks.
pub(super) fn create(
    disk: &dyn Disk,
    store: &Path,
) -> Result<(SpoolWriter, SpoolReader), StorageError> {
    let mut path = store.as_os_str().to_owned();
    path.push("-spool");
    let path = PathBuf::from(path);
    let removed = || match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", &path, error))
        }
        _ => Ok(()),
    };
    // A crash may have left an empty one.
    removed()?;
    let file = disk.create(&path);
    let file = file.map_err(|error| StorageError::io("create", &path, error))?;
    removed()?;
    let file = File {
        path: Arc::new(path),
        file: Arc::from(file),
    };
    let (written, reading) = watch::channel(Written::default());
    let reader = SpoolReader {
        file: file.clone(),
        offset: 0,
        written: reading,
    };
    Ok((SpoolWriter { file, written }, reader))
}

impl SpoolWriter {
    /// Appends a piece.
    ///
    /// # Errors
    /// `NoSpace` and failures of the disk; `Closed` if the reader is gone.
    pub(super) async fn write(&self, piece: Bytes) -> Result<(), StorageError> {
        if self.written.is_closed() {
            return Err(StorageError::Closed);
        }
        let (file, offset) = (self.file.clone(), self.written.borrow().bytes);
        let end = blocking(move || file.write(offset, &piece)).await?;
        self.written.send_modify(|written| written.bytes = end);
        Ok(())
    }

    /// Reports that all pieces are written, or why not.
    pub(super) fn end(self, ended: Result<(), StorageError>) {
        self.written
            .send_modify(|written| written.ended = Some(ended));
    }
}

impl SpoolReader {
    /// Waits until all pieces are written.
    ///
    /// # Errors
    /// The writer's error.
    pub(super) async fn whole(&mut self) -> Result<(), StorageError> {
        let ended = self.written.wait_for(|written| written.ended.is_some());
        // The writer ends without a report only with its runtime.
        let ended = ended.await.map_err(|_| StorageError::Closed)?;
        ended.ended.clone().unwrap_or(Ok(()))
    }

    /// The next piece, once it is written; `None` after the last one.
    ///
    /// # Errors
    /// The writer's error; `Damaged` if the file does not hold what was written.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            let Written { bytes, ended } = self.written.borrow_and_update().clone();
            if let Some(Err(error)) = ended {
                return Err(error);
            }
            if self.offset < bytes {
                let (file, offset) = (self.file.clone(), self.offset);
                let piece = blocking(move || file.read(offset)).await?;
                self.offset += (HEAD_BYTES + piece.len()) as u64;
                return Ok(Some(piece));
            }
            if ended.is_some() {
                return Ok(None);
            }
            // The writer ends without a report only with its runtime.
            let changed = self.written.changed().await;
            changed.map_err(|_| StorageError::Closed)?;
        }
    }
}

impl File {
    /// Writes a piece; returns the offset after it.
    fn write(&self, offset: u64, piece: &[u8]) -> Result<u64, StorageError> {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32c::crc32c(piece).to_le_bytes());
        let begin = offset + HEAD_BYTES as u64;
        let written = self.file.write_at(offset, &head);
        let written = written.and_then(|()| self.file.write_at(begin, piece));
        written.map_err(|error| StorageError::io("write", &self.path, error))?;
        Ok(begin + piece.len() as u64)
    }

    fn read(&self, offset: u64) -> Result<Bytes, StorageError> {
        let failed = |error| StorageError::io("read", &self.path, error);
        let mut head = [0; HEAD_BYTES];
        self.file.read_at(offset, &mut head).map_err(failed)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let size = self.file.size().map_err(failed)?;
        let damaged = || {
            let what = "a piece of the snapshot is not what was written";
            Err(StorageError::damaged(&self.path, offset, what))
        };
        if u64::from(word(0)) > size {
            return damaged();
        }
        let mut piece = vec![0; usize::try_from(word(0)).unwrap_or(usize::MAX)];
        let begin = offset + HEAD_BYTES as u64;
        let read = self.file.read_at(begin, &mut piece).map_err(failed)?;
        if read < piece.len() || crc32c::crc32c(&piece) != word(4) {
            return damaged();
        }
        Ok(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::TestDisk;

    const STORE: &str = "/n/store";

    #[tokio::test]
    async fn pieces_are_read_as_they_were_written_and_the_file_has_no_name() {
        let disk = TestDisk::default();
        drop(disk.create(Path::new("/n/store-spool")).unwrap());
        let (writer, mut reader) = create(&disk, Path::new(STORE)).unwrap();
        assert!(disk.files().is_empty());
        let pieces = [&b"one"[..], b"", &[7; 5_000]].map(Bytes::copy_from_slice);
        let reading = tokio::spawn(async move {
            let mut found = Vec::new();
            while let Some(piece) = reader.next().await.unwrap() {
                found.push(piece);
            }
            assert_eq!(reader.next().await.unwrap(), None);
            found
        });
        for piece in &pieces {
            writer.write(piece.clone()).await.unwrap();
        }
        writer.end(Ok(()));
        assert_eq!(reading.await.unwrap(), pieces);
    }

    #[tokio::test]
    async fn errors_reach_the_other_side() {
        let disk = TestDisk::default();
        let (writer, mut reader) = create(&disk, Path::new(STORE)).unwrap();
        writer.write(Bytes::from_static(b"piece")).await.unwrap();
        disk.set_space(Some(100));
        let full = writer.write(vec![1; 200].into()).await.unwrap_err();
        assert!(matches!(full, StorageError::NoSpace { .. }), "{full}");
        writer.end(Err(full));
        assert!(reader.whole().await.is_err());
        let full = reader.next().await.unwrap_err();
        assert!(full.to_string().contains("/n/store-spool"), "{full}");

        let (writer, reader) = create(&disk, Path::new(STORE)).unwrap();
        drop(reader);
        let gone = writer.write(Bytes::from_static(b"piece")).await;
        assert!(matches!(gone, Err(StorageError::Closed)), "{gone:?}");

        let (writer, mut reader) = create(&disk, Path::new(STORE)).unwrap();
        disk.set_space(None);
        writer.write(Bytes::from_static(b"piece")).await.unwrap();
        for (at, byte) in [(0, 200), (5, 1), (9, 1)] {
            let mut before = [0];
            reader.file.file.read_at(at, &mut before).unwrap();
            reader.file.file.write_at(at, &[byte]).unwrap();
            let damaged = reader.next().await.unwrap_err();
            assert!(matches!(damaged, StorageError::Damaged { .. }), "{damaged}");
            reader.file.file.write_at(at, &before).unwrap();
        }
        assert_eq!(reader.next().await.unwrap().unwrap(), &b"piece"[..]);
        drop(writer);
        let ended = reader.next().await;
        assert!(matches!(ended, Err(StorageError::Closed)), "{ended:?}");
    }
}
