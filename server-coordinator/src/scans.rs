//! Scans and counts over all clusters.
//!
//! Every slot has keys all over a range. So each cluster is asked for the whole range and returns
//! the keys that it owns, in order; here the streams are merged. All clusters are asked with one
//! version of the placement map, and refuse a version other than their own: each key comes from its
//! one owner.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    sync::Arc,
};

use bytes::Bytes;
use futures::{
    future::try_join_all,
    stream::{BoxStream, StreamExt, try_unfold},
};
use tierkv_rpc::{
    AddressedChannel, last_attempt, late_scan,
    proto::{
        internal::{
            CountReply, CountRequest, ScanReply, ScanRequest, ScannedItem,
            data_node_client::DataNodeClient,
        },
        status::read_error,
    },
    tiers::{MAX_TIER_FRAME_BYTES, Peer, ToDataNode},
    until_deadline, within,
};
use tierkv_types::{Code, Error, limits::FRAME_BYTES};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_stream::Stream;

use crate::{
    routes::{Route, Routes},
    routing::{Router, for_users, next_table},
};

/// The approximate size of an item in a reply, beside its key and value.
const ITEM_OVERHEAD_BYTES: usize = 32;

/// The replies of one cluster.
type Replies = BoxStream<'static, Result<ScanReply, Error>>;

impl Router {
    /// Streams the items of a range in key order, until `deadline`.
    ///
    /// # Errors
    /// Those of the clusters, or `Unavailable` if one of them had no master in time. The stream may
    /// end with the same errors.
    pub(crate) async fn scan(
        &self,
        request: ScanRequest,
        deadline: Instant,
    ) -> Result<impl Stream<Item = Result<ScanReply, Error>> + Send + 'static, Error> {
        let request = &request;
        let sources = self.ask_all(deadline, move |route: Route, count| async move {
            let request = ScanRequest {
                min_version: known_to(count, request.min_version),
                placement_version: route.placement_version,
                ..request.clone()
            };
            let opened = client(&route.master).scan(within(request, deadline)).await;
            let replies = opened.map_err(|status| read_error(&status))?.into_inner();
            Ok(replies
                .map(|reply| reply.map_err(|status| broken(read_error(&status))))
                .boxed())
        });
        let merged = Merged::new(sources.await?, request.limit);
        Ok(until_deadline(merged.replies(), deadline, late_scan()))
    }

    /// Counts the items that a scan would return.
    ///
    /// # Errors
    /// Those of a scan.
    pub(crate) async fn count(
        &self,
        request: CountRequest,
        deadline: Instant,
    ) -> Result<CountReply, Error> {
        let request = &request;
        let counts = self.ask_all(deadline, move |route: Route, count| async move {
            let request = CountRequest {
                min_version: known_to(count, request.min_version),
                placement_version: route.placement_version,
                ..request.clone()
            };
            let counted = client(&route.master).count(within(request, deadline)).await;
            let counted = counted.map_err(|status| read_error(&status))?;
            Ok(counted.into_inner().count)
        });
        let count = counts.await?.iter().sum();
        Ok(CountReply { count })
    }

    /// Asks the masters of all clusters that own slots, with one table; if one of them refuses, or
    /// is replaced before it answers, asks all again with the next table.
    async fn ask_all<T, F>(
        &self,
        deadline: Instant,
        ask: impl Fn(Route, usize) -> F,
    ) -> Result<Vec<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut routes = self.routes.clone();
        let last_attempt = last_attempt(deadline);
        loop {
            let table = Arc::clone(&routes.borrow_and_update());
            let attempt = async {
                let owners = table.of_all()?;
                let count = owners.len();
                try_join_all(owners.into_iter().map(|route| ask(route, count))).await
            };
            let failure = tokio::select! {
                biased;
                answered = timeout_at(deadline, attempt) => match answered {
                    Ok(Ok(answers)) => return Ok(answers),
                    Ok(Err(failure)) => failure,
                    Err(_) => return Err(late_scan()),
                },
                () = any_replaced(&table, routes.clone()) => lost_master(),
            };
            next_table(failure, &mut routes, last_attempt).await?;
        }
    }
}

