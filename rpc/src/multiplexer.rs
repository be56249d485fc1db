//! The asking end: many callers over a few framed streams.
//!
//! Callers put operations into a lane's queue and wait. The transport sends all queued operations
//! as one frame, and the lane's task wakes the callers whose answers arrived (`lane`). When a
//! caller goes away, its answer is discarded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use crate::{
    exchange::{CallError, Exchange},
    lane::{Lane, OnNews},
    process_name::AddressedChannel,
};

/// Many callers over a few framed streams to one peer. Cheap to clone.
pub struct Multiplexer<X: Exchange> {
    lanes: Arc<Lanes<X>>,
}

struct Lanes<X: Exchange> {
    lanes: Vec<Arc<Lane<X>>>,
    next: AtomicUsize,
}

impl<X: Exchange> Drop for Lanes<X> {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.close();
        }
    }
}

impl<X: Exchange> Clone for Multiplexer<X> {
    fn clone(&self) -> Self {
        Self {
            lanes: Arc::clone(&self.lanes),
        }
    }
}

impl<X: Exchange> Multiplexer<X> {
    /// One stream over each of `channels`, with at most `max_in_flight` operations each. Streams
    /// open on first use. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(channels: Vec<impl Into<AddressedChannel>>, max_in_flight: usize) -> Self {
        Self::with_news(channels, max_in_flight, |_| ())
    }

    /// As [`Self::new`]; `on_news` receives what a frame carries beside its answers, before the
    /// answers are delivered.
    #[must_use]
    pub fn with_news(
        channels: Vec<impl Into<AddressedChannel>>,
        max_in_flight: usize,
        on_news: impl Fn(X::News) + Send + Sync + 'static,
    ) -> Self {
        let on_news: OnNews<X> = Arc::new(on_news);
        let lanes = (channels.into_iter())
            .map(|channel| Lane::start(channel.into(), max_in_flight, Arc::clone(&on_news)));
        Self {
            lanes: Arc::new(Lanes {
                lanes: lanes.collect(),
                next: AtomicUsize::new(0),
            }),
        }
    }

    /// Opens its streams now, so that no call waits for that, or fails because the process can make
    /// no more connections.
    #[must_use]
    pub fn opened(self) -> Self {
        for lane in &self.lanes.lanes {
            lane.open_at_once();
        }
        self
    }

    /// Sends an operation and waits for its answer until `deadline`.
    ///
    /// # Errors
    /// [`CallError`]: whether the operation may have had an effect. One larger than the limit
    /// `max_request_bytes` is refused before it is sent.
    pub async fn call(
        &self,
        request: X::Request,
        deadline: Instant,
    ) -> Result<X::Reply, CallError> {
        let Lanes { lanes, next } = &*self.lanes;
        let lane = match lanes.len() {
            1 => &lanes[0],
            n => &lanes[next.fetch_add(1, Ordering::Relaxed) % n],
        };
        lane.call(request, deadline).await
    }
}
