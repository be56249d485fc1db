//! The metrics page: complete from the start, as documented, and how long operations take.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    time::{Duration, Instant},
};

use tierkv::{
    Client, Consistency, ReadOptions, Selection, Write,
    rpc::{
        channel,
        proto::v1::{DeleteRequest, GetRequest, kv_client::KvClient},
    },
};
use tierkv_harness::{Options, TierKv, poll_until};
use tierkv_tests::{
    binary::repository,
    http::Request,
    metrics::{Labels, Page},
};
use tierkv_types::Code;

const NAMESPACE: &str = "default";
/// How long figures may take to be what they must become.
const PATIENCE: Duration = Duration::from_secs(30);

const CLIENT_COORDINATOR: &str = "client-coordinator";
const TIERS_BELOW: [&str; 2] = ["server-coordinator", "datanode"];
const OPERATIONS: [&str; 9] = [
    "count",
    "delete",
    "get",
    "increment",
    "put",
    "scan",
    "touch",
    "watch",
    "write",
];
const OPERATIONS_BELOW: [&str; 6] = ["count", "read", "scan", "vouch", "watch", "write"];

async fn start() -> TierKv {
    TierKv::start(Options::default()).await.unwrap()
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.connect().await.unwrap()
}

async fn page(platform: &TierKv) -> Page {
    Page::fetch(platform.rest()).await.unwrap()
}

/// The metrics of the table in the documentation, with the names of their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let rows = (text.lines()).filter(|line| line.starts_with("| `tierkv_"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .map(|name| {
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            let labels = labels.strip_suffix('}').unwrap().split(',');
            let labels = labels.filter(|label| !label.is_empty());
            (name.to_owned(), labels.map(str::to_owned).collect())
        })
        .collect()
}

