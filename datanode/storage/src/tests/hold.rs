//! Holds: records that a joining node needs stay in the log, up to twice the limit.

use tempfile::TempDir;
use tierkv_harness::poll_until;

use super::*;
use crate::{LogHold, TailError, disk::TestDisk};

const SEGMENT: u64 = 4 << 10;
/// Segments within the limit.
const LIMIT: u64 = 5;

/// Records whose versions are a second apart; three fill a segment.
fn second(index: u64) -> Record {
    let mut record = put(1, index, &format!("k{index}"), 1_000);
    record.version = Version::from_millis(1_000 * index);
    record
}

struct Node {
    _dir: TempDir,
    storage: Arc<Storage>,
    last: u64,
}

impl Node {
    async fn new(log_retention: Duration) -> Self {
        let dir = TempDir::new().unwrap();
        let settings = StorageSettings {
            segment_bytes: SEGMENT,
            log_limit_bytes: LIMIT * SEGMENT,
            log_retention,
            ..settings(dir.path())
        };
        let opened = Storage::open(settings, Arc::new(TestDisk::default())).await;
        Self {
            _dir: dir,
            storage: opened.unwrap().0,
            last: 0,
        }
    }

    async fn commit(&mut self, count: u64) {
        let records = (self.last + 1..=self.last + count).map(second);
        commit(&self.storage, records.collect()).await;
        self.last += count;
    }

    /// Stores everything. The log's thread then removes what may leave: a truncation that cuts
    /// nothing waits for it.
    async fn store(&self) {
        self.storage.checkpoint().await.unwrap();
        let last = second(self.last).position;
        self.storage.truncate(last).await.unwrap();
    }

    fn begin(&self) -> u64 {
        self.storage.log_begin().index.0
    }

    async fn holds_after(&self, from: u64) {
        let after = Position {
            epoch: Epoch(u64::from(from > 0)),
            index: Index(from),
        };
        let mut tail = self.storage.tail_after(after).await.unwrap();
        let mut next = from + 1;
        while next <= self.last {
            for record in deadline(tail.read()).await.unwrap().records() {
                assert_eq!(*record, second(next));
                next += 1;
            }
        }
    }

    async fn begins_soon_at(&self, least: u64) {
        let question = || async { (self.begin() >= least).then_some(()) };
        let answer = poll_until(Duration::from_secs(20), question).await;
        assert!(answer.is_some(), "the log begins at {}", self.begin());
    }
}

fn is_pending(hold: &LogHold) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let broken = std::pin::pin!(hold.broken());
    broken.poll(&mut context).is_pending()
}

#[tokio::test]
async fn a_hold_keeps_what_is_over_the_retention_and_lets_it_go_when_it_advances() {
    let mut node = Node::new(Duration::ZERO).await;
    node.commit(6).await;
    let hold = node.storage.hold_log(Index(4));
    node.commit(9).await;
    node.store().await;
    // The segments with records up to 3 left, the one with record 5 did not.
    assert_eq!(node.begin(), 3);
    node.holds_after(4).await;
    hold.advance(Index(11));
    hold.advance(Index(1));
    node.commit(1).await;
    node.store().await;
    assert_eq!(node.begin(), 9);
    assert!(!hold.is_broken() && is_pending(&hold));
    // Dropped, it lets the rest go without another checkpoint.
    drop(hold);
    node.begins_soon_at(15).await;
    node.storage.close().await.unwrap();
}

#[tokio::test]
async fn a_hold_is_broken_beyond_twice_the_limit_and_others_are_not() {
    let mut node = Node::new(Duration::from_secs(3_600)).await;
    let old = node.storage.hold_log(Index::ZERO);
    node.commit(3).await;
    let also_old = node.storage.hold_log(Index(2));
    // Ten segments: twice the limit, and not more.
    node.commit(27).await;
    node.store().await;
    assert_eq!(node.storage.report().segments as u64, 2 * LIMIT);
    assert_eq!(node.begin(), 0);
    let young = node.storage.hold_log(Index(25));
    node.holds_after(0).await;
    assert!(!old.is_broken() && is_pending(&old));

    node.commit(3).await;
    node.store().await;
    deadline(old.broken()).await;
    assert!(old.is_broken() && also_old.is_broken());
    // Without a hold that needs them, records over the single limit leave; the young one needs
    // none of them.
    assert_eq!(node.begin(), 33 - LIMIT * 3);
    assert!(!young.is_broken() && is_pending(&young));
    node.holds_after(25).await;
    // A broken hold keeps nothing any more, also if it advances.
    old.advance(Index(30));
    assert!(old.is_broken());
    node.commit(9).await;
    node.store().await;
    assert_eq!(node.begin(), 24);
    node.holds_after(25).await;
    node.storage.close().await.unwrap();
    // Nothing is kept for anyone then.
    deadline(young.broken()).await;
}

#[tokio::test]
async fn a_hold_on_records_that_left_is_broken_from_the_start() {
    let mut node = Node::new(Duration::ZERO).await;
    node.commit(10).await;
    node.store().await;
    assert_eq!(node.begin(), 9);
    let late = node.storage.hold_log(Index(8));
    assert!(late.is_broken());
    deadline(late.broken()).await;
    assert!(!node.storage.hold_log(Index(9)).is_broken());
    let after = second(8).position;
    let refused = node.storage.tail_after(after).await.unwrap_err();
    assert!(matches!(refused, TailError::Trimmed(_)), "{refused}");
    node.storage.close().await.unwrap();
}

/// Records that the store does not have stay whatever the limits; they break holds all the same.
#[tokio::test]
async fn a_hold_never_lets_records_go_that_the_store_lacks() {
    let mut node = Node::new(Duration::ZERO).await;
    node.commit(3).await;
    node.store().await;
    let hold = node.storage.hold_log(Index::ZERO);
    node.commit(60).await;
    // Dropping another one makes the log look again, without a checkpoint.
    drop(node.storage.hold_log(Index(50)));
    deadline(hold.broken()).await;
    assert_eq!(node.begin(), 3);
    node.holds_after(3).await;
    node.storage.close().await.unwrap();
}

#[tokio::test]
async fn the_place_of_a_version_is_at_most_a_segment_early_and_in_the_log() {
    let mut node = Node::new(Duration::from_secs(3_600)).await;
    assert_eq!(node.storage.log_since(Version::ZERO), Position::default());
    node.commit(12).await;
    for seconds in 0..14 {
        let since = Version::from_millis(1_000 * seconds);
        let place = node.storage.log_since(since).index.0;
        // Everything from that version on is after it.
        assert!(place < seconds.max(1), "{place} for {seconds}");
        assert!(place + 4 >= seconds.min(13), "{place} for {seconds}");
        node.holds_after(place).await;
    }
    node.commit(18).await;
    node.store().await;
    let begin = node.storage.log_begin();
    assert_eq!(begin.index, Index(15));
    assert_eq!(node.storage.log_since(Version::from_millis(4_000)), begin);
    // Records that are not applied are no place for a tail.
    node.storage
        .append((31..=40).map(second).collect())
        .unwrap();
    durable(&node.storage, Index(40)).await;
    let newest = node.storage.log_since(Version::from_millis(90_000));
    assert!(
        newest.index <= Index(30) && newest.index >= Index(27),
        "{newest}"
    );
    node.storage.tail_after(newest).await.unwrap();
    let (hold, place) = (node.storage).hold_log_since(Version::from_millis(20_000));
    assert_eq!(place, node.storage.log_since(Version::from_millis(20_000)));
    assert!(!hold.is_broken() && (15..20).contains(&place.index.0));
    node.storage.close().await.unwrap();
}
