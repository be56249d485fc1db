//! The footprint of a server, measured from outside: memory, files, and bytes read from files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tierkv_workload::Failure;

/// Bytes in one block of `st_blocks` (stat(2)), independent of the file system's block size.
const BLOCK_BYTES: u64 = 512;

/// Bytes of a process's memory that are in RAM now (`VmRSS`).
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    // The kernel prints kB for KiB.
    number_in(&format!("/proc/{pid}/status"), "VmRSS:").map(|kib| kib << 10)
}

/// Bytes that a process has read from files so far, from the disk or the page cache. Bytes from
/// sockets are not counted if the process receives them with recv(2).
pub(crate) fn file_bytes_read(pid: u32) -> Result<u64, Failure> {
    number_in(&format!("/proc/{pid}/io"), "rchar:")
}

fn number_in(path: &str, name: &str) -> Result<u64, Failure> {
    let text =
        fs::read_to_string(path).map_err(|error| Failure(format!("reading {path}: {error}")))?;
    parse_number(&text, name).ok_or_else(|| Failure(format!("{path} has no {name}")))
}

fn parse_number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes on disk of one data node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// The commit log, with its preallocated space.
    pub(crate) log: u64,
    /// The SQL store, with SQLite's files beside it.
    pub(crate) store: u64,
    /// The part of `store` that is SQLite's write-ahead file.
    pub(crate) store_wal: u64,
}

impl OnDisk {
    /// Measures the folder of a platform of one node.
    ///
    /// # Errors
    /// If there is no log or no store at the expected place.
    pub(crate) fn read(data: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure(format!("looking into {}: {error}", data.display()));
        let mut found = Self::default();
        for file in files_under(data).map_err(failed)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let in_log = file.parent().is_some_and(|folder| folder.ends_with("log"));
            let Some(bytes) = allocated(&file).map_err(failed)? else {
                continue;
            };
            if in_log {
                found.log += bytes;
            } else if name.starts_with("store.sqlite") {
                found.store += bytes;
                if name.ends_with("-wal") {
                    found.store_wal += bytes;
                }
            }
        }
        if found.log == 0 || found.store == 0 {
            return Err(Failure(format!(
                "there is no log or no store under {}",
                data.display()
            )));
        }
        Ok(found)
    }
}

fn files_under(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// The blocks of a file, in bytes; `None` if it was removed since it was listed.
fn allocated(file: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(file) {
        Ok(metadata) => Ok(Some(metadata.blocks() * BLOCK_BYTES)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, process::id};

    use tierkv_harness::DataFolder;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn written_memory_is_resident() {
        let before = resident_bytes(id()).unwrap();
        let bytes = black_box(vec![1_u8; 256 * MIB]);
        let after = resident_bytes(id()).unwrap();
        // Other tests in this process allocate and free memory at the same time, far less than half
        // of this.
        assert!(after > before + bytes.len() as u64 / 2, "{before} {after}");
        assert!(resident_bytes(u32::MAX).is_err());
    }

    #[test]
    fn bytes_read_from_files_are_counted() {
        let folder = DataFolder::new("read").unwrap();
        let file = folder.data().join("file");
        fs::write(&file, vec![1; MIB]).unwrap();
        let before = file_bytes_read(id()).unwrap();
        fs::read(&file).unwrap();
        assert!(file_bytes_read(id()).unwrap() >= before + MIB as u64);
    }

    #[test]
    fn numbers_are_found_by_their_line() {
        let text = "VmPeak:\t  10 kB\nVmRSS:\t  7 kB\n";
        assert_eq!(parse_number(text, "VmRSS:"), Some(7));
        assert_eq!(parse_number(text, "VmSwap:"), None);
    }

    #[test]
    fn log_and_store_are_measured_separately() {
        let folder = DataFolder::new("disk").unwrap();
        let node = folder.data().join("c1/n1");
        assert!(OnDisk::read(folder.data()).is_err());
        fs::create_dir_all(node.join("log")).unwrap();
        let files = [
            ("log/00000000000000000001.log", 8),
            ("log/spare", 4),
            ("store.sqlite", 2),
            ("store.sqlite-wal", 1),
            ("other", 16),
        ];
        for (name, mib) in files {
            let file = fs::File::create(node.join(name)).unwrap();
            std::io::Write::write_all(&mut &file, &vec![7; mib * MIB]).unwrap();
            // Some file systems allocate blocks late.
            file.sync_all().unwrap();
        }
        let found = OnDisk::read(folder.data()).unwrap();
        let mib = |bytes: u64| (bytes + MIB as u64 / 2) / MIB as u64;
        assert_eq!(
            (mib(found.log), mib(found.store), mib(found.store_wal)),
            (12, 3, 1)
        );
    }
}
