//! Watches of one data node, through the interface of server coordinators.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_coordination::MemoryCoordination;
use tierkv_rpc::{
    AddressedChannel,
    proto::{
        internal::{
            WatchPosition, WatchReply, WatchRequest, WatchedChange,
            data_node_client::DataNodeClient,
        },
        status::read_error,
    },
};
use tierkv_storage::StorageSettings;
use tierkv_types::{Code, Error, OperationKind, Version, limits::MAX_NODE_WATCHES};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::stage::{DEADLINE as PATIENCE, Stage, key, unhurried_to};

/// The item keys of the default namespace with this prefix.
fn prefix(prefix: &str) -> Bytes {
    [b"default\0", prefix.as_bytes()].concat().into()
}

/// A node and a connection for watches of it.
struct Watchable {
    stage: Stage,
    watches: DataNodeClient<AddressedChannel>,
}

impl Watchable {
    async fn new(dir: &Path) -> Self {
        Self::of(Stage::ready(dir).await)
    }

    async fn on(coordination: Arc<MemoryCoordination>, storage: StorageSettings) -> Self {
        let stage = Stage::on(coordination, storage).await;
        stage.until_master().await;
        Self::of(stage)
    }

    fn of(stage: Stage) -> Self {
        let channel = unhurried_to(&stage.node);
        let watches = DataNodeClient::new(channel).max_decoding_message_size(16 << 20);
        Self { stage, watches }
    }

    /// Writes, and returns the changes that a watch must send.
    async fn write(&self, item: &str, kind: OperationKind) -> WatchedChange {
        let (value, ttl) = match &kind {
            OperationKind::Put { value, ttl } => (Some(value.clone()), *ttl),
            OperationKind::Delete
            | OperationKind::Increment { .. }
            | OperationKind::Touch { .. } => (None, None),
        };
        let version = self.stage.change(&key(item), kind).await.unwrap().version;
        let expires = ttl.map_or(0, |ttl| Version::from_bits(version).after(ttl).to_bits());
        WatchedChange {
            item_key: key(item).as_bytes().clone(),
            version,
            value,
            expires,
        }
    }

    async fn put(&self, item: &str, value: impl Into<Bytes>) -> WatchedChange {
        let value = value.into();
        self.write(item, OperationKind::Put { value, ttl: None })
            .await
    }

    async fn delete(&self, item: &str) -> WatchedChange {
        self.write(item, OperationKind::Delete).await
    }

    async fn open(&self, request: WatchRequest) -> Result<Streaming<WatchReply>, Error> {
        let opened = self.watches.clone().watch(request).await;
        Ok(opened.map_err(|status| read_error(&status))?.into_inner())
    }

    async fn watch(&self, of: &str, after: Option<WatchPosition>) -> Watching {
        let request = WatchRequest {
            prefix: prefix(of),
            positions: after.clone().into_iter().collect(),
        };
        let mut replies = self.open(request).await.unwrap();
        let begun = next(&mut replies).await.unwrap();
        assert_eq!(begun.changes, [], "the first reply has no changes");
        let position = begun.position.unwrap();
        assert!(after.is_none_or(|after| after == position));
        Watching { replies, position }
    }

    async fn stop(self) {
        self.stage.stop().await;
    }
}

async fn next(replies: &mut Streaming<WatchReply>) -> Result<WatchReply, Error> {
    let reply = timeout(PATIENCE, replies.message()).await;
    let reply = reply.expect("there is no reply in time");
    Ok(reply
        .map_err(|status| read_error(&status))?
        .expect("the watch ended without an error"))
}

/// A watch and its last position.
struct Watching {
    replies: Streaming<WatchReply>,
    position: WatchPosition,
}

