//! Tasks that write for a long time, and can be sampled while they run.
//!
//! Each task begins the next write after the answer to the last one, so a platform that does not
//! answer has at most one late operation per task. Quantiles hide such a pause;
//! [`Window::longest_silence`] shows it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    distribution::Sampler,
    drive::{Plan, nanos},
    shape::Shape,
    target::{Failure, Target},
    window::Window,
};

/// Running tasks. Dropping this ends them.
#[derive(Debug)]
pub struct Writers {
    running: JoinSet<()>,
    windows: Vec<Arc<Mutex<Window>>>,
    shared: Arc<Shared>,
}

/// The state that the tasks share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    /// When the last write was acknowledged, in nanoseconds since the start.
    last_acknowledged: AtomicU64,
    /// The longest silence that ended since the last sample, in nanoseconds.
    longest_silence: AtomicU64,
    /// One bit per key: whether it was written.
    written: Box<[AtomicU64]>,
    distinct_keys: AtomicU64,
}

impl Writers {
    /// Starts the tasks of `plan`, which write until its end. Each draws its keys during the run;
    /// task n works on target n modulo the number of targets. The plan's operations and check
    /// are ignored.
    ///
    /// # Errors
    /// If there is no target.
    pub fn start<T: Target>(targets: &[T], plan: &Plan) -> Result<Self, Failure> {
        let words = usize::try_from(plan.keys.div_ceil(64)).map_err(Failure::of)?;
        let start = Instant::now();
        let shared = Arc::new(Shared {
            start,
            last_acknowledged: AtomicU64::new(0),
            longest_silence: AtomicU64::new(0),
            written: (0..words).map(|_| AtomicU64::new(0)).collect(),
            distinct_keys: AtomicU64::new(0),
        });
        let mut running = JoinSet::new();
        let mut windows = Vec::new();
        for number in 0..plan.tasks {
            let target = targets
                .get(number % targets.len().max(1))
                .ok_or_else(|| Failure("there is no target to drive".to_owned()))?;
            let seed = (plan.seed << 16) ^ number as u64;
            let window = Arc::new(Mutex::new(Window::default()));
            windows.push(Arc::clone(&window));
            let writer = Writer {
                target: target.clone(),
                shape: plan.shape,
                sampler: plan.distribution.sampler(plan.keys, seed),
                next_stamp: seed << 32,
                window,
                shared: Arc::clone(&shared),
            };
            running.spawn(writer.run(start + plan.duration));
        }
        Ok(Self {
            running,
            windows,
            shared,
        })
    }

    /// The results since the last call, or since the start.
    pub fn take(&self) -> Window {
        let mut total = Window::default();
        for window in &self.windows {
            let mut window = locked(window);
            total.merge(&window);
            window.clear();
        }
        total.longest_silence = self.shared.take_silence();
        total
    }

    /// The number of different keys written so far.
    #[must_use]
    pub fn distinct_keys(&self) -> u64 {
        self.shared.distinct_keys.load(Ordering::Relaxed)
    }

    /// Whether a task still writes, or waits for an answer.
    pub fn is_running(&mut self) -> bool {
        while self.running.try_join_next().is_some() {}
        !self.running.is_empty()
    }
}

