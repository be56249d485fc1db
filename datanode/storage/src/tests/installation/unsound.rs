//! Snapshots that are not whole, or whose parts do not fit each other.

use super::*;
use crate::{Entry, Row, Table, piece::PieceWriter, state::epoch_row};

/// A change that makes a transfer unsound.
type Spoil = fn(&mut Transfer);

/// Installs a transfer after a change; it must be refused, and the node be empty.
async fn refused(transfer: &Transfer, spoil: Spoil) -> String {
    let mut transfer = transfer.clone();
    spoil(&mut transfer);
    let (dir, disk) = (Path::new("/n"), TestDisk::default());
    let (old_id, _) = with_old_state(dir, &disk).await;
    let installed = transfer.install(of_platform(dir), disk.clone(), 1).await;
    let error = installed.unwrap_err();
    assert!(
        matches!(error, StorageError::UnsoundSnapshot { .. }),
        "{error}"
    );
    assert!(error.is_passing());
    let (storage, found) = reopened(dir, &disk).await;
    if found.log_id != old_id {
        assert_eq!(found.last, Position::default());
        assert_eq!(Whole::now(&storage).await, Whole::default());
    }
    storage.close().await.unwrap();
    error.to_string()
}

/// Twenty records; the second epoch begins with the eleventh.
fn records() -> Vec<Record> {
    let record = |index: u64| put(1 + (index - 1) / 10, index, &format!("k{index:02}"), 200);
    (1..=20).map(record).collect()
}

#[tokio::test]
async fn pieces_that_are_missing_or_out_of_order_are_noticed() {
    let transfer = Transfer::of(&records(), 5, 500).await;
    assert!(transfer.pieces.len() > 10);
    let spoils: [(Spoil, &str); 9] = [
        (|it| drop(it.pieces.remove(3)), "its sender counted"),
        (|it| drop(it.pieces.remove(0)), "its sender counted"),
        (|it| drop(it.pieces.pop()), "its end is missing"),
        (|it| it.pieces.swap(1, 2), "is out of order"),
        (
            |it| it.pieces.insert(2, it.pieces[1].clone()),
            "out of order",
        ),
        (
            |it| it.pieces.rotate_right(1),
            "a piece of Entries is out of order",
        ),
        (
            |it| it.pieces.push(it.pieces[it.pieces.len() - 1].clone()),
            "a piece of End is out of order",
        ),
        (
            |it| it.pieces[2] = it.pieces[2].slice(..20),
            "can't be read",
        ),
        (
            |it| {
                let mut piece = it.pieces[2].to_vec();
                let last = piece.len() - 1;
                piece[last] ^= 1;
                it.pieces[2] = piece.into();
            },
            "its sender counted",
        ),
    ];
    for (nth, (spoil, expected)) in spoils.into_iter().enumerate() {
        let words = refused(&transfer, spoil).await;
        assert!(words.contains(expected), "{nth}: {words}");
    }
}

#[tokio::test]
async fn a_log_that_does_not_lead_to_the_cut_is_noticed() {
    let transfer = Transfer::of(&records(), 5, 500).await;
    let spoils: [(Spoil, &str); 10] = [
        (|it| drop(it.records.pop()), "but its log with record 2:19"),
        (|it| it.records.clear(), "but its log with record 1:5"),
        (
            |it| drop(it.records.remove(0)),
            "record 1:7 does not continue 1:5",
        ),
        (|it| drop(it.records.remove(9)), "does not continue 2:14"),
        (
            |it| it.records.push(put(2, 21, "more", 9)),
            "its log has record 2:21",
        ),
        (
            |it| it.records[14].version = Version::from_bits(201),
            "of version 201",
        ),
        (
            |it| it.records[7].version = Version::from_bits(1),
            "the version of record 2:13 is not above",
        ),
        (
            |it| it.records[4].position.epoch = Epoch(2),
            "epoch 2 begins with record 10 in its log, but not in its rows",
        ),
        (
            |it| it.from = it.cut.position.index.next().at(2),
            "its log begins after record 2:21",
        ),
        (
            |it| it.from.epoch = Epoch(0),
            "which is of epoch 1 by its rows",
        ),
    ];
    for (nth, (spoil, expected)) in spoils.into_iter().enumerate() {
        let words = refused(&transfer, spoil).await;
        assert!(words.contains(expected), "{nth}: {words}");
    }
}

