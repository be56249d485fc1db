//! A start with data that can't be used, in a cluster that has all of it elsewhere (REP-LOGID).
//!
//! Damaged data, a log that may lack what was not synced before a power cut, and an old copy of a
//! log are nothing to go on with. A single node stops there, because only its operator can decide
//! what may be lost. In a cluster in which another node's log is in sync, nothing is lost: the node
//! sets aside what it can't use, begins a log with a new id, and gets everything from its master.
//!
//! Whether another log in sync is left is asked, not assumed: the record lists it, and its node
//! answers with its id. After a power cut of all machines, every node may find its data unusable;
//! then all of them wait, keep their data, and an operator decides.

use std::{sync::Arc, time::Duration};

use tierkv_coordination::{
    Coordination, CoordinationError,
    directory::{self, Presence},
};
use tierkv_protocol::replication::{ClusterState, Listed};
use tierkv_rpc::{AddressedChannel, ProcessName, channel, tiers::inspect};
use tierkv_storage::{Disk, Unusable, set_aside};
use tierkv_types::{Clock, TimeReading};
use tokio::time::{Instant, sleep};

use crate::{
    engine::Opened,
    noter::{old_copy, read_note},
    settings::DataNodeSettings,
    start_error::StartError,
};

/// How often data may be set aside in one start: first the log, then the store.
const MOST_ASIDE: usize = 2;
/// How often the other nodes are asked for their logs.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one of them may take to answer.
const ASK_TIME: Duration = Duration::from_secs(2);
/// How often it is logged that none of them has answered.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Opens the data directory; platform time goes on from `time`, else from what is stored. What can't be
/// used is set aside, once another node of the cluster has
/// answered that its log is in sync; this waits for that.
///
/// # Errors
/// [`StartError`]. That of the unusable data, if the record lists no log of another node.
pub(crate) async fn open_to_rejoin(
    settings: &DataNodeSettings,
    name: &ProcessName,
    coordination: &Arc<dyn Coordination>,
    (clock, time): (&Arc<dyn Clock>, Option<TimeReading>),
    disk: &Arc<dyn Disk>,
) -> Result<Opened, StartError> {
    let others = Others {
        settings,
        coordination: &**coordination,
    };
    let mut times = 0;
    loop {
        let opening = Opened::open(settings, name, Arc::clone(clock), Arc::clone(disk), time);
        let (unusable, why, error) = match opening.await {
            Ok(opened) => match others.contradiction(&opened).await {
                Some(why) if times < MOST_ASIDE && others.are_listed().await => {
                    opened.close().await;
                    (Unusable::Log, why, None)
                }
                // The driver compares the log again, and stops an old copy.
                Some(_) | None => return Ok(opened),
            },
            Err(StartError::Storage(error)) => match error.unusable() {
                Some(unusable) if times < MOST_ASIDE => (unusable, error.to_string(), Some(error)),
                Some(_) | None => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        if !others.await_log(&why).await? {
            match error {
                Some(error) => return Err(error.into()),
                // The record has changed: open it once more, and let the driver stop.
                None => {
                    times = MOST_ASIDE;
                    continue;
                }
            }
        }
        tracing::warn!(
            why,
            "this node's data can't be used; it is set aside, and the node gets everything from its \
             cluster's master"
        );
        set_aside(settings.storage.clone(), Arc::clone(disk), unusable).await?;
        times += 1;
    }
}

/// The other nodes of the cluster.
struct Others<'a> {
    settings: &'a DataNodeSettings,
    coordination: &'a dyn Coordination,
}

impl Others<'_> {
    /// Why the log is an old copy, if its note says so. Without an answer the driver compares it,
    /// later.
    async fn contradiction(&self, opened: &Opened) -> Option<String> {
        let (cluster, node) = (&self.settings.cluster, &self.settings.node);
        let note = read_note(self.coordination, cluster, node).await.ok()??;
        let (log_id, last) = opened.log();
        let is_old = note.contradicts(log_id, last.index);
        is_old.then(|| old_copy(node, &note, last))
    }

    async fn are_listed(&self) -> bool {
        self.listed().await.is_ok_and(|listed| !listed.is_empty())
    }

    /// The logs in sync of other nodes, by the record.
    async fn listed(&self) -> Result<Vec<Listed>, CoordinationError> {
        let key = directory::cluster_state(&self.settings.cluster);
        let record = self.coordination.get(&key).await?;
        let state = record.and_then(|record| ClusterState::decode(&record.value).ok());
        let listed = state.map(|state| state.in_sync).unwrap_or_default();
        let others = listed.into_iter();
        Ok(others
            .filter(|listed| listed.node != self.settings.node)
            .collect())
    }

    /// Waits until a node answers that it has the log that is listed; `false` if none is listed.
    async fn await_log(&self, why: &str) -> Result<bool, StartError> {
        let mut report_at = Instant::now();
        loop {
            match self.listed().await {
                Ok(listed) if listed.is_empty() => return Ok(false),
                Ok(listed) => {
                    for listed in &listed {
                        if self.answers(listed).await {
                            return Ok(true);
                        }
                    }
                }
                Err(error @ CoordinationError::Closed) => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the record of the cluster was not read"),
            }
            if Instant::now() >= report_at {
                tracing::warn!(
                    why,
                    "this node's data can't be used; waiting until another node of its cluster \
                     whose log is in sync answers, to get everything from it"
                );
                report_at = Instant::now() + REPORT_INTERVAL;
            }
            sleep(ASK_INTERVAL).await;
        }
    }

    /// Whether the node is there and has the log.
    async fn answers(&self, listed: &Listed) -> bool {
        let log_id = self.log_id_of(listed).await;
        log_id == Some(listed.log_id.0)
    }

    async fn log_id_of(&self, listed: &Listed) -> Option<u64> {
        let present = self.coordination.list(directory::DATA_NODES).await.ok()?;
        let presence = Presence::decode(present.get(listed.node.as_str())?)?;
        let name = presence.process_name(self.settings.platform, listed.node.clone());
        let channel = AddressedChannel::new(channel(&presence.address).ok()?, &name);
        Some(inspect(channel, ASK_TIME).await.ok()?.log_id)
    }
}
