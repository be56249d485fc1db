//! A client that watches a prefix, resumes after every interruption, and checks that the
//! versions of each key rise.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tierkv::rpc::{
    channel,
    proto::{
        status::read_error,
        v1::{WatchEvent, WatchRequest, WatchResponse, kv_client::KvClient, watch_event::Kind},
    },
};
use tierkv_types::Error;
use tokio::time::timeout;
use tonic::Streaming;

/// Timeout for an answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The largest answer that a watch reads.
const MAX_ANSWER_BYTES: usize = 17 << 20;

/// One change of a key, as the watch reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key's version after the change.
    pub version: u64,
    /// The new value; `None`: the key was removed.
    pub value: Option<Bytes>,
    /// When the key expires, in milliseconds of platform time; 0: never.
    pub expires_at_ms: u64,
}

/// A watch of a prefix, and every change that it received.
pub struct Watcher {
    namespace: String,
    prefix: Bytes,
    /// The resume token; empty before the watch was opened.
    pub token: Bytes,
    /// The changes received, by key.
    pub changes: BTreeMap<Bytes, Vec<Change>>,
    answers: Option<Streaming<WatchResponse>>,
}

impl Watcher {
    /// A watch that is not open yet.
    #[must_use]
    pub fn new(namespace: &str, prefix: impl Into<Bytes>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            prefix: prefix.into(),
            token: Bytes::new(),
            changes: BTreeMap::new(),
            answers: None,
        }
    }

    /// Opens or resumes the watch on the platform at `grpc`.
    ///
    /// # Errors
    /// The error that the platform returns.
    ///
    /// # Panics
    /// If the first answer has events, or another resume token than the request.
    pub async fn open(&mut self, grpc: &str) -> Result<(), Error> {
        self.answers = None;
        let mut client = KvClient::new(channel(grpc)?).max_decoding_message_size(MAX_ANSWER_BYTES);
        let request = WatchRequest {
            namespace: self.namespace.clone(),
            prefix: self.prefix.clone(),
            resume_token: self.token.clone(),
        };
        let opened = client.watch(request).await;
        let mut answers = opened.map_err(|status| read_error(&status))?.into_inner();
        let first = message(&mut answers).await?;
        assert_eq!(first.events, [], "the first answer has no events");
        assert!(self.token.is_empty() || self.token == first.resume_token);
        self.token = first.resume_token;
        self.answers = Some(answers);
        Ok(())
    }

    /// Reads the next answer and returns the number of its events.
    ///
    /// # Errors
    /// The error that ended the watch.
    ///
    /// # Panics
    /// If an event is wrong, or no answer arrives within [`PATIENCE`].
    pub async fn read(&mut self) -> Result<usize, Error> {
        let Some(answers) = &mut self.answers else {
            panic!("the watch is not open");
        };
        let answer = match message(answers).await {
            Ok(answer) => answer,
            Err(error) => {
                self.answers = None;
                return Err(error);
            }
        };
        self.token = answer.resume_token;
        let count = answer.events.len();
        for event in answer.events {
            self.take(event);
        }
        Ok(count)
    }

    /// Reads until a change of `key` was received.
    ///
    /// # Errors
    /// The error that ended the watch.
    pub async fn until(&mut self, key: &Bytes) -> Result<(), Error> {
        while !self.changes.contains_key(key) {
            self.read().await?;
        }
        Ok(())
    }

    fn take(&mut self, event: WatchEvent) {
        let WatchEvent { key, version, kind } = event;
        assert!(
            key.starts_with(&self.prefix),
            "{key:?} is outside the watched prefix"
        );
        let (value, expires_at_ms) = match kind {
            Some(Kind::Written(written)) => (Some(written.value), written.expires_at_ms),
            Some(Kind::Removed(_)) => (None, 0),
            None => panic!("an event of {key:?} has no kind"),
        };
        let changes = self.changes.entry(key.clone()).or_default();
        let before = changes.last().map_or(0, |change| change.version);
        assert!(version > before, "I5: {key:?} at {version} after {before}");
        changes.push(Change {
            version,
            value,
            expires_at_ms,
        });
    }
}

async fn message(answers: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Error> {
    let answer = timeout(PATIENCE, answers.message()).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer of the watch within {PATIENCE:?}"));
    let answer = answer.map_err(|status| read_error(&status))?;
    Ok(answer.unwrap_or_else(|| panic!("the watch ended without an error")))
}
