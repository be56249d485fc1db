//! Checks the folders of a data directory before they are used, for errors that name what is in
//! the way.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use tierkv_storage::{RealDisk, check_platform, platform_of};
use tierkv_types::PlatformId;

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

/// Checks that a node which is new in `data_dir` has no neighbours of another platform there: it
/// would be made in the data of a platform that it does not belong to. A node that has its directory
/// already is checked when that is opened.
///
/// # Errors
/// If a neighbour belongs to another platform; the message names its directory.
pub(crate) fn check_neighbours(
    data_dir: &Path,
    node_dir: &Path,
    platform: PlatformId,
) -> Result<(), String> {
    let platform_at = |dir: &Path| platform_of(Arc::new(RealDisk), dir);
    let Ok(None) = platform_at(node_dir) else {
        return Ok(());
    };
    for dir in folders(data_dir).iter().flat_map(|it| folders(it)) {
        // A neighbour that can't be read is no reason to refuse this node.
        let found = platform_at(&dir).unwrap_or_default();
        check_platform(&dir, found, platform).map_err(|error| {
            format!(
                "{} would be new among the nodes of another platform: {error}",
                node_dir.display()
            )
        })?;
    }
    Ok(())
}

/// The folders in a folder, in the order of their names; none if it can't be read.
fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort_unstable();
    folders
}

#[cfg(test)]
mod tests {
    use tierkv_storage::{Storage, StorageSettings};

    use super::*;

    #[tokio::test]
    async fn a_new_node_has_no_neighbours_of_another_platform() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let [ours, theirs] = [PlatformId(1), PlatformId(2)];
        let (first, second) = (data.join("c1/n1"), data.join("c3/n3"));
        assert_eq!(check_neighbours(data, &first, ours), Ok(()));
        let settings = StorageSettings {
            platform: Some(theirs),
            ..StorageSettings::new(&first)
        };
        let (storage, _) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
        storage.close().await.unwrap();

        assert_eq!(check_neighbours(data, &second, theirs), Ok(()));
        let refused = check_neighbours(data, &second, ours).unwrap_err();
        let names = format!("{} belongs to platform {theirs}", first.display());
        assert!(refused.contains(&names), "{refused}");
        assert!(!second.exists());
        // Its own directory is checked when it is opened.
        assert_eq!(check_neighbours(data, &first, ours), Ok(()));
    }

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
