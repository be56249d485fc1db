//! Founds a platform in a real coordination store.

use std::time::Duration;

use crate::{
    error::Error,
    folder::DataFolder,
    process::{Process, Program},
};

/// Timeout of a founding.
const LIMIT: Duration = Duration::from_secs(120);

/// Founds a platform of so many clusters of one node each: `c1` with `n1`, and so on.
///
/// # Errors
/// If the binary is missing, or the founding fails.
pub(crate) async fn found(program: &Program, clusters: u16, url: &str) -> Result<(), Error> {
    let words = ["admin", "init", "--coordination-url", url];
    let mut words = Vec::from(words.map(str::to_owned));
    for number in 1..=clusters {
        words.extend(["--cluster".to_owned(), format!("c{number}=n{number}")]);
    }
    let mut founding = Process::spawn(program, words, &DataFolder::new("init")?)?;
    let ended = founding.wait_until("found a platform", LIMIT, Process::status);
    match ended.await?.success() {
        true => Ok(()),
        false => Err(founding.unexpected("did not found a platform")),
    }
}
