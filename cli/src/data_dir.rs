//! Checks the folders of a data directory before they are used, for errors that name what is in
//! the way.

use std::{fs, io::ErrorKind, path::Path};

/// Checks a folder. One that does not exist is accepted: a start creates it.
///
/// # Errors
/// If something else than a folder is at the path, or this user may not read it.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let is_file = |what: &str| format!("{shown} {what}; name a folder with --data-dir");
    // To list a folder and to reach what is in it are two rights.
    let tried = fs::metadata(folder).and_then(|found| match found.is_dir() {
        true => fs::read_dir(folder).and_then(|_| fs::metadata(folder.join("."))),
        false => Ok(found),
    });
    match tried {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(is_file("is a file, not a folder")),
        Err(error) => match error.kind() {
            ErrorKind::NotADirectory => Err(is_file("is inside a file, not in a folder")),
            ErrorKind::PermissionDenied => Err(format!(
                "access to {shown} is denied: run this as the user who owns the data, or name \
                 another folder with --data-dir"
            )),
            // Other errors are reported when the folder is used.
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(check(folder.path()), Ok(()));
        assert_eq!(check(&folder.path().join("new")), Ok(()));
        let refused = check(&file).unwrap_err();
        assert!(refused.contains("is a file, not a folder"), "{refused}");
        let refused = check(&file.join("new")).unwrap_err();
        assert!(refused.contains("is inside a file"), "{refused}");
    }
}