impl Watching {
    /// The next `count` changes, or a few more.
    async fn changes(&mut self, count: usize) -> Vec<WatchedChange> {
        let mut changes = Vec::new();
        while changes.len() < count {
            let reply = next(&mut self.replies).await.unwrap();
            let position = reply.position.unwrap();
            assert!(position.index > self.position.index);
            self.position = position;
            changes.extend(reply.changes);
        }
        changes
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_prefix_is_told_once_and_in_order() {
    let dir = TempDir::new().unwrap();
    let stage = Watchable::new(dir.path()).await;
    stage.put("a/before", "not told").await;
    let mut watch = stage.watch("a/", None).await;
    let mut told = vec![stage.put("a/1", "one").await];
    stage.put("b/1", "of another prefix").await;
    stage.put("a", "shorter than the prefix").await;
    told.push(stage.put("a/1", "two").await);
    told.push(stage.put("a/", "").await);
    told.push(stage.delete("a/1").await);
    told.push(stage.delete("a/never-there").await);
    assert_eq!(watch.changes(told.len()).await, told);

    // An expiry is sent when the master reclaims the key.
    let value = Bytes::from_static(b"short");
    let ttl = Some(Duration::from_millis(50));
    let expiring = stage.write("a/e", OperationKind::Put { value, ttl }).await;
    assert_eq!(watch.changes(1).await[..], *std::slice::from_ref(&expiring));
    let removed = watch.changes(1).await;
    assert_eq!(removed[0].item_key, expiring.item_key);
    assert_eq!(removed[0].value, None);
    assert!(removed[0].version >= expiring.expires);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_prefix_hears_how_far_the_log_went() {
    let dir = TempDir::new().unwrap();
    let stage = Watchable::new(dir.path()).await;
    let mut quiet = stage.watch("quiet/", None).await;
    let mut loud = stage.watch("loud/", Some(quiet.position.clone())).await;
    let told = stage.put("loud/1", "x").await;
    assert_eq!(loud.changes(1).await, [told]);
    let progress = next(&mut quiet.replies).await.unwrap();
    assert_eq!(progress.changes, []);
    assert_eq!(progress.position, Some(loud.position));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_restart_of_the_node() {
    let dir = TempDir::new().unwrap();
    let stage = Watchable::new(dir.path()).await;
    let mut watch = stage.watch("", None).await;
    let first = stage.put("a", "1").await;
    assert_eq!(watch.changes(1).await, [first]);
    let mut told = vec![stage.put("a", "2").await, stage.delete("a").await];
    let coordination = Arc::clone(&stage.stage.coordination);
    stage.stop().await;
    let ended = loop {
        if let Err(ended) = next(&mut watch.replies).await {
            break ended;
        }
    };
    assert_eq!(ended.code, Code::Unavailable);

    let storage = StorageSettings::new(dir.path().join("n1"));
    let stage = Watchable::on(coordination, storage).await;
    told.push(stage.put("a", "3").await);
    let mut again = stage.watch("", Some(watch.position.clone())).await;
    assert_eq!(again.changes(told.len()).await, told);
    // From the log's beginning, too.
    let beginning = WatchPosition {
        cluster: "c1".into(),
        ..WatchPosition::default()
    };
    let mut all = stage.watch("", Some(beginning)).await;
    assert_eq!(all.changes(4).await[1..], told);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_place_to_go_on_from_is_refused() {
    let dir = TempDir::new().unwrap();
    let stage = Watchable::new(dir.path()).await;
    stage.put("a", "1").await;
    let begun = stage.watch("", None).await.position;
    let refused = async |prefix: Bytes, positions: &[WatchPosition]| {
        let positions = positions.to_vec();
        let refused = stage.open(WatchRequest { prefix, positions }).await;
        refused.unwrap_err().code
    };
    let at = |change: fn(&mut WatchPosition)| {
        let mut position = begun.clone();
        change(&mut position);
        [position]
    };
    for wrong in [
        at(|position| position.index += 1),
        at(|position| position.index = u64::MAX),
        at(|position| position.epoch += 1),
        at(|position| position.version += 1),
        at(|position| position.index -= 1),
        at(|position| position.index = 0),
    ] {
        assert_eq!(
            refused(prefix(""), &wrong).await,
            Code::TokenExpired,
            "{wrong:?}"
        );
    }
    let of_another = at(|position| position.cluster = "c2".into());
    assert_eq!(refused(prefix(""), &of_another).await, Code::NotMaster);
    let twice = [begun.clone(), begun.clone()];
    assert_eq!(refused(prefix(""), &twice).await, Code::InvalidArgument);
    for no_prefix in [&b""[..], b"default", b"\0a", b"NO\0a"] {
        let no_prefix = Bytes::from_static(no_prefix);
        assert_eq!(refused(no_prefix, &[]).await, Code::InvalidArgument);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_nobody_reads_hold_nobody_up_and_too_many_are_refused() {
    const VALUE_BYTES: usize = 100_000;
    const WRITES: usize = 300;
    let dir = TempDir::new().unwrap();
    let stage = Watchable::new(dir.path()).await;
    let mut resting = Vec::new();
    for _ in 0..MAX_NODE_WATCHES - 1 {
        resting.push(stage.watch("", None).await);
    }
    let mut reading = stage.watch("", None).await;
    let one_more = WatchRequest {
        prefix: prefix(""),
        positions: Vec::new(),
    };
    let refused = stage.open(one_more.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.message.contains("max_node_watches"), "{refused}");

    let mut told = Vec::new();
    for nth in 0..WRITES {
        let value = vec![u8::try_from(nth % 256).unwrap(); VALUE_BYTES];
        told.push(stage.put("k", value).await);
        if told.len() % 10 == 0 {
            assert_eq!(reading.changes(10).await, told[told.len() - 10..]);
        }
    }
    // A watch that was not read for longer than the history in memory misses nothing.
    let mut late = resting.pop().unwrap();
    assert_eq!(late.changes(WRITES).await, told);
    drop(resting);
    let free = async {
        while stage.open(one_more.clone()).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("no place became free");
    stage.stop().await;
}
