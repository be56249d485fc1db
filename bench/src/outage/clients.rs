//! [`Clients`]: tasks that write and read all the time.

use std::{sync::Arc, time::Instant};

use tierkv_workload::{Distribution, Failure, Shape, Target};
use tokio::task::JoinSet;

use super::silence::{Answers, Window};
use crate::stage::{Settings, TASKS};

/// The first stamp of values, after that of the load. Each writer has a range of its own.
const STAMPS_A_WRITER: u64 = 1 << 32;

/// 64 writers and 64 readers. Dropping this ends them.
#[derive(Debug)]
pub(crate) struct Clients {
    _running: JoinSet<()>,
    writes: Arc<Answers>,
    reads: Arc<Answers>,
}

/// The answers to both since the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) writes: Window,
    pub(crate) reads: Window,
}

impl Seen {
    /// Adds what was answered after this.
    pub(crate) fn merge(&mut self, next: Self) {
        self.writes.merge(next.writes);
        self.reads.merge(next.reads);
    }
}

impl Clients {
    /// Starts them: writers through `writing`, readers through `reading`. All records exist.
    pub(crate) fn start<T: Target>(writing: &T, reading: &T, settings: Settings) -> Self {
        let now = Instant::now();
        let (writes, reads) = (Arc::new(Answers::new(now)), Arc::new(Answers::new(now)));
        let mut running = JoinSet::new();
        for number in 1..=TASKS as u64 {
            let writer = Task::new(writing, settings, number, &writes);
            running.spawn(writer.write(number * STAMPS_A_WRITER));
            let reader = Task::new(reading, settings, TASKS as u64 + number, &reads);
            running.spawn(reader.read());
        }
        Self {
            _running: running,
            writes,
            reads,
        }
    }

    /// Writes that were acknowledged since the last [`Clients::take`].
    pub(crate) fn writes(&self) -> u64 {
        self.writes.successes()
    }

    /// The answers since the last call, or since the start.
    pub(crate) fn take(&self) -> Seen {
        let now = Instant::now();
        Seen {
            writes: self.writes.take(now),
            reads: self.reads.take(now),
        }
    }
}

/// One task: an operation at a time.
struct Task<T> {
    target: T,
    shape: Shape,
    sampler: tierkv_workload::Sampler,
    answers: Arc<Answers>,
}

impl<T: Target> Task<T> {
    fn new(target: &T, settings: Settings, seed: u64, answers: &Arc<Answers>) -> Self {
        Self {
            target: target.clone(),
            shape: settings.shape,
            sampler: Distribution::Zipfian.sampler(settings.keys, seed),
            answers: Arc::clone(answers),
        }
    }

    async fn write(mut self, mut stamp: u64) {
        loop {
            let index = self.sampler.sample();
            stamp += 1;
            let value = self.shape.value(index, stamp);
            let written = self.target.put(self.shape.key(index).as_ref(), value).await;
            self.count(written);
        }
    }

    async fn read(mut self) {
        loop {
            let index = self.sampler.sample();
            let key = self.shape.key(index);
            let read = self.target.get(key.as_ref()).await.and_then(|answer| {
                let value = answer.value.unwrap_or_default();
                match self.shape.is_value(index, &value) {
                    true => Ok(()),
                    false => Err(Failure(format!(
                        "a wrong value of key {}",
                        key.as_ref().escape_ascii()
                    ))),
                }
            });
            self.count(read);
        }
    }

    fn count(&self, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.answers.succeeded(Instant::now()),
            Err(failure) => self.answers.failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use bytes::Bytes;
    use tierkv_harness::poll_until;
    use tierkv_workload::Answer;

    use super::*;

    /// A map; every read of a key that was never written is of a wrong value.
    #[derive(Clone, Default)]
    struct Map(Arc<Mutex<HashMap<Vec<u8>, Bytes>>>);

    impl Target for Map {
        async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
            tokio::task::yield_now().await;
            let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Answer {
                value: map.get(key).cloned(),
                cached: false,
            })
        }

        async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
            tokio::task::yield_now().await;
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.insert(key.to_vec(), value);
            Ok(())
        }
    }

    #[tokio::test]
    async fn writers_and_readers_are_counted_apart_and_values_are_checked() {
        let settings = Settings {
            keys: 10,
            duration: Duration::from_secs(1),
            shape: Shape::Trace,
        };
        let (written, empty) = (Map::default(), Map::default());
        let counted = |clients: Clients| async move {
            let enough = || async { (clients.writes() >= 1_000).then_some(()) };
            let limit = Duration::from_secs(10);
            poll_until(limit, enough).await.unwrap();
            clients.take()
        };
        let seen = counted(Clients::start(&written, &empty, settings)).await;
        assert_eq!((seen.writes.failed, seen.reads.succeeded), (0, 0));
        let failure = seen.reads.first_failure.unwrap().0;
        assert!(failure.starts_with("a wrong value of key "), "{failure}");
        // Every key has been written by now.
        let seen = counted(Clients::start(&written, &written, settings)).await;
        assert_eq!((seen.reads.failed, seen.writes.failed), (0, 0));
        assert!(seen.reads.succeeded > 0);
    }
}
