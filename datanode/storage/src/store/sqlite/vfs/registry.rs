//! Which database a name in SQLite's hands belongs to.
//!
//! SQLite knows files by name only, and a VFS is registered for the whole process. So a
//! database that is open has a number here, and that number is the file name that SQLite
//! gets; what SQLite derives from it (`7-wal`) leads to the same database.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use super::volume::{PageFormat, Volume};
use crate::{WalSync, disk::Disk, locked};

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    next: 1,
    volumes: BTreeMap::new(),
});

#[derive(Debug)]
struct Registry {
    next: u64,
    /// Weak: a database is open as long as its store or one of SQLite's handles is.
    volumes: BTreeMap<u64, Weak<Volume>>,
}

/// The files that SQLite makes of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The database itself.
    Main,
    /// Its write-ahead file.
    WriteAhead,
    /// Its rollback journal, which only a file of an earlier release can still have.
    Journal,
}

impl Role {
    const ALL: [Self; 3] = [Self::Main, Self::WriteAhead, Self::Journal];

    /// What SQLite appends to the name of the database.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::WriteAhead => "-wal",
            Self::Journal => "-journal",
        }
    }

    /// Where the file of the database in `path` is.
    pub(crate) fn path(self, path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(self.suffix());
        name.into()
    }
}

/// The open database in `path` on `disk`: the same one for everyone who opens it, since
/// they must meet at its locks.
pub(crate) fn enter(
    disk: &Arc<dyn Disk>,
    path: &Path,
    format: PageFormat,
    sync: WalSync,
) -> Arc<Volume> {
    let mut registry = locked(&REGISTRY);
    let mut open = registry.volumes.values().filter_map(Weak::upgrade);
    let found = open.rfind(|volume| volume.is_at(&**disk, path) && volume.format() == format);
    if let Some(volume) = found {
        return volume;
    }
    let number = registry.next;
    registry.next += 1;
    let volume = Arc::new(Volume::new(number, Arc::clone(disk), path, format, sync));
    registry.volumes.insert(number, Arc::downgrade(&volume));
    volume
}

/// Takes the number of a database out that nobody has open any more.
pub(super) fn leave(number: u64) {
    locked(&REGISTRY).volumes.remove(&number);
}

/// The database and the file of it that `name` stands for.
pub(super) fn find(name: &str) -> Option<(Arc<Volume>, Role)> {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = name.split_at(digits);
    let role = Role::ALL.into_iter().find(|role| role.suffix() == suffix)?;
    let volumes = &locked(&REGISTRY).volumes;
    Some((volumes.get(&number.parse().ok()?)?.upgrade()?, role))
}
