//! The endpoints for operators: health, metrics and the cluster report.

use serde_json::Value;
use tierkv_openapi::ClusterReport;
use tierkv_tests::ephemeral::Ephemeral;

use crate::{PATIENCE, get, put};

#[tokio::test]
async fn health_metrics_and_the_cluster_report_are_served() {
    let mut platform = Ephemeral::start().await.unwrap();
    let live = get(&platform, "/health/live").await;
    assert_eq!((live.status, &live.body[..]), (200, &b"live\n"[..]));
    let ready = get(&platform, "/health/ready").await;
    assert_eq!((ready.status, &ready.body[..]), (200, &b"ready\n"[..]));
    let page = get(&platform, "/metrics").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(String::from_utf8_lossy(&page.body).contains("tierkv_cache_hits_total"));

    put(&platform, "/v1/kv/default/k", b"v").await;
    let cluster = get(&platform, "/v1/cluster").await;
    assert_eq!(cluster.header("content-type"), Some("application/json"));
    let report: ClusterReport = serde_json::from_slice(&cluster.body).unwrap();
    // The names of roles and health must not change.
    let json: Value = serde_json::from_slice(&cluster.body).unwrap();
    assert_eq!(json["clusters"][0]["members"][0]["role"], "master");
    assert_eq!(json["server_coordinators"][0]["role"], "primary");
    assert_eq!(json["client_coordinators"][0]["role"], "serving");
    assert_eq!(json["cache"][0]["health"], "up");
    assert_eq!((report.placement, report.transactions), (1, 0));
    assert_eq!(report.cache.len(), 1);
    assert_eq!(report.client_coordinators[0].address, platform.grpc);
    assert_eq!(report.server_coordinators[0].role.name(), "primary");
    assert!(report.server_coordinators[0].epoch > 0);
    let [cluster] = &report.clusters[..] else {
        panic!("one cluster, not {report:?}");
    };
    assert_eq!(
        (cluster.slots, cluster.in_sync.as_slice()),
        (4_096, &["n1".to_owned()][..])
    );
    assert_eq!(cluster.master, "n1");
    let [member] = &cluster.members[..] else {
        panic!("one member, not {cluster:?}");
    };
    assert_eq!(
        (member.role.name(), member.pid),
        ("master", platform.process().pid())
    );
    assert!(member.commit_index > 0 && member.commit_index <= member.log_index);
}

#[tokio::test]
async fn an_ephemeral_platform_removes_its_data_when_it_stops() {
    let mut platform = Ephemeral::start().await.unwrap();
    put(&platform, "/v1/kv/default/k", b"v").await;
    let folder = std::path::PathBuf::from(&platform.data_dir);
    assert!(folder.is_dir(), "{}", folder.display());
    let end = platform.process().stop(PATIENCE).await.unwrap();
    assert!(end.success(), "{end}");
    assert!(!folder.exists(), "{} was left behind", folder.display());
}
