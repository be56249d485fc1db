//! The history file, readable only by its user.

use std::{
    env,
    fs::{DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::output;

/// The path of the file, which is created if it is missing. `None`, with a message on standard
/// error, if that is not possible.
pub(super) fn file() -> Option<PathBuf> {
    let Some(path) = place(|name| env::var_os(name).map(PathBuf::from)) else {
        output::note("tierkv: no history is kept: HOME and XDG_STATE_HOME are not set");
        return None;
    };
    match private(&path) {
        Ok(()) => Some(path),
        Err(error) => {
            output::note(format_args!(
                "tierkv: no history is kept: {}: {error}",
                path.display()
            ));
            None
        }
    }
}

/// As in the XDG base directory specification: a path that is not absolute is ignored.
fn place(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("tierkv/history"))
}

/// Makes sure that the file exists, accessible only by its user.
fn private(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_place_is_in_the_state_of_the_user() {
        let place = |state: &str, home: &str| {
            let of = |name: &str| match name {
                "HOME" => home.to_owned(),
                _ => state.to_owned(),
            };
            place(|name| {
                Some(of(name))
                    .filter(|text| !text.is_empty())
                    .map(PathBuf::from)
            })
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(place("/s", "/h"), path("/s/tierkv/history"));
        assert_eq!(place("s", "/h"), path("/h/.local/state/tierkv/history"));
        assert_eq!(place("", "/h"), path("/h/.local/state/tierkv/history"));
        assert_eq!(place("", ""), None);
    }

    #[test]
    fn nobody_else_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/history");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
