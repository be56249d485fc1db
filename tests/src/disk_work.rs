//! What a node does on its disk, observed from outside: the number of log rotations and of
//! checkpoints, and the moment at which one of them happens.

use std::{
    fmt, fs, hint, io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use tierkv_harness::{DataFolder, TierKv};

use crate::metrics;

/// Timeout for a change on disk under load.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// The counters of a node at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The number of the log's newest segment.
    segment: u64,
    checkpoints: u64,
    checkpoint_seconds: f64,
    at: Instant,
}

impl Work {
    /// Reads the counters of the only node of a running platform.
    ///
    /// # Errors
    /// If its log or its metrics cannot be read.
    pub async fn of(platform: &TierKv) -> io::Result<Self> {
        let rest = platform.rest();
        let segments = log_files(platform.folder())?.into_iter();
        let numbers = segments.filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
        let checkpoints = metrics::counter(rest, "tierkv_checkpoint_seconds_count").await?;
        // A count of events is a whole number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let checkpoints = checkpoints as u64;
        Ok(Self {
            segment: numbers.max().unwrap_or(0),
            checkpoints,
            checkpoint_seconds: metrics::counter(rest, "tierkv_checkpoint_seconds_sum").await?,
            at: Instant::now(),
        })
    }

    /// What the same process did since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Done {
        let passed = self.at.duration_since(earlier.at).as_secs_f64();
        Done {
            rotations: self.segment - earlier.segment,
            checkpoints: self.checkpoints - earlier.checkpoints,
            checkpointing: (self.checkpoint_seconds - earlier.checkpoint_seconds) / passed,
        }
    }
}

/// What a node did between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// How often the log began a new segment.
    pub rotations: u64,
    /// How many checkpoints were stored.
    pub checkpoints: u64,
    /// The share of the time spent in checkpoints, from 0 to 1.
    pub checkpointing: f64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rotations, {} checkpoints in {:.0} % of the time",
            self.rotations,
            self.checkpoints,
            100.0 * self.checkpointing
        )
    }
}

/// When to act on a node, such as to kill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Now.
    Any,
    /// When the log's files change.
    Rotation,
    /// When a checkpoint writes to the store.
    Checkpoint,
}

impl Moment {
    /// Waits for the moment in a busy loop, so that the caller acts right at it.
    ///
    /// # Errors
    /// `TimedOut` if nothing changes in time, and errors of the file system.
    pub async fn come(self, folder: &DataFolder) -> io::Result<()> {
        let folder = folder.clone();
        let waiting = tokio::task::spawn_blocking(move || match self {
            Self::Any => Ok(()),
            Self::Rotation => await_change(|| log_files(&folder)),
            Self::Checkpoint => await_change(|| store_written_at(&folder)),
        });
        waiting.await?
    }
}

fn await_change<T: PartialEq>(look: impl Fn() -> io::Result<T>) -> io::Result<()> {
    let (before, began) = (look()?, Instant::now());
    while look()? == before {
        if began.elapsed() > CHANGE_LIMIT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        hint::spin_loop();
    }
    Ok(())
}

fn node_dir(folder: &DataFolder) -> PathBuf {
    folder.data().join("c1").join("n1")
}

fn log_files(folder: &DataFolder) -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(node_dir(folder).join("log"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn store_written_at(folder: &DataFolder) -> io::Result<SystemTime> {
    fs::metadata(node_dir(folder).join("store.sqlite-wal"))?.modified()
}
