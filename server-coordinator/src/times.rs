//! Carries the clusters' times between their masters (CLOCK-STEADY).
//!
//! Data nodes have no connections to other clusters, so every server coordinator asks each master
//! for its time, several times a second, and each question carries the times of the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv_protocol::platform_time::{
    carrier::Carrier,
    others::{MAX_ERROR, TimeAnswer, TimeQuestion},
};
use tierkv_rpc::{
    Pace, Worker,
    proto::{
        internal::{
            CompareTimesReply, CompareTimesRequest, OtherClusterTime,
            data_node_client::DataNodeClient,
        },
        status::read_error,
    },
};
use tierkv_types::{BootTime, Clock, ClusterId, Incarnation, SystemClock};
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::timeout,
};

use crate::routes::{DataNode, Routes};

/// How often each master is asked.
const INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of a question. A time that took longer is off by more than counts.
const ANSWER_TIME: Duration = MAX_ERROR.saturating_mul(2);

/// The newest times of all clusters. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct ClusterTimes(Arc<Mutex<Carrier>>);

impl ClusterTimes {
    fn carrier(&self) -> MutexGuard<'_, Carrier> {
        // Each change replaces whole entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far each cluster's time is ahead of the platform's, in milliseconds.
    pub(crate) fn ahead_millis(&self) -> BTreeMap<ClusterId, i64> {
        self.carrier().ahead_millis(SystemClock.boot_time())
    }

    /// Asks a master for its time. A process that answers for the first time is asked again at
    /// once, with the times of the others: it may be a founder, and be written to soon.
    async fn ask(self, cluster: ClusterId, node: DataNode) {
        let is_informed = self.ask_once(&cluster, &node).await;
        if is_informed == Some(false) {
            self.ask_once(&cluster, &node).await;
        }
    }

    /// Returns whether the question had the times of the others; `None` if it was not answered.
    async fn ask_once(&self, cluster: &ClusterId, node: &DataNode) -> Option<bool> {
        let process = Incarnation(node.presence.incarnation);
        let asked_at = SystemClock.boot_time();
        let question = self.carrier().question(cluster, process, asked_at);
        let is_informed = question.is_some();
        let mut client = DataNodeClient::new(node.peer.channel());
        let asked = client.compare_times(request(question));
        match timeout(ANSWER_TIME, asked).await {
            Ok(Ok(reply)) => {
                let answered_at = SystemClock.boot_time();
                let answer = answer(&reply.into_inner());
                self.carrier()
                    .answered(cluster, process, asked_at, answered_at, answer);
                Some(is_informed)
            }
            Ok(Err(status)) => {
                let error = read_error(&status);
                tracing::debug!(%cluster, %error, "a master did not return its time");
                None
            }
            Err(_) => {
                tracing::debug!(%cluster, "a master did not return its time in time");
                None
            }
        }
    }
}

/// Asks the masters of all clusters again and again, each one once at a time.
pub(crate) struct TimeCarrier {
    routes: watch::Receiver<Arc<Routes>>,
    times: ClusterTimes,
    questions: JoinSet<()>,
    /// The clusters whose masters did not answer yet, by the task of the question.
    asked: BTreeMap<Id, ClusterId>,
}

impl TimeCarrier {
    pub(crate) fn new(routes: watch::Receiver<Arc<Routes>>, times: ClusterTimes) -> Self {
        Self {
            routes,
            times,
            questions: JoinSet::new(),
            asked: BTreeMap::new(),
        }
    }
}

impl Worker for TimeCarrier {
    fn name(&self) -> &'static str {
        "cluster times"
    }

    async fn work(&mut self) -> Pace {
        while let Some(ended) = self.questions.try_join_next_with_id() {
            let task = match ended {
                Ok((task, ())) => task,
                Err(error) => error.id(),
            };
            self.asked.remove(&task);
        }
        let routes = Arc::clone(&self.routes.borrow());
        self.times
            .carrier()
            .retain(|cluster| routes.clusters.contains_key(cluster));
        // A lone cluster's time is the platform's.
        if routes.clusters.len() < 2 {
            return Pace::Idle(INTERVAL);
        }
        for (id, cluster) in &routes.clusters {
            let master = cluster.state.master.as_ref();
            let master = master.and_then(|node| routes.nodes.get(node.as_str()));
            let Some(master) = master else { continue };
            if self.asked.values().any(|asked| asked == id) {
                continue;
            }
            let question = self.times.clone().ask(id.clone(), master.clone());
            let task = self.questions.spawn(question);
            self.asked.insert(task.id(), id.clone());
        }
        Pace::Idle(INTERVAL)
    }
}

fn request(question: Option<TimeQuestion>) -> CompareTimesRequest {
    let Some(question) = question else {
        return CompareTimesRequest::default();
    };
    let others = question.others.into_iter().map(|other| OtherClusterTime {
        cluster: other.cluster.to_string(),
        platform_time_ms: other.platform_millis,
        error_ms: u32::try_from(other.error.as_millis()).unwrap_or(u32::MAX),
        founding: other.is_founding,
    });
    let nanos = question.at.since_boot().as_nanos();
    CompareTimesRequest {
        boot_time_ns: u64::try_from(nanos).ok(),
        others: others.collect(),
    }
}

fn answer(reply: &CompareTimesReply) -> TimeAnswer {
    TimeAnswer {
        boot_time: BootTime::from_boot(Duration::from_nanos(reply.boot_time_ns)),
        platform_millis: reply.platform_time_ms,
        is_founding: reply.founding,
    }
}
