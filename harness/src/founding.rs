//! Founds a platform in a real coordination store.

use std::time::Duration;

use crate::{
    error::Error,
    folder::DataFolder,
    process::{Process, Program},
};

/// Timeout of a founding.
const LIMIT: Duration = Duration::from_secs(120);

/// The name of a data cluster and those of its nodes, by its place among the clusters of a platform
/// and how many nodes each has: of `[3, 1]`, `c1` has `n1` to `n3`, and `c2` has `n4`.
pub(crate) fn names(clusters: &[u16]) -> Vec<(String, Vec<String>)> {
    let mut nodes = (1..).map(|number: u32| format!("n{number}"));
    let clusters = clusters.iter().zip(1..);
    clusters
        .map(|(count, number): (&u16, u32)| {
            let of_it = nodes.by_ref().take(usize::from(*count));
            (format!("c{number}"), of_it.collect())
        })
        .collect()
}

/// Founds a platform of data clusters with so many nodes each, named by [`names`].
///
/// # Errors
/// If the binary is missing, or the founding fails.
pub(crate) async fn found(program: &Program, clusters: &[u16], url: &str) -> Result<(), Error> {
    let clusters = names(clusters).into_iter();
    let clusters = clusters.map(|(cluster, nodes)| format!("{cluster}={}", nodes.join(",")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_over_all_clusters() {
        let names = names(&[3, 1]).into_iter();
        let words = names.map(|(cluster, nodes)| format!("{cluster}={}", nodes.join(",")));
        assert_eq!(words.collect::<Vec<_>>(), ["c1=n1,n2,n3", "c2=n4"]);
    }
}
