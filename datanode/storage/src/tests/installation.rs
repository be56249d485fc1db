//! Installations: a node's state becomes that of another node, wholly or not at all.

mod power;
mod unsound;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tierkv_types::{LogId, PlatformId};

use super::{
    node_state_model::{Whole, records_of_every_kind},
    *,
};
use crate::{Installation, NodeSnapshot, RealDisk, StorageError, disk::TestDisk};

/// What the target of an installation promised before.
const PROMISED: Epoch = Epoch(700);
const CLUSTER_STATE: &[u8] = b"state";
const PLATFORM: PlatformId = PlatformId(77);

/// A snapshot's pieces, and the records before its cut.
#[derive(Clone)]
struct Transfer {
    cut: Cursor,
    from: Position,
    pieces: Vec<Bytes>,
    records: Vec<Record>,
}

impl Transfer {
    /// The transfer of a node that has applied `records`, with the log from record `from` + 1 on.
    async fn of(records: &[Record], from: usize, piece_bytes: usize) -> Self {
        let (storage, _) = open(Path::new("/source"), TestDisk::default()).await;
        commit(&storage, records.to_vec()).await;
        let snapshot = storage.node_snapshot(piece_bytes).await.unwrap();
        let transfer = Self::read(snapshot, records, from).await;
        storage.close().await.unwrap();
        transfer
    }

    async fn read(mut snapshot: NodeSnapshot, records: &[Record], from: usize) -> Self {
        let cut = snapshot.cut();
        let mut pieces = Vec::new();
        while let Some(piece) = deadline(snapshot.next()).await.unwrap() {
            pieces.push(piece);
        }
        let last = usize::try_from(cut.position.index.0).unwrap();
        let before = records[..from].last().map(|record| record.position);
        Self {
            cut,
            from: before.unwrap_or_default(),
            pieces,
            records: records[from..last].to_vec(),
        }
    }

    /// Installs it; the records come in parts between the pieces.
    async fn install(
        &self,
        settings: StorageSettings,
        disk: impl Disk,
        seed: u64,
    ) -> Result<LogId, StorageError> {
        let begun = Installation::begin(settings, Arc::new(disk), self.cut, self.from).await;
        let mut installation = begun?;
        match self.fill(&mut installation, seed).await {
            Ok(()) => installation.finish().await,
            Err(error) => {
                installation.abandon().await;
                Err(error)
            }
        }
    }

    async fn fill(&self, installation: &mut Installation, seed: u64) -> Result<(), StorageError> {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut pieces, mut records) = (&self.pieces[..], &self.records[..]);
        while !pieces.is_empty() || !records.is_empty() {
            if let Some((piece, rest)) = pieces.split_first()
                && (records.is_empty() || random.random())
            {
                installation.take(piece.clone()).await?;
                pieces = rest;
            } else {
                let count = random.random_range(1..=9).min(records.len());
                let (some, rest) = records.split_at(count);
                installation.take_records(some.to_vec()).await?;
                records = rest;
            }
        }
        Ok(())
    }
}

pub(super) fn of_platform(dir: &Path) -> StorageSettings {
    StorageSettings {
        segment_bytes: 4_096,
        platform: Some(PLATFORM),
        ..settings(dir)
    }
}

/// A node with an old state of its own: some of it in the store, some only in the log.
pub(super) async fn with_old_state(dir: &Path, disk: &TestDisk) -> (LogId, Vec<Record>) {
    let opened = Storage::open(of_platform(dir), Arc::new(disk.clone())).await;
    let (storage, found) = opened.unwrap();
    let state = Some(Bytes::from_static(CLUSTER_STATE));
    storage.promise(PROMISED, state).await.unwrap();
    let mut random = StdRng::seed_from_u64(99);
    let records = records_of_every_kind(&mut random, 60, 300);
    commit(&storage, records[..40].to_vec()).await;
    storage.checkpoint().await.unwrap();
    storage.append(records[40..].to_vec()).unwrap();
    durable(&storage, Index(60)).await;
    storage.close().await.unwrap();
    (found.log_id, records)
}

