//! Listening, serving until the stop, and draining: the same in every tier.

use std::{net::SocketAddr, time::Duration};

use futures::stream::{BoxStream, StreamExt, unfold};
use tierkv_proto::status::to_status;
use tierkv_types::Error;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::Stream;
use tonic::Status;

/// How long requests in progress may take to finish when a tier stops.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be listened on: {error}; choose another address")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The system's error.
    pub error: std::io::Error,
}

/// Listens on an address; port 0 takes a free one. Also returns the actual address.
///
/// # Errors
/// [`ListenError`] if it is in use, or not this machine's.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failed = |error| ListenError { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Waits until `stop` becomes true or loses its sender.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// The last error of a stopping server: requests without an answer were never started.
#[must_use]
pub fn stopping() -> Error {
    Error::unavailable("the server is stopping; ask another")
}

/// A call's streamed answers, in the type that tonic requires.
pub type StatusStream<T> = BoxStream<'static, Result<T, Status>>;

/// Streams answers up to the first error, until there are no more, or until `stop` becomes true:
/// then the last item is an `Unavailable`.
pub fn until_stopped<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Error>> + Send + 'static,
    stop: watch::Receiver<bool>,
) -> StatusStream<T> {
    let going = Some((answers.boxed(), stop));
    unfold(going, async |going| {
        let (mut answers, stop) = going?;
        let last_word = tokio::select! {
            biased;
            () = stopped(stop.clone()) => stopping(),
            answer = answers.next() => match answer? {
                Ok(answer) => return Some((Ok(answer), Some((answers, stop)))),
                Err(error) => error,
            },
        };
        Some((Err(to_status(&last_word)), None))
    })
    .boxed()
}

/// Lets a stopping server task finish its requests, for a limited time: a peer that keeps its
/// stream open does not keep the tier from stopping.
pub async fn drain(serving: JoinHandle<()>) {
    let abort = serving.abort_handle();
    if timeout(DRAIN_TIME, serving).await.is_err() {
        abort.abort();
    }
}
