use tierkv_coordination::{ConfigStore, MemoryCoordination};

use super::*;
use crate::founding::Founding;

fn cluster(id: &str, members: &[&str]) -> FoundingCluster {
    FoundingCluster {
        id: ClusterId::new(id).unwrap(),
        weight: 1,
        members: members.iter().map(|it| NodeId::new(it).unwrap()).collect(),
    }
}

fn added(id: &str, members: &[&str]) -> AddedCluster {
    AddedCluster {
        cluster: cluster(id, members),
        f_ms: 1_000,
    }
}

async fn founded() -> std::sync::Arc<MemoryCoordination> {
    let coordination = MemoryCoordination::ephemeral();
    let founding = Founding {
        platform: PlatformId(1),
        clusters: vec![cluster("c1", &["n1"]), cluster("c2", &["n2"])],
        f_ms: 1_000,
    };
    founding.carry_out(&*coordination).await.unwrap();
    coordination
}

async fn map(coordination: &MemoryCoordination) -> PlacementMap {
    let stored = coordination.get(directory::PLACEMENT).await.unwrap();
    PlacementMap::decode(&stored.unwrap().value).unwrap()
}

async fn state(coordination: &MemoryCoordination, id: &str) -> Option<ClusterState> {
    let key = directory::cluster_state(&ClusterId::new(id).unwrap());
    let stored = coordination.get(&key).await.unwrap();
    stored.map(|stored| ClusterState::decode(&stored.value).unwrap())
}

/// Words of a refusal, after which nothing is different.
async fn refused(coordination: &MemoryCoordination, addition: &AddedCluster) -> String {
    let id = addition.cluster.id.as_str();
    let before = (map(coordination).await, state(coordination, id).await);
    let error = addition.carry_out(coordination).await.unwrap_err();
    let after = (map(coordination).await, state(coordination, id).await);
    assert_eq!(before, after);
    error.to_string()
}

#[tokio::test]
async fn a_cluster_is_added_once_and_owns_nothing() {
    let coordination = founded().await;
    let before = map(&coordination).await;
    let addition = added("c3", &["n3"]);
    assert_eq!(
        addition.carry_out(&*coordination).await.unwrap(),
        PlatformId(1)
    );
    let after = map(&coordination).await;
    assert_eq!(after.version, before.version + 1);
    assert_eq!(after.runs(), before.runs());
    let id = ClusterId::new("c3").unwrap();
    assert!(after.has(&id) && after.share(&id) == 0);
    assert!(state(&coordination, "c3").await.unwrap().is_unfounded());

    let words = refused(&coordination, &addition).await;
    assert!(
        words.contains("cluster c3 already") && words.contains("n3"),
        "{words}"
    );
    let words = refused(&coordination, &added("c1", &["n9"])).await;
    assert!(words.contains("cluster c1 already"), "{words}");
    for (node, of) in [("n1", "c1"), ("n3", "c3")] {
        let words = refused(&coordination, &added("c4", &[node])).await;
        assert!(
            words.contains(&format!("{node} belongs to cluster {of}")),
            "{words}"
        );
    }
}

#[tokio::test]
async fn an_interrupted_addition_is_completed_by_the_same_nodes_only() {
    let coordination = founded().await;
    let addition = added("c3", &["n3"]);
    addition.create_state(&*coordination).await.unwrap();
    let words = refused(&coordination, &added("c3", &["n4"])).await;
    assert!(
        words.contains("add-cluster c3=n3 --failover-ms 1000"),
        "{words}"
    );
    let mut hasty = addition.clone();
    hasty.f_ms = 500;
    let words = refused(&coordination, &hasty).await;
    assert!(words.contains("--failover-ms 1000"), "{words}");
    addition.carry_out(&*coordination).await.unwrap();
    assert!(map(&coordination).await.has(&addition.cluster.id));
}

#[tokio::test]
async fn without_a_founded_platform_nothing_is_added() {
    let coordination = MemoryCoordination::ephemeral();
    let platform = Platform::new(PlatformId(1), vec![cluster("c1", &["n1"])]);
    for is_begun in [false, true] {
        if is_begun {
            let put = coordination.put_if_absent(directory::PLATFORM, platform.encode());
            assert!(put.await.unwrap().won().is_some());
        }
        let error = added("c3", &["n3"]).carry_out(&*coordination).await;
        let words = error.unwrap_err().to_string();
        assert!(words.contains("tierkv admin init"), "{words}");
        assert_eq!(state(&coordination, "c3").await, None);
    }
}

#[tokio::test]
async fn unusable_clusters_are_refused() {
    let coordination = founded().await;
    let mut hasty = added("c3", &["n3"]);
    hasty.f_ms = 100;
    let words = refused(&coordination, &hasty).await;
    assert!(words.contains("at least 200"), "{words}");
    assert!(
        refused(&coordination, &added("c3", &[]))
            .await
            .contains("no node")
    );
    let words = refused(&coordination, &added("c3", &["n3", "n3"])).await;
    assert!(words.contains("twice"), "{words}");
}
