//! How every tier takes its address, serves until it is told to stop, and drains.

use std::{net::SocketAddr, time::Duration};

use futures::stream::{BoxStream, StreamExt, unfold};
use tierkv_proto::status::to_status;
use tierkv_types::Error;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::Stream;
use tonic::Status;

/// How long requests under way may take to finish when a tier stops.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// An address that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be listened on: {error}; choose another address")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub error: std::io::Error,
}

/// Takes an address; port 0 takes a free one. Answers the one that it became.
///
/// # Errors
/// [`ListenError`] if it is in use, or not this machine's.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failed = |error| ListenError { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Over once `stop` says so, or nobody is left who could.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// The last word of a server that stops: what was not answered was never taken in.
#[must_use]
pub fn stopping() -> Error {
    Error::unavailable("the server is stopping; ask another")
}

/// A call's streamed answers, as tonic wants them.
pub type StatusStream<T> = BoxStream<'static, Result<T, Status>>;

/// Streams answers up to the first error, until there are no more, or until `stop` says so:
/// then the last word is an `Unavailable`.
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

/// Lets a serving task that was told to stop finish its requests, for a while: a peer that
/// keeps its stream open does not keep the tier from stopping.
pub async fn drain(serving: JoinHandle<()>) {
    let abort = serving.abort_handle();
    if timeout(DRAIN_TIME, serving).await.is_err() {
        abort.abort();
    }
}
