//! Channels and servers with common transport settings.

use std::time::Duration;

use tierkv_types::{
    Error,
    limits::{MAX_NODE_WATCHES, MAX_OPEN_SCANS},
};
use tonic::transport::{Channel, Endpoint, Server};

/// How often an idle connection is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of a ping, after which the connection is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 flow control windows: large enough that a 1 MiB value never waits for a
/// window update on a fast link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The window of a call whose reader may pause for long: the maximum that is buffered for it.
const UNHURRIED_WINDOW: u32 = 64 << 10;
/// The window for all these calls together: paused readers must not hold up others. An HTTP/2
/// window is under 2 GiB.
#[allow(clippy::cast_possible_truncation)] // 130 MiB.
const UNHURRIED_CONNECTION_WINDOW: u32 =
    UNHURRIED_WINDOW * (MAX_NODE_WATCHES + MAX_OPEN_SCANS) as u32;

/// A channel to `address` (`host:port`). It connects on first use and reconnects after a loss;
/// keepalive detects a dead peer.
///
/// # Errors
/// `InvalidArgument` if the address is not `host:port`.
pub fn channel(address: &str) -> Result<Channel, Error> {
    connect(address, STREAM_WINDOW, CONNECTION_WINDOW)
}

/// A [`channel`] for calls that stream answers to readers who may pause for long: little is
/// buffered for each reader, and a paused one holds up no other.
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

/// A server with the settings of [`channel`]; an [`Acceptor`](crate::Acceptor) accepts its
/// connections.
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
