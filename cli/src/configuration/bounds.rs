//! Bounds of values. They are checked on the merged configuration, so that bounds between two
//! keys hold wherever the keys were set.

use std::time::Duration;

use super::{ByteSize, Configuration, Entry, Problem, keys::Limits};

/// Smallest file of the log.
const MIN_SEGMENT: ByteSize = ByteSize(64 << 10);
/// Largest file of the log: it is allocated at once.
const MAX_SEGMENT: ByteSize = ByteSize(1 << 30);
/// Fewest files that `wal.max_bytes` must allow: one is written while another is removed.
const MIN_SEGMENTS: u64 = 2;
/// Longest time that acknowledged writes may stay unsynced.
const MAX_SYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest and longest time that records stay in the log.
const RETENTION: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(7 * 86_400)];
/// Smallest bound of pinned memory: a write of the largest size fits.
const MIN_PINNED: ByteSize = ByteSize(1 << 20);
/// Smallest cache.
const MIN_CACHE: ByteSize = ByteSize(1 << 20);
/// Least and greatest staleness bound of reads. Reads continue during a failover only if their
/// bound is at least 1.05 F + 1 s (REP-TIMES), where F is the time without a heartbeat after
/// which a master is suspected: 2.05 s for F = 1 s, as clusters have it. The greatest bound
/// suffices for the longest F, 30 s, and is well below an entry's life in the cache, 5 min
/// (CACHE-KEY). A coordinator is also ready for this long after its masters last answered.
const MAX_STALENESS: [Duration; 2] = [Duration::from_millis(2_050), Duration::from_secs(60)];
/// Most worker threads: more than any machine has cores.
const MAX_WORKERS: u64 = 1_024;
/// Fewest connections: some to gRPC and some to REST.
const MIN_CONNECTIONS: u64 = 16;
/// Smallest bound of the bytes buffered for clients: an answer of the largest size fits.
const MIN_STREAM_BYTES: ByteSize = ByteSize(32 << 20);
/// Shortest and longest timeout of a connection.
const DOOR_TIME: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3_600)];
/// Shortest and longest time between checkpoints.
const CHECKPOINT_INTERVAL: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(3_600)];

/// Returns a problem for each value that is out of bounds.
pub(super) fn check(configuration: &Configuration, entries: &[Entry]) -> Vec<Problem> {
    let Configuration {
        cache,
        reads,
        threads,
        limits,
        wal,
        memory,
        store,
        ..
    } = configuration;
    let mut checks = Checks {
        entries,
        problems: Vec::new(),
    };
    let segment = wal.segment_bytes;
    checks.at_least("cache.max_bytes", cache.max_bytes, MIN_CACHE);
    checks.time(
        "reads.max_staleness_ms",
        reads.max_staleness_ms,
        MAX_STALENESS,
    );
    checks.that("threads.workers", threads.workers <= MAX_WORKERS, || {
        format!("use at most {MAX_WORKERS}")
    });
    checks.limits(limits);
    checks.time(
        "wal.sync_interval_ms",
        wal.sync_interval_ms,
        [Duration::from_millis(1), MAX_SYNC_INTERVAL],
    );
    checks.at_least("wal.segment_bytes", segment, MIN_SEGMENT);
    checks.at_most("wal.segment_bytes", segment, MAX_SEGMENT);
    checks.that(
        "wal.max_bytes",
        wal.max_bytes.0 >= segment.0.saturating_mul(MIN_SEGMENTS),
        || format!("use at least {MIN_SEGMENTS} times wal.segment_bytes, which is {segment}"),
    );
    checks.time("wal.retention_ms", wal.retention_ms, RETENTION);
    let (kept, pinned) = (memory.max_bytes, memory.pinned_max_bytes);
    checks.at_least("memory.max_bytes", kept, ByteSize(1));
    checks.at_least("memory.pinned_max_bytes", pinned, MIN_PINNED);
    checks.time(
        "store.checkpoint_interval_ms",
        store.checkpoint_interval_ms,
        CHECKPOINT_INTERVAL,
    );
    checks.at_least(
        "store.checkpoint_bytes",
        store.checkpoint_bytes,
        ByteSize(1),
    );
    // Otherwise writers would wait at the pinned bound, and no checkpoint would start at once.
    checks.that(
        "store.checkpoint_bytes",
        store.checkpoint_bytes <= pinned,
        || format!("use at most memory.pinned_max_bytes, which is {pinned}"),
    );
    checks.problems
}

struct Checks<'a> {
    entries: &'a [Entry],
    problems: Vec<Problem>,
}

impl Checks<'_> {
    fn that(&mut self, key: &str, holds: bool, right: impl FnOnce() -> String) {
        if holds {
            return;
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            self.problems.push(Problem {
                key: key.to_owned(),
                origin: entry.origin.clone(),
                words: format!("{} is out of bounds: {}", entry.toml, right()),
            });
        }
    }

    fn limits(&mut self, limits: &Limits) {
        self.that(
            "limits.connections",
            limits.connections >= MIN_CONNECTIONS,
            || format!("use at least {MIN_CONNECTIONS}"),
        );
        self.at_least("limits.stream_bytes", limits.stream_bytes, MIN_STREAM_BYTES);
        for (key, millis) in [
            ("limits.head_timeout_ms", limits.head_timeout_ms),
            ("limits.body_timeout_ms", limits.body_timeout_ms),
            ("limits.rest_idle_timeout_ms", limits.rest_idle_timeout_ms),
            ("limits.grpc_ping_interval_ms", limits.grpc_ping_interval_ms),
            ("limits.grpc_ping_timeout_ms", limits.grpc_ping_timeout_ms),
        ] {
            self.time(key, millis, DOOR_TIME);
        }
    }

    fn at_least(&mut self, key: &str, size: ByteSize, least: ByteSize) {
        self.that(key, size >= least, || format!("use at least {least}"));
    }

    fn at_most(&mut self, key: &str, size: ByteSize, most: ByteSize) {
        self.that(key, size <= most, || format!("use at most {most}"));
    }

    fn time(&mut self, key: &str, millis: u64, [least, most]: [Duration; 2]) {
        let time = Duration::from_millis(millis);
        self.that(key, (least..=most).contains(&time), || {
            let (least, most) = (least.as_millis(), most.as_millis());
            format!("use a value from {least} to {most}")
        });
    }
}
