//! The platform on which the deck is played.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use tierkv::Client;
use tierkv_harness::{Fleet, Network, fleet::data::DataCopy, poll_until};
use tierkv_tests::{
    history::{Totals, Workload},
    many_processes::{all_in_sync, cluster},
};

use crate::{equality::Content, fault::Side};

/// How many nodes each cluster has: `n1` to `n3` are `c1`, and `n4` is `c2`.
const CLUSTERS: [u16; 2] = [3, 1];
/// The cluster of three.
const CLUSTER: &str = "c1";
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Small segments, so that the log has many; and so few of them that nodes rejoin by snapshot, too.
const SETTINGS: [(&str, &str); 2] = [
    ("TIERKV_WAL_SEGMENT_BYTES", "1048576"),
    ("TIERKV_WAL_MAX_BYTES", "16777216"),
];
/// Timeout of an operation: longer than any fault, so that few outcomes stay unknown.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// Timeout for the operations that a round needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How soon after a round all nodes must be in sync.
const IN_SYNC_AGAIN: Duration = Duration::from_secs(60);

/// The platform, and a client of it that can use any client coordinator.
pub(crate) struct Stage {
    pub(crate) platform: Fleet,
    pub(crate) client: Client,
    /// The data of the three nodes at the beginning.
    old: BTreeMap<&'static str, Rc<DataCopy>>,
}

impl Stage {
    pub(crate) async fn start(network: Option<Network>) -> Self {
        let platform = Fleet::start(&CLUSTERS, &SETTINGS, network).await.unwrap();
        let addresses = platform.addresses("client-coordinator", "grpc-listen");
        let client = connect(&addresses).await;
        let mut stage = Self {
            platform,
            client,
            old: BTreeMap::new(),
        };
        stage.in_sync().await;
        let old = NODES.map(|node| (node, Rc::new(stage.copy(node))));
        stage.old = BTreeMap::from(old);
        stage
    }

    /// Copies a node's data while it stands still, so that its files fit each other.
    pub(crate) fn copy(&mut self, node: &str) -> DataCopy {
        self.platform.process(node).unwrap().pause().unwrap();
        let copy = self.platform.copy_data(node);
        self.platform.process(node).unwrap().resume().unwrap();
        copy.unwrap()
    }

    /// The data of one of the three nodes at the beginning.
    pub(crate) fn old_copy(&self, node: &str) -> Rc<DataCopy> {
        Rc::clone(&self.old[node])
    }

    /// For each client coordinator, a client that uses no other one, so that each has work in every
    /// round, and one that goes to the others when it fails.
    pub(crate) async fn clients(&self) -> Vec<Client> {
        let mut addresses = (self.platform).addresses("client-coordinator", "grpc-listen");
        let mut clients = Vec::new();
        for _ in 0..addresses.len() {
            for some in [&addresses[..1], &addresses] {
                clients.push(connect(some).await);
            }
            addresses.rotate_left(1);
        }
        clients
    }

    /// The names of processes.
    pub(crate) async fn names(&self, side: Side) -> Vec<String> {
        match side {
            Side::One(name) => vec![name.to_owned()],
            Side::Primary => vec![self.primary().await],
            Side::Etcd => self.platform.names_of("etcd"),
            Side::Master => vec![self.master().await],
            Side::Replica => self.replicas().await[..1].to_vec(),
            Side::Replicas => self.replicas().await,
            Side::Members => NODES.map(str::to_owned).to_vec(),
            Side::All => self.platform.names(),
        }
    }

    async fn primary(&self) -> String {
        let found = poll_until(PATIENCE, || async {
            let report = self.client.cluster().await.ok()?;
            let coordinators = report.server_coordinators.into_iter();
            (coordinators.filter(|coordinator| coordinator.epoch > 0))
                .map(|primary| primary.node)
                .next()
        });
        found.await.expect("there is a primary")
    }

    /// The master of the cluster of three, once it has one that answers.
    async fn master(&self) -> String {
        let found = poll_until(PATIENCE, || async {
            let seen = cluster(&self.client, CLUSTER).await?;
            let master = seen.members.iter().find(|it| it.node == seen.master);
            master.is_some_and(|it| it.reachable).then_some(seen.master)
        });
        found.await.expect("the cluster of three has a master")
    }

