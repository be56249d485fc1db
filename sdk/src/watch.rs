//! Watches: the committed changes of a prefix, as they happen.
//!
//! When its coordinator goes away, a watch reconnects to that or another one and goes on after the
//! last event.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream, stream::unfold};
use tierkv_rpc::proto::{
    status::read_error,
    v1::{self, WatchRequest, WatchResponse, watch_event},
};
use tierkv_types::{Code, Error as Refusal};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tonic::{Status, Streaming};

use crate::{
    answer::expires_at,
    client::{Client, late},
    coordinators::{Turns, slow},
    error::{Error, is_retryable},
};

/// Pause before a watch is opened again, if it could not be opened or ended sooner than this: a
/// platform in trouble is not asked without a break.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// The change's version.
    pub version: u64,
    /// The kind of change.
    pub change: Change,
}

/// The change of a watched key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds this value.
    Written {
        /// The whole value.
        value: Bytes,
        /// When the key expires, by the cluster's clock; `None` if it does not.
        expires_at: Option<SystemTime>,
    },
    /// The key is absent; it may have been absent before.
    Removed,
}

/// The changes of a prefix from one moment on: per key in version order, each once.
///
/// A watch waits without a timeout, also while the platform is away. It ends with an error that
/// waiting does not cure. [`Code::TokenExpired`]: the changes since the last event are no longer
/// kept; read the keys, and start a new watch.
///
/// To continue after a restart of the application, store [`Watch::resume_token`] together with the
/// results of the events, and pass it to [`Client::watch_from`].
#[must_use = "a watch does nothing until it is polled for events"]
pub struct Watch {
    deliveries: BoxStream<'static, Result<Delivery, Error>>,
    resume_token: Bytes,
    covers_all: bool,
    connected: watch::Receiver<bool>,
}

