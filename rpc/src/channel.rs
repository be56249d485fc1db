//! Channels and servers with one set of transport settings.

use std::time::Duration;

use tierkv_types::{
    Error,
    limits::{MAX_NODE_WATCHES, MAX_OPEN_SCANS},
};
use tonic::transport::{Channel, Endpoint, Server};

/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to say so before it is given up.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 flow control windows: large enough that a 1 MiB value never waits for a
/// window update on a fast link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The window of a call whose answers a reader takes at its own pace: what piles up here
/// for one that rests.
const UNHURRIED_WINDOW: u32 = 64 << 10;
/// That of all such calls together, so that those which rest hold up no other. An HTTP/2
/// window is under 2 GiB.
#[allow(clippy::cast_possible_truncation)] // 130 MiB.
const UNHURRIED_CONNECTION_WINDOW: u32 =
    UNHURRIED_WINDOW * (MAX_NODE_WATCHES + MAX_OPEN_SCANS) as u32;

/// A channel to `address` (`host:port`). It connects when first used and again whenever
/// the connection was lost; keepalive finds a peer that died without a word.
///
/// # Errors
/// `InvalidArgument` if the address is not `host:port`.
pub fn channel(address: &str) -> Result<Channel, Error> {
    connect(address, STREAM_WINDOW, CONNECTION_WINDOW)
}

/// A [`channel`] for calls that stream their answers to readers who may rest for long: each
/// reader has little on the way to it, and one that rests holds up no other.
///
/// # Errors
/// `InvalidArgument` if the address is not `host:port`.
pub fn unhurried_channel(address: &str) -> Result<Channel, Error> {
    connect(address, UNHURRIED_WINDOW, UNHURRIED_CONNECTION_WINDOW)
}

fn connect(address: &str, stream_window: u32, connection_window: u32) -> Result<Channel, Error> {
    let invalid = || Error::invalid(format!("'{address}' is not an address; write host:port"));
    if address.starts_with("https://") {
        return Err(Error::invalid(format!(
            "'{address}' asks for TLS, which is not spoken yet; write host:port, and keep the \
             way there private"
        )));
    }
    let bare = address.strip_prefix("http://").unwrap_or(address);
    let (host, port) = bare.rsplit_once(':').ok_or_else(invalid)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(format!("http://{bare}")).map_err(|_| invalid())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .tcp_nodelay(true)
        .connect_lazy())
}

/// A server with the same settings as [`channel`]; its connections are those of an
/// [`Acceptor`](crate::Acceptor).
#[must_use]
pub fn serve_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_host_and_port_are_an_address() {
        for good in ["127.0.0.1:7400", "http://localhost:1", "[::1]:7400"] {
            assert!(channel(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":7400",
            "localhost:",
            "localhost:99999",
            "a b:1",
        ] {
            assert!(channel(bad).is_err(), "{bad}");
        }
    }
}
