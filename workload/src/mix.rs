//! Tasks that read and write until they are stopped, and can be sampled while they run.
//!
//! Each task has one operation in flight and begins the next one after the answer, so a platform
//! that does not answer gets no more operations.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv::Code;
use tokio::task::JoinSet;

use crate::{
    distribution::{Distribution, Sampler},
    door::{Door, Refused},
    records::Records,
    tally::Tally,
    target::Failure,
};

/// The load of the tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// The records; all must be loaded before they are read.
    pub records: Records,
    /// How often each record is accessed.
    pub distribution: Distribution,
    /// The share of writes, from 0 to 1.
    pub writes: f64,
    /// Concurrent tasks, each with one operation in flight.
    pub tasks: usize,
    /// The seed of all random choices.
    pub seed: u64,
}

/// The running tasks of a mix. Dropping this ends them.
#[derive(Debug)]
pub struct Run {
    running: JoinSet<()>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    is_over: Arc<AtomicBool>,
}

impl Mix {
    /// Starts the tasks: task n works through door n modulo their number.
    ///
    /// # Errors
    /// If there is no door.
    pub fn start(&self, doors: &[Door]) -> Result<Run, Failure> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        let mut tallies = Vec::new();
        for number in 0..self.tasks {
            let seed = (self.seed << 16) ^ number as u64;
            let tally = Arc::new(Mutex::new(Tally::default()));
            tallies.push(Arc::clone(&tally));
            let task = Task {
                door: door(doors, number)?,
                records: self.records.clone(),
                sampler: self.distribution.sampler(self.records.count, seed),
                random: StdRng::seed_from_u64(!seed),
                writes: self.writes,
                next_stamp: seed << 32,
                tally,
            };
            running.spawn(task.run(Arc::clone(&is_over)));
        }
        Ok(Run {
            running,
            tallies,
            is_over,
        })
    }
}

impl Run {
    /// The results since the last call, or since the start.
    #[must_use]
    pub fn take(&self) -> Tally {
        let mut total = Tally::default();
        for tally in &self.tallies {
            let mut tally = locked(tally);
            total.merge(&tally);
            tally.clear();
        }
        total
    }

    /// Stops every task after its current operation, and waits for the end of all.
    pub async fn stop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while self.running.join_next().await.is_some() {}
    }
}

/// An operation that is applied once to every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Writes the record; its value has the stamp 0.
    Load,
    /// Removes the record.
    Remove,
}

/// The progress of a sweep, through which it can also be ended.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    is_over: AtomicBool,
}

impl Progress {
    /// The number of records done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops every task after its current record.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Sweep {
    /// Applies the operation to every record with this many tasks, until the sweep is ended or an
    /// operation fails. When this returns, no operation is under way.
    ///
    /// # Errors
    /// The first error of an operation.
    pub async fn run(
        self,
        doors: &[Door],
        records: &Records,
        tasks: usize,
        progress: &Arc<Progress>,
    ) -> Result<(), Refused> {
        let mut running = JoinSet::new();
        for (first, number) in (0..records.count).zip(0..tasks) {
            let Ok(mut door) = door(doors, number) else {
                break;
            };
            let (records, progress) = (records.clone(), Arc::clone(progress));
            running.spawn(async move {
                for index in (first..records.count).step_by(tasks) {
                    if progress.is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = records.key(index);
                    match self {
                        Self::Load => door.put(key, records.value(index, 0)).await?,
                        Self::Remove => door.delete(key).await?,
                    }
                    progress.done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Refused>(())
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = running.join_next().await {
            let ended = ended.unwrap_or_else(|error| {
                Err(Refused {
                    code: Code::Internal,
                    words: format!("a task ended early: {error}"),
                })
            });
            if ended.is_err() {
                progress.end();
                outcome = outcome.and(ended);
            }
        }
        outcome
    }
}

fn door(doors: &[Door], number: usize) -> Result<Door, Failure> {
    let door = doors.get(number % doors.len().max(1)).cloned();
    door.ok_or_else(|| Failure("there is no door to go through".to_owned()))
}

/// The state of one task.
struct Task {
    door: Door,
    records: Records,
    sampler: Sampler,
    random: StdRng,
    writes: f64,
    next_stamp: u64,
    tally: Arc<Mutex<Tally>>,
}

impl Task {
    async fn run(mut self, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Relaxed) {
            let index = self.sampler.sample();
            // Every drawn number is below 1.
            if self.random.random::<f64>() < self.writes {
                self.write(index).await;
            } else {
                self.read(index).await;
            }
        }
    }

    async fn write(&mut self, index: u64) {
        self.next_stamp += 1;
        let value = self.records.value(index, self.next_stamp);
        let key = self.records.key(index);
        let began = Instant::now();
        let result = self.door.put(key, value).await;
        let took = began.elapsed();
        let mut tally = locked(&self.tally);
        match result {
            Ok(()) => tally.writes.succeed(took),
            Err(refused) => tally.refused_write(&refused),
        }
    }

    async fn read(&mut self, index: u64) {
        let key = self.records.key(index);
        let began = Instant::now();
        let mut result = self.door.get(key).await;
        let took = began.elapsed();
        if let Ok(read) = &mut result
            && read.value.is_none()
        {
            // A replica may not have what was loaded a moment ago; then the newest value is there.
            let latest = self.door.get_latest(self.records.key(index)).await;
            read.value = latest.ok().and_then(|latest| latest.value);
        }
        let mut tally = locked(&self.tally);
        let of = || format!("of key {}", self.records.key(index).escape_ascii());
        match result {
            Err(refused) => tally.refused_read(&refused),
            Ok(read) => match &read.value {
                None => tally.failed_read("no value", of),
                Some(value) if !self.records.is_value(index, value) => {
                    tally.failed_read("wrong value", of);
                }
                Some(_) => {
                    tally.reads.succeed(took);
                    tally.answered_by(read.source);
                }
            },
        }
    }
}

/// The counts stay valid after a panic of a task, so a poisoned lock is used as it is.
fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
