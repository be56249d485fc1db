//! A small disk that a test can fill.
//!
//! A tmpfs of a few megabytes is mounted over a server's data folder, in its own mount
//! namespace: no other process sees it, and it disappears with the last process in the
//! namespace. A *holder* process keeps the namespace while the server is killed and started
//! again. All of it runs as an unprivileged user, in a user namespace.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    process::{Process, Program},
    user::User,
};

/// Timeout for mounting.
const MOUNT_LIMIT: Duration = Duration::from_secs(10);
/// Mounts a tmpfs of `$2` bytes on `$1`, prints a line, and then holds the namespace.
const HOLD: &str = "mount -t tmpfs -o size=$2,mode=0755 tmpfs \"$1\" && echo mounted \
                    && exec sleep infinity";

/// A small disk over a server's data folder. It exists until this guard is dropped and the last
/// server on it has ended.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Process,
    mounted_on: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of `bytes` over the data folder of `folder`.
    ///
    /// # Errors
    /// [`Error::NoSmallDisk`] if an unprivileged user may not mount one on this machine.
    pub async fn mount(folder: &DataFolder, bytes: u64) -> Result<Self, Error> {
        let program = Program::of_package("unshare", "install the Debian package util-linux");
        let data = folder.data().to_owned();
        let words = ["--user", "--map-root-user", "--mount", "--", "sh", "-c"];
        let words = words.into_iter().chain([HOLD, "sh"]).map(OsString::from);
        let words = words.chain([data.clone().into(), bytes.to_string().into()]);
        let mut holder = Process::spawn(&program, words, &DataFolder::new("small-disk")?)?;
        let mounted = holder
            .wait_until("mount a small disk", MOUNT_LIMIT, |holder| {
                match holder.first_line() {
                    Some(_) => Ok(Some(())),
                    None => holder.check().map(|()| None),
                }
            })
            .await;
        match mounted {
            Ok(()) => Ok(Self {
                holder,
                mounted_on: data,
            }),
            Err(Error::Ended { log, .. }) => Err(Error::NoSmallDisk { log }),
            Err(error) => Err(error),
        }
    }

    /// The command line prefix that starts a server in the namespace of the disk.
    #[must_use]
    pub fn entrance(&self) -> Vec<OsString> {
        let holder = self.holder.pid().to_string();
        let words = [
            "nsenter",
            "--user",
            "--mount",
            "--preserve-credentials",
            "--target",
            &holder,
            "--",
        ];
        words.into_iter().map(OsString::from).collect()
    }

    /// The path of the disk's content, for this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        let inside = self.mounted_on.strip_prefix("/");
        root.join(inside.unwrap_or(&self.mounted_on))
    }

    /// Its free bytes.
    ///
    /// # Errors
    /// If the system does not return them.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let about = rustix::fs::statvfs(self.path())
            .map_err(|error| io_error("looking at a small disk")(error.into()))?;
        Ok(about.f_bavail * about.f_frsize)
    }

    /// Allocates `bytes` of it for a file of this name.
    ///
    /// # Errors
    /// If less is free, or the file exists.
    pub fn occupy(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let file = self.mounted_on.join(name);
        self.run("fallocate", &["--length", &bytes.to_string()], &file)
    }

    /// Removes a file of [`SmallDisk::occupy`].
    ///
    /// # Errors
    /// If the file does not exist.
    pub fn vacate(&self, name: &str) -> Result<(), Error> {
        self.run("rm", &[], &self.mounted_on.join(name))
    }

    /// Runs a command on a file, in the namespace of the disk, where this process's own user may
    /// not be mapped.
    fn run(&self, command: &str, options: &[&str], file: &Path) -> Result<(), Error> {
        let what = format!("{command} of {} on a small disk", file.display());
        let mut words = self.entrance().into_iter();
        let mut entering = Command::new(words.next().unwrap_or_default());
        entering.args(words).arg(command).args(options).arg(file);
        if let Some(user) = User::for_servers() {
            entering.uid(user.uid).gid(user.gid);
        }
        let output = entering.output().map_err(io_error(what.as_str()))?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        Err(io_error(what)(std::io::Error::other(printed.into_owned())))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Surroundings, poll_until};

    #[tokio::test]
    async fn a_small_disk_can_be_filled_and_outlives_the_server_on_it() {
        const BYTES: u64 = 1 << 20;
        let folder = DataFolder::new("filler").unwrap();
        let disk = SmallDisk::mount(&folder, BYTES).await.unwrap();
        assert_eq!(disk.free_bytes().unwrap(), BYTES);
        disk.occupy("ballast", BYTES - (64 << 10)).unwrap();
        assert!(disk.occupy("more", BYTES).is_err());
        let program = Program::of_package("sh", "install dash");
        let file = folder.data().join("file");
        let script = format!("echo written >{}; echo done; sleep 1000", file.display());
        let surroundings = Surroundings::default().wrap(disk.entrance());
        let mut writer =
            Process::spawn_in(&program, ["-c", &script], &folder, &surroundings).unwrap();
        let done = poll_until(MOUNT_LIMIT, || async { writer.first_line() });
        assert_eq!(done.await.as_deref(), Some("done"));
        writer.kill9().unwrap();
        let written = fs::read_to_string(disk.path().join("file")).unwrap();
        assert_eq!(written, "written\n");
        // The file is not visible outside the namespace.
        assert!(!file.exists());
        disk.vacate("ballast").unwrap();
        assert!(disk.free_bytes().unwrap() > BYTES / 2);
    }
}
