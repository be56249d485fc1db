//! The cell `memory`: the memory cost of a record, compared with redis.
//!
//! The platform is loaded once and restarted for each round, so that remains of the load do not
//! count: pinned entries, request ids, buffers of the log. Then every record is read once,
//! bypassing the cache tier, which has its smallest size. That brings all records into the data
//! node's memory tier. The figure is the growth of the process's resident memory per record. It
//! includes SQLite's page caches and the sessions' buffers. redis starts empty and is measured
//! during its load. The report also has the absolute sizes after both.
//!
//! A second reading, in which the platform must not read its files, shows that all records are
//! in the memory tier. A data node checks all its files ten minutes after its start, and
//! the buffers of that check would count too, so a round that takes longer is repeated.

use std::time::Duration;

use serde::Serialize;
use tierkv_harness::{Options, Redis, TierKv};
use tierkv_types::limits::REQUEST_MEMORY;
use tierkv_workload::{Failure, Session, Target, load};
use tokio::time::{Instant, sleep_until};

use crate::{
    footprint::{file_bytes_read, resident_bytes},
    note,
    redis::RedisClient,
    rounds::median,
    stage::{NAMESPACE, Reading, Settings, harness, read_all, sessions},
};

/// Rounds. Each measures fresh processes of both sides once; the results hardly differ.
pub(crate) const ROUNDS: u64 = 3;
/// Capacity of the embedded cache tier, in MiB: the smallest that its option allows.
const CACHE_MIB: &str = "1";
/// Bytes per record that the platform may read from files in the second reading. A record that
/// is not in memory costs a page of the store, some 4 KiB; other tasks read files too.
const FILE_BYTES_A_RECORD: u64 = 8;
/// The most attempts at a round.
const ROUND_ATTEMPTS: usize = 3;
/// Additional wait until the request ids of the load are forgotten.
const FORGETTING_LIMIT: Duration = Duration::from_secs(10);

/// One side of a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Growth {
    /// Resident bytes before the records were there.
    pub(crate) before: u64,
    /// Resident bytes with them.
    pub(crate) after: u64,
}

impl Growth {
    #[allow(clippy::cast_precision_loss)]
    fn a_record(self, records: u64) -> f64 {
        self.after.saturating_sub(self.before) as f64 / records as f64
    }
}

/// Both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct MemoryRound {
    pub(crate) ours: Growth,
    /// Resident bytes of a platform without records.
    pub(crate) ours_empty: u64,
    pub(crate) peer: Growth,
    /// The allocated bytes that redis reports.
    pub(crate) peer_used_memory: u64,
    /// Bytes that the platform read from files in the second reading.
    pub(crate) file_bytes_read_again: u64,
}

/// The figures of the cell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemoryFigures {
    pub(crate) ours_bytes_a_record: f64,
    pub(crate) peer_bytes_a_record: f64,
    pub(crate) ratio: f64,
    pub(crate) least_ratio: f64,
    pub(crate) greatest_ratio: f64,
    /// Compared with an empty platform.
    pub(crate) ours_bytes_a_record_over_empty: f64,
    pub(crate) ratio_over_empty: f64,
    pub(crate) details: String,
    pub(crate) records: u64,
    pub(crate) payload_bytes_a_record: u64,
    pub(crate) memory_rounds: Vec<MemoryRound>,
}

impl MemoryRound {
    /// The resident bytes of the platform with records over those of an empty one.
    const fn over_empty(&self) -> Growth {
        Growth {
            before: self.ours_empty,
            after: self.ours.after,
        }
    }
}

