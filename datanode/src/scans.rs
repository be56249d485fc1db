//! Scans and counts: one snapshot of a range, read at the master.
//!
//! Acknowledged writes are applied, and the mastership is confirmed after the request arrived,
//! so the snapshot is as fresh as a `LATEST` read (REP-CONFIRM).

use std::sync::Arc;

use futures::stream::try_unfold;
use tierkv_rpc::{
    late_scan,
    proto::internal::{self, CountReply, CountRequest, ScanReply, ScanRequest, ScannedItem},
    stopped, stopping, until_over,
};
use tierkv_storage::{Item, Snapshot, StorageError};
use tierkv_types::{Error, ItemKey, ItemRange, Version, limits::FRAME_BYTES};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_stream::Stream;

use crate::{ownership::Ownership, service::Service};

/// A scan under way.
struct Scan {
    snapshot: Snapshot,
    /// The cluster clock shortly before the snapshot: keys expired by then are hidden.
    clock: Version,
    owned: Arc<Ownership>,
    /// How many more items to return.
    left: u64,
}

impl Service {
    /// Streams the items of a range in key order, until `deadline` or `stop`: the store can't be
    /// closed while snapshots are open.
    ///
    /// # Errors
    /// `InvalidArgument`, `NotMaster`, `WrongOwner`, `ResourceExhausted` if too many scans
    /// are open, `DeadlineExceeded`, and failures of storage. The stream may end with them too.
    pub(crate) async fn scan(
        &self,
        request: ScanRequest,
        deadline: Instant,
        stop: watch::Receiver<bool>,
    ) -> Result<impl Stream<Item = Result<ScanReply, Error>> + Send + 'static, Error> {
        let mut scan = timeout_at(
            deadline,
            self.open(
                request.range,
                request.min_version,
                request.placement_version,
            ),
        )
        .await
        .map_err(|_| late_scan())??;
        if request.limit > 0 {
            scan.left = request.limit;
        }
        let replies = try_unfold(scan, async |mut scan| {
            let reply = scan.next().await?;
            Ok(reply.map(|reply| (reply, scan)))
        });
        Ok(until_over(replies, async move {
            tokio::select! {
                () = sleep_until(deadline) => late_scan(),
                () = stopped(stop) => stopping(),
            }
        }))
    }

    /// Counts what a scan would find, until `deadline` or `stop`.
    ///
    /// # Errors
    /// Those of a scan.
    pub(crate) async fn count(
        &self,
        request: CountRequest,
        deadline: Instant,
        stop: watch::Receiver<bool>,
    ) -> Result<CountReply, Error> {
        let counted = async {
            let (min_version, routed_by) = (request.min_version, request.placement_version);
            let scan = self.open(request.range, min_version, routed_by).await?;
            let count = scan.count().await?;
            Ok(CountReply { count })
        };
        tokio::select! {
            biased;
            counted = counted => counted,
            () = sleep_until(deadline) => Err(late_scan()),
            () = stopped(stop) => Err(stopping()),
        }
    }

    async fn open(
        &self,
        range: Option<internal::ItemRange>,
        min_version: u64,
        routed_by: u64,
    ) -> Result<Scan, Error> {
        let range = range.ok_or_else(|| Error::invalid("a scan needs a range"))?;
        let range = ItemRange::from_bytes(range.start, range.end)?;
        let confirmed = self.sequencer.confirm_read().await?;
        let owned = self.owned.now();
        owned.check_map(routed_by)?;
        // Read before the snapshot. Otherwise a key put again after the snapshot, just before
        // its expiry, would be hidden: the snapshot has the old item, expired by a later clock.
        let clock = confirmed;
        let snapshot = self.storage.snapshot(range).await.map_err(refused)?;
        if Version::from_bits(min_version) > snapshot.version() {
            return Err(Error::invalid(
                "min_version is newer than anything the cluster has written; use a version \
                 that a write or read answered",
            ));
        }
        Ok(Scan {
            clock: clock.max(snapshot.version()),
            snapshot,
            owned,
            left: u64::MAX,
        })
    }
}

impl Scan {
    /// The next items, as many as go into one reply; `None` at the end.
    async fn next(&mut self) -> Result<Option<ScanReply>, Error> {
        while self.left > 0 {
            let some = self.snapshot.next(FRAME_BYTES).await.map_err(refused)?;
            if some.is_empty() {
                break;
            }
            let items = some
                .into_iter()
                .filter(|(key, item)| item.is_live(self.clock) && self.owned.owns(key.slot()))
                .take(usize::try_from(self.left).unwrap_or(usize::MAX));
            let items: Vec<ScannedItem> = items.map(scanned).collect();
            self.left -= items.len() as u64;
            if !items.is_empty() {
                return Ok(Some(ScanReply { items }));
            }
        }
        Ok(None)
    }

    async fn count(mut self) -> Result<u64, Error> {
        if self.owned.owns_all() {
            return self.snapshot.count(self.clock).await.map_err(refused);
        }
        // An item's slot is computed from its key, so each is checked.
        let mut count = 0;
        while let Some(reply) = self.next().await? {
            count += reply.items.len() as u64;
        }
        Ok(count)
    }
}

fn scanned((key, item): (ItemKey, Item)) -> ScannedItem {
    ScannedItem {
        item_key: key.into(),
        value: item.value,
        version: item.version.to_bits(),
        expires: item.expires.unwrap_or_default().to_bits(),
    }
}

// By value, for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn refused(error: StorageError) -> Error {
    if !error.is_passing() {
        tracing::error!(%error, "a scan was refused");
    }
    error.to_error()
}
