//! The tasks that drive a target, and their results.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::{
    distribution::Distribution,
    shape::Shape,
    target::{Answer, Failure, Target},
};

/// Keys that each task draws in advance and repeats in a cycle. Together the tasks of a usual
/// load draw a few times as many keys as exist.
const DRAWN_KEYS: usize = 1 << 16;
/// The upper bound of the latency histogram, in nanoseconds.
const MAX_LATENCY_NANOS: u64 = 60_000_000_000;
/// The precision of the latency histogram, in significant decimal digits.
const LATENCY_DIGITS: u8 = 2;

/// The operations of the tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operations {
    /// Reads only.
    Reads,
    /// Writes only.
    Writes,
    /// Reads with this share (of 1) of writes.
    Mixed {
        /// The share of writes, from 0 to 1.
        writes: f64,
    },
}

/// The check of read values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The value must be a valid one for its key.
    Content,
    /// The value must have the shape's length; for an echo, which ignores keys.
    Length,
}

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shape of the records.
    pub shape: Shape,
    /// The number of records; all must be loaded before they are read.
    pub keys: u64,
    /// How often each record is accessed.
    pub distribution: Distribution,
    /// The operations.
    pub operations: Operations,
    /// The check of read values.
    pub check: Check,
    /// Concurrent tasks, each with one operation in flight.
    pub tasks: usize,
    /// How long the tasks run.
    pub duration: Duration,
    /// The seed of all random choices.
    pub seed: u64,
}

/// The results of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed, including reads of a wrong or missing value.
    pub failures: u64,
    /// The first failure that a task reported.
    pub first_failure: Option<Failure>,
    /// Reads answered by a cache.
    pub cached: u64,
    /// The time from the first task's start to the last task's end.
    pub elapsed: Duration,
    /// Latencies of the operations that succeeded, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Outcome {
    fn empty() -> Self {
        Self {
            operations: 0,
            failures: 0,
            first_failure: None,
            cached: 0,
            elapsed: Duration::ZERO,
            latencies: latency_histogram(),
        }
    }

    /// Successful operations a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency quantile for this share (of 1) of the operations.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(share))
    }

    fn fail(&mut self, failure: Failure) {
        self.failures += 1;
        self.first_failure.get_or_insert(failure);
    }

    fn merge(&mut self, other: Self) {
        self.operations += other.operations;
        self.failures += other.failures;
        self.cached += other.cached;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
        // Both have the same bounds, so every value fits.
        let _ = self.latencies.add(other.latencies);
    }
}

pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_NANOS, LATENCY_DIGITS)
        .unwrap_or_else(|_| unreachable!("the bounds are constant and valid"))
}

/// One operation of a task: the key, and whether it is a write.
#[derive(Clone, Copy, Debug)]
struct Step {
    index: u64,
    writes: bool,
}

/// A load that is ready to run: its keys are drawn and its buffers are allocated, so that a
/// measurement of the run contains nothing else.
#[derive(Debug)]
pub struct Prepared<T> {
    tasks: Vec<Task<T>>,
    duration: Duration,
}

impl<T: Target> Prepared<T> {
    /// Prepares `plan` for `targets`: task n works on target n modulo their number.
    ///
    /// # Errors
    /// If there is no target.
    pub fn new(targets: &[T], plan: &Plan) -> Result<Self, Failure> {
        let tasks = (0..plan.tasks).map(|number| {
            let target = targets
                .get(number % targets.len().max(1))
                .ok_or_else(|| Failure("there is no target to drive".to_owned()))?;
            Ok(Task::new(target.clone(), number, plan))
        });
        Ok(Self {
            tasks: tasks.collect::<Result<_, _>>()?,
            duration: plan.duration,
        })
    }

    /// Runs for the plan's duration.
    ///
    /// # Errors
    /// If a task panicked or was cancelled. Failed operations are counted in the outcome instead.
    pub async fn run(self) -> Result<Outcome, Failure> {
        let start = Instant::now();
        let deadline = start + self.duration;
        let mut running = JoinSet::new();
        for task in self.tasks {
            running.spawn(task.run(deadline));
        }
        let outcome = merged(running).await?;
        Ok(Outcome {
            elapsed: start.elapsed(),
            ..outcome
        })
    }
}

/// Prepares and runs a load.
///
/// # Errors
/// As [`Prepared::new`] and [`Prepared::run`].
pub async fn drive<T: Target>(targets: &[T], plan: &Plan) -> Result<Outcome, Failure> {
    Prepared::new(targets, plan)?.run().await
}

