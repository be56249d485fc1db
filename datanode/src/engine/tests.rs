//! What is left of an engine after its end.

use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::{ConfigStore, MemoryCoordination, Swap, directory};
use tierkv_protocol::{
    placement::{PlacementMap, WeightedCluster},
    replication::{ClusterState, DEFAULT_F_MS},
};
use tierkv_rpc::proto::internal::{WatchRequest, data_node_server::DataNode};
use tierkv_storage::{RealDisk, StorageSettings};
use tierkv_types::{ClusterId, Incarnation, NodeId, PlatformId, SystemClock};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{door::Door, interface::Current};

const PATIENCE: Duration = Duration::from_secs(20);

/// The surroundings of the only node of a new cluster.
async fn alone(dir: &TempDir) -> Surroundings<EmbeddedCache> {
    let coordination = MemoryCoordination::ephemeral();
    let (cluster, node) = (ClusterId::new("c1").unwrap(), NodeId::new("n1").unwrap());
    let placed = WeightedCluster {
        id: cluster.clone(),
        weight: 1,
    };
    let first = ClusterState::unfounded(vec![node.clone()], DEFAULT_F_MS);
    let records = [
        (directory::cluster_state(&cluster), first.encode()),
        (
            directory::PLACEMENT.to_owned(),
            PlacementMap::initial(vec![placed]).unwrap().encode(),
        ),
    ];
    for (key, record) in records {
        let put = coordination.put_if_absent(&key, record).await.unwrap();
        assert!(matches!(put, Swap::Won(_)));
    }
    let storage = StorageSettings::new(dir.path().join("n1"));
    let presence = Presence::of_this_process("127.0.0.1:1".to_owned());
    Surroundings {
        name: ProcessName {
            platform: PlatformId(1),
            cluster: Some(cluster.clone()),
            node: node.clone(),
            incarnation: Incarnation(presence.incarnation),
        },
        settings: DataNodeSettings::new(PlatformId(1), node, cluster, storage),
        presence,
        coordination,
        cache: Arc::new(EmbeddedCache::new(1 << 20, Arc::new(SystemClock))),
        clock: Arc::new(SystemClock),
        disk: Arc::new(RealDisk),
        failure: Failure::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_nobody_reads_holds_nothing_of_an_engine_that_ended() {
    let dir = TempDir::new().unwrap();
    let around = alone(&dir).await;
    let (clock, disk) = (Arc::clone(&around.clock), Arc::clone(&around.disk));
    let opened = Opened::open(&around.settings, &around.name, clock, disk, None).await;
    let engine = Engine::start(opened.unwrap(), &around).await.unwrap();
    let (publish, current) = Current::none();
    publish.send_replace(Some(Arc::clone(engine.interface())));
    let door = Door::new(current.clone(), around.presence.clone());
    let limit = Instant::now() + PATIENCE;
    while !current.is_ready() {
        assert!(Instant::now() < limit, "it does not become master");
        sleep(Duration::from_millis(10)).await;
    }
    let request = WatchRequest {
        prefix: "default\0".into(),
        positions: Vec::new(),
    };
    let opened = door.watch(tonic::Request::new(request)).await.unwrap();
    let mut stalled = opened.into_inner();
    stalled.next().await.unwrap().unwrap();

    let storage = Arc::downgrade(&engine.storage);
    let sequencer = Arc::downgrade(&engine.interface().service.sequencer);
    publish.send_replace(None);
    engine.end().await.unwrap();
    let limit = Instant::now() + PATIENCE;
    while storage.strong_count() + sequencer.strong_count() > 0 {
        assert!(Instant::now() < limit, "the watch holds the engine's state");
        sleep(Duration::from_millis(10)).await;
    }
    // Whoever reads on hears that it must ask elsewhere, or again.
    let last_word = stalled.next().await.unwrap().unwrap_err();
    assert_eq!(last_word.code(), tonic::Code::Unavailable);
    assert!(stalled.next().await.is_none());
}
