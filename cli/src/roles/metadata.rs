//! The connection to coordination, and the platform in it.

use std::{collections::BTreeMap, fs, future::Future, path::Path, sync::Arc, time::Duration};

use tierkv_client_coordinator::CoordinationStore;
use tierkv_coordination::{
    Coordination, CoordinationError, EtcdCoordination, EtcdOptions, Location, Versioned,
    directory::{self, Platform, cluster_of_state},
};
use tierkv_protocol::replication::{ClusterState, least_staleness};
use tierkv_types::{ClusterId, NodeId, PlatformId};
use tokio::time::{sleep, timeout};

use crate::configuration::CoordinationKeys;

/// Pause before a failed request to coordination is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often a wait is logged.
pub(super) const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to coordination. An etcd that can't be reached is no error: calls report it.
///
/// # Errors
/// A message, if the configuration can't be used.
pub(crate) async fn connect(
    keys: &CoordinationKeys,
) -> Result<Arc<dyn Coordination>, Box<dyn std::error::Error>> {
    let location = match &keys.url {
        Location::Etcd(location) => location,
        Location::Memory => {
            return Err(
                "coordination.url is \"memory:\", which only `tierkv dev` can use; set it to \
                 that of an etcd cluster, as in etcd://127.0.0.1:2379/shop"
                    .into(),
            );
        }
    };
    let password = keys.password_file.as_deref().map(read).transpose()?;
    let options = EtcdOptions {
        user: keys.user.clone(),
        password: password.map(|text| text.lines().next().unwrap_or_default().to_owned()),
        ca_certificates: keys.ca_file.as_deref().map(read).transpose()?,
        certificate: keys.cert_file.as_deref().map(read).transpose()?,
        private_key: keys.key_file.as_deref().map(read).transpose()?,
        ..EtcdOptions::default()
    };
    Ok(EtcdCoordination::connect(location, &options).await?)
}

/// The store, as `/v1/cluster` shows it.
pub(crate) fn described(location: &Location) -> CoordinationStore {
    match location {
        Location::Memory => CoordinationStore::MEMORY,
        Location::Etcd(location) => CoordinationStore {
            kind: "etcd",
            endpoints: location.endpoints().to_vec(),
        },
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

/// Waits until coordination can be reached and has a founded platform; returns its id.
///
/// # Errors
/// A message, if its record can't be read, or the store refuses.
pub(crate) async fn await_platform(
    coordination: &dyn Coordination,
) -> Result<PlatformId, Box<dyn std::error::Error>> {
    let record = await_record(coordination, directory::PLATFORM, NOT_FOUNDED).await?;
    platform_id(&record)
}

/// What is logged while there is no platform.
const NOT_FOUNDED: &str =
    "coordination has no platform; found one with `tierkv admin init`; waiting for it";

/// The id of the platform with this record.
///
/// # Errors
/// A message, if it can't be read.
pub(crate) fn platform_id(record: &Versioned) -> Result<PlatformId, Box<dyn std::error::Error>> {
    let platform = Platform::decode(&record.value)
        .map_err(|why| format!("the platform's record in coordination can't be read: {why}"))?;
    Ok(platform.id)
}

/// The nodes of all clusters, with those that are being added; none for a record that can't be read.
///
/// # Errors
/// If the store refuses.
pub(crate) async fn nodes_of_all(
    coordination: &dyn Coordination,
) -> Result<BTreeMap<ClusterId, Vec<NodeId>>, CoordinationError> {
    let watched = answered(|| coordination.watch_prefix(directory::CLUSTERS)).await?;
    let records = watched.current();
    let nodes = records.iter().filter_map(|(name, record)| {
        let nodes = ClusterState::decode(&record.value)
            .map(|state| [state.members, state.learners].concat());
        Some((cluster_of_state(name)?, nodes.unwrap_or_default()))
    });
    Ok(nodes.collect())
}

/// Checks that reads with this staleness bound outlast a failover of every cluster (REP-TIMES).
///
/// # Errors
/// A message, with what to change; or if the store refuses.
pub(crate) async fn check_staleness(
    coordination: &dyn Coordination,
    max_staleness_ms: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let watched = answered(|| coordination.watch_prefix(directory::CLUSTERS)).await?;
    for (name, record) in watched.current().iter() {
        let state = ClusterState::decode(&record.value);
        let (Some(cluster), Ok(state)) = (cluster_of_state(name), state) else {
            continue;
        };
        let least = least_staleness(state.f_ms).as_millis();
        if u128::from(max_staleness_ms) < least {
            return Err(format!(
                "reads.max_staleness_ms is {max_staleness_ms}, but cluster {cluster} has a \
                 failover-ms of {}, which needs at least {least}, so that reads outlast a failover: \
                 raise it, or shorten that with `tierkv admin failover-ms`",
                state.f_ms
            )
            .into());
        }
    }
    Ok(())
}

/// Waits until coordination can be reached and has the record `key`; logs `notice` at the start of
/// the wait and from time to time.
///
/// # Errors
/// If the store refuses.
pub(super) async fn await_record(
    coordination: &dyn Coordination,
    key: &str,
    notice: &str,
) -> Result<Versioned, CoordinationError> {
    let mut watched = answered(|| coordination.watch(key)).await?;
    loop {
        if let Some(record) = (*watched.current()).clone() {
            return Ok(record);
        }
        tracing::warn!("{notice}");
        let found = watched.wait_for(Option::is_some);
        if let Ok(found) = timeout(NOTICE_INTERVAL, found).await {
            found?;
        }
    }
}

/// Calls coordination until it answers.
///
/// # Errors
/// Any but `Unavailable`.
pub(super) async fn answered<T, F>(call: impl Fn() -> F) -> Result<T, CoordinationError>
where
    F: Future<Output = Result<T, CoordinationError>>,
{
    loop {
        match call().await {
            Err(error @ CoordinationError::Unavailable(_)) => {
                tracing::warn!(%error, "waiting for coordination");
                sleep(RETRY_PAUSE).await;
            }
            ended => return ended,
        }
    }
}
