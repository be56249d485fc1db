//! The platform with each role in a process of its own, and coordination in etcd.
//!
//! A client coordinator in a process of its own has no cache: each read goes down to the data node.
//! So a hit is one of the data node's memory tier here, which is checked: a reading of all records
//! must not read files. The costs of an operation are those of the three roles together; etcd, which
//! no operation needs, does not count.

use std::time::{Duration, Instant};

use tierkv_harness::{SeparateTiers, TierSetup};
use tierkv_workload::{Failure, Operations, Session, Unary, load};

use super::{
    CONNECTIONS, NAMESPACE, REPLICAS, Reading, Settings, Stage, harness, read_all, sessions,
    started,
};
use crate::{cost::Meter, footprint::file_bytes_read, note, rounds::Side};

/// Bytes per record that the data node may read from files while all records are read: a record
/// that is not in memory costs a page of the store, some 4 KiB.
const FILE_BYTES_A_RECORD: u64 = 8;
/// Timeout of the first answer, and until all data nodes are in sync: the coordinators find the
/// cluster's master meanwhile.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Servers that use no more cores than this have hardly anything to do: three data nodes without
/// requests exchange heartbeats.
const IDLE_CORES: f64 = 0.25;
/// How long they are watched for that, and the timeout until they are idle.
const IDLE_WINDOW: Duration = Duration::from_secs(2);
const IDLE_LIMIT: Duration = Duration::from_secs(180);
/// Pause between two looks whether the platform answers.
const READY_PAUSE: Duration = Duration::from_millis(50);

impl Stage {
    /// Unary reads that the data node answers from its memory.
    pub(crate) async fn tiers_unary_hits(&mut self) -> Result<Side<Unary>, Failure> {
        let (address, meter) = self.loaded_tiers(1).await?;
        self.check_memory_hits(&address).await?;
        let targets = (0..CONNECTIONS).map(|_| Unary::connect(&address, NAMESPACE));
        Ok(Side {
            targets: targets.collect::<Result<_, _>>()?,
            meter,
            plan: self.settings.plan(Operations::Reads),
            least_cached: 0.0,
        })
    }

    /// Durable writes through the SDK.
    pub(crate) async fn tiers_session_puts(&mut self) -> Result<Side<Session>, Failure> {
        self.session_puts(1).await
    }

    /// Durable writes through the SDK to data nodes that are all in sync.
    pub(crate) async fn replicated_session_puts(&mut self) -> Result<Side<Session>, Failure> {
        let side = self.session_puts(REPLICAS).await?;
        // The load may have been too much for one of them.
        let tiers = started(self.tiers.get_mut(&REPLICAS))?;
        tiers.all_in_sync(READY_LIMIT).await.map_err(harness)?;
        // Three nodes write their checkpoints of the load for a while, also in the peer's parts.
        await_idle(&side.meter).await?;
        Ok(side)
    }

    /// Checks that all data nodes are still in sync.
    pub(crate) async fn check_in_sync(&mut self) -> Result<(), Failure> {
        let tiers = started(self.tiers.get_mut(&REPLICAS))?;
        let cluster = tiers.cluster().await;
        let in_sync = cluster.as_ref().map_or(0, |cluster| cluster.in_sync.len());
        match in_sync == REPLICAS {
            true => Ok(()),
            false => Err(Failure(format!(
                "only {in_sync} of {REPLICAS} data nodes are in sync after the rounds: {cluster:?}"
            ))),
        }
    }

    async fn session_puts(&mut self, data_nodes: usize) -> Result<Side<Session>, Failure> {
        let (address, meter) = self.loaded_tiers(data_nodes).await?;
        Ok(Side {
            targets: vec![Session::connect(&address, NAMESPACE).await?],
            meter,
            plan: self.settings.plan(Operations::Writes),
            least_cached: 0.0,
        })
    }

    /// The platform with every record written once.
    async fn loaded_tiers(&mut self, data_nodes: usize) -> Result<(String, Meter), Failure> {
        let tiers = match self.tiers.remove(&data_nodes) {
            Some(tiers) => tiers,
            None => {
                let setup = TierSetup {
                    binary: self.build.binary.clone(),
                    data_nodes: u16::try_from(data_nodes).map_err(Failure::of)?,
                    ..TierSetup::default()
                };
                loaded(setup, self.settings).await?
            }
        };
        let tiers = self.tiers.entry(data_nodes).or_insert(tiers);
        let meter = Meter::new(tiers.pids(), tiers.datanode().folder().data());
        Ok((tiers.grpc().to_owned(), meter))
    }

    /// Brings all records into the data node's memory, and checks that they stay there.
    async fn check_memory_hits(&mut self, address: &str) -> Result<(), Failure> {
        note(format_args!(
            "reading all records into the data node's memory"
        ));
        let (settings, pid) = (
            self.settings,
            started(self.tiers.get_mut(&1))?.datanode().pid(),
        );
        let sessions = sessions(address).await?;
        read_all(&sessions, settings, Reading::Latest).await?;
        let before = file_bytes_read(pid)?;
        read_all(&sessions, settings, Reading::Latest).await?;
        let read = file_bytes_read(pid)?.saturating_sub(before);
        if read > settings.keys * FILE_BYTES_A_RECORD {
            return Err(Failure(format!(
                "the data node read {read} bytes from its files for {} records: not all of them \
                 are in its memory tier",
                settings.keys
            )));
        }
        Ok(())
    }
}

/// A new platform with every record written once, and all data nodes in sync before that.
pub(crate) async fn loaded(setup: TierSetup, settings: Settings) -> Result<SeparateTiers, Failure> {
    let data_nodes = setup.data_nodes;
    let mut tiers = SeparateTiers::start_as(setup).await.map_err(harness)?;
    await_first_answer(tiers.grpc()).await?;
    tiers.all_in_sync(READY_LIMIT).await.map_err(harness)?;
    note(format_args!(
        "loading the platform of separate processes, {data_nodes} data nodes"
    ));
    let sessions = sessions(tiers.grpc()).await?;
    let outcome = load(&sessions, &settings.loading()).await?;
    note(format_args!("loaded at {:.0} puts/s", outcome.rate()));
    Ok(tiers)
}

/// Waits until the servers have hardly anything to do.
async fn await_idle(meter: &Meter) -> Result<(), Failure> {
    let until = Instant::now() + IDLE_LIMIT;
    let mut measuring = meter.start();
    loop {
        tokio::time::sleep(IDLE_WINDOW).await;
        let cost = measuring.lap();
        let cores = cost.server.total() / cost.seconds;
        if cores <= IDLE_CORES {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Failure(format!(
                "the servers still use {cores:.2} cores {IDLE_LIMIT:?} after the load"
            )));
        }
    }
}

/// Waits until a read is answered.
async fn await_first_answer(address: &str) -> Result<(), Failure> {
    let until = Instant::now() + READY_LIMIT;
    loop {
        let session = Session::connect(address, NAMESPACE).await;
        let answered = match session {
            Ok(session) => session.batch_get_latest(&["first"]).await.map(drop),
            Err(error) => Err(error),
        };
        match answered {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(READY_PAUSE).await,
        }
    }
}
