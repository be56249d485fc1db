//! A server's background tasks: workers, followers, and how they stop.
//!
//! ```text
//!   Background::run(worker)       work, wait, work, wait …         ─┐
//!   Background::follow(follower)  apply, wait for a change, apply … ├─► stop ─► joined
//!   Background::spawn(name, …)    a loop of its own                ─┘
//! ```
//!
//! A [`Worker`] does one piece of work and returns its [`Pace`]; a [`Follower`] applies a
//! state of coordination and waits for the next one (COORD-WATCH). Timers, tasks and the stop
//! signal are handled by [`Background`], in the same way for all. A stop ends a wait at once; it
//! cancels work in progress only if the worker allows that.
//!
//! This is the lowest crate that all servers import and that may spawn and wait; servers never
//! import each other. It also has the other half of a server's stop: [`drain`](crate::drain) ends
//! the listener, [`Background::stop`] the background tasks.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep_until, timeout_at},
};

use crate::stopped;

/// How long a stop waits for work that it must not cancel. After that the work is aborted, so that
/// a server always stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// When a worker works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once: there is more to do. Other tasks run first.
    Busy,
    /// This long after the work started, or at once if the work took longer: there is nothing to do
    /// now.
    Idle(Duration),
    /// This long after the work ended: it failed and is retried.
    Retry(Duration),
    /// Never: all work is done.
    Done,
}

/// Repeated work in the background.
pub trait Worker: Send + 'static {
    /// The name in logs.
    fn name(&self) -> &'static str;

    /// The delay before the first work; none by default.
    fn first_after(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a stop cancels work in progress, that is, drops its future at any `await`. Otherwise
    /// the stop waits for the end of the work.
    fn is_cancellable(&self) -> bool {
        false
    }

    /// Does one piece of work. It handles and logs its failures itself.
    fn work(&mut self) -> impl Future<Output = Pace> + Send;
}

/// Applies a state that changes elsewhere, whenever it changes (COORD-WATCH).
pub trait Follower: Send + 'static {
    /// Why there are no more changes.
    type Error: Display + Send;

    /// The name in logs.
    fn name(&self) -> &'static str;

    /// Applies the current state. A stop waits for it. An invalid state is logged here and changes
    /// nothing.
    fn apply(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits for a change since the last call. Cancelling it loses nothing.
    ///
    /// # Errors
    /// If there are no more changes: following ends.
    fn changed(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// All background tasks of a server. Dropping it stops them, too, without waiting.
pub struct Background {
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

/// A background task.
struct Running {
    name: &'static str,
    task: JoinHandle<()>,
}

/// How a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misfortune {
    /// It panicked, before the stop or after. (Where a panic aborts, the process is gone.)
    Panicked,
    /// It did not end in time and was aborted.
    Late,
}

impl Default for Background {
    fn default() -> Self {
        Self::new()
    }
}

impl Background {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stop: watch::Sender::new(false),
            running: Vec::new(),
        }
    }

    /// Becomes true, or loses its sender, when the background stops: for
    /// [`stopped`](crate::stopped), and for listeners that end with it.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Runs a worker until the stop, or until it is done.
    pub fn run(&mut self, worker: impl Worker) {
        self.spawn(worker.name(), work(worker, self.stopping()));
    }

    /// Applies the current state before it returns, then every change, until the stop or the last
    /// change. It always ends on the newest state (COORD-WATCH).
    pub async fn follow(&mut self, mut follower: impl Follower) {
        follower.apply().await;
        self.spawn(follower.name(), follow(follower, self.stopping()));
    }

    /// Runs another loop as a task. It must end by itself soon after [`stopping`](Self::stopping)
    /// becomes true.
    pub fn spawn(
        &mut self,
        name: &'static str,
        looping: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = tokio::spawn(looping);
        self.running.push(Running { name, task });
    }

    /// Stops all tasks and waits for them, at most 5 s; then aborts the rest. Logs those that
    /// failed.
    pub async fn stop(self) {
        for (worker, misfortune) in self.join().await {
            match misfortune {
                Misfortune::Panicked => tracing::error!(worker, "a background task panicked"),
                Misfortune::Late => tracing::error!(
                    worker,
                    time = ?STOP_TIME,
                    "a background task did not end in time and was aborted"
                ),
            }
        }
    }

    async fn join(self) -> Vec<(&'static str, Misfortune)> {
        self.stop.send_replace(true);
        let deadline = Instant::now() + STOP_TIME;
        let mut misfortunes = Vec::new();
        for Running { name, task } in self.running {
            let abort = task.abort_handle();
            match timeout_at(deadline, task).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => misfortunes.push((name, Misfortune::Panicked)),
                Err(_) => {
                    abort.abort();
                    misfortunes.push((name, Misfortune::Late));
                }
            }
        }
        misfortunes
    }
}

async fn work(mut worker: impl Worker, stop: watch::Receiver<bool>) {
    let mut due = match worker.first_after() {
        // A timer, even for now, would wait for the next millisecond.
        Duration::ZERO => Due::Now,
        after => Due::At(Instant::now() + after),
    };
    loop {
        tokio::select! {
            biased;
            () = stopped(stop.clone()) => return,
            () = due.wait() => {}
        }
        let began = Instant::now();
        let pace = tokio::select! {
            biased;
            () = stopped(stop.clone()), if worker.is_cancellable() => return,
            pace = worker.work() => pace,
        };
        due = match pace {
            Pace::Busy => Due::AfterOthers,
            Pace::Idle(period) => Due::At(began + period),
            Pace::Retry(pause) => Due::At(Instant::now() + pause),
            Pace::Done => return,
        };
    }
}

/// When work is due.
enum Due {
    Now,
    /// As soon as other tasks have run.
    AfterOthers,
    At(Instant),
}

impl Due {
    async fn wait(self) {
        match self {
            Self::Now => {}
            Self::AfterOthers => yield_now().await,
            Self::At(due) => sleep_until(due).await,
        }
    }
}

async fn follow(mut follower: impl Follower, stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            () = stopped(stop.clone()) => return,
            changed = follower.changed() => if let Err(error) = changed {
                tracing::info!(follower = follower.name(), %error, "there is nothing to follow any more");
                return;
            }
        }
        follower.apply().await;
    }
}

#[cfg(test)]
mod tests;