/// Writes every record of the plan once, with the plan's tasks; ignores its distribution,
/// duration and operations. Every value has the plan's seed as its stamp.
///
/// # Errors
/// At the first write that fails.
pub async fn load<T: Target>(targets: &[T], plan: &Plan) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (first, number) in (0..plan.keys).zip(0..plan.tasks) {
        let mut target = targets
            .get(number % targets.len().max(1))
            .ok_or_else(|| Failure("there is no target to load".to_owned()))?
            .clone();
        let (shape, keys, stamp, stride) = (plan.shape, plan.keys, plan.seed, plan.tasks);
        running.spawn(async move {
            let mut outcome = Outcome::empty();
            for index in (first..keys).step_by(stride) {
                let key = shape.key(index);
                let began = Instant::now();
                match target.put(key.as_ref(), shape.value(index, stamp)).await {
                    Ok(()) => {
                        outcome.operations += 1;
                        outcome.latencies.saturating_record(nanos(began.elapsed()));
                    }
                    Err(failure) => {
                        outcome.fail(failure);
                        break;
                    }
                }
            }
            outcome
        });
    }
    let outcome = merged(running).await?;
    if let Some(failure) = outcome.first_failure {
        return Err(failure);
    }
    Ok(Outcome {
        elapsed: start.elapsed(),
        ..outcome
    })
}

async fn merged(mut running: JoinSet<Outcome>) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::empty();
    while let Some(end) = running.join_next().await {
        outcome.merge(end.map_err(Failure::of)?);
    }
    Ok(outcome)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The state of one task.
#[derive(Debug)]
struct Task<T> {
    target: T,
    shape: Shape,
    check: Check,
    steps: Box<[Step]>,
    next_stamp: u64,
    outcome: Outcome,
}

impl<T: Target> Task<T> {
    fn new(target: T, number: usize, plan: &Plan) -> Self {
        let seed = (plan.seed << 16) ^ number as u64;
        let writes = match plan.operations {
            Operations::Reads => 0.0,
            Operations::Writes => 1.0,
            Operations::Mixed { writes } => writes,
        };
        // Multiples of the golden ratio distribute the writes evenly over the steps.
        #[allow(clippy::cast_precision_loss)]
        let is_write = |at: usize| (at as f64 * 0.618_033_988_749_895).fract() < writes;
        let steps = plan
            .distribution
            .sampler(plan.keys, seed)
            .draw(DRAWN_KEYS)
            .into_iter()
            .enumerate()
            .map(|(at, index)| Step {
                index,
                writes: is_write(at),
            })
            .collect();
        Self {
            target,
            shape: plan.shape,
            check: plan.check,
            steps,
            next_stamp: seed << 32,
            outcome: Outcome::empty(),
        }
    }

    async fn run(mut self, deadline: Instant) -> Outcome {
        let steps = std::mem::take(&mut self.steps);
        let mut began = Instant::now();
        for step in steps.iter().cycle() {
            let result = if step.writes {
                self.write(step.index).await
            } else {
                self.read(step.index).await
            };
            let now = Instant::now();
            match result {
                Ok(()) => {
                    self.outcome.operations += 1;
                    self.outcome.latencies.saturating_record(nanos(now - began));
                }
                Err(failure) => self.outcome.fail(failure),
            }
            if now >= deadline {
                break;
            }
            began = now;
        }
        self.outcome
    }

    async fn write(&mut self, index: u64) -> Result<(), Failure> {
        self.next_stamp += 1;
        let value = self.shape.value(index, self.next_stamp);
        self.target.put(self.shape.key(index).as_ref(), value).await
    }

    async fn read(&mut self, index: u64) -> Result<(), Failure> {
        let answer = self.target.get(self.shape.key(index).as_ref()).await?;
        self.outcome.cached += u64::from(answer.cached);
        self.checked(index, &answer)
    }

    fn checked(&self, index: u64, answer: &Answer) -> Result<(), Failure> {
        let wrong = |what: &str| {
            let key = self.shape.key(index);
            Failure(format!("{what} of key {}", key.as_ref().escape_ascii()))
        };
        let value = answer
            .value
            .as_ref()
            .ok_or_else(|| wrong("no value was found"))?;
        let sound = match self.check {
            Check::Content => self.shape.is_value(index, value),
            Check::Length => value.len() == self.shape.value_bytes(),
        };
        if sound {
            Ok(())
        } else {
            Err(wrong("a wrong value was read"))
        }
    }
}

#[cfg(test)]
mod tests;
