//! `tierkv admin memory`: the eviction policy and bounds of the data nodes' memory.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};
use tierkv::{
    Client,
    rpc::proto::{
        convert,
        v1::{
            EvictionPolicy, MemoryLimits, MemoryOverrides, MemoryReset, MemorySettings,
            SetMemoryRequest, set_memory_request::Change,
        },
    },
};
use tokio::time::{Instant, sleep};

use crate::{
    configuration::ByteSize,
    connection::Connection,
    number,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// How long to wait until all nodes have applied a change, and how often to ask them.
const FOLLOW_LIMIT: Duration = Duration::from_secs(10);
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Options of `tierkv admin memory`.
#[derive(Args)]
pub(crate) struct MemoryArguments {
    #[command(flatten)]
    connection: Connection,
    /// Which record is evicted first: s3fifo, lru, lfu or fifo.
    #[arg(long, value_parser = |name: &str| convert::policy(name).map_err(|error| error.message))]
    policy: Option<EvictionPolicy>,
    /// Most stored records kept in memory; 0 means no bound.
    #[arg(long, value_parser = number::unsigned)]
    max_records: Option<u64>,
    /// Most bytes of these records, as in "512 MiB".
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<ByteSize>,
    /// Return to each node's own configuration.
    #[arg(long, conflicts_with_all = ["policy", "max_records", "max_bytes"])]
    reset: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl MemoryArguments {
    /// The requested change, if any.
    fn change(&self) -> Option<Change> {
        if self.reset {
            return Some(Change::Reset(MemoryReset {}));
        }
        let set = MemoryOverrides {
            policy: self.policy.map(i32::from),
            max_records: self.max_records,
            max_bytes: self.max_bytes.map(|size| size.0),
        };
        (set != MemoryOverrides::default()).then_some(Change::Set(set))
    }
}

/// Applies the requested change, waits until the nodes have applied it, and prints the settings
/// and what each node uses.
pub(crate) async fn run(arguments: MemoryArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let change = arguments.change();
    let is_change = change.is_some();
    let settings = match change {
        None => client.memory().await?,
        Some(change) => {
            let change = Some(change);
            client.set_memory(SetMemoryRequest { change }).await?;
            followed(&client).await?
        }
    };
    let printed = match arguments.output {
        Output::Json => output::pretty_json(&as_json(&settings)),
        Output::Table | Output::Raw => output::print(as_text(&settings)),
    };
    match is_change {
        true => Ok(done(printed)),
        false => {
            printed?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Waits until every node has applied the settings, or for a limited time, and returns the
/// current state.
async fn followed(client: &Client) -> Result<MemorySettings, tierkv::Error> {
    let deadline = Instant::now() + FOLLOW_LIMIT;
    loop {
        let settings = client.memory().await?;
        let set = settings.set.unwrap_or_default();
        let follows = |limits: &MemoryLimits| {
            set.policy.is_none_or(|policy| policy == limits.policy)
                && set
                    .max_records
                    .is_none_or(|most| most == limits.max_records)
                && set.max_bytes.is_none_or(|most| most == limits.max_bytes)
        };
        let all = (settings.nodes.iter()).all(|node| node.in_force.as_ref().is_some_and(follows));
        if all {
            return Ok(settings);
        }
        if Instant::now() >= deadline {
            output::note(format_args!(
                "the change is saved, but not every node has applied it yet; run `tierkv admin \
                 memory` again to see"
            ));
            return Ok(settings);
        }
        sleep(FOLLOW_PAUSE).await;
    }
}

fn policy(number: i32) -> String {
    convert::policy_name(number).map_or_else(|_| format!("policy {number}"), str::to_owned)
}

fn records(most: u64) -> String {
    match most {
        0 => "any number of records".to_owned(),
        most => format!("at most {most} records"),
    }
}

fn as_text(settings: &MemorySettings) -> String {
    let set = settings.set.unwrap_or_default();
    let parts: Vec<String> = [
        set.policy.map(policy),
        set.max_records.map(records),
        set.max_bytes
            .map(|most| format!("at most {}", ByteSize(most))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = match parts.is_empty() {
        true => "set: nothing, every node follows its own configuration\n".to_owned(),
        false => format!("set: {}\n", parts.join(", ")),
    };
    for node in &settings.nodes {
        let in_force = match &node.in_force {
            Some(limits) => format!(
                "{}, {}, at most {}",
                policy(limits.policy),
                records(limits.max_records),
                ByteSize(limits.max_bytes)
            ),
            None => "not reached".to_owned(),
        };
        text.push_str(&format!(
            "in force on {} of cluster {}: {in_force}\n",
            node.node, node.cluster
        ));
    }
    text
}

fn as_json(settings: &MemorySettings) -> Value {
    let set = settings.set.unwrap_or_default();
    let mut fields = Map::new();
    let mut tell = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    tell("policy", set.policy.map(|number| policy(number).into()));
    tell("max_records", set.max_records.map(Value::from));
    tell("max_bytes", set.max_bytes.map(Value::from));
    let nodes: Vec<Value> = (settings.nodes.iter())
        .map(|node| {
            let in_force = node.in_force.as_ref().map(|limits| {
                json!({
                    "policy": policy(limits.policy),
                    "max_records": limits.max_records,
                    "max_bytes": limits.max_bytes,
                })
            });
            json!({"cluster": node.cluster, "node": node.node, "in_force": in_force})
        })
        .collect();
    json!({"set": fields, "revision": settings.revision, "nodes": nodes})
}

#[cfg(test)]
mod tests {
    use tierkv::rpc::proto::v1::NodeMemory;

    use super::*;

    #[test]
    fn what_is_set_and_in_force_is_told() {
        let node = |in_force| NodeMemory {
            cluster: "c1".to_owned(),
            node: "n1".to_owned(),
            in_force,
        };
        let settings = MemorySettings {
            set: Some(MemoryOverrides {
                policy: Some(EvictionPolicy::Lru.into()),
                max_records: Some(0),
                max_bytes: None,
            }),
            revision: 7,
            nodes: vec![
                node(Some(MemoryLimits {
                    policy: EvictionPolicy::Lru.into(),
                    max_records: 0,
                    max_bytes: 1 << 20,
                })),
                node(None),
            ],
        };
        assert_eq!(
            as_text(&settings),
            "set: lru, any number of records\n\
             in force on n1 of cluster c1: lru, any number of records, at most 1 MiB\n\
             in force on n1 of cluster c1: not reached\n"
        );
        assert_eq!(
            as_json(&settings),
            json!({
                "set": {"policy": "lru", "max_records": 0},
                "revision": 7,
                "nodes": [
                    {"cluster": "c1", "node": "n1", "in_force":
                        {"policy": "lru", "max_records": 0, "max_bytes": 1 << 20}},
                    {"cluster": "c1", "node": "n1", "in_force": null},
                ],
            })
        );
        let nothing = as_text(&MemorySettings::default());
        assert!(nothing.starts_with("set: nothing"), "{nothing}");
    }
}
