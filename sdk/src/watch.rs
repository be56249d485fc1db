//! Watches: the committed changes of a prefix, as they happen.
//!
//! A watch goes on by itself when its coordinator goes away: at that or another one, behind
//! the last events that came.

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

/// A watch that ended sooner than this after it was opened, or could not be opened, is opened
/// again so much later: a platform that is in trouble is not asked without a break.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which key.
    pub key: Bytes,
    /// The change's version.
    pub version: u64,
    /// What became of it.
    pub change: Change,
}

/// What became of a watched key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It holds this value.
    Written {
        /// The whole value.
        value: Bytes,
        /// When the key expires, by the cluster's clock; `None` if it does not.
        expires_at: Option<SystemTime>,
    },
    /// It is absent; perhaps it was before, too.
    Removed,
}

/// The changes of a prefix from one moment on: of one key in the order of their versions,
/// each once.
///
/// It waits as long as it takes, also for a platform that went away. It ends with an error
/// that waiting does not mend: [`Code::TokenExpired`] says that what happened since the last
/// event is no longer known; read the keys, and watch anew.
///
/// To go on after a restart of the application, store [`Watch::resume_token`] together with
/// what became of the events, and give it to [`Client::watch_from`].
#[must_use = "a watch tells nothing until it is asked for events"]
pub struct Watch {
    told: BoxStream<'static, Result<Told, Error>>,
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

    /// Where a watch goes on that has seen every event of this one so far. It moves on with
    /// the last of the events that the server told together, so after a restart some of these
    /// may come again; it moves on, too, while nothing happens and the watch is asked for
    /// events.
    #[must_use]
    pub fn resume_token(&self) -> &Bytes {
        &self.resume_token
    }

    /// Whether the platform is connected, and hears of each change of that: a watch whose
    /// connection broke waits and goes on by itself, while it is asked for events.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Whether the resume token covers every event that was handed out: a watch that goes on
    /// there is told none of them again.
    #[must_use]
    pub const fn token_covers_all(&self) -> bool {
        self.covers_all
    }
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.told.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(Told { event, token }))) => {
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
    /// Watches the keys that begin with `prefix`, from now on: once this returns, no change
    /// is missed.
    ///
    /// # Errors
    /// The operation's [`Error`].
    pub async fn watch(&self, prefix: impl AsRef<[u8]>) -> Result<Watch, Error> {
        self.watch_from(prefix, Bytes::new()).await
    }

    /// Watches the keys that begin with `prefix`, from where an earlier watch of the same
    /// prefix had come to.
    ///
    /// # Errors
    /// The operation's [`Error`]; `TokenExpired` if what happened since is no longer known.
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
            told: unfold(watching, async |mut watching| {
                let told = watching.next().await?;
                Some((told, watching))
            })
            .fuse()
            .boxed(),
        })
    }
}

/// An event, a token that covers it and all before, or both.
struct Told {
    event: Option<Event>,
    token: Option<Bytes>,
}

/// A watch under way.
struct Watching {
    client: Client,
    /// Its token moves on.
    request: WatchRequest,
    stream: Option<Streaming<WatchResponse>>,
    /// When the stream was opened last.
    opened: Instant,
    came: VecDeque<Told>,
    is_over: bool,
    is_connected: watch::Sender<bool>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<Told, Error>> {
        loop {
            if let Some(told) = self.came.pop_front() {
                return Some(Ok(told));
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

    /// Waits for the server's next word, as long as it takes.
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
        tracing::info!(%error, "a watch broke and is opened again");
        if self.opened.elapsed() < REOPEN_PAUSE {
            sleep(REOPEN_PAUSE).await;
        }
        Ok(())
    }

    /// Opens the stream anew, however long that takes.
    async fn open_at_last(&mut self) -> Result<(), Error> {
        let mut is_told = false;
        loop {
            match self.open().await {
                Err(error) if goes_on(error.code()) => {
                    if !is_told {
                        tracing::warn!(%error, "a watch can't be opened again yet");
                        is_told = true;
                    }
                    sleep(REOPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Opens the stream, here or elsewhere, in the time that an operation may take.
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

    /// The server's stream and the first word in it, which says that it is open.
    async fn answered(
        &self,
        turns: &Turns<'_>,
    ) -> Result<(Streaming<WatchResponse>, WatchResponse), Status> {
        let mut kv = turns.coordinator().kv();
        let opened = kv.watch(self.request.clone()).await;
        let mut stream = self.client.heard(opened)?;
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
            self.came.push_back(Told { event: None, token });
        }
        while let Some(event) = events.next() {
            self.came.push_back(Told {
                event: Some(event?),
                token: events.peek().is_none().then(|| token.clone()),
            });
        }
        self.request.resume_token = token;
        Ok(())
    }
}

/// Whether a watch that ended so may go on at once or later.
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
            let words = "the server told of a kind of change that this client does not know; \
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
