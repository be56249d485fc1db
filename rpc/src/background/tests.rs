use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A worker built from a closure.
struct Scripted<F> {
    first_after: Duration,
    is_cancellable: bool,
    work: F,
}

impl<F, Fut> Worker for Scripted<F>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Pace> + Send,
{
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn first_after(&self) -> Duration {
        self.first_after
    }

    fn is_cancellable(&self) -> bool {
        self.is_cancellable
    }

    fn work(&mut self) -> impl Future<Output = Pace> + Send {
        (self.work)()
    }
}

fn scripted<F>(work: F) -> Scripted<F> {
    Scripted {
        first_after: Duration::ZERO,
        is_cancellable: false,
        work,
    }
}

fn cancellable<F>(work: F) -> Scripted<F> {
    Scripted {
        is_cancellable: true,
        ..scripted(work)
    }
}

/// Signals that it was dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

/// The times at which a worker ran, in seconds after the start.
#[derive(Clone)]
struct Times {
    start: Instant,
    at: Arc<Mutex<Vec<u64>>>,
}

impl Times {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            at: Arc::default(),
        }
    }

    fn note(&self) -> usize {
        let mut at = self.at.lock().unwrap();
        at.push(self.start.elapsed().as_secs());
        at.len()
    }

    fn noted(&self) -> Vec<u64> {
        self.at.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_wait_at_once() {
    let mut background = Background::new();
    let worked = Arc::new(Notify::new());
    let noting = Arc::clone(&worked);
    background.run(scripted(move || {
        noting.notify_one();
        async { Pace::Idle(HOUR) }
    }));
    background.run(Scripted {
        first_after: HOUR,
        ..scripted(async || -> Pace { unreachable!("it is not time yet") })
    });
    worked.notified().await;
    let asked_at = Instant::now();
    assert_eq!(background.join().await, []);
    assert_eq!(asked_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stop_cancels_work_that_may_be_cancelled() {
    let mut background = Background::new();
    let (dropping, dropped) = oneshot::channel();
    let begun = Arc::new(Notify::new());
    let (beginning, mut guard) = (Arc::clone(&begun), Some(Dropped(Some(dropping))));
    background.run(cancellable(move || {
        let (beginning, guard) = (Arc::clone(&beginning), guard.take());
        async move {
            let _guard = guard;
            beginning.notify_one();
            pending().await
        }
    }));
    begun.notified().await;
    let asked_at = Instant::now();
    assert_eq!(background.join().await, []);
    assert_eq!(asked_at.elapsed(), Duration::ZERO);
    dropped.await.expect("the work was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_work_that_must_not_be_cancelled() {
    let mut background = Background::new();
    let took = STOP_TIME / 2;
    let begun = Arc::new(Notify::new());
    let is_over = Arc::new(AtomicBool::new(false));
    let (beginning, ending) = (Arc::clone(&begun), Arc::clone(&is_over));
    background.run(scripted(move || {
        let (beginning, ending) = (Arc::clone(&beginning), Arc::clone(&ending));
        async move {
            beginning.notify_one();
            sleep(took).await;
            let was_over = ending.swap(true, Ordering::Relaxed);
            assert!(!was_over, "no work begins after the stop");
            Pace::Busy
        }
    }));
    begun.notified().await;
    let asked_at = Instant::now();
    assert_eq!(background.join().await, []);
    assert!(is_over.load(Ordering::Relaxed));
    assert!(asked_at.elapsed() >= took, "{:?}", asked_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_aborts_what_does_not_end_in_time() {
    let mut background = Background::new();
    let (dropping, dropped) = oneshot::channel();
    let guard = Dropped(Some(dropping));
    background.spawn("endless", async move {
        let _guard = guard;
        pending().await
    });
    background.run(scripted(async || Pace::Idle(HOUR)));
    let asked_at = Instant::now();
    assert_eq!(background.join().await, [("endless", Misfortune::Late)]);
    assert!(asked_at.elapsed() >= STOP_TIME && asked_at.elapsed() < STOP_TIME * 2);
    dropped.await.expect("it was aborted");
}

#[tokio::test]
async fn a_busy_worker_lets_others_run_and_can_be_stopped() {
    let mut background = Background::new();
    let worked = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&worked);
    background.run(scripted(move || {
        counting.fetch_add(1, Ordering::Relaxed);
        async { Pace::Busy }
    }));
    // There is one thread: unless others get a turn, the first `yield_now` never returns.
    while worked.load(Ordering::Relaxed) < 1_000 {
        yield_now().await;
    }
    assert_eq!(background.join().await, []);
}

#[tokio::test]
async fn a_panic_is_reported_by_name_and_keeps_nobody_from_stopping() {
    let mut background = Background::new();
    let (dropping, dropped) = oneshot::channel();
    let mut guard = Some(Dropped(Some(dropping)));
    background.run(scripted(move || {
        let guard = guard.take();
        async move {
            let _guard = guard;
            panic!("this is a test")
        }
    }));
    background.spawn("sound", stopped(background.stopping()));
    dropped.await.expect("the worker panicked");
    assert_eq!(
        background.join().await,
        [("scripted", Misfortune::Panicked)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pace_is_kept() {
    let mut background = Background::new();
    let times = Times::new();
    let (noting, (finish, finished)) = (times.clone(), oneshot::channel::<()>());
    let mut finish = Some(finish);
    background.run(Scripted {
        first_after: Duration::from_secs(60),
        ..scripted(move || {
            let nth = noting.note();
            let finish = (nth == 6).then(|| finish.take()).flatten();
            async move {
                let (took, pace) = match nth {
                    // An idle worker keeps its period, however long the work took.
                    1 => (3, Pace::Idle(Duration::from_secs(10))),
                    2 => (30, Pace::Idle(Duration::from_secs(10))),
                    // A retry's pause starts when the work ends.
                    3 => (3, Pace::Retry(Duration::from_secs(10))),
                    4 | 5 => (0, Pace::Busy),
                    _ => (0, Pace::Done),
                };
                sleep(Duration::from_secs(took)).await;
                drop(finish);
                pace
            }
        })
    });
    finished.await.expect_err("it is only dropped");
    assert_eq!(background.join().await, []);
    assert_eq!(times.noted(), [60, 70, 100, 113, 113, 113]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_background_stops_too() {
    let mut background = Background::new();
    let (dropping, dropped) = oneshot::channel();
    let guard = Dropped(Some(dropping));
    background.run(scripted(move || {
        let _ = &guard;
        async { Pace::Idle(HOUR) }
    }));
    let begun_at = Instant::now();
    drop(background);
    dropped.await.expect("the worker ended");
    assert!(begun_at.elapsed() < HOUR);
}

/// Copies the state it follows.
struct Copying {
    source: watch::Receiver<u64>,
    copy: watch::Sender<u64>,
    takes: Duration,
}

impl Follower for Copying {
    type Error = watch::error::RecvError;

    fn name(&self) -> &'static str {
        "copying"
    }

    async fn apply(&mut self) {
        let value = *self.source.borrow();
        sleep(self.takes).await;
        self.copy.send_replace(value);
    }

    async fn changed(&mut self) -> Result<(), Self::Error> {
        self.source.changed().await
    }
}

async fn copying(
    background: &mut Background,
    takes: Duration,
) -> (watch::Sender<u64>, watch::Receiver<u64>) {
    let source = watch::Sender::new(1);
    let copy = watch::Sender::new(0);
    let copied = copy.subscribe();
    let follower = Copying {
        source: source.subscribe(),
        copy,
        takes,
    };
    background.follow(follower).await;
    (source, copied)
}

#[tokio::test(start_paused = true)]
async fn a_follower_applies_the_state_as_it_stands_and_then_every_newest_one() {
    let mut background = Background::new();
    let (source, mut copied) = copying(&mut background, Duration::from_secs(1)).await;
    assert_eq!(*copied.borrow(), 1, "before `follow` returned");
    source.send_replace(2);
    copied.wait_for(|copy| *copy == 2).await.unwrap();
    // A change during the applying is applied after it.
    source.send_replace(3);
    yield_now().await;
    source.send_replace(4);
    copied.wait_for(|copy| *copy == 4).await.unwrap();
    // The last state is applied even if no other can follow.
    source.send_replace(5);
    drop(source);
    copied.wait_for(|copy| *copy == 5).await.unwrap();
    copied.changed().await.expect_err("the follower is gone");
    assert_eq!(background.join().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_state_that_is_being_applied_and_for_no_change() {
    let mut background = Background::new();
    let (slow, slowly_copied) = copying(&mut background, STOP_TIME / 2).await;
    let (_quiet, quietly_copied) = copying(&mut background, Duration::ZERO).await;
    slow.send_replace(2);
    // The slow one has started to apply it once the others had a turn.
    yield_now().await;
    assert_eq!(background.join().await, []);
    assert_eq!((*slowly_copied.borrow(), *quietly_copied.borrow()), (2, 1));
}
