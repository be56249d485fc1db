//! Users of the platform: they write and read while it changes, and none of their operations may
//! fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tierkv::{Client, Consistency, Found, ReadOptions};
use tierkv_harness::poll_until;
use tokio::task::JoinSet;

/// Timeout of an operation: longer than the restart of a process.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writers, each with a reader of its counter.
const WRITERS: usize = 3;

/// A client of all client coordinators.
pub(crate) async fn connect(addresses: &[&str]) -> Client {
    let builder = (addresses.iter()).fold(Client::builder(), |builder, it| {
        builder.address((*it).to_owned())
    });
    builder.timeout(PATIENCE).connect().await.unwrap()
}

/// What one writer did: it puts a new key each time, and counts in another one.
#[derive(Default)]
struct Progress {
    /// The count that was acknowledged last.
    acknowledged: AtomicU64,
}

/// Writers and readers at work.
pub(crate) struct Users {
    is_over: Arc<AtomicBool>,
    writers: Vec<Arc<Progress>>,
    /// Each ends with how long its longest operation took.
    tasks: JoinSet<Duration>,
}

impl Users {
    /// Writers and readers with the keys of `name`, which nobody has used. Half of them begin with
    /// each address.
    pub(crate) async fn start(name: &'static str, addresses: &[&str]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut writers, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..WRITERS {
            let mut addresses = addresses.to_vec();
            let count = addresses.len();
            addresses.rotate_left(number % count);
            let progress = Arc::new(Progress::default());
            let user = User {
                name: format!("{name}-{number}"),
                client: connect(&addresses).await,
                is_over: Arc::clone(&is_over),
                progress: Arc::clone(&progress),
            };
            // The readers find a counter from the start.
            user.client.put(user.counter(), "0").await.unwrap();
            tasks.spawn(user.clone().write());
            tasks.spawn(user.read());
            writers.push(progress);
        }
        Self {
            is_over,
            writers,
            tasks,
        }
    }

    /// Waits until each writer has done so many writes more.
    pub(crate) async fn get_on(&self, more: u64) {
        let counts = || {
            let writers = self.writers.iter();
            writers.map(|it| it.acknowledged.load(Ordering::SeqCst))
        };
        let goals: Vec<u64> = counts().map(|count| count + more).collect();
        let reached = poll_until(PATIENCE, || async {
            let is_reached = counts().zip(&goals).all(|(count, goal)| count >= *goal);
            is_reached.then_some(())
        });
        reached.await.expect("every writer gets on");
    }

    /// Ends the work, of which no operation failed; returns what each writer wrote.
    pub(crate) async fn end(mut self, name: &'static str) -> Vec<Written> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut longest = Duration::ZERO;
        while let Some(ended) = self.tasks.join_next().await {
            longest = longest.max(ended.unwrap());
        }
        let written = self.writers.iter().enumerate().map(|(number, it)| Written {
            name: format!("{name}-{number}"),
            count: it.acknowledged.load(Ordering::SeqCst),
        });
        let written = Vec::from_iter(written);
        let counts: Vec<u64> = written.iter().map(|it| it.count).collect();
        println!("{name}: {counts:?} writes, the longest operation took {longest:?}");
        written
    }
}

/// What a writer wrote, all of it acknowledged.
pub(crate) struct Written {
    name: String,
    pub(crate) count: u64,
}

impl Written {
    /// Every write is there.
    pub(crate) async fn check(&self, client: &Client) {
        for number in 1..=self.count {
            let key = format!("{}/{number}", self.name);
            let value = latest(client, &key).await.value;
            assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key}");
        }
        let counter = latest(client, &format!("{}/counter", self.name)).await;
        assert_eq!(counted(&counter), self.count, "{}", self.name);
    }
}

async fn latest(client: &Client, key: &str) -> Found {
    let options = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    client.get_with(key, options).await.unwrap()
}

fn counted(found: &Found) -> u64 {
    let value = found.value.as_ref().expect("the counter is there");
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[derive(Clone)]
struct User {
    name: String,
    client: Client,
    is_over: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl User {
    fn counter(&self) -> String {
        format!("{}/counter", self.name)
    }

    /// Puts a key and counts, and sees both at once in its session.
    async fn write(self) -> Duration {
        let session = self.client.session();
        let mut longest = Duration::ZERO;
        let mut count = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            count += 1;
            let (key, begin) = (format!("{}/{count}", self.name), Instant::now());
            session.put(&key, key.clone()).await.unwrap();
            longest = longest.max(begin.elapsed());
            let begin = Instant::now();
            session
                .put(self.counter(), count.to_string())
                .await
                .unwrap();
            longest = longest.max(begin.elapsed());
            self.progress.acknowledged.store(count, Ordering::SeqCst);
            let begin = Instant::now();
            let found = session.get(&key).await.unwrap();
            longest = longest.max(begin.elapsed());
            assert_eq!(found.value.as_deref(), Some(key.as_bytes()), "{key}");
        }
        longest
    }

    /// Reads the counter. The newest value is not below what was acknowledged before, and never goes
    /// back; one that may be old is there, too.
    async fn read(self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut seen = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            let (before, begin) = (
                self.progress.acknowledged.load(Ordering::SeqCst),
                Instant::now(),
            );
            let found = counted(&latest(&self.client, &self.counter()).await);
            longest = longest.max(begin.elapsed());
            let least = before.max(seen);
            assert!(found >= least, "{}: {found} after {least}", self.name);
            seen = found;
            let begin = Instant::now();
            let old = self.client.get(self.counter()).await.unwrap();
            longest = longest.max(begin.elapsed());
            let newest = self.progress.acknowledged.load(Ordering::SeqCst) + 1;
            assert!(counted(&old) <= newest, "{}", self.name);
        }
        longest
    }
}
