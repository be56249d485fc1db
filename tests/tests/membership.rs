//! Operators change a running cluster of three nodes, under writers: handovers, another failover
//! time, a node more and a node less, and a stop of the master. No write is lost, and none fails.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tierkv::Client;
use tierkv_harness::{Process, poll_until, port::free_port};
use tierkv_tests::{
    flood::Flood,
    http,
    many_processes::cluster,
    operator::{self, Ended},
    trial::{CLUSTER, PATIENCE, Trial},
};
use tokio::task::JoinHandle;

const WRITERS: usize = 4;
/// Timeout of a write.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Acknowledged writes that show that the cluster is at work.
const SOME: u64 = 100;
/// Handovers in a row.
const HANDOVERS: usize = 6;
/// The longest time that a handover may stop writes on a machine that has other work: below F, after
/// which the others would elect a master anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

async fn admin(trial: &Trial, words: &[&str]) -> Ended {
    operator::admin(&trial.platform, words).await.unwrap()
}

async fn more(trial: &Trial, flood: &Flood, when: &str) {
    trial.more(flood, SOME, PATIENCE, when).await;
}

/// Ends the writers: none of their writes failed, and all of them are there.
async fn check(trial: &mut Trial, flood: Flood, when: &str) {
    let some = flood.end().await;
    assert!(some.failures().is_empty(), "{when}: {:?}", some.failures());
    trial.check(some, when).await;
}

/// Starts the process of another node, with its own folder and addresses. Returns that of its
/// metrics.
fn start_node(trial: &mut Trial, node: &str) -> String {
    let like = trial.platform.member("n1").unwrap();
    let dir = format!("{}-{node}", like.option("--data-dir").unwrap());
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let metrics = format!("127.0.0.1:{}", free_port().unwrap());
    let options = [
        ("--node", node),
        ("--data-dir", &dir),
        ("--listen", &listen),
        ("--metrics-listen", &metrics),
    ];
    trial.platform.start_like(node, "n1", &options).unwrap();
    metrics
}

/// Writes one key again and again; measures the longest time between two acknowledgements.
struct Pauses {
    ends: Arc<AtomicBool>,
    task: JoinHandle<Duration>,
}

impl Pauses {
    fn measure(client: &Client) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (client, ending) = (client.clone(), Arc::clone(&ends));
        let task = tokio::spawn(async move {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !ending.load(Ordering::Relaxed) {
                client.put("pause", "value").await.unwrap();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        });
        Self { ends, task }
    }

