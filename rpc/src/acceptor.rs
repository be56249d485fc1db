//! Accepts the connections of a door.
//!
//! Accepting never fails here. A connection over the limit gets an error message and is closed. If
//! the system has no descriptor or memory for another one, the door waits and retries; new
//! connections wait in the system's queue.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::stream::unfold;
use tierkv_types::limits::{DEFAULT_STREAM_BYTES, MAX_PEER_CONNECTIONS};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;

use crate::{
    connection::Connection,
    connections::{Connections, DoorMeters},
};

/// The first pause after a failed accept; it doubles up to the longest one while accepting fails.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often a continuing condition is logged.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum bytes read from a refused connection. Closing it with unread bytes would send a reset,
/// and the client could lose the error message.
const DISCARDED_BYTES: usize = 4 << 10;
/// Timeout of the preface from a peer of another tier.
const PEER_PREFACE_TIME: Duration = Duration::from_secs(10);

/// Accepts the connections of one door.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    connections: Connections,
    meters: Arc<DoorMeters>,
    /// The error message for a refused connection.
    farewell: Bytes,
    /// Timeout of the HTTP/2 preface, if the door expects one.
    preface_time: Option<Duration>,
    /// Since when the system refuses connections.
    refused: Option<Refused>,
    turned_away: Notice,
}

/// The system refuses connections.
#[derive(Debug)]
struct Refused {
    pause: Duration,
    until: Instant,
}

/// A log message with a minimum interval.
#[derive(Debug, Default)]
struct Notice(Option<Instant>);

impl Notice {
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= NOTICE_INTERVAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

impl Acceptor {
    /// A door of this name, with its connections counted in `connections`. A refused connection is
    /// sent `farewell`.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        name: &'static str,
        connections: Connections,
        farewell: Bytes,
    ) -> Self {
        Self {
            listener,
            meters: Arc::new(DoorMeters::new(name, &connections)),
            connections,
            farewell,
            preface_time: None,
            refused: None,
            turned_away: Notice::default(),
        }
    }

    /// A gRPC door of this name.
    #[must_use]
    pub fn of_grpc(
        listener: TcpListener,
        name: &'static str,
        connections: Connections,
        preface_time: Duration,
    ) -> Self {
        let words = format!(
            "there are {} connections here, which is the limit {}; retry later",
            connections.limit(),
            connections.name()
        );
        Self {
            preface_time: Some(preface_time),
            ..Self::new(listener, name, connections, go_away(&words))
        }
    }

    /// A tier's door for other tiers, with at most `limit` connections. `stream_bytes` is the limit
    /// of waiting answers at the users' doors; here it is a multiple.
    #[must_use]
    pub fn of_peers(
        listener: TcpListener,
        name: &'static str,
        limit: usize,
        stream_bytes: usize,
    ) -> Self {
        let connections = Connections::of_peers(name, limit, stream_bytes);
        Self::of_grpc(listener, name, connections, PEER_PREFACE_TIME)
    }

    /// The next connection. Cancel-safe: no connection is lost.
    pub async fn accept(&mut self) -> Connection {
        loop {
            if let Some(refused) = &self.refused {
                sleep_until(refused.until).await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.refused = None;
                    match self.connections.enter(&self.meters) {
                        Some(place) => {
                            // Without it, answers are only a little later.
                            let _ = stream.set_nodelay(true);
                            return self.taken(Connection::new(stream, place));
                        }
                        None => self.turn_away(stream),
                    }
                }
                // The client closed the connection before it was accepted.
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => self.pause(&error),
            }
        }
    }

    /// All connections, as a stream for tonic.
    pub fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        unfold(self, async |mut acceptor| {
            let connection = acceptor.accept().await;
            Some((Ok(connection), acceptor))
        })
    }

    fn taken(&self, connection: Connection) -> Connection {
        match self.preface_time {
            Some(time) => connection.expect_preface(time, self.meters.silent.clone()),
            None => connection,
        }
    }

    /// Closes a connection over the limit. Its error message is best effort.
    fn turn_away(&mut self, stream: TcpStream) {
        self.meters.turned_away.increment(1);
        if self.turned_away.is_due() {
            tracing::warn!(
                door = self.meters.name,
                limit = self.connections.name(),
                connections = self.connections.limit(),
                "connections are refused: the limit is reached"
            );
        }
        // This does not block: the runtime's sockets are non-blocking.
        let Ok(mut stream) = stream.into_std() else {
            return;
        };
        let _ = stream.write(&self.farewell);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; DISCARDED_BYTES]);
    }

    /// Waits before the next attempt: retrying at once would keep a processor busy.
    fn pause(&mut self, error: &io::Error) {
        self.meters.failures.increment(1);
        let pause = match &self.refused {
            Some(refused) => (refused.pause * 2).min(MAX_PAUSE),
            None => {
                tracing::warn!(
                    door = self.meters.name,
                    %error,
                    "connections can't be accepted, retrying; close some or raise the \
                     limit of file descriptors (ulimit -n)"
                );
                PAUSE
            }
        };
        self.refused = Some(Refused {
            pause,
            until: Instant::now() + pause,
        });
    }
}

