//! The platform with each role in a process of its own, and coordination in etcd.
//!
//! A client coordinator in a process of its own has no cache: each read goes down to the data node.
//! So a hit is one of the data node's memory tier here, which is checked: a reading of all records
//! must not read files. The costs of an operation are those of the three roles together; etcd, which
//! no operation needs, does not count.

use std::time::{Duration, Instant};

use tierkv_harness::SeparateTiers;
use tierkv_workload::{Failure, Operations, Session, Unary, load};

use super::{CONNECTIONS, NAMESPACE, Reading, Stage, harness, read_all, sessions, started};
use crate::{cost::Meter, footprint::file_bytes_read, note, rounds::Side};

/// Bytes per record that the data node may read from files while all records are read: a record
/// that is not in memory costs a page of the store, some 4 KiB.
const FILE_BYTES_A_RECORD: u64 = 8;
/// Timeout of the first answer: the coordinators find the cluster's master meanwhile.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks whether the platform answers.
const READY_PAUSE: Duration = Duration::from_millis(50);

impl Stage {
    /// Unary reads that the data node answers from its memory.
    pub(crate) async fn tiers_unary_hits(&mut self) -> Result<Side<Unary>, Failure> {
        let (address, meter) = self.loaded_tiers().await?;
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
        let (address, meter) = self.loaded_tiers().await?;
        Ok(Side {
            targets: vec![Session::connect(&address, NAMESPACE).await?],
            meter,
            plan: self.settings.plan(Operations::Writes),
            least_cached: 0.0,
        })
    }

    /// The platform with every record written once.
    async fn loaded_tiers(&mut self) -> Result<(String, Meter), Failure> {
        if self.tiers.is_none() {
            let binary = self.build.binary.clone();
            let tiers = SeparateTiers::start(binary).await.map_err(harness)?;
            await_first_answer(tiers.grpc()).await?;
            note(format_args!("loading the platform of separate processes"));
            let sessions = sessions(tiers.grpc()).await?;
            let outcome = load(&sessions, &self.settings.loading()).await?;
            note(format_args!("loaded at {:.0} puts/s", outcome.rate()));
            self.tiers = Some(tiers);
        }
        let tiers = started(self.tiers.as_mut())?;
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
            started(self.tiers.as_mut())?.datanode().pid(),
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
