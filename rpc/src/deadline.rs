//! Deadlines of calls: how they are sent, and how they end a stream of answers.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures::stream::{Stream, StreamExt, unfold};
use tierkv_types::{
    Code, Error,
    limits::{DEFAULT_TIMEOUT, MAX_TIMEOUT},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tonic::Request;

/// The metadata with the caller's timeout.
const HEADER: &str = "grpc-timeout";
/// The minimum and maximum time kept back for the way of a refusal.
const LEAST_KEPT: Duration = Duration::from_millis(20);
const MOST_KEPT: Duration = Duration::from_millis(250);
/// Answers of a stream that are produced ahead of their reader.
const ANSWERS_AHEAD: usize = 1;

/// The deadline that a call's caller set, cut to the limit; without one, the default.
#[must_use]
pub fn deadline<T>(request: &Request<T>) -> Instant {
    deadline_or(request, DEFAULT_TIMEOUT)
}

/// The deadline that a call's caller set, cut to the limit; without one, `default` from now.
#[must_use]
pub fn deadline_or<T>(request: &Request<T>, default: Duration) -> Instant {
    Instant::now() + named_timeout(request).unwrap_or(default).min(MAX_TIMEOUT)
}

/// The timeout set by a call's caller, if any.
#[must_use]
pub fn named_timeout<T>(request: &Request<T>) -> Option<Duration> {
    let named = request.metadata().get(HEADER)?;
    parse_timeout(named.to_str().ok()?)
}

/// A call with the remaining time until `deadline` as its timeout.
#[must_use]
pub fn within<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    let left = deadline.saturating_duration_since(Instant::now());
    // No time at all would have no form.
    request.set_timeout(left.max(Duration::from_millis(1)));
    request
}

/// The latest time for a retry of a request with this `deadline`. The last tenth of the remaining
/// time, 20 to 250 ms, is kept back, so that a refusal reaches the caller before its own timeout;
/// after that a write's outcome would be unknown to it.
#[must_use]
pub fn last_attempt(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    let kept = (left / 10).clamp(LEAST_KEPT, MOST_KEPT);
    deadline.checked_sub(kept).unwrap_or(deadline)
}

/// Parses a timeout of gRPC: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Streams answers up to the first error, until there are no more, or until `deadline`: then `late`
/// is the last item.
///
/// At most one answer is produced ahead of the reader. A separate task holds `answers` and drops
/// them at the deadline, so their resources are released on time even if the reader has paused. If
/// the stream is dropped, the task drops `answers` at once.
pub fn until_deadline<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Error>> + Send + 'static,
    deadline: Instant,
    late: Error,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static {
    until_over(answers, async move {
        sleep_until(deadline).await;
        late
    })
}

/// As [`until_deadline`], but until `over` resolves, with its error as the last item.
pub fn until_over<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Error>> + Send + 'static,
    over: impl Future<Output = Error> + Send + 'static,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static {
    let (ahead, made) = mpsc::channel(ANSWERS_AHEAD);
    let making = tokio::spawn(async move {
        tokio::select! {
            biased;
            last_word = over => Err(last_word),
            made = make(answers, &ahead) => made,
            // The reader went away: the next answer may take long, and until then `answers` would
            // hold resources for nobody.
            () = ahead.closed() => Ok(()),
        }
    });
    let going = Going { made, making };
    unfold(Some(going), async |going| {
        let mut going = going?;
        match going.made.recv().await {
            Some(answer) => Some((Ok(answer), Some(going))),
            // A panic was reported before.
            None => match going.making.await.unwrap_or_else(|_| Err(lost())) {
                Ok(()) => None,
                Err(error) => Some((Err(error), None)),
            },
        }
    })
}

/// As [`until_over`], but an answer is produced only once the reader asks for it. A reader that has
/// paused then costs a task and nothing else, and after `over` nothing of `answers` is left.
pub fn on_demand_until<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Error>> + Send + 'static,
    over: impl Future<Output = Error> + Send + 'static,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static {
    let wanted = Arc::new(Notify::new());
    let asked = Arc::clone(&wanted);
    let answers = unfold((answers.boxed(), asked), async |(mut answers, asked)| {
        asked.notified().await;
        Some((answers.next().await?, (answers, asked)))
    });
    let going = (until_over(answers, over).boxed(), wanted);
    unfold(going, async |(mut made, wanted)| {
        wanted.notify_one();
        Some((made.next().await?, (made, wanted)))
    })
}

