//! A connection accepted by a door.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use metrics::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use crate::{connections::Place, stream_bytes::ConnectionShares};

/// Length of the preface that every HTTP/2 client sends first.
pub(crate) const HTTP2_PREFACE_BYTES: usize = 24;

/// A connection with its place under the limit.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The preface it must still send.
    opening: Option<Box<Opening>>,
    shares: ConnectionShares,
    _place: Place,
}

/// The expected preface, and its timeout.
struct Opening {
    bytes_left: usize,
    deadline: Pin<Box<Sleep>>,
    silent: Counter,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening")
            .field("bytes_left", &self.bytes_left)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// For a door that has its own timeouts.
    pub(crate) fn new(stream: TcpStream, place: Place) -> Self {
        Self {
            stream,
            opening: None,
            shares: place.shares(),
            _place: place,
        }
    }

    /// Its share of the limit on bytes that wait for clients.
    #[must_use]
    pub const fn shares(&self) -> &ConnectionShares {
        &self.shares
    }

    /// Makes reads fail after `time`, unless the HTTP/2 preface has arrived.
    pub(crate) fn expect_preface(mut self, time: Duration, silent: Counter) -> Self {
        self.opening = Some(Box::new(Opening {
            bytes_left: HTTP2_PREFACE_BYTES,
            deadline: Box::pin(sleep(time)),
            silent,
        }));
        self
    }

    /// The socket.
    ///
    /// # Errors
    /// If the connection must be closed.
    fn stream(self: Pin<&mut Self>, context: &Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        let this = self.get_mut();
        match this.shares.line().poll_over(context) {
            false => Ok(Pin::new(&mut this.stream)),
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the client reads its answers too slowly, and there is no room under limits.stream_bytes",
            )),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionShares;

    fn connect_info(&self) -> ConnectionShares {
        self.shares.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut *this)
            .stream(context)?
            .poll_read(context, buffer);
        let Some(opening) = &mut this.opening else {
            return read;
        };
        if read.is_pending() {
            if opening.deadline.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            opening.silent.increment(1);
            let late = "the client sent no HTTP/2 preface in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)));
        }
        let came = buffer.filled().len() - before;
        opening.bytes_left = opening.bytes_left.saturating_sub(came);
        if opening.bytes_left == 0 {
            this.opening = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
