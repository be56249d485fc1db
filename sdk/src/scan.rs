//! Scans and counts: the keys of a prefix or range.
//!
//! A scan reads one stream of the server. When the stream breaks or times out, the scan goes on
//! from the last page token, at this coordinator or another; the caller only sees a pause.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream, stream::unfold};
use tierkv_rpc::proto::{
    status::read_error,
    v1::{self, CountRequest, ScanRequest, ScanResponse, scan_request::Selection as Kind},
};
use tierkv_types::{Code, Error as Refusal, limits::MAX_TIMEOUT};
use tokio::time::timeout_at;
use tonic::{Request, Status, Streaming};

use crate::{
    answer::expires_at,
    client::{Client, late},
    coordinators::{Turns, slow},
    error::{Error, is_retryable},
    options::ReadOptions,
};

/// The page size if the caller gives no limit.
pub const DEFAULT_PAGE_ITEMS: u32 = 1_000;

/// The keys that a scan or count is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Kind);

impl Selection {
    /// All keys.
    #[must_use]
    pub const fn all() -> Self {
        Self(Kind::Prefix(Bytes::new()))
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self(Kind::Prefix(Bytes::copy_from_slice(prefix.as_ref())))
    }

    /// The keys from `start` up to but not including `end`; an empty `end` is the namespace's end.
    pub fn range(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self(Kind::Range(v1::KeyRange {
            start: Bytes::copy_from_slice(start.as_ref()),
            end: Bytes::copy_from_slice(end.as_ref()),
        }))
    }
}

/// Options of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Maximum number of items, at least 1. `None`: all of a scan, [`DEFAULT_PAGE_ITEMS`] of a
    /// page.
    pub limit: Option<u32>,
    /// The page token of an earlier page of the same selection; `None`: from the beginning.
    pub page_token: Option<Bytes>,
    /// How fresh the answer must be.
    pub read: ReadOptions,
}

/// A key that a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The value's version.
    pub version: u64,
    /// When the key expires, by the cluster's clock; `None` if it does not.
    pub expires_at: Option<SystemTime>,
}

impl From<v1::ScanItem> for Item {
    fn from(item: v1::ScanItem) -> Self {
        Self {
            key: item.key,
            value: item.value,
            version: item.version,
            expires_at: expires_at(item.expires_at_ms),
        }
    }
}

/// A page of items, and where the next page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The items in key order.
    pub items: Vec<Item>,
    /// Where the next page begins; `None` if there are no more items.
    pub next_page_token: Option<Bytes>,
}

/// The items of a scan in key order, as they arrive. After an error there are no more.
///
/// While the server's stream lasts, it reads one snapshot of each cluster. If the stream breaks,
/// the scan goes on after the last item and is no longer one snapshot. A key that exists all the
/// time is still returned exactly once. The scan ends with an error if nothing arrives within an
/// operation's timeout.
/// nothing comes for as long as an operation may take.
#[must_use = "a scan reads nothing until it is asked for items"]
pub struct Scan {
    items: BoxStream<'static, Result<Item, Error>>,
}

impl Scan {
    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// The operation's [`Error`], after which the scan is over.
    pub async fn next(&mut self) -> Option<Result<Item, Error>> {
        self.items.next().await
    }
}

impl Stream for Scan {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(context)
    }
}

impl Client {
    /// The items of a selection.
    pub fn scan(&self, selection: Selection) -> Scan {
        self.scan_with(selection, ScanOptions::default())
    }

    /// The items of a selection, with options.
    pub fn scan_with(&self, selection: Selection, options: ScanOptions) -> Scan {
        let scanning = Scanning::new(self.clone(), selection, options);
        let items = unfold(scanning, async |mut scanning| {
            let item = scanning.next().await?;
            Some((item, scanning))
        });
        Scan {
            items: items.fuse().boxed(),
        }
    }

    /// One page of a selection.
    ///
    /// # Errors
    /// The operation's [`Error`].
    pub async fn scan_page(
        &self,
        selection: Selection,
        options: ScanOptions,
    ) -> Result<Page, Error> {
        let options = ScanOptions {
            limit: options.limit.or(Some(DEFAULT_PAGE_ITEMS)),
            ..options
        };
        let mut scanning = Scanning::new(self.clone(), selection, options);
        let mut items = Vec::new();
        while let Some(item) = scanning.next().await {
            items.push(item?);
        }
        let token = scanning.request.page_token;
        Ok(Page {
            items,
            next_page_token: (!token.is_empty()).then_some(token),
        })
    }