impl Watch {
    /// The next change.
    ///
    /// # Errors
    /// The operation's [`Error`], after which there are no more.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        StreamExt::next(self).await
    }

    /// Where a watch continues that has seen every event so far. The server sends events in groups,
    /// and the token moves on with the last event of a group: after a restart some events of a
    /// group may come again. The token also moves on while nothing happens, if the watch is polled.
    #[must_use]
    pub fn resume_token(&self) -> &Bytes {
        &self.resume_token
    }

    /// Whether the watch is connected; the receiver is notified of each change. A watch whose
    /// connection broke reconnects by itself while it is polled.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Whether the resume token covers every event handed out: a watch that continues there repeats
    /// none of them.
    #[must_use]
    pub const fn token_covers_all(&self) -> bool {
        self.covers_all
    }
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.deliveries.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(Delivery { event, token }))) => {
                    self.covers_all = token.is_some();
                    if let Some(token) = token {
                        self.resume_token = token;
                    }
                    if let Some(event) = event {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Client {
    /// Watches the keys that begin with `prefix`, from now on. No change after the return is
    /// missed.
    ///
    /// # Errors
    /// The operation's [`Error`].
    pub async fn watch(&self, prefix: impl AsRef<[u8]>) -> Result<Watch, Error> {
        self.watch_from(prefix, Bytes::new()).await
    }

    /// Watches the keys that begin with `prefix`, from where an earlier watch of the same prefix
    /// stopped.
    ///
    /// # Errors
    /// The operation's [`Error`]; `TokenExpired` if the changes since then are no longer kept.
    pub async fn watch_from(
        &self,
        prefix: impl AsRef<[u8]>,
        resume_token: impl Into<Bytes>,
    ) -> Result<Watch, Error> {
        let (is_connected, connected) = watch::channel(true);
        let mut watching = Watching {
            client: self.clone(),
            request: WatchRequest {
                namespace: self.namespace.as_ref().to_owned(),
                prefix: Bytes::copy_from_slice(prefix.as_ref()),
                resume_token: resume_token.into(),
            },
            stream: None,
            opened: Instant::now(),
            came: VecDeque::new(),
            is_over: false,
            is_connected,
        };
        watching.open().await?;
        Ok(Watch {
            resume_token: watching.request.resume_token.clone(),
            covers_all: true,
            connected,
            deliveries: unfold(watching, async |mut watching| {
                let delivery = watching.next().await?;
                Some((delivery, watching))
            })
            .fuse()
            .boxed(),
        })
    }
}

/// An event, a token that covers it and all before, or both.
struct Delivery {
    event: Option<Event>,
    token: Option<Bytes>,
}

/// A watch in progress.
struct Watching {
    client: Client,
    /// The request; its token moves on.
    request: WatchRequest,
    stream: Option<Streaming<WatchResponse>>,
    /// When the stream was opened last.
    opened: Instant,
    came: VecDeque<Delivery>,
    is_over: bool,
    is_connected: watch::Sender<bool>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            if let Some(delivery) = self.came.pop_front() {
                return Some(Ok(delivery));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.more().await {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }

    /// Waits for the server's next message, without a timeout.
    async fn more(&mut self) -> Result<(), Error> {
        let error = match &mut self.stream {
            None => return self.open_at_last().await,
            Some(stream) => match stream.message().await {
                Ok(Some(response)) => return self.take(response),
                Ok(None) => Refusal::unavailable("the coordinator ended the watch"),
                Err(status) => read_error(&status),
            },
        };
        self.stream = None;
        if !goes_on(error.code) {
            return Err(error.into());
        }
        self.is_connected.send_replace(false);
        tracing::info!(%error, "a watch broke; opening it again");
        if self.opened.elapsed() < REOPEN_PAUSE {
            sleep(REOPEN_PAUSE).await;
        }
        Ok(())
    }

    /// Opens the stream again, retrying without a limit.
    async fn open_at_last(&mut self) -> Result<(), Error> {
        let mut is_logged = false;
        loop {
            match self.open().await {
                Err(error) if goes_on(error.code()) => {
                    if !is_logged {
                        tracing::warn!(%error, "a watch can't be opened again yet");
                        is_logged = true;
                    }
                    sleep(REOPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Opens the stream, with retries at all coordinators, within an operation's timeout.
    async fn open(&mut self) -> Result<(), Error> {
        let client = self.client.clone();
        let mut turns = client.turns();
        loop {
            let error = match timeout_at(turns.patience(), self.answered(&turns)).await {
                Ok(Ok((stream, response))) => {
                    self.stream = Some(stream);
                    self.opened = Instant::now();
                    self.is_connected
                        .send_if_modified(|is_connected| !std::mem::replace(is_connected, true));
                    return self.take(response);
                }
                Ok(Err(status)) => read_error(&status),
                Err(_) if turns.left().is_zero() => late(),
                Err(_) => slow(),
            };
            if !is_retryable(error.code) || !turns.next(&error).await {
                return Err(error.into());
            }
        }
    }

    /// The server's stream and its first message, which confirms that the watch is open.
    async fn answered(
        &self,
        turns: &Turns<'_>,
    ) -> Result<(Streaming<WatchResponse>, WatchResponse), Status> {
        let mut kv = turns.coordinator().kv();
        let opened = kv.watch(self.request.clone()).await;
        let mut stream = self.client.note_time(opened)?;
        match stream.message().await? {
            Some(first) => Ok((stream, first)),
            None => Err(Status::unavailable("the watch ended before it began")),
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), Error> {
        let mut events = response.events.into_iter().map(event).peekable();
        let token = response.resume_token;
        if events.peek().is_none() {
            let token = Some(token.clone());
            self.came.push_back(Delivery { event: None, token });
        }
        while let Some(event) = events.next() {
            self.came.push_back(Delivery {
                event: Some(event?),
                token: events.peek().is_none().then(|| token.clone()),
            });
        }
        self.request.resume_token = token;
        Ok(())
    }
}

/// Whether a watch that ended with this code may be opened again.
const fn goes_on(code: Code) -> bool {
    is_retryable(code) || matches!(code, Code::DeadlineExceeded | Code::ResourceExhausted)
}

fn event(event: v1::WatchEvent) -> Result<Event, Error> {
    let change = match event.kind {
        Some(watch_event::Kind::Written(written)) => Change::Written {
            value: written.value,
            expires_at: expires_at(written.expires_at_ms),
        },
        Some(watch_event::Kind::Removed(v1::Removed {})) => Change::Removed,
        None => {
            let words = "the server sent a kind of change that this client does not support; \
                         upgrade it";
            return Err(Refusal::new(Code::Internal, words).into());
        }
    };
    Ok(Event {
        key: event.key,
        version: event.version,
        change,
    })
}
