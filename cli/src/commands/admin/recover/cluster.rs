//! `tierkv admin recover` for a cluster of several nodes of which no log in sync is left, or whose
//! record in coordination went back: it shows the logs of the nodes that answer, and continues with
//! one of them.

use std::{process::ExitCode, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tierkv_coordination::{
    Coordination, PRESENCE_TTL,
    directory::{DATA_NODES, Presence, cluster_state},
};
use tierkv_protocol::replication::ClusterState;
use tierkv_server_coordinator::{ClusterRecovery, NodeFinding};
use tierkv_types::{ClusterId, Epoch, NodeId, PlatformId};
use tokio::time::{Instant, sleep};

use super::{DUE, say};
use crate::{
    outcome::Outcome,
    output::{self, Output, Table},
};

/// How long to wait until the node is master, and how often to look.
const MASTER_LIMIT: Duration = Duration::from_secs(30);
const MASTER_PAUSE: Duration = Duration::from_millis(100);

/// A cluster to recover.
pub(super) struct LostCluster {
    pub(super) store: Arc<dyn Coordination>,
    pub(super) platform: PlatformId,
    pub(super) cluster: ClusterId,
    /// The node whose log is to be continued.
    pub(super) node: Option<NodeId>,
    /// The options that lead to the coordination store, for the command that is advised.
    pub(super) options: String,
}

/// Whether `cluster` has several nodes, by its record or by those that are present, so that it is
/// recovered with this module and not by the data directory of its only one.
pub(super) async fn has_several_nodes(
    store: &dyn Coordination,
    cluster: &ClusterId,
) -> Result<bool, Box<dyn std::error::Error>> {
    let record = store.get(&cluster_state(cluster)).await?;
    let state = record.and_then(|record| ClusterState::decode(&record.value).ok());
    let present = store.list(DATA_NODES).await?;
    let present = present.values().filter_map(|data| Presence::decode(data));
    let present = present.filter(|presence| presence.cluster.as_ref() == Some(cluster));
    Ok(state.is_some_and(|state| state.nodes() > 1 || present.count() > 1))
}

impl LostCluster {
    /// Examines the cluster, prints its logs, and recovers it with `--accept-loss`.
    pub(super) async fn run(self, accept_loss: bool, output: Output) -> Outcome {
        let recovery =
            ClusterRecovery::examine(&*self.store, self.platform, self.cluster.clone()).await?;
        if output != Output::Json {
            print_logs(&recovery);
        }
        if let Some(why) = recovery.objection() {
            if output == Output::Json {
                output::pretty_json(&report(&recovery, Some(&why), None))?;
            }
            return Err(why.into());
        }
        if !accept_loss {
            match output {
                Output::Json => output::pretty_json(&report(&recovery, None, None))?,
                Output::Table | Output::Raw => self.advise(&recovery),
            }
            return Ok(ExitCode::from(DUE));
        }
        let Some(node) = &self.node else {
            return Err(format!(
                "name the node whose log is to be continued, as in --node {}",
                recovery.best().map_or("n3", NodeId::as_str)
            )
            .into());
        };
        if output != Output::Json {
            self.print_loss(&recovery, node);
        }
        let epoch = recovery.carry_out(&*self.store, node).await?;
        let is_master = self.becomes_master(node, epoch).await;
        match output {
            Output::Json => output::pretty_json(&report(&recovery, None, Some((node, epoch))))?,
            Output::Table | Output::Raw if is_master => say(format_args!(
                "done   {node} is the master of cluster {}",
                self.cluster
            )),
            Output::Table | Output::Raw => say(format_args!(
                "done   the record lists the log of {node}, which did not become master yet; \
                 `tierkv status` shows it, and its log says what it waits for"
            )),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Waits until the node is master by the record; `false` after a limited time.
    async fn becomes_master(&self, node: &NodeId, epoch: Epoch) -> bool {
        let deadline = Instant::now() + MASTER_LIMIT;
        let key = cluster_state(&self.cluster);
        loop {
            if let Ok(Some(record)) = self.store.get(&key).await
                && let Ok(state) = ClusterState::decode(&record.value)
                && state.epoch > epoch
                && state.master.as_ref() == Some(node)
            {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(MASTER_PAUSE).await;
        }
    }

    /// What to do next.
    fn advise(&self, recovery: &ClusterRecovery) {
        match recovery.behind() {
            Some(epoch) => say(format_args!(
                "\nCoordination's record of cluster {} is of epoch {epoch}, but its nodes have seen \
                 epoch {}: an old backup of the coordination store was restored. The nodes wait. If \
                 the newest data of the store can be brought back, do that.",
                self.cluster,
                recovery.epoch()
            )),
            None => say(format_args!(
                "\nNo log in sync is left of cluster {}: it has no master, and will have none. If a \
                 disk with one of the listed logs can be brought back, do that: nothing is lost then.",
                self.cluster
            )),
        }
        let Some(best) = recovery.best() else {
            say(format_args!(
                "\nNo node answers. Start the processes of the nodes whose disks are left; one that \
                 was stopped lately is found after {} s.",
                PRESENCE_TTL.as_secs()
            ));
            return;
        };
        let node = self.node.as_ref().unwrap_or(best);
        self.print_loss(recovery, node);
        say(format_args!(
            "\nNothing was changed. First make sure that no process of a node that does not answer \
             runs anywhere, and that none is started with its old disk: what it still acknowledges \
             would be lost. Then: tierkv admin recover{} --cluster {} --node {node} --accept-loss",
            self.options, self.cluster
        ));
    }

    fn print_loss(&self, recovery: &ClusterRecovery, node: &NodeId) {
        let known = match recovery.known_loss(node) {
            Some(0) if recovery.is_in_sync(node) && recovery.is_complete() => {
                "nothing; other changes in the coordination store since the backup stay lost"
                    .to_owned()
            }
            Some(0) if recovery.is_in_sync(node) => format!(
                "nothing that is known here. But a node that does not answer may have seen a newer \
                 record, of epoch {} or above, without this log: then every write that was \
                 acknowledged since. Start all nodes first, if they can be started; other changes \
                 in the coordination store since the backup stay lost",
                recovery.epoch()
            ),
            Some(0) => "every acknowledged write that only the lost logs had".to_owned(),
            Some(records) => format!(
                "the last {records} records that are known to have been committed, and every \
                 acknowledged write after those that only the lost logs had"
            ),
            None => "not known: the node does not answer".to_owned(),
        };
        say(format_args!("lost   with the log of {node}: {known}"));
        let leaving: Vec<String> = (recovery.leaving(node).iter())
            .map(ToString::to_string)
            .collect();
        if !leaving.is_empty() {
            say(format_args!(
                "leave  {}: without them {node} could not become master. `tierkv admin add-node` \
                 adds them again",
                leaving.join(", ")
            ));
        }
    }
}

fn print_logs(recovery: &ClusterRecovery) {
    let mut rows = Table::new([
        "NODE",
        "LISTED LOG",
        "LOG",
        "ENDS AT",
        "COMMITTED",
        "NOTED",
        "STATE",
    ]);
    for found in recovery.nodes() {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let report = found.report.as_ref();
        rows.push([
            found.node.to_string(),
            or_none(found.listed.map(|log_id| log_id.to_string())),
            or_none(report.map(|it| it.log_id.to_string())),
            or_none(report.map(|it| it.last.to_string())),
            or_none(report.map(|it| it.commit.to_string())),
            or_none(
                found
                    .note
                    .map(|note| format!("{} of {}", note.commit, note.log_id)),
            ),
            state(found),
        ]);
    }
    drop(output::print(rows.take()));
}

fn state(found: &NodeFinding) -> String {
    match (&found.report, &found.presence) {
        (Some(report), _) => report.role.to_string(),
        (None, Some(presence)) => format!("present at {}, does not answer", presence.address),
        (None, None) => "no process".to_owned(),
    }
}

fn report(
    recovery: &ClusterRecovery,
    objection: Option<&str>,
    done: Option<(&NodeId, Epoch)>,
) -> Value {
    let nodes = recovery.nodes().iter().map(|found| {
        let report = found.report.as_ref();
        json!({
            "node": found.node.as_str(),
            "listed_log_id": found.listed.map(|log_id| log_id.to_string()),
            "noted_commit": found.note.map(|note| note.commit.0),
            "log_id": report.map(|it| it.log_id.to_string()),
            "log_epoch": report.map(|it| it.last.epoch.0),
            "log_index": report.map(|it| it.last.index.0),
            "commit_index": report.map(|it| it.commit.0),
            "role": report.map(|it| it.role.name()),
        })
    });
    json!({
        "epoch": recovery.epoch().0,
        "record_epoch": recovery.behind().unwrap_or_else(|| recovery.epoch()).0,
        "nodes": nodes.collect::<Vec<_>>(),
        "best": recovery.best().map(NodeId::as_str),
        "objection": objection,
        "done": done.map(|(node, epoch)| json!({ "node": node.as_str(), "epoch": epoch.0 })),
    })
}
