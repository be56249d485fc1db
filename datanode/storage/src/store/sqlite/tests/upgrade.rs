//! Upgrades of earlier schemas to the newest one, with power cuts and full disks; damaged rows
//! stay damaged.

use tierkv_types::{Epoch, Index, LogId, Position};

use super::{
    earlier_meta, item_row::earlier_checksum, outcomes, prepare::prepare, schema, tombstones, *,
};
use crate::{Outcome, disk::Tear, state::epoch_row, store::StoreState};

const STORE: &str = "/n/store";
/// More than are copied at once.
const KEYS: u64 = 1_100;
const DAMAGED: u64 = 1_005;

fn key(number: u64) -> ItemKey {
    ItemKey::new("n", format!("key-{number:05}").as_bytes()).unwrap()
}

fn item(number: u64) -> Item {
    // One is longer than the bytes of a page of rows.
    let length = if number == 7 { 5 << 20 } else { 30 };
    Item {
        version: Version::from_bits(number + 1),
        expires: (number.is_multiple_of(3)).then(|| Version::from_bits(1_000 + number)),
        value: Bytes::from(vec![u8::try_from(number % 251).unwrap(); length]),
    }
}

fn outcomes_of(version: usize) -> Vec<(RequestId, Outcome)> {
    let outcome = |nth: u8| {
        let id = RequestId {
            birth_millis: 100 + u64::from(nth),
            random: [nth; 16],
        };
        let outcome = Outcome {
            version: Version::from_bits(u64::from(nth)),
            fingerprint: 3,
            existed: [true].into_iter().collect(),
            numbers: Vec::new(),
        };
        (id, outcome)
    };
    match version {
        1 => Vec::new(),
        _ => (0..10).map(outcome).collect(),
    }
}

fn state() -> StoreState {
    StoreState {
        meta: StoreMeta {
            log_id: LogId(u64::MAX - 5),
            applied: Position {
                epoch: Epoch(4),
                index: Index(90),
            },
            clock: Version::from_bits(1 << 63),
        },
        rows: vec![
            epoch_row(Epoch(1), Index(1)),
            epoch_row(Epoch(3), Index(2)),
            epoch_row(Epoch(4), Index(80)),
        ],
    }
}

async fn connect(disk: &Arc<dyn Disk>) -> SqliteConnection {
    let path = Path::new(STORE);
    let volume = registry::enter(disk, path, PageFormat::Checked, WalSync::Always);
    let options = connect_options(path, &volume, WalSync::Always).unwrap();
    let options = options.journal_mode(SqliteJournalMode::Wal);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn open_on(disk: &TestDisk) -> Result<SqliteStore, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open(&disk, Path::new(STORE)).await
}

