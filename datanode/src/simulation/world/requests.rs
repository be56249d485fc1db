//! What clients ask for: conflicts, repetitions, and what must be refused.

use std::time::Duration;

use tierkv_types::{
    Condition, ConditionKind, Operation, OperationKind, RequestId, Version, WriteRequest,
};

use super::{KEYS, World};

impl World {
    pub(super) fn draw_write(&mut self) -> usize {
        let known = self.writers.asked.len();
        match self.chance.below(100) {
            0..8 if known > 0 => {
                // Mostly one of the last: what was sent long ago is refused.
                let last = known - 1 - self.chance.index(known.min(12));
                [last, self.chance.index(known)][usize::from(self.chance.percent(20))]
            }
            8..10 if known > 0 => {
                let id = self.writers.asked[self.chance.index(known)].write.id;
                let write = WriteRequest {
                    id,
                    ..self.draw_request()
                };
                self.writers.note(write)
            }
            _ => {
                let write = self.draw_request();
                self.writers.note(write)
            }
        }
    }

    pub(super) fn draw_id(&self) -> RequestId {
        let now = self.clock.millis();
        let birth_millis = match self.chance.below(100) {
            0..2 => now.saturating_sub(115_000 + self.chance.below(60_000)),
            2..3 => now + self.chance.below(15_000),
            _ => now.saturating_sub(self.chance.below(500)),
        };
        let random = (0..16).map(|_| u8::try_from(self.chance.below(256)).unwrap());
        let random: Vec<u8> = random.collect();
        RequestId {
            birth_millis,
            random: random.try_into().unwrap(),
        }
    }

    fn draw_request(&self) -> WriteRequest {
        let conditions = match self.chance.percent(30) {
            true => (0..1 + self.chance.index(2))
                .map(|_| self.draw_condition())
                .collect(),
            false => Vec::new(),
        };
        let count = match self.chance.percent(70) {
            true => 1,
            false => 2 + self.chance.index(3),
        };
        // Some keys are wanted by all, and some are left alone.
        let first = self.chance.index(KEYS).min(self.chance.index(KEYS));
        let operations = (0..count).map(|nth| Operation {
            key: self.keys[(first + nth) % KEYS].clone(),
            kind: self.draw_operation(),
        });
        WriteRequest {
            id: self.draw_id(),
            conditions,
            operations: operations.collect(),
            return_previous: self.chance.percent(30),
        }
    }

    fn draw_condition(&self) -> Condition {
        let key = self.keys[self.chance.index(KEYS)].clone();
        let kind = match self.chance.below(3) {
            0 => ConditionKind::Absent,
            1 => ConditionKind::Present,
            _ => {
                let held = self.history.at(key.as_bytes(), self.history.last());
                ConditionKind::Version(held.map_or(Version::from_bits(1), |item| item.version))
            }
        };
        Condition { key, kind }
    }

    fn draw_operation(&self) -> OperationKind {
        let ttl = (self.chance.percent(35)).then(|| {
            Duration::from_millis(1 + self.chance.below([100, 2_000][self.chance.index(2)]))
        });
        match self.chance.below(100) {
            0..25 => OperationKind::Delete,
            25..60 => OperationKind::Increment {
                delta: [1, -3, 7, i64::MAX][self.chance.index(100).saturating_sub(96)],
            },
            60..85 => OperationKind::Put {
                value: self.chance.below(50).to_string().into(),
                ttl,
            },
            85..98 => {
                let length = self.chance.index(120);
                OperationKind::Put {
                    value: vec![b'x'; length].into(),
                    ttl,
                }
            }
            // No segment takes it.
            _ => OperationKind::Put {
                value: vec![b'l'; 20 << 10].into(),
                ttl,
            },
        }
    }
}

/// A request, for the trace.
pub(super) fn words(write: &WriteRequest) -> String {
    let mut words = String::new();
    for condition in &write.conditions {
        words += &format!("if {:?} {:?}, ", condition.key.key(), condition.kind);
    }
    for operation in &write.operations {
        let kind = match &operation.kind {
            OperationKind::Put { value, ttl } => format!("put {} bytes for {ttl:?}", value.len()),
            other => format!("{other:?}"),
        };
        words += &format!("{:?} {kind}, ", operation.key.key());
    }
    words
        + &format!(
            "born {}, name {:02x}",
            write.id.birth_millis, write.id.random[0]
        )
}
