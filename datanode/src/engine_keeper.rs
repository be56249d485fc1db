//! [`EngineKeeper`]: keeps an engine running, and replaces it when the node needs a snapshot.
//!
//! ```text
//!            the machine wants a snapshot of a master
//!  engine runs ────────────────────────────────────► the master is asked, and reads its whole state
//!   ▲  ▲ │                                              │ 1  the header is there
//!   │  │ └── refused, or another master ◄───────────────┤ 2  the engine ends: nothing is served
//!   │  │                                                │ 3  the snapshot is installed
//!   │  └────────────────────────────────────────────────┘ 4  an engine is started, whatever came of it
//! ```
//!
//! So a master that refuses, or dies before it has a whole state to send, costs nothing; the node asks
//! again after a pause. Only if the node has applied what is not the master's history, the engine ends
//! before the master is asked, because nothing of that may be served. The new engine finds the new
//! state with a new log, or the old one if nothing came, or nothing if the transfer broke off. In the
//! last two cases its machine asks again.

use std::{future::pending, sync::Arc, time::Duration};

use metrics::counter;
use tierkv_cache::Cache;
use tierkv_coordination::{
    CoordinationError,
    directory::{self, Presence},
};
use tierkv_protocol::replication::Process;
use tierkv_rpc::{
    AddressedChannel, ProcessName, channel,
    proto::internal::{
        FetchSnapshotRequest, SnapshotPart, node_snapshots_client::NodeSnapshotsClient,
    },
    stopped,
    tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_storage::StorageError;
use tierkv_types::{Epoch, Error, TimeReading};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::Streaming;

use crate::{
    driver::SnapshotWanted,
    engine::{Engine, Opened, Surroundings},
    interface::Interface,
    rejoining::open_to_rejoin,
    start_error::StartError,
    transfer::{Installed, ReceiveError, Target, Transfer, UNLOCK_PATIENCE, UNLOCK_PAUSE, called},
};

/// Pause after a snapshot that was not installed, before the master is asked again. It doubles with
/// each failure, up to the longest one: each attempt costs the master a read of its whole state.
const INSTALL_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_INSTALL_PAUSE: Duration = Duration::from_secs(60);
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

/// What came of a wanted snapshot.
enum Replaced {
    /// Another engine runs, over the snapshot.
    Yes,
    /// The snapshot is not wanted any more, or the node stops.
    Outdated,
    /// The snapshot was not installed.
    Failed,
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
        let mut failures = 0;
        while let Some(engine) = &self.engine {
            let wanted = tokio::select! {
                biased;
                () = stopped(stop.clone()) => break,
                wanted = engine.snapshot_wanted() => wanted,
            };
            match self.replace(&wanted, &stop).await {
                Ok(Replaced::Yes) => failures = 0,
                Ok(Replaced::Outdated) => {}
                Ok(Replaced::Failed) => {
                    failures += 1;
                    if let Err(error) = self.go_on(&wanted, pause_after(failures), &stop).await {
                        self.around.failure.report(error.to_string());
                    }
                }
                Err(error) => self.around.failure.report(error.to_string()),
            }
        }
        self.engine
    }

    /// Replaces the engine by one over a snapshot, once the master has begun to send one. After
    /// `stop` there may be none.
    async fn replace(
        &mut self,
        wanted: &SnapshotWanted,
        stop: &watch::Receiver<bool>,
    ) -> Result<Replaced, StartError> {
        tracing::warn!(
            master = %wanted.source,
            "this node's log can't continue the master's: a snapshot of the master's state replaces \
             this node's"
        );
        if wanted.contradicts {
            self.end_engine().await;
        }
        let asking = async {
            tokio::select! {
                asked = self.ask(&wanted.source) => Some(asked),
                () = self.is_outdated(wanted) => None,
            }
        };
        let installed = match unless_stopped(stop, asking).await {
            None | Some(None) => return Ok(Replaced::Outdated),
            Some(Some(Err(error))) => Err(error),
            Some(Some(Ok((target, transfer)))) => {
                // The machine went on meanwhile: another master may count on this node's log.
                if !self.end_engine_for(&wanted.source, transfer.epoch()).await {
                    tracing::info!(master = %wanted.source, "the snapshot is not needed any more");
                    if self.engine.is_none() {
                        self.start(None, stop).await?;
                    }
                    return Ok(Replaced::Outdated);
                }
                // A transfer may take an hour: a stop does not wait for its end.
                let installing = target.install(transfer);
                match unless_stopped(stop, installing).await {
                    None => return Ok(Replaced::Outdated),
                    Some(installed) => installed.map_err(InstallError::from),
                }
            }
        };
        match installed {
            Ok(Installed { time, .. }) => {
                counter!(INSTALLATIONS, "result" => INSTALLED).increment(1);
                self.start(Some(time), stop).await?;
                Ok(Replaced::Yes)
            }
            Err(error) => {
                counter!(INSTALLATIONS, "result" => FAILED).increment(1);
                tracing::warn!(%error, "the snapshot was not installed; it is tried again");
                Ok(Replaced::Failed)
            }
        }
    }

    /// Goes on after a failure, with the engine that runs or with another one, and waits before its
    /// machine may ask again. Another master ends the wait. An engine over another history than the
    /// master's is started after the wait.
    async fn go_on(
        &mut self,
        wanted: &SnapshotWanted,
        pause: Duration,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        if wanted.contradicts {
            unless_stopped(stop, sleep(pause)).await;
            return self.start(None, stop).await;
        }
        if self.engine.is_none() {
            self.start(None, stop).await?;
        }
        let pausing = async {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.is_outdated(wanted) => {}
            }
        };
        unless_stopped(stop, pausing).await;
        if let Some(engine) = &self.engine {
            engine.want_again();
        }
        Ok(())
    }

    /// Waits until the engine wants another snapshot than this one.
    async fn is_outdated(&self, wanted: &SnapshotWanted) {
        match &self.engine {
            Some(engine) => engine.other_snapshot_wanted(wanted).await,
            None => pending().await,
        }
    }

    /// Ends the engine, if one runs, for a snapshot of this master in this term. Returns whether the
    /// state may be replaced, by the last that the machine knew. If not, the engine may still run.
    async fn end_engine_for(&mut self, master: &Process, epoch: Epoch) -> bool {
        let Some(engine) = &self.engine else {
            // It ended as its state is of another history.
            return true;
        };
        let sequencer = Arc::clone(&engine.interface().service.sequencer);
        let may_be_replaced =
            || sequencer.look(|machine, _| machine.may_be_replaced(master, epoch));
        if !may_be_replaced() {
            engine.want_again();
            return false;
        }
        self.end_engine().await;
        // It acknowledges nothing any more.
        may_be_replaced()
    }

    /// Ends the engine, if one runs. From now on nothing is served.
    async fn end_engine(&mut self) {
        self.publish.send_replace(None);
        if let Some(engine) = self.engine.take()
            && let Err(error) = engine.end().await
        {
            tracing::warn!(%error, "the state that is replaced was not closed cleanly");
        }
    }

    /// Asks a master for its state, and waits until it sends that.
    async fn ask(
        &self,
        source: &Process,
    ) -> Result<(Target, Transfer<Streaming<SnapshotPart>>), InstallError> {
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
        let parts = called(client.fetch(request)).await?.into_inner();
        let transfer = target.begun(parts).await?;
        Ok((target, transfer))
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

    /// Starts an engine as soon as the directory is unlocked and coordination answers; none if the
    /// node is stopped meanwhile.
    async fn start(
        &mut self,
        time: Option<TimeReading>,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        loop {
            let Some(opened) = unless_stopped(stop, self.open(time)).await else {
                return Ok(());
            };
            match Engine::start(opened?, &self.around).await {
                Err(StartError::Coordination(error)) => {
                    tracing::warn!(%error, "waiting for coordination");
                }
                started => {
                    self.put(started?);
                    return Ok(());
                }
            }
            if unless_stopped(stop, sleep(START_PAUSE)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Opens the directory, as at a start of the process: what can't be used is set aside, once
    /// another log in sync is there.
    async fn open(&self, time: Option<TimeReading>) -> Result<Opened, StartError> {
        let deadline = Instant::now() + UNLOCK_PATIENCE;
        loop {
            let Surroundings {
                settings,
                name,
                coordination,
                clock,
                disk,
                ..
            } = &self.around;
            let opening = open_to_rejoin(settings, name, coordination, (clock, time), disk);
            match opening.await {
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

/// The pause after so many failures, one after the other.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (INSTALL_PAUSE * (1 << doublings)).min(LONGEST_INSTALL_PAUSE)
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