    /// How many keys a selection has.
    ///
    /// # Errors
    /// The operation's [`Error`].
    pub async fn count(&self, selection: Selection) -> Result<u64, Error> {
        self.count_with(selection, ReadOptions::default()).await
    }

    /// How many keys a selection has, as fresh as `options` ask.
    ///
    /// # Errors
    /// The operation's [`Error`].
    pub async fn count_with(
        &self,
        selection: Selection,
        options: ReadOptions,
    ) -> Result<u64, Error> {
        let request = CountRequest {
            namespace: self.namespace.as_ref().to_owned(),
            selection: Some(selection.0.into()),
            options: self.session_wide(options).to_wire(),
        };
        let counted = self.ask(|mut kv, left| {
            let mut request = Request::new(request.clone());
            request.set_timeout(left);
            async move { kv.count(request).await }
        });
        Ok(counted.await?.count)
    }
}

/// A scan in progress.
struct Scanning {
    client: Client,
    /// The remaining request: its token and limit move on.
    request: ScanRequest,
    is_limited: bool,
    stream: Option<Streaming<ScanResponse>>,
    /// Whether the open stream has sent anything.
    has_answered: bool,
    came: VecDeque<v1::ScanItem>,
    is_over: bool,
}

impl Scanning {
    fn new(client: Client, selection: Selection, options: ScanOptions) -> Self {
        let request = ScanRequest {
            namespace: client.namespace.as_ref().to_owned(),
            selection: Some(selection.0),
            limit: options.limit.unwrap_or(0),
            page_token: options.page_token.unwrap_or_default(),
            options: client.session_wide(options.read).to_wire(),
        };
        Self {
            client,
            request,
            is_limited: options.limit.is_some(),
            stream: None,
            has_answered: false,
            came: VecDeque::new(),
            is_over: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Item, Error>> {
        loop {
            if let Some(item) = self.came.pop_front() {
                return Some(Ok(item.into()));
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

    /// Waits for the server's next message, with retries at all coordinators, up to the timeout.
    async fn more(&mut self) -> Result<(), Error> {
        if self.is_limited && self.request.limit == 0 {
            // On the wire, 0 means no limit.
            let words = "limit: at least 1; use None for no limit";
            return Err(Refusal::invalid(words).into());
        }
        let client = self.client.clone();
        let mut turns = client.turns();
        loop {
            let word = timeout_at(turns.patience(), self.word(&turns));
            let error = match word.await {
                Ok(Ok(word)) => {
                    match word {
                        Some(response) => self.take(response),
                        None => self.ended(),
                    }
                    return Ok(());
                }
                Ok(Err(status)) => read_error(&status),
                Err(_) if turns.left().is_zero() => late(),
                Err(_) => slow(),
            };
            self.stream = None;
            // The deadline may have been the stream's, not the caller's.
            let goes_on = is_retryable(error.code) || error.code == Code::DeadlineExceeded;
            if !goes_on || !turns.next(&error).await {
                return Err(error.into());
            }
        }
    }

    async fn word(&mut self, turns: &Turns<'_>) -> Result<Option<ScanResponse>, Status> {
        if let Some(stream) = &mut self.stream {
            return stream.message().await;
        }
        let mut request = Request::new(self.request.clone());
        request.set_timeout(MAX_TIMEOUT);
        let opened = turns.coordinator().kv().scan(request).await;
        let stream = self.client.note_time(opened)?;
        self.has_answered = false;
        self.stream.insert(stream).message().await
    }

    fn take(&mut self, response: ScanResponse) {
        let count = u32::try_from(response.items.len()).unwrap_or(u32::MAX);
        self.has_answered = true;
        self.request.limit = self.request.limit.saturating_sub(count);
        self.request.page_token = response.next_page_token;
        self.came.extend(response.items);
        let is_full = self.is_limited && self.request.limit == 0;
        if is_full || self.request.page_token.is_empty() {
            self.is_over = true;
            self.stream = None;
        }
    }

    /// The server ended its stream. If it sent a page token, there are more items.
    fn ended(&mut self) {
        self.stream = None;
        if !self.has_answered {
            self.request.page_token = Bytes::new();
            self.is_over = true;
        }
    }
}
