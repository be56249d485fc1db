//! The cell `failover`: `kill -9` of the master in each round, with two failover times.

use std::time::Instant;

use tierkv_harness::SeparateTiers;
use tierkv_workload::{Failure, Session};

use super::{
    IN_SYNC_LIMIT,
    change::{Change, quiet, resumed},
    clients::Clients,
    figures::{OutageFigures, Series, Wanted},
    loaded,
};
use crate::{
    note,
    stage::{NAMESPACE, Settings, harness},
};

/// The failover times, with their goals.
const SERIES: [(u32, Wanted); 2] = [
    (
        1_000,
        Wanted {
            longest_ms: LONGEST_MS,
            median_ms: Some(1_250.0),
            no_failed_writes: false,
        },
    ),
    (
        300,
        Wanted {
            longest_ms: 800.0,
            median_ms: None,
            no_failed_writes: false,
        },
    ),
];
/// The longest time without an acknowledged write, with the default failover time.
pub(crate) const LONGEST_MS: f64 = 1_600.0;

/// Measures the cell.
pub(crate) async fn measure(settings: Settings, rounds: u64) -> Result<OutageFigures, Failure> {
    let mut series = Vec::new();
    for (failover_ms, wanted) in SERIES {
        let mut tiers = loaded(settings, failover_ms).await?;
        let writing = Session::connect(tiers.grpc(), NAMESPACE).await?;
        let reading = Session::connect(tiers.grpc(), NAMESPACE).await?;
        let clients = Clients::start(&writing, &reading, settings);
        let mut changes = Vec::new();
        for number in 1..=rounds {
            let change = round(&mut tiers, &clients).await?;
            note(format_args!(
                "failover: F = {failover_ms} ms, round {number} of {rounds}: {} was killed, {} took \
                 over; no acknowledged write for {:.0} ms",
                change.from, change.to, change.silence_ms
            ));
            changes.push(change);
        }
        series.push((Series::new(failover_ms, changes), wanted));
    }
    Ok(OutageFigures::new(series))
}

/// Kills the master, and starts it again once another one serves.
async fn round(tiers: &mut SeparateTiers, clients: &Clients) -> Result<Change, Failure> {
    let (mut before, rate) = quiet(clients).await;
    let from = tiers.all_in_sync(IN_SYNC_LIMIT).await.map_err(harness)?;
    before.merge(clients.take());
    // It waits for the end of the process.
    tokio::task::block_in_place(|| tiers.kill9(&from.master)).map_err(harness)?;
    let seen = resumed(clients).await?;
    let to = tiers
        .cluster()
        .await
        .map_or_else(String::new, |it| it.master);
    let mut change = Change::new(&from.master, &to, rate, &seen);
    change.count_failures(&before);
    let start = Instant::now();
    tiers.restart(&from.master).await.map_err(harness)?;
    tiers.all_in_sync(IN_SYNC_LIMIT).await.map_err(harness)?;
    change.rejoined(start.elapsed(), &clients.take());
    Ok(change)
}
