use bytes::Bytes;
use tierkv_coordination::{ConfigStore, MemoryCoordination, Revision};
use tierkv_protocol::placement::WeightedCluster;
use tierkv_types::{PlatformId, SystemClock};

use super::*;
use crate::views::Views;

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

async fn follower(store: &MemoryCoordination) -> ClustersFollower {
    let below = Below::follow(PlatformId(1), store, &mut Background::new())
        .await
        .unwrap();
    let inquiry = Inquiry {
        below,
        views: Arc::new(Views::default()),
        clock: Arc::new(SystemClock),
        interval: Duration::from_millis(200),
    };
    inquiry.follower(store).await.unwrap()
}

async fn found(store: &MemoryCoordination, name: &str) -> Revision {
    let record = directory::cluster_state(&cluster(name));
    let founded = store.put_if_absent(&record, Bytes::from_static(b"a state"));
    founded.await.unwrap().won().unwrap()
}

/// The clusters that are asked.
async fn asked(follower: &mut ClustersFollower) -> Vec<ClusterId> {
    follower.apply().await;
    follower.askers.keys().cloned().collect()
}

#[tokio::test]
async fn the_clusters_that_are_placed_and_founded_are_asked() {
    let store = MemoryCoordination::ephemeral();
    let mut follower = follower(&store).await;
    let (first, second) = (cluster("c1"), cluster("c2"));
    found(&store, "c1").await;
    assert!(asked(&mut follower).await.is_empty());
    let clusters = [&first, &second].map(|id| WeightedCluster {
        id: id.clone(),
        weight: 1,
    });
    let map = PlacementMap::initial(clusters.to_vec()).unwrap();
    let placed = store.put_if_absent(directory::PLACEMENT, map.encode());
    let placed = placed.await.unwrap().won().unwrap();
    follower.changed().await.unwrap();
    assert_eq!(asked(&mut follower).await, std::slice::from_ref(&first));
    let founded = found(&store, "c2").await;
    found(&store, "c3").await;
    follower.changed().await.unwrap();
    assert_eq!(asked(&mut follower).await, [first.clone(), second.clone()]);
    // An unreadable map changes nothing; a removed state ends the questions.
    let unreadable = Bytes::from_static(b"nonsense");
    let swap = store.compare_and_swap(directory::PLACEMENT, placed, unreadable);
    let broken = swap.await.unwrap().won().unwrap();
    assert_eq!(asked(&mut follower).await, [first.clone(), second.clone()]);
    let swap = store.compare_and_swap(directory::PLACEMENT, broken, map.encode());
    assert!(swap.await.unwrap().won().is_some());
    let record = directory::cluster_state(&second);
    let removed = store.delete(&record, founded).await.unwrap();
    assert!(removed.won().is_some());
    assert_eq!(asked(&mut follower).await, [first]);
}