trait At {
    fn at(self, epoch: u64) -> Position;
}

impl At for Index {
    fn at(self, epoch: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            index: self,
        }
    }
}

/// Pieces that are whole, of a state that no node has.
fn made(rows: &[Row]) -> Vec<Bytes> {
    let mut writer = PieceWriter::new(1 << 20);
    let mut pieces = Vec::new();
    let tombstone = Entry::Tombstone(Version::from_bits(1));
    pieces.extend(writer.entry(key("a").as_bytes(), &tombstone));
    for row in rows {
        pieces.extend(writer.row(row));
    }
    pieces.extend(writer.end());
    pieces
}

fn row(table: Table, key: &'static [u8]) -> Row {
    Row {
        table,
        key: Bytes::from_static(key),
        value: Some(Bytes::from_static(b"value")),
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_are_noticed() {
    let transfer = Transfer::of(&records(), 20, 500).await;
    let spoils: [(Spoil, &str); 7] = [
        (|it| it.pieces = made(&[]), "its last epoch 0"),
        (
            |it| it.pieces = made(&[epoch_row(Epoch(1), Index(1))]),
            "its last epoch 1 begins with record 1",
        ),
        (
            |it| it.pieces = made(&[epoch_row(Epoch(2), Index(21))]),
            "its last epoch 2 begins with record 21",
        ),
        (
            |it| {
                let rows = [epoch_row(Epoch(1), Index(9)), epoch_row(Epoch(2), Index(8))];
                it.pieces = made(&rows);
            },
            "its rows of epochs are out of order",
        ),
        (
            |it| {
                let rows = [epoch_row(Epoch(2), Index(11)), row(Table::SLOTS, b"other")];
                it.pieces = made(&rows);
            },
            "its row of slots is not",
        ),
        (
            |it| {
                let rows = [epoch_row(Epoch(2), Index(11)), Row::installing(true)];
                it.pieces = made(&rows);
            },
            "in table 254 does not belong there",
        ),
        (
            |it| {
                let rows = [
                    epoch_row(Epoch(2), Index(11)),
                    epoch_row(Epoch(2), Index(11)),
                ];
                it.pieces = made(&rows);
            },
            "in table 1 does not belong there",
        ),
    ];
    for (nth, (spoil, expected)) in spoils.into_iter().enumerate() {
        let words = refused(&transfer, spoil).await;
        assert!(words.contains(expected), "{nth}: {words}");
    }
}

/// After a call that failed, the rest of the installation is refused, too.
#[tokio::test]
async fn a_failed_call_is_the_end_of_its_installation() {
    let transfer = Transfer::of(&records(), 5, 500).await;
    let disk = TestDisk::default();
    let settings = || of_platform(Path::new("/n"));
    let begun = Installation::begin(
        settings(),
        Arc::new(disk.clone()),
        transfer.cut,
        transfer.from,
    );
    let mut installation = begun.await.unwrap();
    installation.take(Bytes::new()).await.unwrap_err();
    let refused = installation.take(transfer.pieces[0].clone()).await;
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("failed or was cancelled"), "{words}");
    installation
        .take_records(transfer.records.clone())
        .await
        .unwrap_err();
    installation.finish().await.unwrap_err();

    // One that is dropped unlocks the directory once its store is closed.
    let begun = Installation::begin(
        settings(),
        Arc::new(disk.clone()),
        transfer.cut,
        transfer.from,
    );
    drop(begun.await.unwrap());
    let again = deadline(async {
        loop {
            match transfer.install(settings(), disk.clone(), 2).await {
                Err(StorageError::Locked { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    })
    .await;
    again.unwrap();
}