/// A stream of answers in progress.
struct Going<T> {
    made: mpsc::Receiver<T>,
    /// Resolves to how the answers ended.
    making: JoinHandle<Result<(), Error>>,
}

/// Produces answers while there is room.
async fn make<T>(
    answers: impl Stream<Item = Result<T, Error>>,
    ahead: &mpsc::Sender<T>,
) -> Result<(), Error> {
    let mut answers = pin!(answers);
    while let Ok(room) = ahead.reserve().await {
        match answers.next().await {
            Some(answer) => room.send(answer?),
            None => return Ok(()),
        }
    }
    // The reader went away.
    Ok(())
}

/// The error of a scan or a count that timed out, on every tier.
#[must_use]
pub fn late_scan() -> Error {
    Error::new(
        Code::DeadlineExceeded,
        "the deadline passed before the end of the scan; continue with the last page token, or \
         raise the timeout",
    )
}

fn lost() -> Error {
    Error::new(
        Code::Internal,
        "the answers of a stream were lost; tell an operator",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream::{iter, pending};

    use super::*;

    fn late() -> Error {
        Error::new(Code::DeadlineExceeded, "too late")
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    fn in_time() -> Instant {
        Instant::now() + MAX_TIMEOUT
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for bad in ["", "S", "5", "5x", "123456789S", "-1S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_before_the_deadline_does() {
        let kept = |millis| {
            let deadline = Instant::now() + Duration::from_millis(millis);
            (deadline - last_attempt(deadline)).as_millis()
        };
        assert_eq!([0, 100, 1_000, 60_000].map(kept), [20, 20, 100, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_remaining_time_is_sent_and_never_zero() {
        for millis in [1, 250, 20_000, 59_999] {
            let sent = Instant::now() + Duration::from_millis(millis);
            assert_eq!(deadline(&within((), sent)), sent);
        }
        let passed = within((), Instant::now());
        assert_eq!(deadline(&passed), Instant::now() + Duration::from_millis(1));
        let unnamed = Request::new(());
        assert_eq!(deadline(&unnamed), Instant::now() + DEFAULT_TIMEOUT);
        assert_eq!(deadline_or(&unnamed, MAX_TIMEOUT), in_time());
        let far = within((), Instant::now() + 2 * MAX_TIMEOUT);
        assert_eq!(deadline(&far), in_time());
    }

    #[tokio::test]
    async fn answers_come_in_order_up_to_the_first_error() {
        let answers = || iter([Ok(1), Ok(2), Err(late()), Ok(3)]);
        let all: Vec<_> = until_deadline(answers(), in_time(), late()).collect().await;
        assert_eq!(all, [Ok(1), Ok(2), Err(late())]);
        let good = answers().take(2);
        let all: Vec<_> = until_deadline(good, in_time(), late()).collect().await;
        assert_eq!(all, [Ok(1), Ok(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_the_last_word() {
        let answers = iter([Ok(1)]).chain(pending());
        let all: Vec<_> = until_deadline(answers, soon(), late()).collect().await;
        assert_eq!(all, [Ok(1), Err(late())]);
    }

    /// Counts the answers made, and when they were dropped.
    struct Held(Arc<AtomicUsize>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(usize::MAX, Ordering::SeqCst);
        }
    }

    fn counted(made: &Arc<AtomicUsize>) -> impl Stream<Item = Result<usize, Error>> + use<> {
        unfold(Held(Arc::clone(made)), async |held| {
            let nth = held.0.fetch_add(1, Ordering::SeqCst);
            Some((Ok(nth), held))
        })
    }

    /// Lets everything happen that can happen before `instant` of the paused clock.
    async fn settled(instant: Instant) {
        tokio::time::sleep_until(instant).await;
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_not_made_and_are_let_go_at_the_deadline() {
        let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let mut answers = Box::pin(until_deadline(counted(&made), soon(), late()));
        settled(began + Duration::from_millis(20)).await;
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(answers.next().await, Some(Ok(0)));
        settled(began + Duration::from_millis(90)).await;
        assert_eq!(made.load(Ordering::SeqCst), 2);
        // The reader has paused.
        settled(began + Duration::from_millis(110)).await;
        assert_eq!(made.load(Ordering::SeqCst), usize::MAX);
        assert_eq!(answers.next().await, Some(Ok(1)));
        assert_eq!(answers.next().await, Some(Err(late())));
        assert_eq!(answers.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn unread_answers_are_dropped_at_the_end() {
        let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
        let over = async {
            let _ = stopping.await;
            Error::unavailable("stopping")
        };
        let mut answers = Box::pin(until_over(counted(&made), over));
        assert_eq!(answers.next().await, Some(Ok(0)));
        settled(began + Duration::from_millis(1)).await;
        assert_eq!(made.load(Ordering::SeqCst), 2);
        drop(stop);
        // The reader has paused.
        settled(began + Duration::from_millis(2)).await;
        assert_eq!(made.load(Ordering::SeqCst), usize::MAX);
        assert_eq!(answers.next().await, Some(Ok(1)));
        assert_eq!(
            answers.next().await,
            Some(Err(Error::unavailable("stopping")))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn on_demand_nothing_is_made_ahead_and_nothing_is_left_at_the_end() {
        let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
        let over = async {
            let _ = stopping.await;
            Error::unavailable("stopping")
        };
        let mut answers = Box::pin(on_demand_until(counted(&made), over));
        settled(began + Duration::from_millis(1)).await;
        assert_eq!(made.load(Ordering::SeqCst), 0);
        assert_eq!(answers.next().await, Some(Ok(0)));
        assert_eq!(answers.next().await, Some(Ok(1)));
        settled(began + Duration::from_millis(2)).await;
        assert_eq!(made.load(Ordering::SeqCst), 2);
        drop(stop);
        // The reader has paused.
        settled(began + Duration::from_millis(3)).await;
        assert_eq!(made.load(Ordering::SeqCst), usize::MAX);
        let last_word = Error::unavailable("stopping");
        assert_eq!(answers.next().await, Some(Err(last_word)));
        assert_eq!(answers.next().await, None);
    }

    #[tokio::test]
    async fn on_demand_answers_come_in_order_up_to_the_first_error() {
        let answers = iter([Ok(1), Ok(2), Err(late()), Ok(3)]);
        let all: Vec<_> = on_demand_until(answers, pending_end()).collect().await;
        assert_eq!(all, [Ok(1), Ok(2), Err(late())]);
        let good = iter([Ok(1), Ok(2)]);
        let all: Vec<_> = on_demand_until(good, pending_end()).collect().await;
        assert_eq!(all, [Ok(1), Ok(2)]);
    }

    async fn pending_end() -> Error {
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_dropped_lets_its_answers_go() {
        let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        drop(until_deadline(counted(&made), in_time(), late()));
        settled(began + Duration::from_millis(1)).await;
        assert!([0, usize::MAX].contains(&made.load(Ordering::SeqCst)));
        let mut answers = Box::pin(until_deadline(counted(&made), in_time(), late()));
        assert!(answers.next().await.is_some());
        drop(answers);
        settled(began + Duration::from_millis(2)).await;
        assert_eq!(made.load(Ordering::SeqCst), usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_dropped_does_not_wait_for_the_answer_under_way() {
        let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let answers = unfold(Held(Arc::clone(&made)), async |held| {
            match held.0.fetch_add(1, Ordering::SeqCst) {
                0 => Some((Ok(0), held)),
                _ => std::future::pending().await,
            }
        });
        let mut answers = Box::pin(until_deadline(answers, in_time(), late()));
        assert_eq!(answers.next().await, Some(Ok(0)));
        settled(began + Duration::from_millis(1)).await;
        assert_eq!(
            made.load(Ordering::SeqCst),
            2,
            "the next one is in progress"
        );
        drop(answers);
        settled(began + Duration::from_millis(2)).await;
        assert_eq!(made.load(Ordering::SeqCst), usize::MAX);
    }
}
