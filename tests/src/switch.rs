//! A line between clients and the platform whose other end is changed under them.

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

/// A TCP proxy. Connections stay where they are; new ones go to the newest target. It ends
/// with this.
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
    /// A line to `target`.
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
                        // Either end may go away whenever it likes.
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

    /// New connections go to `target` from now on.
    pub fn turn_to(&self, target: &str) {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.clone_into(&mut current);
    }
}

fn newest(target: &Mutex<String>) -> String {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
    target.clone()
}