    async fn longest(self) -> Duration {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// How often a node lost its mastership to another, by its log: one that just ends does not.
fn losses(log: &str) -> usize {
    log.matches("lost mastership").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_loses_no_write_and_fails_none() {
    let mut trial = Trial::start(WRITE_LIMIT).await;
    trial.in_sync("at the start").await;
    let flood = trial.writers(WRITERS);
    more(&trial, &flood, "at the start").await;
    let mut epoch = 0;
    for number in 0..HANDOVERS {
        let before = trial.master().await;
        let to = trial.replicas().await.swap_remove(number % 2);
        let words = ["handover", "--cluster", CLUSTER, "--to", &to, "-o", "json"];
        // Every other time, whoever is best.
        let words = match number % 2 {
            0 => &words[..],
            _ => &["handover", "--cluster", CLUSTER, "-o", "json"],
        };
        let pauses = Pauses::measure(&trial.client);
        let ended = admin(&trial, words).await.json().unwrap();
        more(&trial, &flood, "after a handover").await;
        let longest = pauses.longest().await;
        let master = ended["master"].as_str().unwrap().to_owned();
        println!("handover {number} from {before} to {master}: the longest pause was {longest:?}");
        assert!(longest < LONGEST_PAUSE, "{longest:?}: {}", trial.logs());
        assert_ne!(master, before);
        assert!(number % 2 != 0 || master == to, "{ended}");
        assert_eq!(ended["changed"], true);
        assert!(ended["epoch"].as_u64().unwrap() > epoch, "{ended}");
        epoch = ended["epoch"].as_u64().unwrap();
    }
    check(&mut trial, flood, "handovers").await;

    let master = trial.master().await;
    let words = ["handover", "--cluster", CLUSTER, "--to", &master];
    let again = admin(&trial, &words).await;
    assert!(again.out.contains("already"), "{again:?}");
    let unknown = admin(&trial, &["handover", "--cluster", CLUSTER, "--to", "n9"]);
    unknown.await.is_refused(1, "no such node").unwrap();
    let nowhere = admin(&trial, &["handover", "--cluster", "c9"]).await;
    nowhere
        .is_refused(1, "the platform has no cluster c9; it has c1")
        .unwrap();

    // SIGTERM of the master is a handover, too.
    let flood = trial.writers(WRITERS);
    more(&trial, &flood, "before the stop").await;
    let before = trial.master().await;
    let lost_before = losses(&trial.platform.log_of(&before));
    let pauses = Pauses::measure(&trial.client);
    trial.platform.signal(&before, Signal::TERM).unwrap();
    let other = poll_until(PATIENCE, || async {
        (trial.master().await != before).then_some(())
    });
    assert!(other.await.is_some(), "{}", trial.logs());
    more(&trial, &flood, "after the stop").await;
    let longest = pauses.longest().await;
    println!("SIGTERM of the master {before}: the longest pause was {longest:?}");
    assert!(longest < LONGEST_PAUSE, "{longest:?}: {}", trial.logs());
    let log = trial.platform.log_of(&before);
    assert_eq!(losses(&log), lost_before + 1, "{log}");
    check(&mut trial, flood, "the stop of the master").await;
    trial.platform.restart(&before).unwrap();
    trial.in_sync("with all nodes").await;
    trial.platform.stop().await.unwrap();
}

/// F is changed, within its bounds.
async fn change_failover_time(trial: &Trial) {
    let shorter = ["failover-ms", "--cluster", CLUSTER, "500", "-o", "json"];
    let set = admin(trial, &shorter).await.json().unwrap();
    assert_eq!(
        (set["failover_ms"].as_u64(), &set["changed"]),
        (Some(500), &true.into())
    );
    assert_eq!(
        cluster(&trial.client, CLUSTER).await.unwrap().failover_ms,
        500
    );
    let again = admin(trial, &shorter).await.json().unwrap();
    assert_eq!(again["changed"], false);
    let too_short = admin(trial, &["failover-ms", "--cluster", CLUSTER, "100"]).await;
    too_short.is_refused(2, "from 200 to 30000").unwrap();
    let too_long = admin(trial, &["failover-ms", "--cluster", CLUSTER, "9000"]).await;
    too_long
        .is_refused(2, "reads.max_staleness_ms of at least 10450")
        .unwrap();
    let longer = admin(trial, &["failover-ms", "--cluster", CLUSTER, "1000"]).await;
    assert_eq!(longer.code, Some(0), "{longer:?}");
}

/// The status of a health page of a process; `None` if it does not answer.
async fn health(metrics: &str, page: &str) -> Option<u16> {
    let path = format!("/health/{page}");
    let request = http::Request::new("GET", &path);
    Some(request.send(metrics).await.ok()?.status)
}

/// `n4` joins: its process is started first, and waits until the node is added.
async fn add_a_node(trial: &mut Trial) {
    let metrics = start_node(trial, "n4");
    let waits = poll_until(PATIENCE, || async {
        let log = trial.platform.log_of("n4");
        (log.contains("has no node n4 yet")).then_some(log)
    });
    let log = waits.await.unwrap_or_else(|| panic!("{}", trial.logs()));
    assert!(log.contains("add-node --cluster c1 --node n4`"), "{log}");
    assert_eq!(health(&metrics, "live").await, Some(200));
    assert_eq!(health(&metrics, "ready").await, Some(503));
    let add = |rest: &[&'static str]| {
        [
            &["add-node", "--cluster", CLUSTER, "--node", "n4"][..],
            rest,
        ]
        .concat()
    };
    let added = admin(trial, &add(&["-o", "json"])).await;
    let added = added
        .json()
        .unwrap_or_else(|why| panic!("{why}\n{}", trial.logs()));
    assert_eq!(
        (&added["changed"], &added["in_sync"]),
        (&true.into(), &true.into())
    );
    let again = admin(trial, &add(&["--no-wait", "-o", "json"])).await;
    let again = again.json().unwrap();
    assert_eq!(
        (&again["changed"], &again["in_sync"]),
        (&false.into(), &true.into())
    );
    let ready = poll_until(PATIENCE, || async {
        (health(&metrics, "ready").await? == 200).then_some(())
    });
    assert!(ready.await.is_some(), "n4 is in sync and not ready");
    let seen = cluster(&trial.client, CLUSTER).await.unwrap();
    assert_eq!((seen.members.len(), seen.in_sync.len()), (4, 4), "{seen:?}");
    let elsewhere = admin(trial, &["add-node", "--cluster", "c9", "--node", "n9"]).await;
    elsewhere.is_refused(1, "no cluster c9").unwrap();
}

/// It leaves for good.
async fn remove_it(trial: &mut Trial) {
    let remove = |node| ["remove-node", "--cluster", CLUSTER, "--node", node];
    let master = trial.master().await;
    let refused = admin(trial, &remove(&master)).await;
    refused.is_refused(1, "hand over first").unwrap();
    let removed = admin(trial, &remove("n4")).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let process = trial.platform.restarted("n4").unwrap();
    let ended = process.wait_until("end", PATIENCE, Process::status).await;
    assert_eq!(ended.unwrap().code(), Some(2));
    let log = trial.platform.log_of("n4");
    assert!(log.contains("node n4 was removed from cluster c1"), "{log}");
    let unknown = admin(trial, &remove("n4")).await;
    unknown.is_refused(1, "no such node").unwrap();
}

/// No removal leaves too few logs in sync.
async fn keep_enough_in_sync(trial: &mut Trial) {
    let remove = |node| ["remove-node", "--cluster", CLUSTER, "--node", node];
    // Of three, one is away: without another one too few would be left.
    let replicas = trial.replicas().await;
    let [away, other] = &replicas[..] else {
        panic!("two replicas");
    };
    trial.platform.kill9(away).await.unwrap();
    let shed = poll_until(PATIENCE, || async {
        let seen = cluster(&trial.client, CLUSTER).await?;
        (seen.in_sync.len() == 2).then_some(())
    });
    assert!(shed.await.is_some(), "{}", trial.logs());
    let refused = admin(trial, &remove(other)).await;
    refused
        .is_refused(1, "fewer logs would be in sync")
        .unwrap();
    trial.platform.restart(away).unwrap();
    trial.in_sync("with all nodes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_and_the_failover_time_changes() {
    let mut trial = Trial::start(WRITE_LIMIT).await;
    trial.in_sync("at the start").await;
    let flood = trial.writers(WRITERS);
    more(&trial, &flood, "at the start").await;

    change_failover_time(&trial).await;
    add_a_node(&mut trial).await;
    more(&trial, &flood, "with four nodes").await;
    remove_it(&mut trial).await;
    more(&trial, &flood, "with three nodes").await;
    keep_enough_in_sync(&mut trial).await;
    check(&mut trial, flood, "nodes came and went").await;
    trial.platform.stop().await.unwrap();
}
