//! The platform time that a node continues from after a restart (CLOCK-STEADY), in one small
//! file that is replaced as a whole.
//!
//! The file `platform-time` (numbers little-endian):
//!
//! ```text
//! at  bytes
//!  0      8  the letters TIERKVPT
//!  8      4  format version: 1
//! 12      4  CRC-32C of the file without these four bytes
//! 16      8  platform time, in milliseconds since the Unix epoch
//! 24      8  boot-time clock, in nanoseconds
//! 32      8  wall clock, in milliseconds since the Unix epoch
//! 40      1  flags: 1 if the boot is known, plus 2 if the wall clock was synchronised
//! 41     16  id of the boot
//! 57      8  what the time namespace adds to the boot-time clock, in nanoseconds
//! ```
//!
//! A node starts without the file too: its time is then at least that of the log. So a file
//! that can't be read is ignored.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tierkv_types::{Boot, BootTime, TimeReading};

use crate::{StorageError, disk::Disk, small_file};

const MAGIC: [u8; 8] = *b"TIERKVPT";
const FORMAT: u32 = 1;
const BYTES: usize = 65;
const FILE: &str = "platform-time";
const BOOT_IS_KNOWN: u8 = 1;
const IS_SYNCHRONISED: u8 = 2;

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The reading that the last process stored, if it can be read. Blocks.
///
/// # Errors
/// Failures of the disk.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<TimeReading>, StorageError> {
    let path = path(dir);
    let Some(bytes) = small_file::read(disk, &path)? else {
        return Ok(None);
    };
    let reading = decode(&bytes);
    if reading.is_none() {
        tracing::error!(
            file = %path.display(),
            "it is damaged, or of a newer release, and is not used"
        );
    }
    Ok(reading)
}

/// Stores a reading; durable on return. Blocks.
///
/// # Errors
/// `NoSpace`: the old reading remains; other failures of the disk.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    reading: &TimeReading,
) -> Result<(), StorageError> {
    small_file::replace(disk, &path(dir), &encode(reading))
}

fn encode(reading: &TimeReading) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&reading.platform_millis.to_le_bytes());
    let boot_time = reading.boot_time.since_boot().as_nanos();
    let boot_time = u64::try_from(boot_time).unwrap_or(u64::MAX);
    bytes.extend_from_slice(&boot_time.to_le_bytes());
    bytes.extend_from_slice(&reading.wall_millis.to_le_bytes());
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    bytes.push(
        flag(reading.boot.is_some(), BOOT_IS_KNOWN)
            | flag(reading.is_synchronised, IS_SYNCHRONISED),
    );
    let boot = reading.boot.unwrap_or(Boot {
        id: [0; 16],
        offset_nanos: 0,
    });
    bytes.extend_from_slice(&boot.id);
    bytes.extend_from_slice(&boot.offset_nanos.to_le_bytes());
    let checksum = checksum(&bytes);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<TimeReading> {
    let (header, rest) = bytes.split_first_chunk::<16>()?;
    let is_ours = bytes.len() == BYTES
        && header[..8] == MAGIC
        && header[8..12] == FORMAT.to_le_bytes()
        && header[12..] == checksum(bytes).to_le_bytes();
    if !is_ours {
        return None;
    }
    let (platform, rest) = rest.split_first_chunk()?;
    let (boot_time, rest) = rest.split_first_chunk()?;
    let (wall, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first()?;
    let (id, rest) = rest.split_first_chunk()?;
    let (offset, _) = rest.split_first_chunk()?;
    let boot = Boot {
        id: *id,
        offset_nanos: i64::from_le_bytes(*offset),
    };
    Some(TimeReading {
        platform_millis: u64::from_le_bytes(*platform),
        boot_time: BootTime::from_boot(Duration::from_nanos(u64::from_le_bytes(*boot_time))),
        boot: (flags & BOOT_IS_KNOWN != 0).then_some(boot),
        wall_millis: u64::from_le_bytes(*wall),
        is_synchronised: flags & IS_SYNCHRONISED != 0,
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Tear, TestDisk};

    const DIR: &str = "/n";

    fn reading(millis: u64) -> TimeReading {
        TimeReading {
            platform_millis: millis,
            boot_time: BootTime::from_boot(Duration::from_nanos(millis + 7)),
            boot: Some(Boot {
                id: [9; 16],
                offset_nanos: -3,
            }),
            wall_millis: u64::MAX,
            is_synchronised: true,
        }
    }

    fn stored(disk: &TestDisk) -> Option<TimeReading> {
        read(disk, Path::new(DIR)).unwrap()
    }

    #[test]
    fn what_is_stored_is_read() {
        let disk = TestDisk::default();
        assert_eq!(stored(&disk), None);
        let unknown = TimeReading {
            boot: None,
            ..reading(6)
        };
        let unsynchronised = TimeReading {
            is_synchronised: false,
            ..reading(7)
        };
        let neither = TimeReading {
            boot: None,
            ..unsynchronised
        };
        for reading in [reading(5), unknown, unsynchronised, neither] {
            write(&disk, Path::new(DIR), &reading).unwrap();
            assert_eq!(stored(&disk), Some(reading));
        }
    }

    #[test]
    fn a_crash_leaves_the_old_reading_or_the_new_one() {
        for seed in 0..200 {
            let mut disk = TestDisk::default();
            let mut known = None;
            for step in 1..6 {
                // Some syncs fail, so that a crash also meets a half-made change.
                disk.fail_syncs_after(seed % 3);
                let next = reading(step);
                let is_stored = write(&disk, Path::new(DIR), &next).is_ok();
                disk = disk.crash(seed * 10 + step, Tear::AnyOrder);
                let found = stored(&disk);
                let expected = match is_stored {
                    true => found == Some(next),
                    false => found == Some(next) || found == known,
                };
                assert!(expected, "seed {seed}, step {step}: {found:?}");
                known = found;
            }
        }
    }

    #[test]
    fn damage_is_as_good_as_nothing() {
        let disk = TestDisk::default();
        write(&disk, Path::new(DIR), &reading(5)).unwrap();
        disk.damage(Path::new("/n/platform-time"), 20, &[1]);
        assert_eq!(stored(&disk), None);
        for length in 0..BYTES {
            assert_eq!(
                decode(&encode(&reading(5))[..length]),
                None,
                "{length} bytes"
            );
        }
    }
}
