//! A user who watches a prefix, resumes after every interruption, and believes nothing:
//! what it is told of a key must rise.

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

/// How long an answer may take that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The largest answer that a watch reads.
const MAX_ANSWER_BYTES: usize = 17 << 20;

/// One change of a key, as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The key's version since.
    pub version: u64,
    /// What it holds since; `None`: it was removed.
    pub value: Option<Bytes>,
    /// When it expires, in milliseconds of platform time; 0: never.
    pub expires_at_ms: u64,
}

/// A watch of a prefix, and everything it was told.
pub struct Watcher {
    namespace: String,
    prefix: Bytes,
    /// Where it goes on; empty before it has begun.
    pub token: Bytes,
    /// What it was told, by key.
    pub told: BTreeMap<Bytes, Vec<Told>>,
    answers: Option<Streaming<WatchResponse>>,
}

impl Watcher {
    /// One that has not begun.
    #[must_use]
    pub fn new(namespace: &str, prefix: impl Into<Bytes>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            prefix: prefix.into(),
            token: Bytes::new(),
            told: BTreeMap::new(),
            answers: None,
        }
    }

    /// Begins, or goes on, at the platform at `grpc`.
    ///
    /// # Errors
    /// The platform's own.
    ///
    /// # Panics
    /// If the first answer is not what it must be.
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

    /// Takes in the next answer; says how many events it had.
    ///
    /// # Errors
    /// What the watch ended with.
    ///
    /// # Panics
    /// If it tells what it must not, or nothing for too long.
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

    /// Reads until a key was told of.
    ///
    /// # Errors
    /// What the watch ended with.
    pub async fn until(&mut self, key: &Bytes) -> Result<(), Error> {
        while !self.told.contains_key(key) {
            self.read().await?;
        }
        Ok(())
    }

    fn take(&mut self, event: WatchEvent) {
        let WatchEvent { key, version, kind } = event;
        assert!(key.starts_with(&self.prefix), "{key:?} was not asked for");
        let (value, expires_at_ms) = match kind {
            Some(Kind::Written(written)) => (Some(written.value), written.expires_at_ms),
            Some(Kind::Removed(_)) => (None, 0),
            None => panic!("an event of {key:?} says nothing"),
        };
        let told = self.told.entry(key.clone()).or_default();
        let before = told.last().map_or(0, |told| told.version);
        assert!(version > before, "I5: {key:?} at {version} after {before}");
        told.push(Told {
            version,
            value,
            expires_at_ms,
        });
    }
}

async fn message(answers: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Error> {
    let answer = timeout(PATIENCE, answers.message()).await;
    let answer = answer.unwrap_or_else(|_| panic!("a watch tells nothing in time"));
    let answer = answer.map_err(|status| read_error(&status))?;
    Ok(answer.unwrap_or_else(|| panic!("a watch ended without a word")))
}
