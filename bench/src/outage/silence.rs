//! [`Answers`]: counts answers, and the longest pause between two of them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tierkv_workload::Failure;

/// The answers of all tasks that do the same.
#[derive(Debug)]
pub(crate) struct Answers(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The last answer, or the start.
    last: Instant,
    window: Window,
}

/// What was answered since the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<Failure>,
    /// The longest time without a successful answer. The last answer before the look counts as its
    /// start, and a pause that still lasts at the end of the window counts as far as it went.
    pub(crate) silence: Duration,
}

impl Answers {
    /// None yet, at the moment `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            last: now,
            window: Window::default(),
        }))
    }

    /// An operation succeeded at the moment `now`.
    pub(crate) fn succeeded(&self, now: Instant) {
        let mut state = self.lock();
        // Tasks may come here in another order than their answers.
        let silence = now.saturating_duration_since(state.last);
        state.window.silence = state.window.silence.max(silence);
        state.last = state.last.max(now);
        state.window.succeeded += 1;
    }

    /// An operation failed; that ends no silence.
    pub(crate) fn failed(&self, failure: Failure) {
        let mut state = self.lock();
        state.window.failed += 1;
        state.window.first_failure.get_or_insert(failure);
    }

    /// Successful operations since the last look.
    pub(crate) fn successes(&self) -> u64 {
        self.lock().window.succeeded
    }

    /// Ends the window at the moment `now`, and begins the next one.
    pub(crate) fn take(&self, now: Instant) -> Window {
        let mut state = self.lock();
        let lasting = now.saturating_duration_since(state.last);
        let mut window = std::mem::take(&mut state.window);
        window.silence = window.silence.max(lasting);
        window
    }

    /// The counts stay valid after a panic of a task.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Adds a window that followed this one.
    pub(crate) fn merge(&mut self, next: Self) {
        self.succeeded += next.succeeded;
        self.failed += next.failed;
        self.silence = self.silence.max(next.silence);
        if self.first_failure.is_none() {
            self.first_failure = next.first_failure;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_longest_pause_between_two_answers_counts() {
        let start = Instant::now();
        let answers = Answers::new(start);
        for at in [10, 40, 45, 30, 60] {
            answers.succeeded(start + ms(at));
        }
        assert_eq!(answers.successes(), 5);
        let window = answers.take(start + ms(70));
        assert_eq!((window.succeeded, window.silence), (5, ms(30)));
    }

    #[test]
    fn a_pause_begins_at_the_last_answer_before_the_window() {
        let start = Instant::now();
        let answers = Answers::new(start);
        answers.succeeded(start + ms(10));
        assert_eq!(answers.take(start + ms(15)).silence, ms(10));
        answers.succeeded(start + ms(110));
        answers.succeeded(start + ms(120));
        assert_eq!(answers.take(start + ms(125)).silence, ms(100));
    }

    #[test]
    fn a_failure_ends_no_pause_and_a_lasting_one_counts() {
        let start = Instant::now();
        let answers = Answers::new(start);
        answers.failed(Failure("first".to_owned()));
        answers.failed(Failure("second".to_owned()));
        let window = answers.take(start + ms(500));
        assert_eq!((window.failed, window.silence), (2, ms(500)));
        assert_eq!(window.first_failure, Some(Failure("first".to_owned())));
        assert_eq!(answers.successes(), 0);
    }

    #[test]
    fn merged_windows_have_the_longer_pause() {
        let window = |silence, failure: Option<&str>| Window {
            succeeded: 2,
            failed: 1,
            first_failure: failure.map(|it| Failure(it.to_owned())),
            silence: ms(silence),
        };
        let mut all = window(5, None);
        all.merge(window(9, Some("late")));
        all.merge(window(7, Some("later")));
        assert_eq!((all.succeeded, all.failed, all.silence), (6, 3, ms(9)));
        assert_eq!(all.first_failure, Some(Failure("late".to_owned())));
    }
}
