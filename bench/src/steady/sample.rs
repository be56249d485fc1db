//! One second of a steady run, measured by the client, the kernel and the platform.

use std::{fmt, time::Instant};

use serde::Serialize;
use tierkv_harness::TierKv;
use tierkv_workload::{Failure, Window};

use crate::{
    cost::{Cost, Measuring, Meter},
    footprint::{OnDisk, resident_bytes},
    metrics_page::{Gathered, MetricsPage},
};

const CHECKPOINTS: &str = "tierkv_checkpoint_seconds";
const LOG_SYNCS: &str = "tierkv_log_sync_seconds";

/// The work since the previous sample, and the current sizes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// When it was taken, in seconds since the start.
    pub(crate) at: f64,
    /// Acknowledged writes a second.
    pub(crate) rate: f64,
    pub(crate) failures: u64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) max_micros: f64,
    /// The longest time without an acknowledged write.
    pub(crate) silence_micros: f64,
    /// Different keys written since the start.
    pub(crate) keys: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) log_bytes: u64,
    /// Including the write-ahead file.
    pub(crate) store_bytes: u64,
    pub(crate) store_wal_bytes: u64,
    /// Finished checkpoints, and the seconds that they took.
    pub(crate) checkpoints: f64,
    pub(crate) checkpoint_seconds: f64,
    /// Flushes of the log, each of a group of records, and the seconds that they took.
    pub(crate) log_syncs: f64,
    pub(crate) log_sync_seconds: f64,
    pub(crate) cost: Cost,
}

impl fmt::Display for Sample {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.0} s: {:.0} writes/s, p99 {:.1} ms, max {:.0} ms, resident {:.0} MiB, log {:.0} \
             MiB, store {:.0} MiB",
            self.at,
            self.rate,
            self.p99_micros / 1e3,
            self.max_micros / 1e3,
            mib(self.resident_bytes),
            mib(self.log_bytes),
            mib(self.store_bytes),
        )
    }
}

/// Takes samples of one platform.
#[derive(Debug)]
pub(crate) struct Observer {
    pid: u32,
    rest: String,
    data: std::path::PathBuf,
    measuring: Measuring,
    start: Instant,
    last: Instant,
    checkpoints: Gathered,
    log_syncs: Gathered,
}

impl Observer {
    pub(crate) async fn new(platform: &TierKv) -> Result<Self, Failure> {
        let data = platform.folder().data().to_owned();
        let page = MetricsPage::fetch(platform.rest()).await?;
        let meter = Meter::new(vec![platform.pid()], &data);
        Ok(Self {
            pid: platform.pid(),
            rest: platform.rest().to_owned(),
            data,
            measuring: meter.start(),
            start: Instant::now(),
            last: Instant::now(),
            checkpoints: page.histogram(CHECKPOINTS),
            log_syncs: page.histogram(LOG_SYNCS),
        })
    }

    /// A sample of the time since the last one; `window` has the clients' operations.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) async fn look(&mut self, window: &Window, keys: u64) -> Result<Sample, Failure> {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64().max(f64::MIN_POSITIVE);
        self.last = now;
        let cost = self.measuring.lap();
        let disk = OnDisk::read(&self.data)?;
        let resident_bytes = resident_bytes(self.pid)?;
        let page = MetricsPage::fetch(&self.rest).await?;
        let (checkpoints, log_syncs) = (page.histogram(CHECKPOINTS), page.histogram(LOG_SYNCS));
        let ended = checkpoints.since(self.checkpoints);
        let synced = log_syncs.since(self.log_syncs);
        (self.checkpoints, self.log_syncs) = (checkpoints, log_syncs);
        let micros = |latency: std::time::Duration| latency.as_secs_f64() * 1e6;
        Ok(Sample {
            at: (now - self.start).as_secs_f64(),
            rate: window.operations as f64 / seconds,
            failures: window.failures,
            p50_micros: micros(window.latency(0.5)),
            p99_micros: micros(window.latency(0.99)),
            max_micros: micros(window.max_latency()),
            silence_micros: micros(window.longest_silence),
            keys,
            resident_bytes,
            log_bytes: disk.log,
            store_bytes: disk.store,
            store_wal_bytes: disk.store_wal,
            checkpoints: ended.count,
            checkpoint_seconds: ended.sum,
            log_syncs: synced.count,
            log_sync_seconds: synced.sum,
            cost,
        })
    }
}