/// The connections of a listener between tiers, with the default limits.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    Acceptor::of_peers(
        listener,
        "peers",
        MAX_PEER_CONNECTIONS,
        DEFAULT_STREAM_BYTES,
    )
    .connections()
}

/// Whether an accept failure concerns only that one connection.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// The frames by which an HTTP/2 server refuses a connection: empty settings, then GOAWAY (RFC
/// 9113, sections 6.5 and 6.8) with `words` as debug data.
fn go_away(words: &str) -> Bytes {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 0xB;
    const FIXED_BYTES: usize = 8;
    let length = u32::try_from(FIXED_BYTES + words.len()).unwrap_or(u32::MAX);
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&length.to_be_bytes()[1..]);
    frames.push(GOAWAY);
    // No flags; stream 0, the connection; last stream 0, none processed.
    frames.extend_from_slice(&[0; 1 + 4 + 4]);
    frames.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frames.extend_from_slice(words.as_bytes());
    frames.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener() -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn all(mut client: TcpStream) -> Vec<u8> {
        let mut received = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut received));
        end.await.expect("it is not closed").unwrap();
        received
    }

    #[tokio::test]
    async fn one_over_the_limit_is_refused_and_a_free_place_is_taken() {
        let (listener, address) = listener().await;
        let connections = Connections::of_peers("test", 1, 1 << 20);
        let mut door = Acceptor::new(listener, "test", connections, Bytes::from_static(b"full"));
        let first_client = TcpStream::connect(address).await.unwrap();
        let first = door.accept().await;
        // The client sends before it reads: its unread bytes must not cause a reset.
        let mut second_client = TcpStream::connect(address).await.unwrap();
        second_client.write_all(b"GET / HTTP/1.1").await.unwrap();
        let accepting = tokio::spawn(async move {
            let third = door.accept().await;
            (door, third)
        });
        assert_eq!(all(second_client).await, b"full");
        drop(first);
        assert_eq!(all(first_client).await, b"");
        let _third_client = TcpStream::connect(address).await.unwrap();
        let (mut door, _third) = accepting.await.unwrap();
        assert!(door.turned_away.0.is_some() && !door.turned_away.is_due());
    }

    #[tokio::test]
    async fn a_failure_of_the_system_makes_longer_and_longer_pauses() {
        let (listener, _) = listener().await;
        let mut door = Acceptor::of_peers(listener, "test", 1, 1 << 20);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            door.pause(&io::Error::from_raw_os_error(24));
            let refused = door.refused.as_ref().unwrap();
            assert!(refused.until > Instant::now());
            pauses.push(refused.pause.as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
    }

    #[tokio::test]
    async fn a_client_of_grpc_that_is_one_too_many_learns_the_limit() {
        let (listener, address) = listener().await;
        let mut door = Acceptor::of_peers(listener, "test", 0, 1 << 20);
        let accepting = tokio::spawn(async move { door.accept().await });
        let received = all(TcpStream::connect(address).await.unwrap()).await;
        assert_eq!(received[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let goaway = &received[9..];
        let length = usize::from(goaway[2]);
        assert_eq!((goaway[3], goaway.len()), (7, 9 + length));
        assert_eq!(goaway[9..17], [0, 0, 0, 0, 0, 0, 0, 0xB]);
        let words = String::from_utf8_lossy(&goaway[17..]);
        assert!(words.contains("max_peer_connections"), "{words}");
        accepting.abort();
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_and_one_with_a_preface_is_not() {
        let (listener, address) = listener().await;
        let connections = Connections::of_peers("test", 2, 1 << 20);
        let time = Duration::from_millis(100);
        let mut door = Acceptor::of_grpc(listener, "test", connections, time);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = door.accept().await;
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut bytes = [0; 24];
        let read = connection.read_exact(&mut bytes).await.unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::TimedOut);

        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = door.accept().await;
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        connection.read_exact(&mut bytes).await.unwrap();
        tokio::time::sleep(2 * time).await;
        client.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        connection.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    }
}
