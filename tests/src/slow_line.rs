//! A TCP proxy that forwards the platform's answers slowly, as a slow network does.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::sleep,
};

/// The pause between two parts of an answer.
const PAUSE: Duration = Duration::from_millis(50);
/// How much of an answer the system may buffer.
const BUFFER_BYTES: u32 = 64 << 10;

/// A slow proxy. Dropping it accepts no more connections.
#[derive(Debug)]
pub struct SlowLine {
    /// Where clients connect, as `host:port`.
    pub address: String,
    accepting: JoinHandle<()>,
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl SlowLine {
    /// Starts a proxy to `target`; each connection forwards so many bytes of answers a second.
    ///
    /// # Errors
    /// If there is no free port, or `target` is not `ip:port`.
    pub async fn start(target: &str, bytes_per_second: usize) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let target: SocketAddr = target.parse().map_err(io::Error::other)?;
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward(near, target, bytes_per_second));
            }
        });
        Ok(Self { address, accepting })
    }
}

async fn forward(mut near: TcpStream, target: SocketAddr, rate: usize) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    let mut far = socket.connect(target).await?;
    let ((mut asked, mut answers), (mut read, mut sent)) = (near.split(), far.split());
    tokio::select! {
        copied = copy(&mut asked, &mut sent) => copied.map(drop),
        copied = copy_slowly(&mut read, &mut answers, rate) => copied,
    }
}

async fn copy_slowly(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    rate: usize,
) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // It is a small number.
    let pauses_per_second = (1_000 / PAUSE.as_millis()) as usize;
    let mut bytes = vec![0; rate / pauses_per_second];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
        sleep(PAUSE).await;
    }
}
