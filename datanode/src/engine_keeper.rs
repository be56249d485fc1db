//! [`EngineKeeper`]: keeps an engine running, and replaces it when the node needs a snapshot.
//!
//! ```text
//!            the machine wants a snapshot of a master
//!  engine runs ────────────────────────────────────► no engine: nothing is served
//!      ▲                                               │ 1  the engine ends, its storage is closed
//!      │                                               │ 2  the snapshot is fetched and installed
//!      └───────────────────────────────────────────────┘ 3  an engine is started, whatever came of it
//! ```
//!
//! The new engine finds the new state with a new log, or the old one if the master could not be
//! reached, or nothing if the transfer broke off. In the last two cases its machine asks again.

use std::{sync::Arc, time::Duration};

use futures::TryFutureExt;
use metrics::counter;
use tierkv_cache::Cache;
use tierkv_coordination::{
    CoordinationError,
    directory::{self, Presence},
};
use tierkv_protocol::replication::Process;
use tierkv_rpc::{
    AddressedChannel, ProcessName, channel,
    proto::internal::{FetchSnapshotRequest, node_snapshots_client::NodeSnapshotsClient},
    stopped,
    tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_storage::StorageError;
use tierkv_types::{Error, TimeReading};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    engine::{Engine, Opened, Surroundings},
    interface::Interface,
    start_error::StartError,
    transfer::{Installed, ReceiveError, Target, UNLOCK_PATIENCE, UNLOCK_PAUSE, in_time, refused},
};

/// Pause after an installation that failed, before the node serves and may be asked again.
const INSTALL_PAUSE: Duration = Duration::from_secs(1);
/// Pause before an engine that coordination kept from starting is started again.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Counts what came of snapshots.
const INSTALLATIONS: &str = "tierkv_installations_total";
const INSTALLED: &str = "installed";
const FAILED: &str = "failed";

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    /// The master has left since, or is not seen.
    #[error("the master {0} is not present in coordination")]
    Absent(Process),
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The master announced an address that can't be used.
    #[error(transparent)]
    Address(Error),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// Keeps an engine running.
pub(crate) struct EngineKeeper<C> {
    around: Surroundings<C>,
    /// Gets the interface of the engine that runs.
    publish: watch::Sender<Option<Arc<Interface>>>,
    /// `None` while there is none.
    engine: Option<Engine>,
}

impl<C: Cache> EngineKeeper<C> {
    /// Publishes the first engine.
    pub(crate) fn new(
        around: Surroundings<C>,
        engine: Engine,
        publish: watch::Sender<Option<Arc<Interface>>>,
    ) -> Self {
        metrics::describe_counter!(
            INSTALLATIONS,
            "Snapshots of the master's state that were installed, or could not be."
        );
        for result in [INSTALLED, FAILED] {
            counter!(INSTALLATIONS, "result" => result).increment(0);
        }
        let mut keeper = Self {
            around,
            publish,
            engine: None,
        };
        keeper.put(engine);
        keeper
    }

    fn put(&mut self, engine: Engine) {
        let interface = Arc::clone(engine.interface());
        self.engine = Some(engine);
        self.publish.send_replace(Some(interface));
    }

