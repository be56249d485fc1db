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
    let clusters = (1..=clusters).map(|number| format!("c{number}=n{number}"));
    found_clusters(program, clusters, None, url).await
}

/// Founds a platform of these clusters, each written as in `c1=n1,n2,n3`. `failover_ms`: the silence
/// after which a master is suspected, if not the default.
///
/// # Errors
/// The same.
pub(crate) async fn found_clusters(
    program: &Program,
    clusters: impl IntoIterator<Item = String>,
    failover_ms: Option<u32>,
    url: &str,
) -> Result<(), Error> {
    let words = ["admin", "init", "--coordination-url", url];
    let mut words = Vec::from(words.map(str::to_owned));
    for cluster in clusters {
        words.extend(["--cluster".to_owned(), cluster]);
    }
    if let Some(failover_ms) = failover_ms {
        words.extend(["--failover-ms".to_owned(), failover_ms.to_string()]);
    }
    let mut founding = Process::spawn(program, words, &DataFolder::new("init")?)?;
    let ended = founding.wait_until("found a platform", LIMIT, Process::status);
    match ended.await?.success() {
        true => Ok(()),
        false => Err(founding.unexpected("did not found a platform")),
    }
}
