//! The scheduler: it alone decides which task runs next and when time moves.
//!
//! The world is synchronous code that calls [`Scheduler::step`] and [`Scheduler::advance`].
//! A step polls one woken task, chosen from the seed, on the caller's stack. Tasks use tokio's
//! timers and channels; the runtime behind them only keeps the timers:
//!
//! - Its clock is paused, and a paused clock moves by itself only while `block_on` waits. The
//!   only future ever given to `block_on` is [`tokio::time::advance`], which does not wait: it
//!   moves the clock, wakes the tasks of due timers and ends. Every call checks that no other
//!   time has passed.
//! - tokio gives a polled task a *budget*, and channels return `Pending` when it is used up, so
//!   that the runtime polls the task again with a new budget. No runtime polls here, so tasks
//!   run unconstrained.
//! - Work outside of the scheduler causes a panic: `tokio::spawn` (the task would run inside
//!   `advance`) and `spawn_blocking` (a thread). Threads of other libraries, like the SQL
//!   driver's, are not noticed.
//!
//! Code that runs here must not use these sources of randomness: a `tokio::select!` that is not
//! `biased` (its first branch is drawn from the thread's own random numbers, which only an
//! unstable option of tokio seeds), the order of a `HashMap` whose hasher is seeded by the
//! process, `rand::random`, and real clocks. `tokio::sync::watch` randomly chooses the list in
//! which a receiver waits; that has no effect, since waking only sets a flag.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use tokio::{
    runtime::{Builder, Runtime},
    task::coop::{Unconstrained, unconstrained},
    time::{Duration, Instant},
};

use super::{chance::Chance, clock::VirtualTime, trace::Trace};

/// The limit of steps for something that must end.
const ENDLESS: usize = 1_000_000;

/// The scheduler of one world.
pub(super) struct Scheduler {
    /// In the order in which they were spawned. Dropped before the runtime is.
    tasks: Vec<Task>,
    runtime: Runtime,
    chance: Chance,
    time: VirtualTime,
    trace: Trace,
    began: Instant,
    /// The runtime has started a thread.
    has_threads: Arc<AtomicBool>,
}

struct Task {
    /// Its owner: a life of a node, or a client.
    group: String,
    name: String,
    flag: Arc<Flag>,
    waker: Waker,
    future: Unconstrained<Pin<Box<dyn Future<Output = ()>>>>,
}

/// Set when a task is woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scheduler {
    pub(super) fn new(seed: u64) -> Self {
        let has_threads = Arc::new(AtomicBool::new(false));
        let started = Arc::clone(&has_threads);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_start(move || started.store(true, Ordering::Relaxed))
            .build()
            .unwrap();
        let began = {
            let _context = runtime.enter();
            Instant::now()
        };
        let time = VirtualTime::default();
        Self {
            tasks: Vec::new(),
            runtime,
            chance: Chance::of(seed, "scheduler"),
            trace: Trace::new(time.clone()),
            time,
            began,
            has_threads,
        }
    }

    /// The trace, to which every part of the world adds its events.
    pub(super) const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The time that [`Scheduler::advance`] moves.
    pub(super) const fn time(&self) -> &VirtualTime {
        &self.time
    }

    /// Calls a function in tokio's context, which the creation of timers needs.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = {
            let _context = self.runtime.enter();
            work()
        };
        self.check_that_nothing_went_past();
        done
    }

    /// Adds a woken task.
    pub(super) fn spawn(
        &mut self,
        group: &str,
        name: &str,
        future: impl Future<Output = ()> + 'static,
    ) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.push(Task {
            group: group.to_owned(),
            name: name.to_owned(),
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            future: unconstrained(Box::pin(future)),
        });
    }

    /// Drops all tasks of a group at their current point, in the order in which they were
    /// spawned, as the end of their process does.
    pub(super) fn kill_group(&mut self, group: &str) {
        self.kill(|task| task.group == group);
    }

    /// Ends the tasks of this name in a group.
    pub(super) fn kill_task(&mut self, group: &str, name: &str) {
        self.kill(|task| task.group == group && task.name == name);
    }

    fn kill(&mut self, chosen: impl Fn(&Task) -> bool) {
        let (killed, left) = self.tasks.drain(..).partition(chosen);
        self.tasks = left;
        let killed: Vec<Task> = killed;
        self.within(|| drop(killed));
    }

    /// The number of unfinished tasks of a group.
    pub(super) fn alive(&self, group: &str) -> usize {
        self.tasks.iter().filter(|task| task.group == group).count()
    }

    /// Polls one of the woken tasks; returns whether there was one.
    pub(super) fn step(&mut self) -> bool {
        let woken: Vec<usize> = (0..self.tasks.len())
            .filter(|at| self.tasks[*at].flag.0.load(Ordering::Relaxed))
            .collect();
        if woken.is_empty() {
            return false;
        }
        let at = woken[self.chance.index(woken.len())];
        let task = &mut self.tasks[at];
        task.flag.0.store(false, Ordering::Relaxed);
        self.trace.count(&task.group);
        self.trace.count(&task.name);
        {
            let _context = self.runtime.enter();
            let mut context = Context::from_waker(&task.waker);
            if Pin::new(&mut task.future).poll(&mut context).is_ready() {
                drop(self.tasks.remove(at));
            }
        }
        self.check_that_nothing_went_past();
        true
    }

    /// Moves time on and wakes the tasks whose timers are due. The unit is a millisecond, as for
    /// tokio's timers.
    pub(super) fn advance(&mut self, millis: u64) {
        self.time.advance(millis);
        let by = Duration::from_millis(millis);
        self.runtime.block_on(tokio::time::advance(by));
        self.check_that_nothing_went_past();
    }

    /// Steps until no task is woken.
    pub(super) fn settle(&mut self) {
        let settled = (0..ENDLESS).any(|_| !self.step());
        assert!(settled, "tasks wake each other for ever");
    }

    /// Runs all tasks until `future` is done, and returns its result. Time moves on whenever no
    /// task is woken.
    pub(super) fn complete<T: 'static>(
        &mut self,
        group: &str,
        name: &str,
        future: impl Future<Output = T> + 'static,
    ) -> T {
        let done = Rc::new(RefCell::new(None));
        let tell = Rc::clone(&done);
        self.spawn(group, name, async move {
            let answer = future.await;
            *tell.borrow_mut() = Some(answer);
        });
        for _ in 0..ENDLESS {
            if let Some(answer) = done.take() {
                return answer;
            }
            if !self.step() {
                self.advance(1);
            }
        }
        panic!("{group}/{name} never ends");
    }

    fn check_that_nothing_went_past(&self) {
        assert_eq!(
            self.runtime.metrics().num_alive_tasks(),
            0,
            "a task was spawned past the scheduler"
        );
        assert!(
            !self.has_threads.load(Ordering::Relaxed),
            "a thread was started past the scheduler"
        );
        let now = {
            let _context = self.runtime.enter();
            Instant::now()
        };
        assert_eq!(
            now - self.began,
            Duration::from_millis(self.time.millis()),
            "time moved past the scheduler"
        );
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let _context = self.runtime.enter();
        self.tasks.clear();
    }
}

#[cfg(test)]
mod tests;