    /// Runs until `stop` is set; returns the engine that then runs, which serves on. There is none
    /// if a snapshot was being installed.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) -> Option<Engine> {
        while let Some(engine) = &self.engine {
            let source = tokio::select! {
                biased;
                () = stopped(stop.clone()) => break,
                source = engine.snapshot_wanted() => source,
            };
            if let Err(error) = self.replace(&source, &stop).await {
                self.around.failure.report(error.to_string());
            }
        }
        self.engine
    }

    /// Replaces the engine by one over the installed snapshot of `source`. After `stop` there may be
    /// none.
    async fn replace(
        &mut self,
        source: &Process,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        tracing::warn!(
            master = %source,
            "this node's log can't continue the master's: the node serves nothing while it installs \
             a snapshot of the master's state"
        );
        self.publish.send_replace(None);
        if let Some(engine) = self.engine.take()
            && let Err(error) = engine.end().await
        {
            tracing::warn!(%error, "the state that is replaced was not closed cleanly");
        }
        // A transfer may take an hour: a stop does not wait for its end.
        let Some(installed) = unless_stopped(stop, self.install(source)).await else {
            return Ok(());
        };
        let time = match installed {
            Ok(installed) => {
                counter!(INSTALLATIONS, "result" => INSTALLED).increment(1);
                Some(installed.time)
            }
            Err(error) => {
                counter!(INSTALLATIONS, "result" => FAILED).increment(1);
                tracing::warn!(
                    %error,
                    "the snapshot was not installed; the master asks for it again"
                );
                unless_stopped(stop, sleep(INSTALL_PAUSE)).await;
                None
            }
        };
        if let Some(engine) = self.start(time, stop).await? {
            self.put(engine);
        }
        Ok(())
    }

    async fn install(&self, source: &Process) -> Result<Installed, InstallError> {
        let (name, address) = self.find(source).await?;
        let channel = channel(&address).map_err(InstallError::Address)?;
        let mut client = NodeSnapshotsClient::new(AddressedChannel::new(channel, &name))
            .max_decoding_message_size(MAX_TIER_FRAME_BYTES);
        let settings = &self.around.settings;
        let target = Target {
            cluster: settings.cluster.clone(),
            source: source.clone(),
            settings: settings.storage.clone(),
            clock: Arc::clone(&self.around.clock),
            disk: Arc::clone(&self.around.disk),
        };
        let request = FetchSnapshotRequest {
            cluster: settings.cluster.to_string(),
            node: settings.node.to_string(),
        };
        let fetching = client.fetch(request).map_err(|status| refused(&status));
        let parts = in_time(fetching).await??.into_inner();
        Ok(target.receive(parts).await?)
    }

    /// The full name and the address of a process of this cluster.
    async fn find(&self, source: &Process) -> Result<(ProcessName, String), InstallError> {
        let present = (self.around.coordination)
            .list(directory::DATA_NODES)
            .await?;
        let presence = present.get(source.node.as_str());
        let presence = presence.and_then(|data| Presence::decode(data));
        let is_it = |presence: &Presence| presence.incarnation == source.incarnation.0;
        let Some(presence) = presence.filter(is_it) else {
            return Err(InstallError::Absent(source.clone()));
        };
        let name = presence.process_name(self.around.name.platform, source.node.clone());
        Ok((name, presence.address))
    }

    /// Starts an engine as soon as the directory is unlocked and coordination answers; `None` if the
    /// node is stopped meanwhile.
    async fn start(
        &self,
        time: Option<TimeReading>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Option<Engine>, StartError> {
        loop {
            let opened = self.open(time).await?;
            match Engine::start(opened, &self.around).await {
                Err(StartError::Coordination(error)) => {
                    tracing::warn!(%error, "waiting for coordination");
                }
                started => return started.map(Some),
            }
            if unless_stopped(stop, sleep(START_PAUSE)).await.is_none() {
                return Ok(None);
            }
        }
    }

    async fn open(&self, time: Option<TimeReading>) -> Result<Opened, StartError> {
        let deadline = Instant::now() + UNLOCK_PATIENCE;
        loop {
            let around = &self.around;
            let (clock, disk) = (Arc::clone(&around.clock), Arc::clone(&around.disk));
            match Opened::open(&around.settings, &around.name, clock, disk, time).await {
                Err(StartError::Storage(StorageError::Locked { .. }))
                    if Instant::now() < deadline =>
                {
                    sleep(UNLOCK_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }
}

/// Waits for `work`; `None` if the node is stopped first, which drops it.
async fn unless_stopped<T>(
    stop: &watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        () = stopped(stop.clone()) => None,
        done = work => Some(done),
    }
}
