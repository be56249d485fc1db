//! Scans and counts of users.
//!
//! They are read at the masters and pass the cache by, so every consistency a user may ask
//! for is met by the same way. What comes from below is passed on reply by reply, one held
//! back: only with the next one there is it known whether a scan goes on behind it.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, empty, try_unfold};
use tierkv_rpc::{
    late_scan,
    proto::{
        internal::{
            self, ScanReply, ScannedItem, server_coordinator_client::ServerCoordinatorClient,
        },
        status::read_error,
        v1::{
            CountRequest, CountResponse, ReadOptions, ScanItem, ScanRequest, ScanResponse,
            scan_request::Selection,
        },
    },
    tiers::{MAX_TIER_FRAME_BYTES, Peer, ToServerCoordinator},
    until_deadline, within,
};
use tierkv_types::{Error, ItemKey, ItemRange, Version, limits::MAX_OPEN_SCANS};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use crate::{
    answers::Answers,
    below::Below,
    page_token,
    places::{Place, Places, PlacesFor},
    read_options::{CheckedOptions, Level},
};

const SCANS: PlacesFor = PlacesFor {
    what: "scans and counts",
    limit: "max_open_scans",
    gauge: "tierkv_scans",
    limit_gauge: "tierkv_scans_limit",
};

/// What a scan or a count is of, checked.
struct CheckedSelection {
    range: ItemRange,
    min_version: u64,
}

/// All scans and counts of one client coordinator.
pub(crate) struct Scans {
    below: Below,
    max_staleness: Duration,
    /// For those that are open.
    places: Places,
}

impl Scans {
    /// Scans over `below`, by reads that are at most `max_staleness` old if they say nothing.
    pub(crate) fn new(below: Below, max_staleness: Duration) -> Self {
        Self {
            below,
            max_staleness,
            places: Places::new(SCANS, MAX_OPEN_SCANS),
        }
    }

    /// Streams the items of a prefix or range in the order of their keys, until `deadline`.
    /// Each response but the last has a token with which a later scan goes on behind it; the
    /// last one has it if there is more behind the limit. There is at least one response.
    ///
    /// # Errors
    /// `InvalidArgument`, `ResourceExhausted` if too many scans are open, or what the tiers
    /// below said; so may the stream end.
    pub(crate) async fn scan(
        &self,
        request: ScanRequest,
        deadline: Instant,
    ) -> Result<Answers<ScanResponse>, Error> {
        let (selection, options) = (request.selection, request.options.as_ref());
        let CheckedSelection { range, min_version } =
            self.check(&request.namespace, selection, options)?;
        let rest = page_token::rest(range.clone(), &request.page_token)?;
        let place = self.places.take()?;
        let limit = match request.limit {
            0 => 0,
            // The one behind the limit is only looked for.
            limit => u64::from(limit) + 1,
        };
        let below = internal::ScanRequest {
            range: Some(to_wire(&rest)),
            limit,
            min_version,
            placement_version: 0,
        };
        let below = &below;
        let opened = self.below.each(deadline, move |peer| async move {
            let opened = client(&peer).scan(within(below.clone(), deadline)).await;
            opened.map_err(|status| read_error(&status))
        });
        let opened = timeout_at(deadline, opened)
            .await
            .map_err(|_| late_scan())??;
        let replies = opened.into_inner();
        let replies = replies.map(|reply| reply.map_err(|status| read_error(&status)));
        let pages = Pages {
            _place: Some(place),
            ..Pages::new(range, replies.boxed(), request.limit)
        };
        Ok(until_deadline(pages.responses(), deadline, late_scan()).boxed())
    }

    /// Counts what a scan would find.
    ///
    /// # Errors
    /// Those of a scan.
    pub(crate) async fn count(
        &self,
        request: CountRequest,
        deadline: Instant,
    ) -> Result<CountResponse, Error> {
        let selection = request.selection.map(Selection::from);
        let options = request.options.as_ref();
        let CheckedSelection { range, min_version } =
            self.check(&request.namespace, selection, options)?;
        let _place = self.places.take()?;
        let below = internal::CountRequest {
            range: Some(to_wire(&range)),
            min_version,
            placement_version: 0,
        };
        let below = &below;
        let counted = self.below.each(deadline, move |peer| async move {
            let counted = client(&peer).count(within(below.clone(), deadline)).await;
            counted.map_err(|status| read_error(&status))
        });
        let counted = timeout_at(deadline, counted)
            .await
            .map_err(|_| late_scan())??;
        Ok(CountResponse {
            count: counted.into_inner().count,
        })
    }