/// Waits until one of the table's clusters has another master. A lost one may keep its connections
/// open for long.
async fn any_replaced(table: &Routes, mut routes: watch::Receiver<Arc<Routes>>) {
    while routes.changed().await.is_ok() {
        let newer = Arc::clone(&routes.borrow());
        let mut clusters = table.clusters.iter();
        let is_replaced = clusters.any(|(id, cluster)| {
            let epoch = newer.clusters.get(id).map(|newer| newer.state.epoch);
            epoch.is_some_and(|epoch| epoch > cluster.state.epoch)
        });
        if is_replaced {
            return;
        }
    }
    pending().await
}

fn lost_master() -> Error {
    Error::unavailable("a cluster changed its master; try again")
}

/// A version belongs to one cluster, but does not identify it. A master has every acknowledged
/// write anyway; only a lone cluster can detect a version that it never issued.
fn known_to(clusters: usize, min_version: u64) -> u64 {
    if clusters == 1 { min_version } else { 0 }
}

fn client(master: &Peer<ToDataNode>) -> DataNodeClient<AddressedChannel> {
    DataNodeClient::new(master.unhurried_channel()).max_decoding_message_size(MAX_TIER_FRAME_BYTES)
}

/// The error of a broken stream: its snapshot is gone, so it can't be resumed.
fn broken(error: Error) -> Error {
    match for_users(error) {
        Error {
            code: Code::Unavailable,
            ..
        } => Error::unavailable("the scan broke before its end; continue with the last page token"),
        error => error,
    }
}

/// Items of one cluster that were not passed on yet.
struct Source {
    replies: Replies,
    items: VecDeque<ScannedItem>,
    is_over: bool,
}

impl Source {
    fn must_wait(&self) -> bool {
        self.items.is_empty() && !self.is_over
    }

    /// Waits for items, unless there are some or the stream has ended.
    async fn fill(&mut self) -> Result<(), Error> {
        while self.must_wait() {
            match self.replies.next().await {
                Some(reply) => self.items = reply?.items.into(),
                None => self.is_over = true,
            }
        }
        Ok(())
    }
}

/// Streams in key order, merged into one.
struct Merged {
    sources: Vec<Source>,
    /// The key passed on last.
    last: Bytes,
    /// The remaining number of items.
    left: u64,
}

impl Merged {
    fn new(replies: Vec<Replies>, limit: u64) -> Self {
        let sources = replies.into_iter().map(|replies| Source {
            replies,
            items: VecDeque::new(),
            is_over: false,
        });
        Self {
            sources: sources.collect(),
            last: Bytes::new(),
            left: if limit == 0 { u64::MAX } else { limit },
        }
    }

    fn replies(self) -> impl Stream<Item = Result<ScanReply, Error>> + Send + 'static {
        try_unfold(self, async |mut merged| {
            let items = merged.next().await?;
            let reply = (!items.is_empty()).then_some(ScanReply { items });
            Ok(reply.map(|reply| (reply, merged)))
        })
    }

    /// The next items, about one reply; none at the end.
    async fn next(&mut self) -> Result<Vec<ScannedItem>, Error> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while self.left > 0 {
            if self.sources.iter().any(|source| source.items.is_empty()) {
                // Items that are there are passed on before waiting for more.
                if !items.is_empty() && self.sources.iter().any(Source::must_wait) {
                    break;
                }
                try_join_all(self.sources.iter_mut().map(Source::fill)).await?;
                self.sources.retain(|source| !source.items.is_empty());
            }
            let heads = self.sources.iter().enumerate();
            let heads = heads.filter_map(|(at, source)| Some((at, source.items.front()?)));
            let Some((at, next)) =
                heads.min_by(|(_, one), (_, other)| one.item_key.cmp(&other.item_key))
            else {
                break;
            };
            bytes += next.item_key.len() + next.value.len() + ITEM_OVERHEAD_BYTES;
            if !items.is_empty() && bytes > FRAME_BYTES {
                break;
            }
            // No key has two owners (I10), and a snapshot has each key once.
            if next.item_key <= self.last {
                return Err(Error::new(
                    Code::Internal,
                    "the clusters sent keys out of order; tell an operator",
                ));
            }
            self.last = next.item_key.clone();
            items.extend(self.sources[at].items.pop_front());
            self.left -= 1;
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests;
