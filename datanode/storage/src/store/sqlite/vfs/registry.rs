//! Finds an open database by the name that SQLite uses.
//!
//! SQLite identifies files only by name, and a VFS is registered for the whole process. So an
//! open database has a number here, which is its file name in SQLite. Names that SQLite derives
//! from it (`7-wal`) lead to the same database.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, Weak},
};

use super::{
    role::Role,
    volume::{Access, PageFormat, Volume},
};
use crate::{WalSync, disk::Disk, locked};

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    next: 1,
    volumes: BTreeMap::new(),
});

#[derive(Debug)]
struct Registry {
    next: u64,
    /// Weak: a database is open as long as its store or one of SQLite's handles is. The numbers
    /// of closed ones are removed when the next one is opened.
    volumes: BTreeMap<u64, Weak<Volume>>,
}

impl Registry {
    /// The open databases.
    fn open(&self) -> Vec<Arc<Volume>> {
        self.volumes.values().filter_map(Weak::upgrade).collect()
    }

    fn add(&mut self, volume: impl FnOnce(u64) -> Volume) -> Arc<Volume> {
        let number = self.next;
        self.next += 1;
        self.volumes.retain(|_, volume| volume.strong_count() > 0);
        let volume = Arc::new(volume(number));
        self.volumes.insert(number, Arc::downgrade(&volume));
        volume
    }
}

/// Whether the database in `path` on `disk` is open for writing.
pub(crate) fn is_open(disk: &dyn Disk, path: &Path) -> bool {
    let open = locked(&REGISTRY).open();
    (open.iter()).any(|volume| volume.is_at(disk, path) && !volume.is_read_only())
}

/// The open database in `path` on `disk`; the same one for all openers, which share its locks.
pub(crate) fn enter(
    disk: &Arc<dyn Disk>,
    path: &Path,
    format: PageFormat,
    sync: WalSync,
) -> Arc<Volume> {
    let mut registry = locked(&REGISTRY);
    let open = registry.open();
    let is_asked = |volume: &&Arc<Volume>| {
        volume.is_at(&**disk, path) && volume.format() == format && !volume.is_read_only()
    };
    if let Some(volume) = open.iter().find(is_asked) {
        return Arc::clone(volume);
    }
    registry.add(|number| {
        let disk = Arc::clone(disk);
        Volume::new(number, disk, path, format, Access::Full, sync)
    })
}

/// The database in `path` on `disk`, for an examination while it is not open elsewhere. Failures
/// there concern no other opener.
pub(crate) fn enter_to_look(
    disk: &Arc<dyn Disk>,
    path: &Path,
    format: PageFormat,
    sync: WalSync,
) -> Arc<Volume> {
    locked(&REGISTRY).add(|number| {
        let disk = Arc::clone(disk);
        Volume::new(number, disk, path, format, Access::Look, sync)
    })
}

/// The database and the file in it with the name `name`.
pub(super) fn find(name: &str) -> Option<(Arc<Volume>, Role)> {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = name.split_at(digits);
    let role = Role::ALL.into_iter().find(|role| role.suffix() == suffix)?;
    let volumes = &locked(&REGISTRY).volumes;
    Some((volumes.get(&number.parse().ok()?)?.upgrade()?, role))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::disk::TestDisk;

    fn open(disk: &Arc<dyn Disk>, path: &str) -> Arc<Volume> {
        enter(disk, Path::new(path), PageFormat::Checked, WalSync::Always)
    }

    #[test]
    fn a_path_on_a_disk_is_one_database_and_its_names_lead_to_it() {
        let disk: Arc<dyn Disk> = Arc::new(TestDisk::default());
        let other: Arc<dyn Disk> = Arc::new(TestDisk::default());
        let volume = open(&disk, "/n/store");
        assert!(Arc::ptr_eq(&volume, &open(&disk, "/n/store")));
        assert!(!Arc::ptr_eq(&volume, &open(&disk, "/m/store")));
        assert!(!Arc::ptr_eq(&volume, &open(&other, "/n/store")));
        let name = volume.name();
        for (suffix, role) in [
            ("", Role::Main),
            ("-wal", Role::WriteAhead),
            ("-journal", Role::Journal),
        ] {
            let (found, what) = find(&format!("{name}{suffix}")).unwrap();
            assert!(Arc::ptr_eq(&found, &volume));
            assert_eq!(what, role);
            assert_eq!(
                found.path(role).to_str(),
                Some(&*format!("/n/store{suffix}"))
            );
        }
        assert!(find(&format!("{name}-shm")).is_none());
        assert!(find("store").is_none());
        drop(volume);
        assert!(find(&name).is_none());
        // Its number goes, too, with the next one that is opened.
        let _other = open(&disk, "/n/other");
        assert!(
            !locked(&REGISTRY)
                .volumes
                .contains_key(&name.parse().unwrap())
        );
    }

    #[test]
    fn databases_come_and_go_on_many_threads() {
        const THREADS: usize = 4;
        let (ended, end) = mpsc::channel();
        for thread in 0..THREADS {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let disk: Arc<dyn Disk> = Arc::new(TestDisk::default());
                for _ in 0..5_000 {
                    let volume = open(&disk, &format!("/n/{thread}"));
                    assert!(find(&volume.name()).is_some());
                }
                ended.send(()).unwrap();
            });
        }
        for _ in 0..THREADS {
            let waited = end.recv_timeout(Duration::from_secs(60));
            waited.expect("two of them wait for each other");
        }
    }
}
