//! The cell `handover`: a planned handover of the master in each round, as an operator orders it.

use std::time::Duration;

use tierkv_harness::{SeparateTiers, poll_until};
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

/// The failover time of the cluster: the default one.
const FAILOVER_MS: u32 = 1_000;
/// The longest time without an acknowledged write.
pub(crate) const LONGEST_MS: f64 = 200.0;
/// Timeout until the platform shows the new master.
const SHOWN_LIMIT: Duration = Duration::from_secs(10);

/// Measures the cell.
pub(crate) async fn measure(settings: Settings, rounds: u64) -> Result<OutageFigures, Failure> {
    let mut tiers = loaded(settings, FAILOVER_MS).await?;
    let writing = Session::connect(tiers.grpc(), NAMESPACE).await?;
    let reading = Session::connect(tiers.grpc(), NAMESPACE).await?;
    let clients = Clients::start(&writing, &reading, settings);
    let mut changes = Vec::new();
    for number in 1..=rounds {
        let change = round(&mut tiers, &clients).await?;
        note(format_args!(
            "handover: round {number} of {rounds}: {} handed over to {}; no acknowledged write for \
             {:.0} ms",
            change.from, change.to, change.silence_ms
        ));
        changes.push(change);
    }
    let wanted = Wanted {
        longest_ms: LONGEST_MS,
        median_ms: None,
        no_failed_writes: true,
    };
    let series = Series::new(FAILOVER_MS, changes);
    Ok(OutageFigures::new(vec![(series, wanted)]))
}

/// Orders a handover to the next data node.
async fn round(tiers: &mut SeparateTiers, clients: &Clients) -> Result<Change, Failure> {
    let (mut before, rate) = quiet(clients).await;
    let from = tiers.all_in_sync(IN_SYNC_LIMIT).await.map_err(harness)?;
    let from = from.master;
    let to = next_after(&from, &tiers.data_nodes())?;
    before.merge(clients.take());
    tiers.hand_over(&to).await.map_err(harness)?;
    let shown = poll_until(SHOWN_LIMIT, || async {
        let cluster = tiers.cluster().await?;
        (cluster.master == to).then_some(())
    });
    if shown.await.is_none() {
        return Err(Failure(format!(
            "{from} was to hand over to {to}, which is not the master {SHOWN_LIMIT:?} later: {:?}",
            tiers.cluster().await
        )));
    }
    let mut change = Change::new(&from, &to, rate, &resumed(clients).await?);
    change.count_failures(&before);
    Ok(change)
}

/// The data node after this one, in turn.
fn next_after(node: &str, nodes: &[String]) -> Result<String, Failure> {
    let place = nodes.iter().position(|other| other == node);
    place
        .map(|place| nodes[(place + 1) % nodes.len()].clone())
        .ok_or_else(|| Failure(format!("the master {node} is none of {nodes:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_become_master_in_turn() {
        let nodes = ["n1", "n2", "n3"].map(str::to_owned);
        let next = |node| next_after(node, &nodes);
        assert_eq!(next("n1").unwrap(), "n2");
        assert_eq!(next("n3").unwrap(), "n1");
        assert!(next("n4").unwrap_err().0.contains("n4 is none of"));
    }
}
