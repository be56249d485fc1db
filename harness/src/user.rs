//! The unprivileged user that servers run as.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Gid, Uid};

/// An unprivileged user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The usual ids of `nobody` on Linux.
const NOBODY: User = User {
    uid: 65_534,
    gid: 65_534,
};

impl User {
    /// The user for servers: `nobody` if this process is root; otherwise `None`, and they run as
    /// the caller. In a user namespace, root may be an unprivileged user outside, and `nobody` may
    /// not exist: servers then run as the caller, too.
    pub(crate) fn for_servers() -> Option<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let nobody = is_root.then(|| {
            fs::read_to_string("/etc/passwd")
                .ok()
                .and_then(|passwd| nobody_of(&passwd))
                .unwrap_or(NOBODY)
        });
        let map = fs::read_to_string("/proc/self/uid_map").ok();
        nobody.filter(|user| map.is_none_or(|map| has_user(&map, user.uid)))
    }

    /// Makes this user the owner of `path`.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        rustix::fs::chown(
            path,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )?;
        Ok(())
    }

    /// Whether this user may run `program`: the file and every folder above it must be accessible
    /// to others, which a checkout in root's home is not.
    pub(crate) fn may_run(self, program: &Path) -> bool {
        program.ancestors().all(|part| {
            part.as_os_str().is_empty()
                || fs::metadata(part).is_ok_and(|of| {
                    let mode = of.permissions().mode();
                    mode & 0o001 != 0 || (of.uid() == self.uid && mode & 0o100 != 0)
                })
        })
    }

    /// A path at which this user may run `program`: the original, or a copy in `folder`.
    pub(crate) fn runnable(self, program: &Path, folder: &Path) -> io::Result<PathBuf> {
        if self.may_run(program) {
            return Ok(program.to_owned());
        }
        let copy = folder.join(program.file_name().unwrap_or(program.as_os_str()));
        if !copy.exists() {
            fs::copy(program, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }
}

/// Whether the user exists, by the text of a user namespace's map: lines of the first id inside,
/// the first one outside, and how many.
fn has_user(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        matches!(numbers[..], [first, _, count]
            if (first..first.saturating_add(count)).contains(&u64::from(uid)))
    })
}

/// The ids of `nobody` in the text of a passwd file.
fn nobody_of(passwd: &str) -> Option<User> {
    let mut fields = passwd
        .lines()
        .find_map(|line| line.strip_prefix("nobody:"))?
        .split(':')
        .skip(1);
    Some(User {
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_found_in_the_passwd_file() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nnobody:x:99:98:nobody:/:/usr/sbin/nologin\n";
        assert_eq!(nobody_of(passwd), Some(User { uid: 99, gid: 98 }));
        assert_eq!(nobody_of("root:x:0:0:root:/root:/bin/bash\n"), None);
    }

    #[test]
    fn a_user_namespace_may_lack_nobody() {
        let everybody = "         0          0 4294967295\n";
        assert!(has_user(everybody, 65_534));
        let root_alone = "         0      65534          1\n";
        assert!(has_user(root_alone, 0));
        assert!(!has_user(root_alone, 65_534));
    }

    #[test]
    fn a_program_in_an_inaccessible_folder_is_copied() {
        let closed = tempfile::tempdir().unwrap();
        let open = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let program = closed.path().join("program");
        fs::copy("/bin/true", &program).unwrap();
        let nobody = User {
            uid: 65_534,
            gid: 65_534,
        };
        assert!(!nobody.may_run(&program));
        let copy = nobody.runnable(&program, open.path()).unwrap();
        assert_eq!(copy, open.path().join("program"));
        assert!(nobody.may_run(Path::new("/bin/true")));
    }
}
