//! Changes of the cluster of three by an operator.

use std::time::Duration;

use crate::{fault::Side, stage::Stage};

/// How soon the process of a removed node stops.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Hands the mastership over to another node.
pub(crate) async fn hand_over(stage: &Stage) {
    let before = stage.names(Side::Master).await;
    let master = admin(&["handover"], stage).await;
    assert_ne!([master], *before);
}

/// Removes a node for good, and adds one of the same name, whose disk is new.
pub(crate) async fn replace(node: &str, stage: &mut Stage) {
    admin(&["remove-node", "--node", node], stage).await;
    let process = stage.platform.process(node).unwrap();
    let stopped = process.wait_until("stop after its removal", STOPS_WITHIN, |it| it.status());
    stopped.await.unwrap();
    stage.platform.wipe(node).unwrap();
    admin(&["add-node", "--no-wait", "--node", node], stage).await;
    stage.platform.restart(node).unwrap();
    // Waits until it is in sync.
    admin(&["add-node", "--node", node], stage).await;
}

/// Runs an operator's command on the cluster of three.
async fn admin(words: &[&str], stage: &Stage) -> String {
    let words = [&["admin"], words, &["--cluster", "c1", "--output", "raw"]].concat();
    stage.platform.command(&words).await.unwrap()
}
