//! A model of a node's whole state, made from records alone.

use rand::{Rng, rngs::StdRng};
use tierkv_types::{OwnedSlots, SlotRun, SlotTable};

use super::*;
use crate::{NodeSnapshot, Row, Table, piece::Piece, state::epoch_row};

/// Everything that a node snapshot must have, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) entries: BTreeMap<ItemKey, Entry>,
    pub(super) outcomes: BTreeMap<[u8; 16], (RequestId, Outcome)>,
    pub(super) rows: BTreeMap<(Table, Bytes), Bytes>,
    epoch: Epoch,
}

impl Whole {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut whole = Self::default();
        records.iter().for_each(|record| whole.apply(record));
        whole
    }

    pub(super) fn apply(&mut self, record: &Record) {
        let Position { epoch, index } = record.position;
        if epoch > self.epoch {
            self.epoch = epoch;
            self.row(epoch_row(epoch, index));
        }
        match &record.payload {
            Payload::Noop => {}
            Payload::Write(Write { changes, .. }) | Payload::Expire(changes) => {
                for change in changes {
                    let entry = Entry::of(&change.kind, record.version);
                    self.entries.insert(change.key.clone(), entry);
                }
            }
            Payload::Forget { up_to } => self.entries.retain(
                |_, entry| !matches!(entry, Entry::Tombstone(version) if *version <= *up_to),
            ),
            Payload::Own(_) => {
                let rows = Effects::of(record).rows;
                rows.into_iter().for_each(|row| self.row(row));
            }
        }
        if let Some((id, outcome)) = outcome_of(record) {
            self.outcomes.insert(id.random, (id, outcome));
        }
    }

    fn row(&mut self, row: Row) {
        let name = (row.table, row.key);
        match row.value {
            Some(value) => self.rows.insert(name, value),
            None => self.rows.remove(&name),
        };
    }

    /// Reads a snapshot to its end.
    pub(super) async fn read(mut snapshot: NodeSnapshot) -> Self {
        let (mut whole, mut has_ended) = (Self::default(), false);
        let mut last: Option<ItemKey> = None;
        while let Some(piece) = deadline(snapshot.next()).await.unwrap() {
            assert!(!has_ended, "there is a piece after the end");
            match Piece::decode(&piece).unwrap() {
                Piece::Entries(entries) => {
                    for (key, entry) in entries {
                        assert!(last.as_ref().is_none_or(|last| *last < key), "{key:?}");
                        last = Some(key.clone());
                        whole.entries.insert(key, entry);
                    }
                }
                Piece::Outcomes(outcomes) => {
                    let outcomes = outcomes.into_iter();
                    let named = outcomes.map(|(id, outcome)| (id.random, (id, outcome)));
                    whole.outcomes.extend(named);
                }
                Piece::Rows(rows) => rows.into_iter().for_each(|row| whole.row(row)),
                Piece::End(_) => has_ended = true,
            }
        }
        assert!(has_ended, "there is no end");
        whole.epoch = snapshot.cut().position.epoch;
        whole
    }

    /// The whole state of a running node.
    pub(super) async fn now(storage: &Storage) -> Self {
        Self::read(storage.node_snapshot(10_000).await.unwrap()).await
    }
}

/// Records of every kind on a few keys in three namespaces, over several epochs. The clock is
/// so low that no request is forgotten.
pub(super) fn records_of_every_kind(
    random: &mut StdRng,
    count: u64,
    longest: usize,
) -> Vec<Record> {
    let mut epoch = 1;
    let mut records = Vec::new();
    for index in 1..=count {
        if random.random_bool(0.02) {
            epoch += random.random_range(1..3);
        }
        let mut record = record(epoch, index, random_changes(random, longest));
        let version = record.version;
        match random.random_range(0..40) {
            0 => record.payload = Payload::Noop,
            1 => {
                record.payload = Payload::Forget {
                    up_to: Version::from_bits(version.to_bits().saturating_sub(200)),
                }
            }
            2 => record.payload = Payload::Own(random_slots(random, index)),
            3 => {
                let change = Change {
                    key: random_key(random),
                    kind: ChangeKind::Delete { existed: true },
                };
                record.payload = Payload::Expire(vec![change]);
            }
            _ => {}
        }
        records.push(record);
    }
    records
}

fn random_key(random: &mut StdRng) -> ItemKey {
    let namespace = ["test", "test-2", "a"][random.random_range(0..3)];
    let name = format!("k{:02}", random.random_range(0..30));
    ItemKey::new(namespace, name.as_bytes()).unwrap()
}

fn random_changes(random: &mut StdRng, longest: usize) -> Vec<Change> {
    let mut changes = BTreeMap::new();
    for _ in 0..random.random_range(1..5) {
        let expires = random
            .random_bool(0.3)
            .then(|| Version::from_bits(random.random_range(1..20_000)));
        let kind = match random.random_range(0..8) {
            0..3 => ChangeKind::Delete { existed: true },
            3 => ChangeKind::Increment {
                number: random.random(),
                expires,
            },
            _ => {
                let length = random.random_range(0..=longest);
                let value: Bytes = (0..length).map(|_| random.random::<u8>()).collect();
                ChangeKind::Put { value, expires }
            }
        };
        changes.insert(random_key(random), kind);
    }
    let changes = changes.into_iter();
    changes.map(|(key, kind)| Change { key, kind }).collect()
}

fn random_slots(random: &mut StdRng, version: u64) -> OwnedSlots {
    let first = random.random_range(0..2_000);
    let run = SlotRun {
        first,
        count: random.random_range(1..2_000),
        revision: version,
    };
    OwnedSlots {
        version,
        slots: SlotTable::from_runs(vec![run]).unwrap(),
    }
}
