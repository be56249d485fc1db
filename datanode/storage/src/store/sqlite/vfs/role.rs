//! [`Role`]: the files of a database.

use std::path::{Path, PathBuf};

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
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Main, Self::WriteAhead, Self::Journal];

    /// What SQLite appends to the name of the database.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::WriteAhead => "-wal",
            Self::Journal => "-journal",
        }
    }

    /// The path of this file of the database in `path`.
    pub(crate) fn path(self, path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(self.suffix());
        name.into()
    }
}
