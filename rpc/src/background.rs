//! What a server does beside its requests: workers, followers, and how they stop.
//!
//! ```text
//!   Background::run(worker)       work, wait, work, wait …         ─┐
//!   Background::follow(follower)  apply, wait for a change, apply … ├─► stop ─► joined
//!   Background::spawn(name, …)    a loop of its own                ─┘
//! ```
//!
//! A [`Worker`] does one piece of work and returns its [`Pace`]; a [`Follower`] applies a
//! state of coordination and waits for the next one (COORD-WATCH). Neither handles timers,
//! tasks or the stop signal: [`Background`] does, for all of them in the same way. A stop
//! ends a wait at once; it ends work under way only if the worker allows that.
//!
//! This is the lowest crate that all servers import and that may spawn and wait; they never
//! import each other. It has the other half of a server's stop, too: [`drain`](crate::drain)
//! ends the listener, [`Background::stop`] what runs beside it.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep_until, timeout_at},
};

use crate::stopped;

/// How long a stop waits for work that it must not cancel. What runs longer is aborted, so
/// that a server always stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// When a worker works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once: there is more to do. Other tasks get their turn first.
    Busy,
    /// This long after the work began, or at once if it took longer: there is nothing to do.
    Idle(Duration),
    /// This long after the work ended: it failed, and is tried again.
    Retry(Duration),
    /// Never: there will be nothing to do any more.
    Done,
}

/// Work that is done again and again in the background.
pub trait Worker: Send + 'static {
    /// What logs call it.
    fn name(&self) -> &'static str;

    /// How long after its start it works for the first time; at once, unless it says
    /// otherwise.
    fn first_after(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a stop cancels work under way, that is drops its future at any `await`.
    /// Otherwise the stop waits for the end of the work.
    fn is_cancellable(&self) -> bool {
        false
    }

    /// Does one piece of work. Failures are handled here, and logged as they deserve.
    fn work(&mut self) -> impl Future<Output = Pace> + Send;
}

/// Keeps something in step with a state that changes elsewhere (COORD-WATCH).
pub trait Follower: Send + 'static {
    /// Why there can't be another change.
    type Error: Display + Send;

    /// What logs call it.
    fn name(&self) -> &'static str;

    /// Applies the state as it stands. A stop waits for it. A state that is of no use is
    /// logged here and changes nothing.
    fn apply(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits until the state was replaced since the last call. Cancelling it loses nothing.
    ///
    /// # Errors
    /// If there can't be another change: following ends.
    fn changed(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Everything that a server runs in the background. Dropping it stops everything, too, and
/// waits for nothing.
pub struct Background {
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

/// A task of the background.
struct Running {
    name: &'static str,
    task: JoinHandle<()>,
}

/// How a task did not end well.
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
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stop: watch::Sender::new(false),
            running: Vec::new(),
        }
    }

    /// Turns true, or loses its sender, when the background stops: for
    /// [`stopped`](crate::stopped), and for listeners that end together with it.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Has a worker work until the stop, or until it is done.
    pub fn run(&mut self, worker: impl Worker) {
        self.spawn(worker.name(), work(worker, self.stopping()));
    }

    /// Applies the state as it stands before it returns, and then whenever it changes, until
    /// the stop or until there can't be another change. It always ends on the newest state
    /// (COORD-WATCH).
    pub async fn follow(&mut self, mut follower: impl Follower) {
        follower.apply().await;
        self.spawn(follower.name(), follow(follower, self.stopping()));
    }

    /// Runs a loop of another shape. It ends by itself soon after [`stopping`](Self::stopping)
    /// turns true.
    pub fn spawn(
        &mut self,
        name: &'static str,
        looping: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = tokio::spawn(looping);
        self.running.push(Running { name, task });
    }

    /// Stops everything and waits for the end of it, at most for 5 s: what is not over by
    /// then is aborted. Logs what did not end well.
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
        // A timer, even one for now, waits for the next millisecond.
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
    /// As soon as other tasks had their turn.
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
