//! A TCP proxy between a client and the platform that cuts connections during requests.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The most bytes that are forwarded at once.
const PIECE: usize = 64 << 10;

/// A TCP proxy that cuts connections during requests. Dropping it stops it.
#[derive(Debug)]
pub struct Cutter {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// The connection is cut at one in this many pieces from a client; 0: never.
    one_in: AtomicU32,
    cuts: AtomicU64,
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Before a piece from the client is forwarded: the piece is lost.
    Before,
    /// Right after it was forwarded: the server may have received it or not.
    After,
    /// After the server answered: it received the piece, and its answer is lost.
    Answered,
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Cutter {
    /// Starts a proxy to `target`. It cuts nothing yet; `dice` will choose where to cut.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: &str, mut dice: StdRng) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            one_in: AtomicU32::new(0),
            cuts: AtomicU64::new(0),
        });
        let (target, passing) = (target.to_owned(), Arc::clone(&shared));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, shared) = (target.clone(), Arc::clone(&passing));
                let dice = StdRng::from_rng(&mut dice);
                tokio::spawn(async move {
                    // Either end may close at any time.
                    drop(pass(client, &target, &shared, dice).await);
                });
            }
        });
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// From now on, cuts at one in `pieces` pieces from clients; 0: never.
    pub fn cut_one_in(&self, pieces: u32) {
        self.shared.one_in.store(pieces, Ordering::SeqCst);
    }

    /// How many connections were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

/// Forwards bytes both ways until one end closes or the connection is cut.
async fn pass(
    mut client: TcpStream,
    target: &str,
    shared: &Shared,
    mut dice: StdRng,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut request, mut answer) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        tokio::select! {
            length = client.read(&mut request) => {
                let piece = &request[..length?];
                let cut = choose(shared, &mut dice);
                if piece.is_empty() || matches!(cut, Some(Cut::Before)) {
                    return Ok(());
                }
                server.write_all(piece).await?;
                match cut {
                    Some(Cut::Answered) => {
                        let _lost = server.read(&mut answer).await?;
                        return Ok(());
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            length = server.read(&mut answer) => {
                let piece = &answer[..length?];
                if piece.is_empty() {
                    return Ok(());
                }
                client.write_all(piece).await?;
            }
        }
    }
}

fn choose(shared: &Shared, dice: &mut StdRng) -> Option<Cut> {
    let one_in = shared.one_in.load(Ordering::SeqCst);
    if one_in == 0 || !dice.random_ratio(1, one_in) {
        return None;
    }
    shared.cuts.fetch_add(1, Ordering::SeqCst);
    let cuts = [Cut::Before, Cut::After, Cut::Answered];
    Some(cuts[dice.random_range(0..cuts.len())])
}
