//! Tests of the limit, with paused time.

use std::{future::Future, task::Waker};

use super::*;

const LIMIT: usize = 1 << 20;

fn bytes(count: usize) -> Bytes {
    Bytes::from(vec![7; count])
}

/// Bytes on their way to a client.
fn sent(share: &StreamShare, count: usize) -> Bytes {
    share.hold(count).unwrap().attach(bytes(count))
}

fn is_closed(connection: &ConnectionShares) -> bool {
    connection
        .line()
        .poll_over(&Context::from_waker(Waker::noop()))
}

fn users(limit: usize) -> StreamBytes {
    StreamBytes::of_users("test", limit)
}

/// The client of `share` reads a little every `pause`, for `time`.
async fn read_for(time: Duration, pause: Duration, share: &StreamShare) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        drop(sent(share, LEAST_COUNTED_BYTES));
        sleep(pause).await;
    }
}

#[tokio::test]
async fn bytes_count_until_they_are_sent() {
    let bound = users(LIMIT);
    let connection = ConnectionShares::new(&bound);
    let share = connection.stream();
    assert!(share.hold(LEAST_COUNTED_BYTES - 1).is_none());
    let mut held = share.hold(LIMIT).unwrap();
    assert!(!share.has_room() && !connection.calls().has_room());
    let (first, second) = (held.attach(bytes(10)), held.attach(bytes(20)));
    drop(held);
    assert_eq!(bound.shared.held(), 30);
    let part = first.slice(5..);
    drop(first);
    assert_eq!(bound.shared.held(), 30);
    assert_eq!(part, bytes(5));
    drop((part, second));
    assert_eq!(bound.shared.held(), 0);
    drop((share, connection));
    assert!(bound.shared.shares().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_continues_when_bytes_are_sent() {
    let bound = users(LIMIT);
    let connection = ConnectionShares::new(&bound);
    let share = connection.stream();
    let waiting = sent(&share, LIMIT);
    let mut room = pin!(share.room());
    let mut context = Context::from_waker(Waker::noop());
    assert!(room.as_mut().poll(&mut context).is_pending());
    drop(waiting);
    let began = Instant::now();
    room.await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(!is_closed(&connection));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_stops_only_its_own_streams_below_the_limit() {
    let bound = users(LIMIT);
    let [slow, other, late] = [(); 3].map(|()| ConnectionShares::new(&bound).stream());
    let most = sent(&slow, LIMIT / 4 * 3);
    assert!(!slow.has_room() && other.has_room() && other.free_bytes() == 0);
    let mut for_all = pin!(slow.room_for_all());
    let mut context = Context::from_waker(Waker::noop());
    assert!(for_all.as_mut().poll(&mut context).is_pending());

    // A stream goes on as fast as its own client reads.
    let answer = sent(&other, LIMIT / 8);
    let began = Instant::now();
    let mut room = pin!(other.room());
    assert!(room.as_mut().poll(&mut context).is_pending());
    drop(answer);
    room.await;

    // At the limit none produces.
    let rest = sent(&other, LIMIT / 4);
    assert!(!late.has_room());
    let mut room = pin!(late.room());
    assert!(room.as_mut().poll(&mut context).is_pending());
    drop(rest);
    room.await;
    assert!(!slow.has_room());
    drop(most);
    for_all.await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stalled_streams_end_first_and_then_a_slow_one() {
    let bound = users(LIMIT);
    let [small, large, reading] = [(); 3].map(|()| ConnectionShares::new(&bound));
    let (_small, _large) = (
        sent(&small.stream(), LIMIT / 8),
        sent(&large.stream(), LIMIT / 4),
    );
    let stream = reading.stream();
    let _waiting = sent(&stream, LIMIT / 2);
    let pause = STALL_TIME / 6;
    read_for(STALL_TIME - pause, pause, &stream).await;
    assert!(!is_closed(&large) && !is_closed(&small));
    read_for(SLOW_TIME - STALL_TIME, pause, &stream).await;
    assert!(is_closed(&large) && is_closed(&small) && !is_closed(&reading));
    read_for(2 * pause, pause, &stream).await;
    assert!(is_closed(&reading));
}

#[tokio::test(start_paused = true)]
async fn the_largest_stalled_stream_ends_and_no_other() {
    let bound = users(LIMIT);
    let [small, large] = [(); 2].map(|()| ConnectionShares::new(&bound));
    let (_small, held) = (
        sent(&small.stream(), LIMIT / 8),
        sent(&large.calls().clone(), LIMIT / 2),
    );
    sleep(STALL_TIME - LOOK_INTERVAL).await;
    assert!(!is_closed(&large));
    sleep(2 * LOOK_INTERVAL).await;
    assert!(is_closed(&large) && !is_closed(&small));
    drop(held);
    sleep(2 * SLOW_TIME).await;
    assert!(!is_closed(&small), "there is room");
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_those_that_read_ends_one_at_a_time() {
    let bound = users(LIMIT);
    let [slow, fast, idle] = [(); 3].map(|()| ConnectionShares::new(&bound));
    let (slow_stream, fast_stream) = (slow.stream(), fast.stream());
    let _idle = idle.stream();
    let held = sent(&slow_stream, LIMIT / 4);
    let _held = sent(&fast_stream, LIMIT / 4 + LIMIT / 8);
    tokio::join!(
        read_for(SLOW_TIME, STALL_TIME / 2, &slow_stream),
        read_for(SLOW_TIME, STALL_TIME / 30, &fast_stream),
    );
    let pause = STALL_TIME / 30;
    read_for(2 * LOOK_INTERVAL, pause, &fast_stream).await;
    assert!(is_closed(&slow) && !is_closed(&fast) && !is_closed(&idle));
    drop(held);
    read_for(2 * SLOW_TIME, pause, &fast_stream).await;
    assert!(!is_closed(&fast) && !is_closed(&idle), "there is room");
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_stalled_stream_ends_sooner() {
    let bound = users(LIMIT);
    let [stalled, reading] = [(); 2].map(|()| ConnectionShares::new(&bound));
    let _stalled = sent(&stalled.stream(), LIMIT / 2);
    let stream = reading.stream();
    let _held = sent(&stream, LIMIT / 2);
    let pause = URGENT_STALL_TIME / 10;
    read_for(URGENT_STALL_TIME - 2 * pause, pause, &stream).await;
    assert!(!is_closed(&stalled));
    read_for(2 * LOOK_INTERVAL + 2 * pause, pause, &stream).await;
    assert!(is_closed(&stalled) && !is_closed(&reading));
}

#[tokio::test(start_paused = true)]
async fn a_connection_between_tiers_is_closed_last_and_never_while_it_reads() {
    let bound = StreamBytes::of_peers("test", LIMIT);
    let [stalled, reading] = [(); 2].map(|()| ConnectionShares::new(&bound));
    let limit = LIMIT * PEERS_FACTOR;
    let held = sent(&stalled.stream(), limit / 2);
    let stream = reading.stream();
    let most = sent(&stream, limit / 4);
    sleep(2 * SLOW_TIME).await;
    assert!(!is_closed(&stalled) && !is_closed(&reading));
    drop((held, most));
    let _held = sent(&stalled.stream(), limit / 2);
    let _most = sent(&stream, limit / 2);
    let pause = STALL_TIME / 6;
    read_for(STALL_TIME - pause, pause, &stream).await;
    assert!(!is_closed(&stalled));
    read_for(2 * SLOW_TIME, pause, &stream).await;
    assert!(is_closed(&stalled) && !is_closed(&reading));
}
