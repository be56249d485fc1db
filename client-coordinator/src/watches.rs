//! Watches of users: the changes of a prefix, with a token to go on from after each answer.
//!
//! A watch is one stream to a server coordinator, which merges those of the clusters. When
//! that stream breaks it is opened again, there or at another coordinator, from where the
//! last answer ended; the user sees a pause.

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

/// The pause before a stream that broke is opened again; it doubles with each attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The longest of these pauses.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a watch that has begun may be interrupted before its user is told: the token
/// goes on from there whenever the platform is back.
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

    /// Begins a watch; the first answer is there when this returns.
    ///
    /// # Errors
    /// `InvalidArgument`, `TokenExpired`, `ResourceExhausted` over the limit, `Unavailable`
    /// if some cluster can't be reached for a while; so may the stream end.
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
    /// Item keys begin with it.
    prefix: Bytes,
    /// Where in an item key its key begins.
    key_at: usize,
    /// Where it goes on: everything up to there was answered. It knows all clusters once
    /// the watch has begun.
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

    /// Opens a stream at the primary, or at another coordinator, and hears where each
    /// cluster begins. Tries until `deadline`.
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
        format!("a server coordinator told a watch {what}; tell an operator"),
    )
}
