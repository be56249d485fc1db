//! A TCP proxy to the platform that counts connections, and can be closed and opened again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A TCP proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect, as `host:port`.
    pub address: String,
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
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let (is_up, up) = watch::channel(true);
        let (counted, target) = (Arc::clone(&connections), target.to_owned());
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // While the proxy is closed, a new connection is dropped at once.
                if *up.borrow() {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(pass(near, target.clone(), up.clone()));
                }
            }
        });
        Ok(Self {
            address,
            connections,
            is_up,
            accepting,
        })
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

async fn pass(mut near: TcpStream, target: String, mut up: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        // Either end may close at any time.
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = up.wait_for(|up| !up) => {}
    }
}