impl Shared {
    fn acknowledged(&self, index: u64, now: Instant) {
        let now = nanos(now - self.start);
        let last = self.last_acknowledged.fetch_max(now, Ordering::Relaxed);
        self.longest_silence
            .fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        let bit = 1 << (index % 64);
        let word = usize::try_from(index / 64)
            .ok()
            .and_then(|word| self.written.get(word));
        if word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0) {
            self.distinct_keys.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_silence(&self) -> Duration {
        let ended = self.longest_silence.swap(0, Ordering::Relaxed);
        let last = self.last_acknowledged.load(Ordering::Relaxed);
        let lasting = nanos(self.start.elapsed()).saturating_sub(last);
        Duration::from_nanos(ended.max(lasting))
    }
}

/// The state of one task.
struct Writer<T> {
    target: T,
    shape: Shape,
    sampler: Sampler,
    next_stamp: u64,
    window: Arc<Mutex<Window>>,
    shared: Arc<Shared>,
}

impl<T: Target> Writer<T> {
    async fn run(mut self, deadline: Instant) {
        let mut began = Instant::now();
        while began < deadline {
            let index = self.sampler.sample();
            self.next_stamp += 1;
            let value = self.shape.value(index, self.next_stamp);
            let key = self.shape.key(index);
            let result = self.target.put(key.as_ref(), value).await;
            let now = Instant::now();
            let mut window = locked(&self.window);
            match result {
                Ok(()) => {
                    window.operations += 1;
                    window.latencies.saturating_record(nanos(now - began));
                    self.shared.acknowledged(index, now);
                }
                Err(failure) => {
                    window.failures += 1;
                    window.first_failure.get_or_insert(failure);
                }
            }
            drop(window);
            began = now;
        }
    }
}

/// The counts stay valid after a panic of a task, so a poisoned lock is used as it is.
fn locked(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{Answer, Check, Distribution, Operations};

    /// Acknowledges one write per permit, then none.
    #[derive(Clone)]
    struct Gate {
        permits: Arc<Semaphore>,
        refuses: bool,
    }

    impl Target for Gate {
        async fn get(&mut self, _key: &[u8]) -> Result<Answer, Failure> {
            Err(Failure("nobody reads".to_owned()))
        }

        async fn put(&mut self, _key: &[u8], _value: Bytes) -> Result<(), Failure> {
            tokio::task::yield_now().await;
            if self.refuses {
                return Err(Failure("full".to_owned()));
            }
            self.permits.acquire().await.map_err(Failure::of)?.forget();
            Ok(())
        }
    }

    fn gate(permits: usize, refuses: bool) -> Gate {
        Gate {
            permits: Arc::new(Semaphore::new(permits)),
            refuses,
        }
    }

    fn plan(duration: Duration) -> Plan {
        Plan {
            shape: Shape::Trace,
            keys: 100,
            distribution: Distribution::Uniform,
            operations: Operations::Writes,
            check: Check::Content,
            tasks: 4,
            duration,
            seed: 3,
        }
    }

    /// Samples until `enough`, for at most ten seconds.
    async fn look_until(writers: &mut Writers, enough: impl Fn(&Window) -> bool) -> Window {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = Window::default();
        while !enough(&seen) {
            assert!(Instant::now() < deadline, "only {seen:?}");
            tokio::task::yield_now().await;
            seen.merge(&writers.take());
        }
        seen
    }

    #[tokio::test]
    async fn every_acknowledged_write_is_in_one_window() {
        let gate = gate(5_000, false);
        let mut writers =
            Writers::start(from_ref(&gate), &plan(Duration::from_secs(3_600))).unwrap();
        let seen = look_until(&mut writers, |seen| seen.operations == 5_000).await;
        assert_eq!((seen.failures, seen.latencies.len()), (0, 5_000));
        assert_eq!(writers.distinct_keys(), 100);
        assert_eq!(writers.take().operations, 0);
        assert!(writers.is_running());
    }

    #[tokio::test]
    async fn a_silence_is_reported_while_it_lasts_and_after_its_end() {
        let gate = gate(10, false);
        let mut writers =
            Writers::start(from_ref(&gate), &plan(Duration::from_secs(3_600))).unwrap();
        look_until(&mut writers, |seen| seen.operations == 10).await;
        let silent = Duration::from_millis(30);
        let seen = look_until(&mut writers, |seen| seen.longest_silence >= silent).await;
        assert_eq!(seen.operations, 0);
        gate.permits.add_permits(1);
        let ended = look_until(&mut writers, |seen| seen.operations == 1).await;
        assert!(ended.longest_silence >= silent, "{ended:?}");
        assert!(ended.max_latency() >= silent, "{ended:?}");
    }

    #[tokio::test]
    async fn refused_writes_are_counted_and_the_tasks_end_in_time() {
        let gate = gate(0, true);
        let mut writers =
            Writers::start(from_ref(&gate), &plan(Duration::from_millis(20))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while writers.is_running() {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        let seen = writers.take();
        assert!(seen.failures > 0);
        assert_eq!(seen.first_failure, Some(Failure("full".to_owned())));
        assert_eq!((seen.operations, writers.distinct_keys()), (0, 0));
        assert!(Writers::start::<Gate>(&[], &plan(Duration::ZERO)).is_err());
    }
}
