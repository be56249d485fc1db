//! Scans and counts of users.
//!
//! They bypass the cache and read at the masters, so one path satisfies every consistency. Replies
//! from below are passed on one by one, with one held back: only the next one shows whether there
//! are more items after it.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, empty, try_unfold};
use tierkv_rpc::{
    AddressedChannel, late_scan,
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

/// The selection of a scan or a count, checked.
struct CheckedSelection {
    range: ItemRange,
    min_version: u64,
}

/// All scans and counts of one client coordinator.
pub(crate) struct Scans {
    below: Below,
    max_staleness: Duration,
    /// The places of open scans and counts.
    places: Places,
}

impl Scans {
    /// Scans over `below`; by default, reads are at most `max_staleness` old.
    pub(crate) fn new(below: Below, max_staleness: Duration) -> Self {
        Self {
            below,
            max_staleness,
            places: Places::new(SCANS, MAX_OPEN_SCANS),
        }
    }

    /// Streams the items of a prefix or range in key order, until `deadline`. There is at least one
    /// response. Each response but the last has a token from which a later scan goes on. The last
    /// one has a token only if the limit was reached and there are more items.
    ///
    /// # Errors
    /// `InvalidArgument`, `ResourceExhausted` if too many scans are open, or the errors of the
    /// tiers below. The stream may end with the same errors.
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
            // One more than the limit, to see whether there are more items.
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

    /// Counts the items that a scan would return.
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
            return Err(Error::invalid("a scan returns no path; leave explain out"));
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
            "the request has neither prefix nor range; the empty prefix selects all keys of \
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

fn client(peer: &Peer<ToServerCoordinator>) -> ServerCoordinatorClient<AddressedChannel> {
    ServerCoordinatorClient::new(peer.unhurried_channel())
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
}

/// Turns replies from below into pages for a user.
struct Pages {
    /// The whole selection: tokens are bound to it.
    range: ItemRange,
    replies: BoxStream<'static, Result<ScanReply, Error>>,
    /// The page held back until the next one arrives.
    held: Option<Page>,
    /// The remaining number of items.
    left: u64,
    /// Whether there are items after the last page.
    goes_on: bool,
    /// The error that ended the stream from below.
    broken: Option<Error>,
    is_answered: bool,
    _place: Option<Place>,
}

/// The contents of one response.
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
                    // An empty result is one empty response.
                    let nothing = !std::mem::replace(&mut self.is_answered, true);
                    return Ok(nothing.then(ScanResponse::default));
                }
            }
        }
    }

    /// Ends the reading from below.
    fn end(&mut self, goes_on: bool) {
        self.goes_on = goes_on;
        self.replies = empty().boxed();
    }

    /// A page of the remaining items; `None` if it has none.
    fn page(&mut self, items: Vec<ScannedItem>) -> Result<Option<Page>, Error> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        if items.len() > wanted {
            self.end(true);
        }
        let mut page = Vec::with_capacity(items.len().min(wanted));
        let mut last = None;
        for item in items.into_iter().take(wanted) {
            let key = ItemKey::from_bytes(item.item_key)?;
            page.push(ScanItem {
                key: key.key(),
                value: item.value,
                version: item.version,
                expires_at_ms: Version::from_bits(item.expires).millis(),
            });
            last = Some(key);
        }
        self.left -= page.len() as u64;
        Ok(last.map(|last| Page { items: page, last }))
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
