//! Reads and verifies everything on disk, to find damage before the data is needed.
//!
//! A start and a read verify only what they read, so damage elsewhere stays unnoticed. A scrub
//! verifies every record of the log's finished segments and every row of the store, slowly, and
//! reports each damage with its place.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Storage, StorageError, blocking::blocking, log::verify};

/// Rows in one read.
const ROWS_TOGETHER: usize = 32;
/// Most damages that one scrub reports.
const MAX_DAMAGES: usize = 100;

/// The result of a scrub.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// Segments of the log that were read.
    pub segments: usize,
    /// Records in these segments.
    pub records: u64,
    /// Rows of the store that were read.
    pub rows: u64,
    /// The damage found, with file and place; a hundred at most.
    pub damage: Vec<StorageError>,
}

impl Storage {
    /// Verifies the finished segments of the log and all rows of the store, reading about
    /// `bytes_per_second`.
    ///
    /// # Errors
    /// Failures of disk and store. Damage is no error; it is in the result.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, StorageError> {
        let mut pace = Pace::new(bytes_per_second);
        let mut scrubbed = Scrubbed::default();
        self.scrub_log(&mut pace, &mut scrubbed).await?;
        self.scrub_store(&mut pace, &mut scrubbed).await?;
        scrubbed.damage.truncate(MAX_DAMAGES);
        Ok(scrubbed)
    }

    async fn scrub_log(
        &self,
        pace: &mut Pace,
        scrubbed: &mut Scrubbed,
    ) -> Result<(), StorageError> {
        let place = self.core.log_place.clone();
        let numbers = blocking(move || place.numbers()).await?;
        for number in numbers {
            match self.verify_segment(number).await {
                Ok(Some((records, bytes))) => {
                    scrubbed.segments += 1;
                    scrubbed.records += records;
                    pace.wait(bytes).await;
                }
                Ok(None) => {}
                Err(error @ StorageError::Damaged { .. }) => scrubbed.damage.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Verifies a finished segment; `None` if it is written to, or left the log meanwhile.
    async fn verify_segment(&self, number: u64) -> Result<Option<(u64, u64)>, StorageError> {
        let retention = self.core.log.retention();
        loop {
            // Read first: a truncation that begins later is noticed.
            let cuts = retention.cuts();
            if !retention.is_finished(number) {
                return Ok(None);
            }
            let place = self.core.log_place.clone();
            match blocking(move || verify(&place, number)).await {
                // The log was cut meanwhile: the segment may be written to again.
                Err(StorageError::Damaged { .. }) if retention.cuts() != cuts => {}
                verified => return verified,
            }
        }
    }

    async fn scrub_store(
        &self,
        pace: &mut Pace,
        scrubbed: &mut Scrubbed,
    ) -> Result<(), StorageError> {
        let mut after = None;
        while scrubbed.damage.len() < MAX_DAMAGES {
            let some = match self.core.store.scrub(after, ROWS_TOGETHER).await {
                Ok(some) => some,
                // After a page that can't be read, later rows can't be found.
                Err(error @ StorageError::Damaged { .. }) => {
                    scrubbed.damage.push(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            scrubbed.rows += some.rows as u64;
            scrubbed.damage.extend(some.damage);
            pace.wait(some.bytes).await;
            after = some.last;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Limits the rate of reading.
struct Pace {
    bytes_per_second: u64,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Waits so long that reading `bytes` keeps the rate.
    async fn wait(&mut self, bytes: u64) {
        self.bytes += bytes;
        let micros = u128::from(self.bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let due = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        sleep(due.saturating_sub(self.began.elapsed())).await;
    }
}