impl MemoryFigures {
    pub(crate) fn new(settings: Settings, rounds: Vec<MemoryRound>) -> Self {
        let records = settings.keys;
        let ours = |round: &MemoryRound| round.ours.a_record(records);
        let peer = |round: &MemoryRound| round.peer.a_record(records);
        let over_empty = |round: &MemoryRound| round.over_empty().a_record(records);
        let ratios = || rounds.iter().map(|round| ours(round) / peer(round));
        let ratios_over_empty = rounds.iter().map(|round| over_empty(round) / peer(round));
        let (key, value) = (settings.shape.key_bytes(), settings.shape.value_bytes());
        let mut figures = Self {
            ours_bytes_a_record: median(rounds.iter().map(ours)),
            peer_bytes_a_record: median(rounds.iter().map(peer)),
            ratio: median(ratios()),
            least_ratio: ratios().fold(f64::INFINITY, f64::min),
            greatest_ratio: ratios().fold(f64::NEG_INFINITY, f64::max),
            ours_bytes_a_record_over_empty: median(rounds.iter().map(over_empty)),
            ratio_over_empty: median(ratios_over_empty),
            details: String::new(),
            records,
            payload_bytes_a_record: (key + value) as u64,
            memory_rounds: rounds,
        };
        figures.details = figures.details();
        figures
    }

    /// Bytes per record in each round: ours, the peer's.
    pub(crate) fn series(&self) -> [Vec<f64>; 2] {
        let side = |side: fn(&MemoryRound) -> Growth| {
            let rounds = self.memory_rounds.iter();
            rounds
                .map(|round| side(round).a_record(self.records))
                .collect()
        };
        [side(|round| round.ours), side(|round| round.peer)]
    }

    #[allow(clippy::cast_precision_loss)]
    fn details(&self) -> String {
        let mib = |size: fn(&MemoryRound) -> u64| {
            let bytes = median(self.memory_rounds.iter().map(|round| size(round) as f64));
            bytes / f64::from(1 << 20)
        };
        format!(
            "{} B of key and value in each; resident, ours {:.0} MiB before and {:.0} after, \
             redis {:.1} before and {:.0} after (used_memory {:.0}); ours was restarted after \
             its load, so the load's leftovers do not count; over an empty platform of {:.0} MiB \
             it takes {:.0} B a record, a ratio of {:.2}; read again, it asked files for {:.2} MiB",
            self.payload_bytes_a_record,
            mib(|round| round.ours.before),
            mib(|round| round.ours.after),
            mib(|round| round.peer.before),
            mib(|round| round.peer.after),
            mib(|round| round.peer_used_memory),
            mib(|round| round.ours_empty),
            self.ours_bytes_a_record_over_empty,
            self.ratio_over_empty,
            mib(|round| round.file_bytes_read_again),
        )
    }
}

/// Measures the cell.
pub(crate) async fn measure(settings: Settings) -> Result<MemoryFigures, Failure> {
    let mut platform = loaded(settings).await?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        note(format_args!("memory: round {number} of {ROUNDS}"));
        let ours_empty = empty().await?;
        let (ours, file_bytes_read_again) = ours(&mut platform, settings).await?;
        let (peer, peer_used_memory) = peer(settings).await?;
        rounds.push(MemoryRound {
            ours,
            ours_empty,
            peer,
            peer_used_memory,
            file_bytes_read_again,
        });
    }
    Ok(MemoryFigures::new(settings, rounds))
}

fn options() -> Options {
    Options {
        arguments: vec!["--cache-mib".to_owned(), CACHE_MIB.to_owned()],
        ..Options::default()
    }
}

/// Resident bytes of a running platform without records.
async fn empty() -> Result<u64, Failure> {
    let platform = TierKv::start(options()).await.map_err(harness)?;
    let session = Session::connect(platform.grpc(), NAMESPACE).await?;
    session.batch_get_latest(&[b"absent"]).await?;
    resident_bytes(platform.pid())
}

/// A platform with every record, which has forgotten the request ids of its load.
async fn loaded(settings: Settings) -> Result<TierKv, Failure> {
    let platform = TierKv::start(options()).await.map_err(harness)?;
    note(format_args!("memory: loading the platform"));
    let mut sessions = sessions(platform.grpc()).await?;
    load(&sessions, &settings.loading()).await?;
    // Request ids are remembered for a promised time. One more write after it makes the store
    // forget them too.
    note(format_args!(
        "memory: waiting {} s until the load's request ids are forgotten",
        (REQUEST_MEMORY + FORGETTING_LIMIT).as_secs()
    ));
    sleep_until(Instant::now() + REQUEST_MEMORY + FORGETTING_LIMIT).await;
    let key = settings.shape.key(0);
    let value = settings.shape.value(0, settings.loading().seed);
    for session in sessions.iter_mut().take(1) {
        session.put(key.as_ref(), value.clone()).await?;
    }
    Ok(platform)
}