#[tokio::test]
async fn a_fresh_page_has_what_is_documented_and_nothing_else() {
    let platform = start().await;
    let page = page(&platform).await;
    let shown = page.types.keys().map(|name| {
        let labels = page.of(name).flat_map(|series| series.labels.keys());
        let labels: BTreeSet<String> = labels.filter(|it| *it != "le").cloned().collect();
        (name.clone(), labels)
    });
    let shown: BTreeMap<String, BTreeSet<String>> = shown.collect();
    assert!(shown.len() > 40, "{shown:?}");
    assert_eq!(shown, documented());
    for (name, kind) in &page.types {
        assert!(page.of(name).next().is_some(), "{name} has no figure");
        assert_ne!(kind, "summary", "{name}: quantiles can't be added up");
        if kind == "counter" {
            assert!(name.ends_with("_total"), "{name}");
            for series in page.of(name) {
                assert!(series.value == 0.0, "{series:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_fresh_page_has_a_line_for_each_value_of_a_label() {
    let platform = start().await;
    let page = page(&platform).await;
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let waits = [
        "log_queue_bytes",
        "log_segment",
        "pinned_limit_bytes",
        "remembered_requests",
        "uncommitted_bytes",
    ];
    let refusals = [
        &waits[..],
        &["descriptors", "disk_space", "max_record_bytes"],
    ]
    .concat();
    let doors = ["datanode", "grpc", "rest", "server-coordinator"];
    let times = [
        "limits.body_timeout_ms",
        "limits.head_timeout_ms",
        "limits.rest_idle_timeout_ms",
    ];
    let tiers = [&TIERS_BELOW[..], &[CLIENT_COORDINATOR]].concat();
    for (metric, label, values) in [
        ("tierkv_errors_total", "code", &codes[..]),
        ("tierkv_operations_total", "operation", &OPERATIONS),
        ("tierkv_write_waits_total", "limit", &waits),
        ("tierkv_write_refusals_total", "limit", &refusals),
        ("tierkv_connections_refused_total", "door", &doors),
        ("tierkv_accept_failures_total", "door", &doors),
        ("tierkv_connection_timeouts_total", "door", &doors),
        ("tierkv_connection_timeouts_total", "limit", &times),
        ("tierkv_operation_seconds_count", "tier", &tiers),
    ] {
        let expected: BTreeSet<&str> = values.iter().copied().collect();
        assert_eq!(page.values(metric, label), expected, "{metric}");
    }
    let timed = page.series.iter().filter(|series| series.name == COUNT);
    let timed = timed.map(|series| (&*series.labels["tier"], &*series.labels["operation"]));
    let above = OPERATIONS.iter().chain(&["batch_get"]);
    let mut expected: BTreeSet<(&str, &str)> = above
        .map(|operation| (CLIENT_COORDINATOR, *operation))
        .collect();
    for tier in TIERS_BELOW {
        expected.extend(OPERATIONS_BELOW.map(|operation| (tier, operation)));
    }
    assert_eq!(timed.collect::<BTreeSet<_>>(), expected);
}

const COUNT: &str = "tierkv_operation_seconds_count";

/// How many operations each tier has measured, but for those that run by themselves.
fn counts(page: &Page) -> BTreeMap<(String, String), u64> {
    let counts = page.series.iter().filter(|series| series.name == COUNT);
    let counts = counts.map(|series| {
        let label = |name: &str| series.labels[name].clone();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = series.value as u64;
        ((label("tier"), label("operation")), count)
    });
    counts
        .filter(|((_, operation), count)| operation != "vouch" && *count > 0)
        .collect()
}

/// Does something, and waits until it was measured: once as `operation` in the tier of users,
/// and once as `below`, if it goes there, in each tier below.
async fn measured<T>(
    platform: &TierKv,
    operation: &str,
    below: Option<&str>,
    done: impl Future<Output = T>,
) -> T {
    let mut expected = counts(&page(platform).await);
    let mut one_more = |tier: &str, operation: &str| {
        *expected
            .entry((tier.to_owned(), operation.to_owned()))
            .or_default() += 1;
    };
    one_more(CLIENT_COORDINATOR, operation);
    for tier in TIERS_BELOW {
        below.iter().for_each(|below| one_more(tier, below));
    }
    let outcome = done.await;
    let last = RefCell::new(BTreeMap::new());
    let reached = poll_until(PATIENCE, || async {
        *last.borrow_mut() = counts(&page(platform).await);
        (*last.borrow() == expected).then_some(())
    });
    let is_reached = reached.await.is_some();
    assert!(is_reached, "{operation}: {last:?}, not {expected:?}");
    outcome
}

fn latest() -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    }
}

#[tokio::test]
async fn each_operation_is_measured_once_in_each_tier_that_it_passes() {
    let platform = start().await;
    let client = connect(&platform).await;
    let below = Some("write");
    let put = client.put("n", "1");
    measured(&platform, "put", below, put).await.unwrap();
    let increment = client.increment("n", 2);
    measured(&platform, "increment", below, increment)
        .await
        .unwrap();
    let touch = client.touch("n", Duration::from_secs(600));
    measured(&platform, "touch", below, touch).await.unwrap();
    let write = client.write(Write::new().put("w", "1"));
    measured(&platform, "write", below, write).await.unwrap();
    let delete = client.delete("w");
    measured(&platform, "delete", below, delete).await.unwrap();

    let below = Some("read");
    let get = client.get_with("n", latest());
    measured(&platform, "get", below, get).await.unwrap();
    let batch = client.batch_get_with(&["n"], latest());
    measured(&platform, "batch_get", below, batch)
        .await
        .unwrap();

    let count = client.count(Selection::prefix("n"));
    let counted = measured(&platform, "count", Some("count"), count).await;
    assert_eq!(counted.unwrap(), 1);
    let scan = async {
        let mut scan = client.scan(Selection::prefix("n"));
        let item = scan.next().await.unwrap().unwrap();
        assert!(scan.next().await.is_none());
        item
    };
    let item = measured(&platform, "scan", Some("scan"), scan).await;
    assert_eq!(item.key, "n");
    // It is measured when it has begun, while it goes on.
    let watch = client.watch("n");
    let watch = measured(&platform, "watch", Some("watch"), watch).await;
    drop(watch.unwrap());

    let page = page(&platform).await;
    for tier in TIERS_BELOW {
        let vouches = page.sum(COUNT, &[("tier", tier), ("operation", "vouch")]);
        assert!(vouches > 0.0, "{tier}");
    }
}

#[tokio::test]
async fn a_connection_is_measured_as_no_operation() {
    let platform = start().await;
    let client = connect(&platform).await;
    drop(connect(&platform).await);
    let put = client.put("k", "v");
    measured(&platform, "put", Some("write"), put)
        .await
        .unwrap();
    let counted = counts(&page(&platform).await);
    let above = counted
        .keys()
        .filter(|(tier, _)| tier == CLIENT_COORDINATOR);
    let above: Vec<&str> = above.map(|(_, operation)| &**operation).collect();
    assert_eq!(above, ["put"]);
}

#[tokio::test]
async fn a_hit_is_measured_in_no_tier_below_at_whichever_door() {
    let platform = start().await;
    let client = connect(&platform).await;
    client.put("k", "v").await.unwrap();
    let hits = async || page(&platform).await.sum("tierkv_cache_hits_total", &[]);
    let cached = poll_until(PATIENCE, || async {
        let before = hits().await;
        client.get("k").await.unwrap();
        (hits().await > before).then_some(())
    });
    cached.await.expect("the key is never read from the cache");

    let before = hits().await;
    let by_session = client.get("k");
    measured(&platform, "get", None, by_session).await.unwrap();
    let mut unary = KvClient::new(channel(platform.grpc()).unwrap());
    let request = GetRequest {
        namespace: NAMESPACE.to_owned(),
        key: "k".into(),
        options: None,
    };
    let by_call = unary.get(request);
    measured(&platform, "get", None, by_call).await.unwrap();
    let by_rest = Request::new("GET", "/v1/kv/default/k").send(platform.rest());
    let answer = measured(&platform, "get", None, by_rest).await.unwrap();
    assert_eq!(answer.body, b"v");
    let batch = client.batch_get(&["k", "k"]);
    measured(&platform, "batch_get", None, batch).await.unwrap();
    assert!(hits().await - before == 5.0);
}

#[tokio::test]
async fn what_is_refused_is_measured_where_it_came_to() {
    let platform = start().await;
    let client = connect(&platform).await;
    client.put("word", "none").await.unwrap();
    let increment = client.increment("word", 1);
    let refused = measured(&platform, "increment", Some("write"), increment).await;
    refused.unwrap_err();
    let mut unary = KvClient::new(channel(platform.grpc()).unwrap());
    // A key has at least one byte.
    let request = DeleteRequest {
        namespace: NAMESPACE.to_owned(),
        ..DeleteRequest::default()
    };
    let delete = unary.delete(request);
    let refused = measured(&platform, "delete", None, delete).await;
    refused.unwrap_err();
    let request = GetRequest {
        namespace: "no namespace".to_owned(),
        ..GetRequest::default()
    };
    let get = unary.get(request);
    let refused = measured(&platform, "get", None, get).await;
    refused.unwrap_err();
    assert!(page(&platform).await.sum("tierkv_errors_total", &[]) == 3.0);
}

/// The buckets of one histogram, by their bounds, with how many values each has alone.
fn buckets(page: &Page, metric: &str, labels: &Labels) -> Vec<(f64, f64)> {
    let name = format!("{metric}_bucket");
    let lines = page.series.iter().filter(|series| {
        let mut own = series.labels.clone();
        let is_bucket = own.remove("le").is_some();
        series.name == name && is_bucket && own == *labels
    });
    let mut below = (0.0, 0.0);
    lines
        .map(|line| {
            let bound: f64 = line.labels["le"].parse().unwrap();
            assert!(bound > below.0, "{metric}: {bound} after {}", below.0);
            let alone = line.value - below.1;
            assert!(alone >= 0.0, "{metric}: less up to {bound} than before");
            below = (bound, line.value);
            (bound, alone)
        })
        .collect()
}

#[tokio::test]
async fn histograms_add_up() {
    let platform = start().await;
    let began = Instant::now();
    let client = connect(&platform).await;
    for nth in 0..50 {
        client.put(format!("k{nth}"), "v").await.unwrap();
        client.get_with(format!("k{nth}"), latest()).await.unwrap();
    }
    let page = page(&platform).await;
    let took = began.elapsed().as_secs_f64();
    let histograms = page.types.iter().filter(|(_, kind)| *kind == "histogram");
    let mut filled = 0;
    for (metric, _) in histograms {
        let counts = page
            .of(metric)
            .filter(|series| series.name.ends_with("_count"));
        for count in counts {
            let labels: Vec<_> = (count.labels.iter())
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let sum = page.sum(&format!("{metric}_sum"), &labels);
            let buckets = buckets(&page, metric, &count.labels);
            let all: f64 = buckets.iter().map(|(_, alone)| alone).sum();
            assert!(all == count.value, "{count:?}: {all}");
            let most: f64 = (buckets.iter().filter(|(_, alone)| *alone > 0.0))
                .map(|(bound, alone)| bound * alone)
                .sum();
            assert!(sum <= most + 1e-9, "{count:?}: {sum} of at most {most}");
            assert_eq!(sum > 0.0, count.value > 0.0, "{count:?}: {sum}");
            filled += usize::from(count.value > 0.0);
        }
    }
    assert!(filled >= 8, "{filled}");
    // One after the other, so together they took less than all of it; and a tier more than
    // the one below it.
    let seconds = |tier, operation| {
        let labels = [("tier", tier), ("operation", operation)];
        page.sum("tierkv_operation_seconds_sum", &labels)
    };
    let puts = ["put", "write", "write"];
    let gets = ["get", "read", "read"];
    let [server_coordinator, datanode] = TIERS_BELOW;
    for [above, between, below] in [puts, gets] {
        let above = seconds(CLIENT_COORDINATOR, above);
        let (between, below) = (
            seconds(server_coordinator, between),
            seconds(datanode, below),
        );
        assert!(
            took > above && above > between && between > below,
            "{took} {above} {between} {below}"
        );
    }
}