/// A store as releases of this schema version left it, with a damaged row.
async fn left_behind(version: usize, keys: impl Iterator<Item = u64>) -> TestDisk {
    let test_disk = TestDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(test_disk.clone());
    prepare(&disk, Path::new(STORE), WalSync::Always)
        .await
        .unwrap();
    let mut connection = connect(&disk).await;
    let path = Path::new(STORE);
    schema::migrate_to(path, &mut connection, version)
        .await
        .unwrap();
    let mut transaction = connection.begin().await.unwrap();
    for number in keys {
        let (key, item) = (key(number), item(number));
        let checksum = earlier_checksum(key.as_bytes(), &item);
        let damage = i64::from(number == DAMAGED);
        sqlx::query(
            "INSERT INTO item (key, version, expires, value, checksum) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&key.as_bytes()[..])
        .bind(item.version.to_bits().cast_signed())
        .bind(item.expires.map(|expires| expires.to_bits().cast_signed()))
        .bind(&item.value[..])
        .bind(i64::from(checksum) + damage)
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    write_meta(&mut transaction).await;
    if version > 1 {
        let deleted = key(99_999);
        let deleted = [(&deleted.as_bytes()[..], Version::from_bits(77))];
        tombstones::write(&mut transaction, &deleted).await.unwrap();
        let outcomes = outcomes_of(version);
        outcomes::write(&mut transaction, &outcomes, 0)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    connection.close().await.unwrap();
    test_disk
}

async fn write_meta(connection: &mut SqliteConnection) {
    let meta = state().meta;
    let epochs = [(1, 1), (3, 2), (4, 80)];
    let numbers = [
        meta.log_id.0.cast_signed(),
        meta.applied.epoch.0.cast_signed(),
        meta.applied.index.0.cast_signed(),
        meta.clock.to_bits().cast_signed(),
    ];
    let covered = epochs.iter().flat_map(|(epoch, first)| [*epoch, *first]);
    let checksum = earlier_meta::checksum(numbers.into_iter().chain(covered));
    for (epoch, first) in epochs {
        sqlx::query("INSERT INTO epoch (epoch, first_index) VALUES (?, ?)")
            .bind(epoch)
            .bind(first)
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    let mut query = sqlx::query("INSERT INTO meta VALUES (1, 9, ?, ?, ?, ?, ?)");
    for number in numbers {
        query = query.bind(number);
    }
    query
        .bind(checksum)
        .execute(&mut *connection)
        .await
        .unwrap();
}

/// Checks that everything is in the store, and that it can be written to.
async fn check(disk: &TestDisk, version: usize, keys: &[u64], when: &str) {
    let store = open_on(disk).await;
    let store = store.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(
        store.claim(Incarnation(1)).await.unwrap(),
        state(),
        "{when}"
    );
    for some in keys.chunks(100) {
        let sound: Vec<u64> = some
            .iter()
            .copied()
            .filter(|number| *number != DAMAGED)
            .collect();
        let asked: Vec<ItemKey> = sound.iter().copied().map(key).collect();
        let found = store.get_many(&asked).await.unwrap();
        let expected: Vec<_> = sound.iter().map(|number| Some(item(*number))).collect();
        assert!(found == expected, "{when}: {some:?}");
    }
    if keys.contains(&DAMAGED) {
        let refused = store.get_many(&[key(DAMAGED)]).await.unwrap_err();
        assert!(refused.to_string().contains("n\\x00key-01005"), "{refused}");
    }
    // The expiry in a damaged row removes nothing: the damage would stay unnoticed.
    let expiring = (keys.iter()).filter(|number| number.is_multiple_of(3) && **number != DAMAGED);
    let expired = store
        .expired(Version::from_bits(1 << 40), 10_000)
        .await
        .unwrap();
    assert_eq!(expired.len(), expiring.count(), "{when}");
    let mut outcomes = store.outcomes().await.unwrap();
    outcomes.sort_by_key(|(id, _)| id.random);
    assert_eq!(outcomes, outcomes_of(version), "{when}");
    let oldest = store.oldest_tombstone().await.unwrap();
    assert_eq!(
        oldest,
        (version > 1).then(|| Version::from_bits(77)),
        "{when}"
    );
    let batch = CheckpointBatch {
        meta: state().meta,
        ..CheckpointBatch::default()
    };
    store.checkpoint(Incarnation(1), batch).await.unwrap();
    store.close().await;
}

/// The state of a store by an examination, and the number of damaged rows.
async fn examined(disk: &TestDisk) -> (StoreState, u64) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let found = examine(&disk, Path::new(STORE), WalSync::Always).await;
    match found.unwrap() {
        StoreFound::Usable {
            state,
            damaged_rows,
            first_damaged,
        } => {
            assert_eq!(first_damaged.is_some(), damaged_rows > 0);
            (state, damaged_rows)
        }
        found => panic!("{found:?}"),
    }
}

#[tokio::test]
async fn every_earlier_schema_comes_along_whole() {
    let keys: Vec<u64> = (0..KEYS).collect();
    for version in 1..=3 {
        let disk = left_behind(version, 0..KEYS).await;
        assert_eq!(examined(&disk).await, (state(), 1));
        check(&disk, version, &keys, &format!("of schema {version}")).await;
        check(&disk, version, &keys, "again").await;
        assert_eq!(examined(&disk).await, (state(), 1));
    }
}

/// A new store and one that comes from an earlier release have the same tables.
#[tokio::test]
async fn the_schema_is_the_same_on_every_way() {
    let mut schemas = Vec::new();
    for disk in [TestDisk::default(), left_behind(3, 0..9).await] {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let store = open(&disk, Path::new(STORE)).await.unwrap();
        let mut connection = store.reader().await.unwrap();
        let schema: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY 2",
        )
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let names: Vec<&str> = schema.iter().map(|(_, name, _)| &**name).collect();
        assert_eq!(
            names,
            [
                "item",
                "item_expires",
                "meta",
                "outcome",
                "outcome_newest",
                "state_row",
                "tombstone",
                "tombstone_version"
            ]
        );
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(version, 6);
        drop(connection);
        store.close().await;
        schemas.push(schema);
    }
    assert_eq!(schemas[0], schemas[1]);
}

#[tokio::test]
async fn a_damaged_row_of_meta_is_refused_and_stays_what_it_was() {
    let disk: Arc<dyn Disk> = Arc::new(left_behind(3, 0..9).await);
    for sql in [
        "UPDATE meta SET clock = 3",
        "DELETE FROM epoch WHERE epoch = 3",
    ] {
        tamper(&disk, Path::new(STORE), sql).await;
        for _ in 0..2 {
            let refused = open(&disk, Path::new(STORE)).await.unwrap_err();
            assert!(refused.to_string().contains("the row of meta"), "{refused}");
        }
        let found = examine(&disk, Path::new(STORE), WalSync::Always)
            .await
            .unwrap();
        assert!(matches!(found, StoreFound::Damaged(_)), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_of_the_upgrade_loses_nothing() {
    let keys: Vec<u64> = (10..40).collect();
    let left_behind = left_behind(3, keys.iter().copied()).await;
    for calls in 0.. {
        let disk = left_behind.fork();
        disk.cut_after(calls);
        let opened = open_on(&disk).await;
        let is_through = opened.is_ok();
        if let Ok(store) = opened {
            store.close().await;
        }
        let is_closed = disk.calls() < calls;
        for seed in 0..3 {
            let booted = disk.fork().crash(seed, Tear::AnyOrder);
            let when = format!("cut after {calls} calls, seed {seed}");
            check(&booted, 3, &keys, &when).await;
        }
        if is_closed {
            assert!(is_through && calls > 10, "{calls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_full_disk_leaves_the_earlier_schema_and_the_next_start_goes_on() {
    let keys: Vec<u64> = (10..500).collect();
    let left_behind = left_behind(3, keys.iter().copied()).await;
    let before = left_behind.content(Path::new(STORE)).unwrap();
    let mut refused = 0;
    for space in (0..).step_by(9_000) {
        let disk = left_behind.fork();
        disk.set_space(Some(space));
        match open_on(&disk).await {
            Ok(store) => {
                store.close().await;
                break;
            }
            Err(error) => {
                assert!(
                    matches!(error, StorageError::NoSpace { .. }),
                    "{space}: {error}"
                );
                assert_eq!(disk.content(Path::new(STORE)).unwrap(), before);
                refused += 1;
            }
        }
        disk.set_space(None);
        check(&disk, 3, &keys, &format!("with {space} bytes")).await;
    }
    assert!(refused > 3, "{refused}");
}
