//! `tierkv status`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tierkv_openapi::ClusterReport;

use crate::{Outcome, connection::Connection};

/// Options of `tierkv status`.
#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    connection: Connection,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The same JSON as `/v1/cluster`.
    Json,
}

/// Prints the topology and its health.
pub(crate) async fn run(arguments: StatusArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let report = ClusterReport::from(client.cluster().await?);
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print!("{}", table(&report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(report: &ClusterReport) -> String {
    let mut rows = vec![row(["TIER", "NODE", "ROLE", "ADDRESS", "PID", "STATE"])];
    for coordinator in &report.client_coordinators {
        let state = String::new();
        rows.push([
            "client coordinator".to_owned(),
            coordinator.node.clone(),
            coordinator.role.clone(),
            coordinator.address.clone(),
            coordinator.pid.to_string(),
            state,
        ]);
    }
    for cache in &report.cache {
        let marks: Vec<String> = (cache.marks.iter())
            .map(|mark| match mark.age_ms {
                Some(age) => format!("{} at most {age} ms old", mark.cluster),
                None => format!("{} without a mark", mark.cluster),
            })
            .collect();
        rows.push([
            "cache".to_owned(),
            cache.node.clone(),
            cache.health.clone(),
            String::new(),
            String::new(),
            format!("hit ratio {:.3}; {}", cache.hit_ratio, marks.join(", ")),
        ]);
    }
    for coordinator in &report.server_coordinators {
        rows.push([
            "server coordinator".to_owned(),
            coordinator.node.clone(),
            coordinator.role.clone(),
            coordinator.address.clone(),
            coordinator.pid.to_string(),
            format!(
                "epoch {}, placement {}",
                coordinator.epoch, report.placement
            ),
        ]);
    }
    for cluster in &report.clusters {
        for member in &cluster.members {
            let in_sync = cluster.in_sync.contains(&member.node);
            rows.push([
                format!("cluster {}", cluster.id),
                member.node.clone(),
                member.role.clone(),
                member.address.clone(),
                member.pid.to_string(),
                format!(
                    "epoch {}, {} slots, {}, log {}, committed {}",
                    cluster.epoch,
                    cluster.slots,
                    if in_sync { "in sync" } else { "behind" },
                    member.log_index,
                    member.commit_index
                ),
            ]);
        }
    }
    aligned(&rows)
}

fn row(cells: [&str; 6]) -> [String; 6] {
    cells.map(str::to_owned)
}

fn aligned(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    (rows.iter())
        .map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        })
        .collect()
}
