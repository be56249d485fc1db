//! A TCP proxy in front of a server: it counts connections, can be closed and opened, can lose
//! answers, and its target can be changed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The most bytes that are forwarded at once.
const PIECE: usize = 64 << 10;

/// A TCP proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect, as `host:port`.
    pub address: String,
    connections: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    target: Arc<Mutex<String>>,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

/// What a proxy does with what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It forwards everything.
    Open,
    /// It forwards requests, and loses answers. Connections are unusable afterwards: close the
    /// line before it is opened again.
    AnswersLost,
    /// It loses everything, and keeps connections open. Close the line before it is opened again.
    Silent,
    /// It closes all connections, and each new one at once.
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    /// How often the line was closed.
    closings: u64,
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
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address: SocketAddr = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(AtomicUsize::new(0));
        let target = Arc::new(Mutex::new(target.to_owned()));
        let (sender, state) = watch::channel(State {
            line: Line::Open,
            closings: 0,
        });
        let (counted, current) = (Arc::clone(&connections), Arc::clone(&target));
        let losses = Arc::clone(&lost);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let State { line, closings } = *state.borrow();
                // While the proxy is closed, a new connection is dropped at once.
                if line != Line::Closed {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let (target, losses) = (newest(&current), Arc::clone(&losses));
                    tokio::spawn(pass(near, target, state.clone(), closings, losses));
                }
            }
        });
        Ok(Self {
            address: address.to_string(),
            connections,
            lost,
            target,
            state: sender,
            accepting,
        })
    }

    /// Opens the proxy, or closes it with all its connections.
    pub fn set_up(&self, is_up: bool) {
        self.set_line(if is_up { Line::Open } else { Line::Closed });
    }

    /// Changes what happens with all connections, open ones and new ones.
    pub fn set_line(&self, line: Line) {
        self.state.send_modify(|state| {
            state.line = line;
            state.closings += u64::from(line == Line::Closed);
        });
    }

    /// From now on, new connections go to `target`.
    pub fn turn_to(&self, target: &str) {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.clone_into(&mut current);
    }

    /// How many connections were forwarded since the last call.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.swap(0, Ordering::SeqCst)
    }

    /// The bytes of requests and answers that were lost.
    #[must_use]
    pub fn lost_bytes(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

fn newest(target: &Mutex<String>) -> String {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
    target.clone()
}

async fn pass(
    near: TcpStream,
    target: String,
    mut state: watch::Receiver<State>,
    closings: u64,
    lost: Arc<AtomicUsize>,
) {
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    // A proxy must not delay anything.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let line = state.clone();
    let keeps = |losing: &'static [Line]| {
        let (line, lost) = (line.clone(), Arc::clone(&lost));
        move |length: usize| {
            let now = *line.borrow();
            // What is on its way when the line is closed is lost.
            let is_lost = now.closings > closings || losing.contains(&now.line);
            lost.fetch_add(if is_lost { length } else { 0 }, Ordering::SeqCst);
            !is_lost
        }
    };
    let requests = forward(near_read, far_write, keeps(&[Line::Silent]));
    let answers = keeps(&[Line::Silent, Line::AnswersLost]);
    let answers = forward(far_read, near_write, answers);
    tokio::select! {
        // Either end may close at any time.
        _ = async { tokio::try_join!(requests, answers) } => {}
        _ = state.wait_for(|state| state.closings > closings) => {}
    }
}

/// Copies until the end, except the pieces that `keeps` refuses.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    keeps: impl Fn(usize) -> bool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if keeps(length) {
            to.write_all(&piece[..length]).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::poll::poll_until;

    /// A server that counts the bytes that it received, and sends each one back.
    async fn echo() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        counted.fetch_add(1, Ordering::SeqCst);
                        if stream.write_u8(byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, received)
    }

    async fn until(received: &AtomicUsize, count: usize) {
        poll_until(Duration::from_secs(10), || async {
            (received.load(Ordering::SeqCst) == count).then_some(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn answers_are_lost_until_the_line_is_closed() {
        let (address, received) = echo().await;
        let proxy = Proxy::start(&address).await.unwrap();
        let mut client = TcpStream::connect(&proxy.address).await.unwrap();
        client.write_u8(1).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 1);

        proxy.set_line(Line::AnswersLost);
        client.write_u8(2).await.unwrap();
        until(&received, 2).await;
        until(&proxy.lost, 1).await;
        // However shortly it is closed.
        proxy.set_line(Line::Closed);
        proxy.set_line(Line::Open);
        assert!(client.read_u8().await.is_err(), "the answer was lost");

        let mut client = TcpStream::connect(&proxy.address).await.unwrap();
        client.write_u8(3).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 3);
        assert_eq!(proxy.connections(), 2);
    }

    #[tokio::test]
    async fn an_answer_on_its_way_is_lost_when_the_line_is_closed() {
        let (address, received) = echo().await;
        let proxy = Proxy::start(&address).await.unwrap();
        for time in 1..=200 {
            let mut client = TcpStream::connect(&proxy.address).await.unwrap();
            proxy.set_line(Line::AnswersLost);
            client.write_u8(1).await.unwrap();
            while received.load(Ordering::SeqCst) < time {
                tokio::task::yield_now().await;
            }
            proxy.set_line(Line::Closed);
            proxy.set_line(Line::Open);
            assert!(client.read_u8().await.is_err(), "answer {time} was lost");
        }
    }

    #[tokio::test]
    async fn a_turned_proxy_leads_to_another_server() {
        let (one, received) = echo().await;
        let (other, received_by_other) = echo().await;
        let proxy = Proxy::start(&one).await.unwrap();
        proxy.turn_to(&other);
        let mut client = TcpStream::connect(&proxy.address).await.unwrap();
        client.write_u8(1).await.unwrap();
        until(&received_by_other, 1).await;
        assert_eq!(received.load(Ordering::SeqCst), 0);
    }
}
