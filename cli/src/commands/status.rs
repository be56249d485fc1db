//! `tierkv status`.

use std::process::ExitCode;

use clap::Args;
use tierkv::NodeRole;
use tierkv_openapi::{
    ClusterReport,
    cluster::{CacheNode, Cluster, Coordinator, Member},
};

use crate::{
    connection::Connection,
    outcome::Outcome,
    output::{self, Output, Table},
};

/// A cluster's time is shown if it is further than this from the platform's, in seconds.
const NOTABLE_SECONDS: u64 = 1;

/// What is shown for something that is not known.
const UNKNOWN: &str = "-";

/// Options of `tierkv status`.
#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    connection: Connection,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Prints the topology and its health.
pub(crate) async fn run(arguments: StatusArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let report = ClusterReport::from(client.cluster().await?);
    match arguments.output {
        Output::Json => output::pretty_json(&report)?,
        Output::Table | Output::Raw => output::print(table(&report).take())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(report: &ClusterReport) -> Table {
    let mut rows = Table::new(["TIER", "NODE", "ROLE", "ADDRESS", "PID", "STATE"]);
    let coordination = &report.coordination;
    rows.push([
        "coordination".to_owned(),
        coordination.kind.clone(),
        coordination.health.to_string(),
        coordination.endpoints.join(" "),
        String::new(),
        String::new(),
    ]);
    for coordinator in &report.client_coordinators {
        let state = reach(coordinator.reachable, String::new());
        rows.push(coordinator_row("client coordinator", coordinator, state));
    }
    for cache in &report.cache {
        rows.push(cache_row(cache));
    }
    for coordinator in &report.server_coordinators {
        let (epoch, placement) = (coordinator.epoch, report.placement);
        let state = match epoch {
            0 => format!("placement {placement}"),
            epoch => format!("epoch {epoch}, placement {placement}"),
        };
        let state = reach(coordinator.reachable, state);
        rows.push(coordinator_row("server coordinator", coordinator, state));
    }
    for cluster in &report.clusters {
        for member in &cluster.members {
            rows.push(member_row(cluster, member));
        }
    }
    rows
}

/// The state of a process, or that it does not answer.
fn reach(is_reachable: bool, state: String) -> String {
    match is_reachable {
        true => state,
        false => "unreachable".to_owned(),
    }
}

fn coordinator_row(tier: &str, coordinator: &Coordinator, state: String) -> [String; 6] {
    [
        tier.to_owned(),
        coordinator.node.clone(),
        coordinator.role.to_string(),
        coordinator.address.clone(),
        pid(coordinator.pid),
        state,
    ]
}

fn cache_row(cache: &CacheNode) -> [String; 6] {
    let marks: Vec<String> = (cache.marks.iter())
        .map(|mark| match mark.age_ms {
            Some(age) => format!("{} at most {age} ms old", mark.cluster),
            None => format!("{} without a mark", mark.cluster),
        })
        .collect();
    [
        "cache".to_owned(),
        cache.node.clone(),
        cache.health.to_string(),
        String::new(),
        String::new(),
        format!("hit ratio {:.3}; {}", cache.hit_ratio, marks.join(", ")),
    ]
}

fn member_row(cluster: &Cluster, member: &Member) -> [String; 6] {
    let slots = match &cluster.note {
        Some(note) => format!("{} slots ({note})", cluster.slots),
        None => format!("{} slots", cluster.slots),
    };
    let time = time_ahead(cluster.time_ahead_ms.unwrap_or(0));
    [
        format!("cluster {}", cluster.id),
        member.node.clone(),
        member.role.to_string(),
        member.address.clone(),
        pid(member.pid),
        format!(
            "epoch {}, {slots}, {}, {}{}{time}",
            cluster.epoch,
            sync_state(cluster, member),
            log_state(member),
            age(member)
        ),
    ]
}

/// Whether the cluster's record lists the member's log.
fn sync_state(cluster: &Cluster, member: &Member) -> &'static str {
    match (cluster.in_sync.contains(&member.node), member.role) {
        (true, _) => "in sync",
        (false, NodeRole::Learner) => "being added",
        (false, _) => "behind",
    }
}

/// How old a replica's state is at most; a master's is shown by its role.
fn age(member: &Member) -> String {
    match (member.role, member.age_ms) {
        (NodeRole::Master | NodeRole::Unreachable, _) => String::new(),
        (_, Some(age_ms)) => format!(", at most {age_ms} ms old"),
        (_, None) => ", of unknown age".to_owned(),
    }
}

/// A member's positions in its log, which only the member itself reports.
fn log_state(member: &Member) -> String {
    match member.reachable {
        true => format!(
            "log {}, committed {}",
            member.log_index, member.commit_index
        ),
        false => format!("log {UNKNOWN}, committed {UNKNOWN}"),
    }
}

/// A process id; 0 stands for one that is not known.
fn pid(pid: u32) -> String {
    match pid {
        0 => UNKNOWN.to_owned(),
        known => known.to_string(),
    }
}

/// A cluster's distance from the platform's time, if it is worth a mention.
fn time_ahead(millis: i64) -> String {
    let seconds = millis.unsigned_abs().div_ceil(1_000);
    if seconds <= NOTABLE_SECONDS {
        return String::new();
    }
    let side = if millis > 0 { "ahead of" } else { "behind" };
    format!(", its time {seconds} s {side} the platform's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unreachable_member_did_not_report_is_shown_as_unknown() {
        let member = |reachable| Member {
            node: "n1".to_owned(),
            address: "127.0.0.1:7600".to_owned(),
            grpc: "127.0.0.1:7600".to_owned(),
            host: String::new(),
            pid: 0,
            reachable,
            role: NodeRole::Unreachable,
            log_id: None,
            log_index: 0,
            commit_index: 0,
            lag: 0,
            age_ms: None,
        };
        assert_eq!(log_state(&member(false)), "log -, committed -");
        assert_eq!(log_state(&member(true)), "log 0, committed 0");
        assert_eq!((pid(0), pid(7)), ("-".to_owned(), "7".to_owned()));
    }

    #[test]
    fn only_a_notable_distance_of_the_time_is_shown() {
        assert_eq!(time_ahead(1_000), "");
        assert_eq!(time_ahead(-1_000), "");
        assert_eq!(
            time_ahead(3_600_000),
            ", its time 3600 s ahead of the platform's"
        );
        assert_eq!(time_ahead(-1_500), ", its time 2 s behind the platform's");
    }
}
