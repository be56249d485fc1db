//! [`Interface`]: what requests use of an engine, and [`Current`], the interface of the engine that
//! runs now.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::stream::Stream;
use tierkv_types::Error;
use tokio::sync::{mpsc, watch};

use crate::{
    members::Received, service::Service, standing, transfer::SnapshotSource, watches::Watches,
};

/// What requests use of one engine.
pub(crate) struct Interface {
    pub(crate) service: Arc<Service>,
    pub(crate) watches: Watches,
    pub(crate) snapshots: SnapshotSource,
    /// Takes what other nodes send to the driver.
    pub(crate) inbox: mpsc::Sender<Received>,
    /// Ends the streams of requests.
    stop: watch::Sender<bool>,
}

impl Interface {
    pub(crate) fn new(
        service: Service,
        watches: Watches,
        snapshots: SnapshotSource,
        inbox: mpsc::Sender<Received>,
    ) -> Self {
        Self {
            service: Arc::new(service),
            watches,
            snapshots,
            inbox,
            stop: watch::Sender::new(false),
        }
    }

    /// Becomes true when streams of requests must end.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends all streams, now and later. Operations in progress are still answered.
    pub(crate) fn end_streams(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all streams of requests have ended, with what was in progress. To be called after
    /// [`Interface::end_streams`].
    pub(crate) async fn streams_ended(&self) {
        // Each of them holds a receiver.
        self.stop.closed().await;
    }

    /// Makes [`Interface::streams_ended`] wait for a stream until its last answer.
    pub(crate) fn hold<S>(&self, stream: S) -> Held<S> {
        Held {
            stream,
            _stop: self.stop.subscribe(),
        }
    }

    /// Whether the node does its share ([`standing::is_ready`]).
    fn is_ready(&self) -> bool {
        let service = &self.service;
        let role = service.sequencer.look(|replica, now| replica.role(now));
        standing::is_ready(role, &service.owned)
    }
}

/// A stream of answers for which the engine goes on, if it stops.
pub(crate) struct Held<S> {
    stream: S,
    _stop: watch::Receiver<bool>,
}

impl<S: Stream + Unpin> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(context)
    }
}

/// The interface of the engine that runs now; there is none while a snapshot is installed. Cheap
/// to clone.
///
/// A stream of requests takes it once and stays with that engine, which ends the stream when it
/// ends itself; so nothing is looked up for each frame.
#[derive(Clone)]
pub(crate) struct Current(watch::Receiver<Option<Arc<Interface>>>);

impl Current {
    /// None yet, and where to put it.
    pub(crate) fn none() -> (watch::Sender<Option<Arc<Interface>>>, Self) {
        let (publish, current) = watch::channel(None);
        (publish, Self(current))
    }

    /// The interface now.
    ///
    /// # Errors
    /// `Unavailable` if no engine runs. Coordinators then retry within the deadline, by then
    /// perhaps at another node.
    pub(crate) fn now(&self) -> Result<Arc<Interface>, Error> {
        self.0.borrow().clone().ok_or_else(|| {
            Error::unavailable(
                "the data node replaces its state by a snapshot of its master's and serves nothing \
                 until that is done; nothing was done, retry",
            )
        })
    }

    /// Whether an engine runs that is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let interface = self.0.borrow().clone();
        interface.is_some_and(|it| it.is_ready())
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::Code;

    use super::*;

    #[test]
    fn without_an_engine_requests_are_refused_before_anything_is_done() {
        let (_publish, current) = Current::none();
        assert!(!current.is_ready());
        let refused = current.now().map(|_| ()).unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
        assert!(refused.message.contains("nothing was done"), "{refused}");
    }
}
