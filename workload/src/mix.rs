//! Tasks that read and write until they are stopped, looked at while they do.
//!
//! Each has one operation in flight and begins the next as soon as it is answered, so a
//! platform that stands still is asked for nothing more.

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

/// What the tasks do.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// What is read and written; all must have been loaded before they are read.
    pub records: Records,
    /// How often each is asked for.
    pub distribution: Distribution,
    /// The share of writes, from 0 to 1.
    pub writes: f64,
    /// Tasks at work at the same time, each with one operation in flight.
    pub tasks: usize,
    /// What all random choices come from.
    pub seed: u64,
}

/// The tasks of a mix at work. Dropping this ends them.
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
    /// What was done since the last look, or since the start.
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

    /// Lets every task end with the operation that it is at, and waits for that.
    pub async fn stop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while self.running.join_next().await.is_some() {}
    }
}

/// What is done once with every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// It is written; its value carries the stamp 0.
    Load,
    /// It is removed.
    Remove,
}

/// How far a sweep is; whoever looks at it can end it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    is_over: AtomicBool,
}

impl Progress {
    /// How many records are done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets every task end with the record that it is at.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Sweep {
    /// Does it with every record, by so many tasks, until it is ended or one fails; nothing is
    /// under way any more when this returns.
    ///
    /// # Errors
    /// The first operation that fails.
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

/// One task with all that it needs.
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
            // 1 is above all that is drawn.
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
        let result = self.door.get(key).await;
        let took = began.elapsed();
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

/// A task that panicked has counted nothing wrong before.
fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
