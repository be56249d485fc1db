//! Watches of users: the changes of a prefix, with a resume token in each answer.
//!
//! A watch is one stream from a server coordinator, which merges the streams of the clusters. When
//! it breaks, it is opened again, there or at another coordinator, from the end of the last answer;
//! the user sees a pause.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, once, unfold};
use tierkv_rpc::{
    proto::{
        internal::{
            self, WatchReply, WatchedChange, server_coordinator_client::ServerCoordinatorClient,
        },
        status::read_error,
        v1::{Removed, WatchEvent, WatchRequest, WatchResponse, Written, watch_event},
    },
    session::FRAME_SLACK,
};
use tierkv_types::{
    Code, Error, ItemRange, Version,
    limits::{DEFAULT_TIMEOUT, MAX_ANSWER_BYTES, MAX_WATCHES},
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Streaming;

use crate::{
    answers::Answers,
    below::Below,
    places::{Place, Places, PlacesFor},
    watch_token::WatchToken,
};

/// The first pause before a broken stream is opened again; it doubles with each attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The longest of these pauses.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a running watch may be interrupted before it ends with an error. Its user can resume it
/// by token whenever the platform is back.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(30);

const WATCHES: PlacesFor = PlacesFor {
    what: "watches",
    limit: "max_watches",
    gauge: "tierkv_watches",
    limit_gauge: "tierkv_watches_limit",
};

/// All watches of one client coordinator.
pub(crate) struct Watches {
    below: Below,
    places: Places,
}

impl Watches {
    pub(crate) fn new(below: Below) -> Self {
        Self {
            below,
            places: Places::new(WATCHES, MAX_WATCHES),
        }
    }

    /// Starts a watch; returns once its first answer is there.
    ///
    /// # Errors
    /// `InvalidArgument`, `TokenExpired`, `ResourceExhausted` over the limit, `Unavailable` if a
    /// cluster can't be reached for a while. The stream may end with the same errors.
    pub(crate) async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<Answers<WatchResponse>, Error> {
        let range = ItemRange::of_prefix(&request.namespace, &request.prefix)?;
        let prefix = range.start().clone();
        let token = match request.resume_token.is_empty() {
            true => WatchToken::default(),
            false => WatchToken::decode(&request.resume_token)?,
        };
        let place = self.places.take()?;
        let mut watch = Watch {
            below: self.below.clone(),
            key_at: prefix.len() - request.prefix.len(),
            prefix,
            token,
            replies: None,
            _place: place,
        };
        let begun = Instant::now() + DEFAULT_TIMEOUT;
        watch.open(begun).await?;
        let first = watch.response(Vec::new(), false);
        let rest = unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(answer) => Some((Ok(answer), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(once(std::future::ready(Ok(first))).chain(rest).boxed())
    }
}

/// One watch.
struct Watch {
    below: Below,
    /// The common prefix of the item keys.
    prefix: Bytes,
    /// The offset of the key in an item key.
    key_at: usize,
    /// Where it continues: everything before was answered. Once the watch has started, it has a
    /// position for every cluster.
    token: WatchToken,
    replies: Option<Streaming<WatchReply>>,
    _place: Place,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let Some(replies) = &mut self.replies else {
                self.open(Instant::now() + OUTAGE_PATIENCE).await?;
                continue;
            };
            match message(replies).await {
                Ok(reply) => return self.answer(reply),
                Err(error) if error.code == Code::Unavailable => self.replies = None,
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, reply: WatchReply) -> Result<WatchResponse, Error> {
        let position = reply.position.ok_or_else(|| broken("no position"))?;
        self.token.advance(&position)?;
        let events = reply.changes.into_iter().map(|change| self.event(change));
        let events = events.collect::<Result<_, Error>>()?;
        Ok(self.response(events, position.changes_told > 0))
    }

    fn event(&self, change: WatchedChange) -> Result<WatchEvent, Error> {
        if !change.item_key.starts_with(&self.prefix) {
            return Err(broken("a change that was not asked for"));
        }
        let kind = match change.value {
            Some(value) => watch_event::Kind::Written(Written {
                value,
                expires_at_ms: Version::from_bits(change.expires).millis(),
            }),
            None => watch_event::Kind::Removed(Removed {}),
        };
        Ok(WatchEvent {
            key: change.item_key.slice(self.key_at..),
            version: change.version,
            kind: Some(kind),
        })
    }

    fn response(&self, events: Vec<WatchEvent>, is_partial: bool) -> WatchResponse {
        WatchResponse {
            events,
            resume_token: self.token.encode(),
            is_partial,
        }
    }

    /// Opens a stream at the primary or another coordinator, and receives each cluster's start
    /// position. Retries until `deadline`.
    async fn open(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut pause = RETRY_PAUSE;
        for turn in 0.. {
            let late = || Error::unavailable("the platform's clusters did not answer in time");
            let opened = timeout_at(deadline, self.attempt(turn)).await;
            let failure = match opened.unwrap_or_else(|_| Err(late())) {
                Ok((replies, begun)) => {
                    (self.replies, self.token) = (Some(replies), begun);
                    return Ok(());
                }
                Err(error) => error,
            };
            if failure.code != Code::Unavailable || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
        Err(broken("no end"))
    }

    async fn attempt(&self, turn: usize) -> Result<(Streaming<WatchReply>, WatchToken), Error> {
        let peer = self.below.peer(turn)?;
        let mut client = ServerCoordinatorClient::new(peer.unhurried_channel())
            .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
        let request = internal::WatchRequest {
            prefix: self.prefix.clone(),
            positions: self.token.positions(),
        };
        let opened = client.watch(request).await;
        let mut replies = opened.map_err(|status| read_error(&status))?.into_inner();
        let mut begun = WatchToken::default();
        while let Some(position) = message(&mut replies).await?.position {
            begun.advance(&position)?;
        }
        match self.token.agrees_with(&begun) {
            true => Ok((replies, begun)),
            false => Err(broken("another place than was asked for")),
        }
    }
}

async fn message(replies: &mut Streaming<WatchReply>) -> Result<WatchReply, Error> {
    let reply = replies.message().await;
    let reply = reply.map_err(|status| read_error(&status))?;
    reply.ok_or_else(|| Error::unavailable("the server coordinator ended the watch"))
}

fn broken(what: &str) -> Error {
    Error::new(
        Code::Internal,
        format!("a server coordinator sent a watch {what}; tell an operator"),
    )
}