async fn ours(platform: &mut TierKv, settings: Settings) -> Result<(Growth, u64), Failure> {
    let mut read_again = 0;
    for _ in 0..ROUND_ATTEMPTS {
        platform.stop().await.map_err(harness)?;
        platform.restart().await.map_err(harness)?;
        // Only one session, because its buffers count.
        let sessions = [Session::connect(platform.grpc(), NAMESPACE).await?];
        let before = resident_bytes(platform.pid())?;
        read_all(&sessions, settings, Reading::Latest).await?;
        let read = file_bytes_read(platform.pid())?;
        read_all(&sessions, settings, Reading::Latest).await?;
        read_again = file_bytes_read(platform.pid())?.saturating_sub(read);
        let after = resident_bytes(platform.pid())?;
        if read_again <= settings.keys * FILE_BYTES_A_RECORD {
            return Ok((Growth { before, after }, read_again));
        }
        note(format_args!(
            "memory: a second reading asked files for {read_again} bytes; the round begins anew"
        ));
    }
    Err(Failure(format!(
        "reading all records a second time asked files for {read_again} bytes: not every \
         record was in the memory tier, or the node was slow and checked its files meanwhile"
    )))
}

async fn peer(settings: Settings) -> Result<(Growth, u64), Failure> {
    let redis = Redis::start(&[]).await.map_err(harness)?;
    let mut client = RedisClient::connect(&redis.address()).await?;
    let before = resident_bytes(redis.pid())?;
    client.load(&settings.loading()).await?;
    let after = resident_bytes(redis.pid())?;
    Ok((Growth { before, after }, client.used_memory().await?))
}

#[cfg(test)]
mod tests {
    use tierkv_workload::Shape;

    use super::*;

    #[test]
    fn growth_is_compared_and_absolute_sizes_are_reported() {
        let settings = Settings {
            keys: 1 << 20,
            duration: Duration::from_secs(1),
            shape: Shape::Trace,
        };
        let round = |after: u64| MemoryRound {
            ours: Growth {
                before: 30 << 20,
                after: after << 20,
            },
            ours_empty: 10 << 20,
            peer: Growth {
                before: 10 << 20,
                after: 410 << 20,
            },
            peer_used_memory: 390 << 20,
            file_bytes_read_again: 1 << 20,
        };
        let figures = MemoryFigures::new(settings, vec![round(430), round(350), round(510)]);
        assert_eq!(
            (figures.ours_bytes_a_record, figures.peer_bytes_a_record),
            (400.0, 400.0)
        );
        assert_eq!(
            (figures.ratio, figures.least_ratio, figures.greatest_ratio),
            (1.0, 0.8, 1.2)
        );
        assert_eq!(figures.series()[0], [400.0, 320.0, 480.0]);
        let details = &figures.details;
        assert!(details.contains("260 B of key and value"), "{details}");
        assert!(
            details.contains("ours 30 MiB before and 430 after"),
            "{details}"
        );
        assert!(details.contains("(used_memory 390)"), "{details}");
        let strict = "over an empty platform of 10 MiB it takes 420 B a record, a ratio of 1.05";
        assert!(details.contains(strict), "{details}");
    }

    #[tokio::test]
    async fn redis_is_measured_during_its_load() {
        let settings = Settings {
            keys: 20_000,
            duration: Duration::from_secs(1),
            shape: Shape::Trace,
        };
        let (growth, used) = peer(settings).await.unwrap();
        let a_record = growth.a_record(settings.keys);
        assert!((260.0..1_000.0).contains(&a_record), "{growth:?}");
        assert!(used > settings.keys * 260, "{used}");
    }
}
