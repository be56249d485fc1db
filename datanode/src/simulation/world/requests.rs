//! The clients' requests: conflicts, retries, and requests that must be refused.

use std::time::Duration;

use tierkv_types::{
    Condition, ConditionKind, Operation, OperationKind, RequestId, RequestName, Version,
    WriteRequest,
};

use super::{KEYS, World};

impl World {
    pub(super) fn draw_write(&mut self) -> usize {
        let known = self.writers.asked.len();
        match self.chance.below(100) {
            0..8 if known > 0 => {
                // Mostly a recent one: old requests are refused.
                let last = known - 1 - self.chance.index(known.min(12));
                [last, self.chance.index(known)][usize::from(self.chance.percent(20))]
            }
            8..10 if known > 0 => {
                let name = self.writers.asked[self.chance.index(known)].write.name;
                let write = WriteRequest {
                    name,
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

    pub(super) fn draw_name(&self) -> RequestName {
        let now = self.clock.millis();
        let random = (0..16).map(|_| u8::try_from(self.chance.below(256)).unwrap());
        let random: Vec<u8> = random.collect();
        let random = random.try_into().unwrap();
        if self.chance.percent(20) {
            return RequestName::Key {
                random,
                // Each attempt has its own time.
                received_millis: 0,
            };
        }
        let birth_millis = match self.chance.below(100) {
            0..2 => now.saturating_sub(115_000 + self.chance.below(60_000)),
            2..3 => now + self.chance.below(15_000),
            _ => now.saturating_sub(self.chance.below(500)),
        };
        RequestName::Id(RequestId {
            birth_millis,
            random,
        })
    }

    /// When a coordinator received an attempt that arrives at `now`: mostly just now, sometimes
    /// so long ago that earlier attempts may be forgotten, and sometimes later by its own time.
    pub(super) fn draw_received(&self, now: Version) -> u64 {
        let age = match self.chance.below(100) {
            0..4 => 115_000 + self.chance.below(60_000),
            4..6 => return now.millis() + self.chance.below(15_000),
            _ => self.chance.below(500),
        };
        now.millis().saturating_sub(age)
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
        // Some keys are written often, some seldom.
        let first = self.chance.index(KEYS).min(self.chance.index(KEYS));
        let operations = (0..count).map(|nth| Operation {
            key: self.keys[(first + nth) % KEYS].clone(),
            kind: self.draw_operation(),
        });
        WriteRequest {
            name: self.draw_name(),
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
            0..18 => OperationKind::Delete,
            18..25 => OperationKind::Touch { ttl },
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
            // It fits no segment.
            _ => OperationKind::Put {
                value: vec![b'l'; 20 << 10].into(),
                ttl,
            },
        }
    }
}

/// The text of a request for the trace.
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
    let first = write.name.random()[0];
    match write.name {
        RequestName::Id(id) => words + &format!("born {}, name {first:02x}", id.birth_millis),
        RequestName::Key {
            received_millis, ..
        } => words + &format!("received {received_millis}, key {first:02x}"),
    }
}
