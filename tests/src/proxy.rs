//! A TCP proxy between clients and the platform. It counts connections, can be closed and opened
//! again, can change its target, and can forward answers slowly.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// The pause between two parts of a slowly forwarded answer.
const PAUSE: Duration = Duration::from_millis(50);
/// How much of a slowly forwarded answer the system may buffer.
const SLOW_BUFFER_BYTES: u32 = 64 << 10;

/// A TCP proxy. Open connections keep their target; new ones go to the newest target. Dropping it
/// stops it.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect, as `host:port`.
    pub address: String,
    target: Arc<Mutex<String>>,
    connections: Arc<AtomicUsize>,
    is_up: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Starts an open proxy to `target`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: &str) -> io::Result<Self> {
        Self::with_rate(target, None).await
    }

    /// As [`Self::start`]; each connection forwards so many bytes of answers a second.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn slow(target: &str, bytes_per_second: usize) -> io::Result<Self> {
        Self::with_rate(target, Some(bytes_per_second)).await
    }

    async fn with_rate(target: &str, rate: Option<usize>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let target = Arc::new(Mutex::new(target.to_owned()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (is_up, up) = watch::channel(true);
        let (counted, current) = (Arc::clone(&connections), Arc::clone(&target));
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // While the proxy is closed, a new connection is dropped at once.
                if *up.borrow() {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(pass(near, newest(&current), rate, up.clone()));
                }
            }
        });
        Ok(Self {
            address,
            target,
            connections,
            is_up,
            accepting,
        })
    }

    /// From now on, new connections go to `target`.
    pub fn turn_to(&self, target: &str) {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.clone_into(&mut current);
    }

    /// Opens the proxy, or closes it with all its connections.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.send_replace(is_up);
    }

    /// How many connections were forwarded since the last call.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.swap(0, Ordering::SeqCst)
    }
}

fn newest(target: &Mutex<String>) -> String {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
    target.clone()
}

async fn pass(near: TcpStream, target: String, rate: Option<usize>, mut up: watch::Receiver<bool>) {
    let forwarded = async {
        match rate {
            None => forward(near, &target).await,
            Some(rate) => forward_slowly(near, &target, rate).await,
        }
    };
    tokio::select! {
        // Either end may close at any time.
        _ = forwarded => {}
        _ = up.wait_for(|up| !up) => {}
    }
}

async fn forward(mut near: TcpStream, target: &str) -> io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}

async fn forward_slowly(mut near: TcpStream, target: &str, rate: usize) -> io::Result<()> {
    let target: SocketAddr = target.parse().map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
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
