//! A wall clock that a test can set while a server runs.
//!
//! Debian's libfaketime intercepts the clock calls of the server, and reads the offset of the
//! wall clock from a file at each call. Monotonic clocks and file times are not changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    surroundings::Surroundings,
};

/// Debian's folder of libraries, with a folder for each architecture.
const LIBRARIES: &str = "/usr/lib";
/// The library, in the folder of an architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// The library keeps files for each process here, named by the process id.
const SHARED_MEMORY: &str = "/dev/shm";

/// The wall clock of all servers that start in its surroundings.
#[derive(Debug)]
pub struct WallClock {
    folder: DataFolder,
    library: PathBuf,
}

impl WallClock {
    /// A wall clock that shows this machine's time.
    ///
    /// # Errors
    /// If libfaketime is missing, or no folder can be created.
    pub fn new() -> Result<Self, Error> {
        let clock = Self {
            folder: DataFolder::new("wall-clock")?,
            library: library()?,
        };
        clock.set_ahead(0)?;
        Ok(clock)
    }

    /// Adds the environment variables with which a server reads this clock.
    #[must_use]
    pub fn in_surroundings(&self, surroundings: Surroundings) -> Surroundings {
        surroundings
            .set("LD_PRELOAD", self.library.display())
            .set("FAKETIME_TIMESTAMP_FILE", self.file().display())
            .set("FAKETIME_NO_CACHE", 1)
            .set("FAKETIME_DONT_FAKE_MONOTONIC", 1)
            // The same setting in earlier releases.
            .set("DONT_FAKE_MONOTONIC", 1)
            .set("NO_FAKE_STAT", 1)
    }

    /// Sets the clock `seconds` ahead of this machine's, or behind if negative.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set_ahead(&self, seconds: i64) -> Result<(), Error> {
        let new = self.folder.path().join("ahead.new");
        // The file is replaced atomically, so that no server reads half a number.
        fs::write(&new, format!("{seconds:+}"))
            .and_then(|()| fs::rename(&new, self.file()))
            .map_err(io_error("setting a wall clock"))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ahead")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // The library does not remove the files of a killed process.
        for entry in fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(owner);
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                // Another process may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The process id in the name of a file of the library.
fn owner(name: &str) -> Option<u32> {
    let pid = name
        .strip_prefix("faketime_shm_")
        .or_else(|| name.strip_prefix("sem.faketime_sem_"))?;
    pid.parse().ok()
}

fn library() -> Result<PathBuf, Error> {
    let missing = || Error::Missing {
        program: LIBRARY.to_owned(),
        remedy: "install the Debian package libfaketime".to_owned(),
    };
    let folders = fs::read_dir(LIBRARIES).map_err(|_| missing())?;
    (folders.flatten())
        .map(|folder| folder.path().join(LIBRARY))
        .find(|library| library.is_file())
        .ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The wall clock of a process in its surroundings, in seconds.
    fn shown(clock: &WallClock) -> i64 {
        let surroundings = clock.in_surroundings(Surroundings::default());
        let output = Command::new("date")
            .arg("+%s")
            .envs(surroundings.environment)
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    #[test]
    fn a_wall_clock_is_set_forward_and_back() {
        let clock = WallClock::new().unwrap();
        let start = shown(&clock);
        clock.set_ahead(3_600).unwrap();
        assert!((3_600..3_660).contains(&(shown(&clock) - start)));
        clock.set_ahead(-60).unwrap();
        assert!((-60..0).contains(&(shown(&clock) - start)));
    }

    #[test]
    fn files_of_the_library_are_recognised_by_their_names() {
        assert_eq!(owner("faketime_shm_12"), Some(12));
        assert_eq!(owner("sem.faketime_sem_7"), Some(7));
        assert_eq!(owner("sem.other_7"), None);
    }
}
