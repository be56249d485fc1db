//! Only the scheduler controls order, time and budget.

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::*;
use crate::simulation::pace::{Pace, give_way};

/// A small world that uses every tokio feature of the node's tasks.
fn bustle(seed: u64) -> (u64, String) {
    let mut scheduler = Scheduler::new(seed);
    let trace = scheduler.trace().clone();
    let (news, mut heard) = watch::channel(0);
    let (orders, mut taken) = mpsc::channel::<u64>(4);
    for nth in 0..3 {
        let (orders, chance, trace) = (
            orders.clone(),
            Chance::of(seed, &format!("producer {nth}")),
            trace.clone(),
        );
        scheduler.spawn("world", &format!("producer {nth}"), async move {
            let pace = Pace {
                steps: 5,
                late: 30,
                late_millis: 40,
            };
            for round in 0..20 {
                pace.wait(&chance).await;
                trace.note(format_args!("{nth} sends {round}"));
                orders.send(nth * 100 + round).await.unwrap();
            }
        });
    }
    drop(orders);
    scheduler.spawn("world", "consumer", async move {
        let mut ticks = interval(Duration::from_millis(7));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                order = taken.recv() => match order {
                    Some(order) => { news.send_replace(order); }
                    None => return,
                },
                _ = ticks.tick() => give_way().await,
            }
        }
    });
    let listener = trace.clone();
    scheduler.spawn("world", "listener", async move {
        while heard.changed().await.is_ok() {
            let order = *heard.borrow_and_update();
            listener.note(format_args!("heard {order}"));
        }
    });
    while scheduler.alive("world") > 0 {
        if !scheduler.step() {
            scheduler.advance(1);
        }
    }
    (trace.hash(), trace.to_string())
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..50 {
        let run = bustle(seed);
        assert_eq!(run, bustle(seed));
        assert_ne!(run.0, bustle(seed + 1).0);
    }
}

#[test]
fn time_moves_only_when_it_is_told_to() {
    let mut scheduler = Scheduler::new(1);
    let woken = Rc::new(RefCell::new(Vec::new()));
    for millis in [0, 1, 10, 64, 5_000] {
        let woken = Rc::clone(&woken);
        scheduler.spawn("timers", &millis.to_string(), async move {
            sleep(Duration::from_millis(millis)).await;
            woken.borrow_mut().push(millis);
        });
    }
    scheduler.settle();
    assert_eq!(woken.take(), [0]);
    assert!(!scheduler.step(), "a timer woke its task by itself");
    for (by, due) in [(1, vec![1]), (8, vec![]), (1, vec![10]), (53, vec![])] {
        scheduler.advance(by);
        scheduler.settle();
        assert_eq!(woken.take(), due);
    }
    scheduler.advance(4_937);
    scheduler.settle();
    let mut due = woken.take();
    due.sort_unstable();
    assert_eq!(due, [64, 5_000]);
    assert_eq!(scheduler.time().millis(), 5_000);
}

#[test]
fn a_timeout_is_over_at_its_time_though_nothing_else_happens() {
    let mut scheduler = Scheduler::new(1);
    let is_over = scheduler.complete("one", "waits", async {
        let never = std::future::pending::<()>();
        timeout(Duration::from_millis(30), never).await.is_err()
    });
    assert!(is_over);
    assert_eq!(scheduler.time().millis(), 30);
}

#[test]
fn no_budget_keeps_a_channel_from_answering() {
    let mut scheduler = Scheduler::new(1);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (0..10_000).for_each(|nth| sender.send(nth).unwrap());
    drop(sender);
    scheduler.spawn("one", "drains", async move {
        let mut received = 0;
        while receiver.recv().await.is_some() {
            received += 1;
        }
        assert_eq!(received, 10_000);
    });
    // A task polled by this runtime has a budget of far fewer messages.
    let outer = Builder::new_current_thread().build().unwrap();
    outer.block_on(async { scheduler.step() });
    assert_eq!(scheduler.alive("one"), 0, "it was sent to wait");
}

#[test]
fn a_crash_drops_what_its_tasks_held_and_nothing_else() {
    let mut scheduler = Scheduler::new(1);
    let (answer, answered) = oneshot::channel::<()>();
    let still = Arc::new(Notify::new());
    scheduler.spawn("life 1", "driver", async move {
        sleep(Duration::from_secs(1)).await;
        drop(answer);
    });
    scheduler.spawn("life 1", "service", std::future::pending());
    let waiting = Arc::clone(&still);
    scheduler.spawn("clients", "client", async move {
        assert!(answered.await.is_err());
        waiting.notified().await;
    });
    scheduler.settle();
    scheduler.kill_task("life 1", "service");
    assert_eq!(
        (scheduler.alive("life 1"), scheduler.alive("clients")),
        (1, 1)
    );
    scheduler.kill_group("life 1");
    scheduler.settle();
    assert_eq!(
        (scheduler.alive("life 1"), scheduler.alive("clients")),
        (0, 1)
    );
    still.notify_one();
    scheduler.settle();
    assert_eq!(scheduler.alive("clients"), 0);
}

#[test]
#[should_panic = "a task was spawned past the scheduler"]
fn a_task_that_goes_past_the_scheduler_is_refused() {
    let mut scheduler = Scheduler::new(1);
    scheduler.spawn("one", "spawns", async {
        drop(tokio::spawn(std::future::pending::<()>()));
    });
    scheduler.settle();
}

#[test]
#[should_panic = "a thread was started past the scheduler"]
fn a_thread_that_goes_past_the_scheduler_is_refused() {
    let mut scheduler = Scheduler::new(1);
    scheduler.complete("one", "blocks", async {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    });
}
