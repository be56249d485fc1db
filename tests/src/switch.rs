//! A TCP proxy between clients and the platform whose target can be changed.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A TCP proxy. Open connections keep their target; new ones go to the newest target. Dropping
/// it stops it.
#[derive(Debug)]
pub struct Switch {
    /// Where clients connect.
    pub address: SocketAddr,
    target: Arc<Mutex<String>>,
    accepting: JoinHandle<()>,
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Switch {
    /// Starts a proxy to `target`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(target.to_owned()));
        let current = Arc::clone(&target);
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = newest(&current);
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        // Either end may close at any time.
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Ok(Self {
            address,
            target,
            accepting,
        })
    }

    /// From now on, new connections go to `target`.
    pub fn turn_to(&self, target: &str) {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.clone_into(&mut current);
    }
}

fn newest(target: &Mutex<String>) -> String {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
    target.clone()
}