    async fn replicas(&self) -> Vec<String> {
        let master = self.master().await;
        let replicas = NODES.into_iter().filter(|node| *node != master);
        replicas.map(str::to_owned).collect()
    }

    /// Waits until all nodes of the cluster of three are in sync and have all of the log committed.
    /// Returns its last index, and how long that took.
    pub(crate) async fn in_sync(&self) -> (u64, Duration) {
        let began = Instant::now();
        let seen = all_in_sync(&self.client, CLUSTER, IN_SYNC_AGAIN).await;
        let seen = seen.unwrap_or_else(|state| panic!("{state}"));
        (seen.members[0].commit_index, began.elapsed())
    }

    /// Waits until all nodes of the cluster of three are in sync, while clients write.
    pub(crate) async fn in_sync_under_load(&self) {
        let in_sync = poll_until(IN_SYNC_AGAIN, || async {
            let seen = cluster(&self.client, CLUSTER).await?;
            let answer = seen.members.iter().all(|member| member.reachable);
            let is_whole = seen.in_sync.len() == seen.members.len();
            (answer && is_whole).then_some(())
        });
        in_sync.await.expect("all nodes are in sync again");
    }

    /// Waits until the nodes of the cluster of three are in sync, and compares everything that they
    /// have. Returns what was found, in words.
    pub(crate) async fn compare_nodes(&mut self) -> String {
        let (commit, in_sync) = self.in_sync().await;
        let began = Instant::now();
        for node in NODES {
            self.platform.process(node).unwrap().pause().unwrap();
        }
        let copies = NODES.map(|node| self.platform.copy_data(node));
        for node in NODES {
            self.platform.process(node).unwrap().resume().unwrap();
        }
        let stood_still = began.elapsed();
        let mut contents = Vec::new();
        for (node, copy) in NODES.into_iter().zip(copies) {
            let dir = copy.unwrap();
            let content = Content::read(node, &dir.dir(), commit).await;
            contents.push(content.unwrap_or_else(|broken| panic!("{broken}")));
        }
        let (first, others) = contents.split_first().unwrap();
        let compared = others.iter().map(|other| {
            let compared = first.compare(other);
            compared.unwrap_or_else(|broken| panic!("{broken}"))
        });
        let compared: Vec<usize> = compared.collect();
        let records: Vec<usize> = contents.iter().map(Content::records).collect();
        let outcomes = first.outcomes();
        assert!(
            outcomes > 0,
            "no outcome of the round's writes is remembered"
        );
        format!(
            "in sync after {in_sync:?} at record {commit}, logs of {records:?} records, of which \
             {compared:?} are in the first one too, {outcomes} outcomes; compared in {:?} (copied in \
             {stood_still:?})",
            began.elapsed()
        )
    }

    /// Copies data and logs of all data nodes to a folder that stays, and returns it.
    pub(crate) fn keep_evidence(&mut self) -> PathBuf {
        let kept = tempfile::Builder::new().prefix("tierkv-deck-").tempdir();
        let kept = kept.unwrap().keep();
        for name in self.platform.names() {
            let process = self.platform.process(&name).unwrap();
            let log = process.whole_log().unwrap();
            fs::write(kept.join(format!("{name}.log")), log).unwrap();
        }
        for node in NODES {
            // It may have no data at this moment.
            if let Ok(copy) = self.platform.copy_data(node) {
                copy_dir(&copy.dir(), &kept.join(node));
            }
        }
        kept
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

async fn connect(addresses: &[String]) -> Client {
    let addressed = addresses.iter().cloned();
    let builder = addressed.fold(Client::builder(), |builder, it| builder.address(it));
    let client = builder.in_order().timeout(GIVEN_UP_AFTER).connect().await;
    client.unwrap()
}

/// Waits until the workload did this much more than at `before`.
pub(crate) async fn until_done(workload: &Workload, before: Totals, least: Totals) {
    let done = poll_until(PATIENCE, || async {
        workload.totals().are_more_than(before, least).then_some(())
    });
    let reached = done.await;
    assert!(
        reached.is_some(),
        "too little is done since {before:?}: {:?}",
        workload.totals()
    );
}
