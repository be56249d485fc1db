//! Access to a platform of many processes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv::{
    Client, Error,
    rpc::proto::v1::{ClusterStatus, GetClusterResponse},
};
use tierkv_harness::{LocalCluster, poll_until};

/// A client of all client coordinators, whose operations have this timeout.
///
/// # Errors
/// If none answers.
pub async fn connect(platform: &LocalCluster, timeout: Duration) -> Result<Client, Error> {
    let addresses = platform.addresses("client-coordinator", "grpc");
    let builder = Client::builder().timeout(timeout);
    let addressed = addresses.into_iter();
    let builder = addressed.fold(builder, |builder, it| builder.address(it));
    builder.connect().await
}

/// The URL of the platform's coordination; `None` if it has no data node `n1`.
#[must_use]
pub fn coordination_url(platform: &LocalCluster) -> Option<String> {
    let node = platform.member("n1").ok()?;
    node.option("--coordination-url").map(str::to_owned)
}

/// The data cluster `id`, as a client coordinator reports it; `None` if it reports none.
pub async fn cluster(client: &Client, id: &str) -> Option<ClusterStatus> {
    let GetClusterResponse { clusters, .. } = client.cluster().await.ok()?;
    clusters.into_iter().find(|cluster| cluster.id == id)
}

/// Waits until all members of a cluster answer and are in sync, with all of the log committed at
/// each of them. Returns its state then; the last one, or none, if that takes too long.
///
/// # Errors
/// Its last state, in words.
pub async fn all_in_sync(
    client: &Client,
    id: &str,
    timeout: Duration,
) -> Result<ClusterStatus, String> {
    let last = Mutex::new(None);
    let in_sync = poll_until(timeout, || async {
        let seen = cluster(client, id).await?;
        *lock(&last) = Some(seen.clone());
        let ends = seen
            .members
            .iter()
            .map(|it| (it.log_index, it.commit_index));
        let end = seen.members.first()?.log_index;
        let are_equal = ends.clone().all(|it| it == (end, end));
        let is_whole = seen.in_sync.len() == seen.members.len();
        let answer = seen.members.iter().all(|member| member.reachable);
        (are_equal && is_whole && answer && end > 0).then_some(seen)
    });
    let in_sync = in_sync.await;
    in_sync.ok_or_else(|| format!("the cluster {id} is not in sync: {:#?}", lock(&last)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between steps leaves the value valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
