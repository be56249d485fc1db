//! Access to a platform of many processes.

use std::time::Duration;

use tierkv::{Client, Error};
use tierkv_harness::LocalCluster;

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