/// Opens a target, and checks what no installation may change.
pub(super) async fn reopened(dir: &Path, disk: &TestDisk) -> (Arc<Storage>, Recovered) {
    let opened = Storage::open(of_platform(dir), Arc::new(disk.clone())).await;
    let (storage, found) = opened.unwrap();
    assert_eq!(found.promised, PROMISED);
    assert_eq!(found.cluster_state.as_deref(), Some(CLUSTER_STATE));
    let platform = crate::platform_of(Arc::new(disk.clone()), dir).unwrap();
    assert_eq!(platform, Some(PLATFORM));
    (storage, found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_installs_and_applies_the_rest_is_like_its_source() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(1..400_u64);
        let records = records_of_every_kind(&mut random, count, 400);
        let dir = Path::new("/source");
        let (source, _) = open(dir, TestDisk::default()).await;
        let cut = random.random_range(0..=records.len());
        let from = random.random_range(0..=cut);
        for some in records[..cut].chunks(7) {
            commit(&source, some.to_vec()).await;
            if random.random_bool(0.2) {
                source.checkpoint().await.unwrap();
            }
        }
        let piece_bytes = random.random_range(1..5_000);
        let snapshot = source.node_snapshot(piece_bytes).await.unwrap();
        // Written while the transfer is under way.
        if cut < records.len() {
            commit(&source, records[cut..].to_vec()).await;
        }
        let transfer = Transfer::read(snapshot, &records, from).await;
        let (dir, disk) = (Path::new("/target"), TestDisk::default());
        let (old_id, _) = with_old_state(dir, &disk).await;
        let installed = transfer.install(of_platform(dir), disk.clone(), seed).await;
        let log_id = installed.unwrap();
        assert_ne!(log_id, old_id);

        let (target, found) = reopened(dir, &disk).await;
        assert_eq!(found.log_id, log_id);
        let last = records[..cut].last().map(Cursor::of).unwrap_or_default();
        assert_eq!(found.last, last.position, "seed {seed}");
        assert_eq!(
            (found.applied, found.commit),
            (found.last.index, found.last.index)
        );
        assert_eq!(found.clock, last.version);
        assert!(found.tail.is_empty());
        let expected = Whole::of(&records[..cut]);
        assert_eq!(Whole::now(&target).await, expected, "seed {seed}");
        check_log(&target, transfer.from, &transfer.records).await;
        check_outcomes(&target, &records[..cut]);
        if cut < records.len() {
            commit(&target, records[cut..].to_vec()).await;
        }
        let (whole, of_source) = (Whole::now(&target).await, Whole::now(&source).await);
        assert_eq!(whole, of_source, "seed {seed}");
        assert_eq!(whole, Whole::of(&records));
        target.close().await.unwrap();
        let (target, found) = reopened(dir, &disk).await;
        assert_eq!(found.last.index.0, count);
        assert_eq!(Whole::now(&target).await, whole, "seed {seed}");
        target.close().await.unwrap();
        source.close().await.unwrap();
    }
}

/// The log has exactly these records after `from`.
async fn check_log(storage: &Storage, from: Position, records: &[Record]) {
    let mut rest = records;
    let Some((first, _)) = records.split_first() else {
        return;
    };
    assert_eq!(from.index.next(), first.position.index);
    let mut tail = storage.tail_with(Cursor::of(first)).await.unwrap();
    while !rest.is_empty() {
        let stretch = deadline(tail.read()).await.unwrap();
        for record in stretch.records() {
            assert_eq!(Some(record), rest.first());
            rest = &rest[1..];
        }
    }
    let scrubbed = storage.scrub(u64::MAX).await.unwrap();
    assert!(scrubbed.damage.is_empty(), "{:?}", scrubbed.damage);
}

fn check_outcomes(storage: &Storage, records: &[Record]) {
    for record in records {
        if let Some((id, outcome)) = outcome_of(record) {
            assert_eq!(storage.outcome(&id.random), Some(outcome));
        }
    }
}

/// As a replica does that has no directory yet, on the machine's own disk.
#[tokio::test]
async fn a_node_without_a_directory_installs_too() {
    let mut random = StdRng::seed_from_u64(5);
    let records = records_of_every_kind(&mut random, 300, 2_000);
    let transfer = Transfer::of(&records, 100, 20_000).await;
    let dir = TempDir::new().unwrap();
    let node = dir.path().join("node");
    let log_id = transfer
        .install(settings(&node), RealDisk, 1)
        .await
        .unwrap();
    let (storage, found) = open(&node, RealDisk).await;
    assert_eq!((found.log_id, found.last.index), (log_id, Index(300)));
    assert_eq!(Whole::now(&storage).await, Whole::of(&records));
    check_log(&storage, transfer.from, &transfer.records).await;
    let repeated = Installation::begin(
        settings(&node),
        Arc::new(RealDisk),
        transfer.cut,
        transfer.from,
    );
    let refused = repeated.await.unwrap_err();
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    storage.close().await.unwrap();
}
