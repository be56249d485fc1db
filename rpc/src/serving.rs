//! How every tier takes its address, serves until it is told to stop, and drains.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

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

/// Lets a serving task that was told to stop finish its requests, for a while: a peer that
/// keeps its stream open does not keep the tier from stopping.
pub async fn drain(serving: JoinHandle<()>) {
    let abort = serving.abort_handle();
    if timeout(DRAIN_TIME, serving).await.is_err() {
        abort.abort();
    }
}