    fn check(
        &self,
        namespace: &str,
        selection: Option<Selection>,
        options: Option<&ReadOptions>,
    ) -> Result<CheckedSelection, Error> {
        let range = selected(namespace, selection)?;
        if options.is_some_and(|options| options.explain) {
            return Err(Error::invalid(
                "a scan has no place for its path: leave explain out",
            ));
        }
        let min_version = match CheckedOptions::new(options, self.max_staleness)?.level {
            Level::Bounded(bound) => bound.min_version,
            Level::Latest => Version::ZERO,
        };
        Ok(CheckedSelection {
            range,
            min_version: min_version.to_bits(),
        })
    }
}

fn selected(namespace: &str, selection: Option<Selection>) -> Result<ItemRange, Error> {
    match selection {
        Some(Selection::Prefix(prefix)) => ItemRange::of_prefix(namespace, &prefix),
        Some(Selection::Range(range)) => ItemRange::between(namespace, &range.start, &range.end),
        None => Err(Error::invalid(
            "the request says neither prefix nor range; the empty prefix selects all keys of \
             the namespace",
        )),
    }
}

fn to_wire(range: &ItemRange) -> internal::ItemRange {
    internal::ItemRange {
        start: range.start().clone(),
        end: range.end().clone(),
    }
}

fn client(peer: &Peer<ToServerCoordinator>) -> ServerCoordinatorClient<Channel> {
    ServerCoordinatorClient::new(peer.unhurried_channel())
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
}

/// The replies from below on their way to a user.
struct Pages {
    /// All of the selection: tokens are bound to it.
    range: ItemRange,
    replies: BoxStream<'static, Result<ScanReply, Error>>,
    /// Waits for what follows it.
    held: Option<Page>,
    /// How many more items are wanted.
    left: u64,
    /// Whether there is something behind the page that comes last.
    goes_on: bool,
    /// What the stream from below broke off with.
    broken: Option<Error>,
    is_answered: bool,
    _place: Option<Place>,
}

/// What one response tells.
struct Page {
    items: Vec<ScanItem>,
    last: ItemKey,
}

impl Pages {
    fn new(
        range: ItemRange,
        replies: BoxStream<'static, Result<ScanReply, Error>>,
        limit: u32,
    ) -> Self {
        Self {
            range,
            replies,
            held: None,
            left: match limit {
                0 => u64::MAX,
                limit => limit.into(),
            },
            goes_on: false,
            broken: None,
            is_answered: false,
            _place: None,
        }
    }

    fn responses(self) -> impl Stream<Item = Result<ScanResponse, Error>> + Send + 'static {
        try_unfold(self, async |mut pages| {
            let response = pages.next().await?;
            Ok(response.map(|response| (response, pages)))
        })
    }

    async fn next(&mut self) -> Result<Option<ScanResponse>, Error> {
        loop {
            match self.replies.next().await {
                Some(Ok(reply)) => {
                    if let Some(page) = self.page(reply.items)?
                        && let Some(before) = self.held.replace(page)
                    {
                        return Ok(Some(self.response(before, true)));
                    }
                }
                Some(Err(error)) => {
                    self.broken = Some(error);
                    self.end(true);
                }
                None => {
                    if let Some(last) = self.held.take() {
                        return Ok(Some(self.response(last, self.goes_on)));
                    }
                    if let Some(error) = self.broken.take() {
                        return Err(error);
                    }
                    // Nothing was found, and that is told.
                    let nothing = !std::mem::replace(&mut self.is_answered, true);
                    return Ok(nothing.then(ScanResponse::default));
                }
            }
        }
    }

    /// Asks for nothing more below.
    fn end(&mut self, goes_on: bool) {
        self.goes_on = goes_on;
        self.replies = empty().boxed();
    }

    /// A page of those items that are wanted, if any are.
    fn page(&mut self, items: Vec<ScannedItem>) -> Result<Option<Page>, Error> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        if items.len() > wanted {
            self.end(true);
        }
        let mut told = Vec::with_capacity(items.len().min(wanted));
        let mut last = None;
        for item in items.into_iter().take(wanted) {
            let key = ItemKey::from_bytes(item.item_key)?;
            told.push(ScanItem {
                key: key.key(),
                value: item.value,
                version: item.version,
                expires_at_ms: Version::from_bits(item.expires).millis(),
            });
            last = Some(key);
        }
        self.left -= told.len() as u64;
        Ok(last.map(|last| Page { items: told, last }))
    }

    fn response(&mut self, page: Page, goes_on: bool) -> ScanResponse {
        self.is_answered = true;
        ScanResponse {
            items: page.items,
            next_page_token: match goes_on {
                true => page_token::encode(&self.range, &page.last),
                false => Bytes::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
