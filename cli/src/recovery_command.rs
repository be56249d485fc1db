//! The command that recovers a node, for the messages that advise it. The tiers below do not know
//! the options that lead to a node, so their messages have a placeholder.

use std::path::Path;

use tierkv_coordination::Location;
use tierkv_types::{ClusterId, NodeId};

/// How the messages of data node and storage name the command.
const PLACEHOLDER: &str = "tierkv admin recover --data-dir DIR";

/// The command for a node, without `--accept-loss`.
pub(crate) fn recovery_command(
    data_dir: &Path,
    cluster: &ClusterId,
    node: &NodeId,
    coordination: &Location,
) -> String {
    let url = match coordination {
        Location::Memory => String::new(),
        Location::Etcd(_) => format!(" --coordination-url {coordination}"),
    };
    format!(
        "tierkv admin recover --data-dir {} --cluster {cluster} --node {node}{url}",
        data_dir.display()
    )
}

/// Replaces the placeholder in a message by the command.
pub(crate) fn with_command(message: &str, command: &str) -> String {
    message.replace(PLACEHOLDER, command)
}

#[cfg(test)]
mod tests {
    use tierkv_storage::StorageError;

    use super::*;

    #[test]
    fn the_advice_of_a_message_leads_to_the_node() {
        let (cluster, node) = (ClusterId::new("c3").unwrap(), NodeId::new("n3").unwrap());
        let url = "etcd://127.0.0.1:2379/shop";
        let location = url.parse().unwrap();
        let command = recovery_command(Path::new("data"), &cluster, &node, &location);
        let error = StorageError::Unsynced {
            dir: "data/c3/n3".into(),
        };
        let message = with_command(&error.to_string(), &command);
        let exact = format!(
            "run `tierkv admin recover --data-dir data --cluster c3 --node n3 --coordination-url \
             {url}`"
        );
        assert!(message.ends_with(&exact), "{message}");
    }
}
