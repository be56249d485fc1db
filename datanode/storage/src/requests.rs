//! Which requests were applied, and what they were answered (I8, TXN-IDS).
//!
//! An id is remembered while a master would still accept it, and is forgotten with all
//! others of its second of birth: so forgetting costs nothing a request, and how long the
//! log is kept has no say in it. Checkpoints bring fresh outcomes into the store, so that
//! store plus log always hold every outcome that counts.

use std::collections::{BTreeMap, HashMap};

use tierkv_types::{ChangeKind, Payload, Record, RequestId, Version};

/// Places for remembered requests, over which writers wait for the oldest to be forgotten.
/// Nearly every request takes one: as many as 69,000 writes a second make in two minutes, in
/// about half a GiB.
pub(crate) const REQUEST_LIMIT: usize = 8 << 20;
/// So many bytes of an outcome beyond what fits one place take another.
const PLACE_BYTES: usize = 64;

const MILLIS_PER_SECOND: u64 = 1_000;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The version of everything it changed.
    pub version: Version,
    /// What it asked for; 0 if that is not known.
    pub fingerprint: u32,
    /// Which of its operations deleted a key that was there.
    pub existed: Existed,
    /// The numbers that its increments left, in their order.
    pub numbers: Vec<i64>,
}

impl Outcome {
    /// How many places it takes of [`REQUEST_LIMIT`].
    pub(crate) fn places(&self) -> usize {
        let bytes = self.existed.as_bytes().len() + 8 * self.numbers.len();
        1 + bytes / PLACE_BYTES
    }

    /// The request that a record applies, and its outcome.
    #[must_use]
    pub fn of(record: &Record) -> Option<(RequestId, Self)> {
        let Payload::Write(write) = &record.payload else {
            return None;
        };
        let outcome = Self {
            version: record.version,
            fingerprint: write.fingerprint,
            existed: (write.changes.iter())
                .map(|change| change.kind == ChangeKind::Delete { existed: true })
                .collect(),
            numbers: (write.changes.iter())
                .filter_map(|change| match change.kind {
                    ChangeKind::Increment { number, .. } => Some(number),
                    ChangeKind::Put { .. } | ChangeKind::Delete { .. } => None,
                })
                .collect(),
        };
        Some((write.request, outcome))
    }
}

/// A set of small numbers: the places of operations in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Existed(Vec<u8>);

impl Existed {
    /// Whether the operation at this place deleted a key that was there.
    #[must_use]
    pub fn contains(&self, place: usize) -> bool {
        self.0
            .get(place / 8)
            .is_some_and(|byte| byte & (1 << (place % 8)) != 0)
    }

    /// Eight places a byte, the lowest bit first; no zero at the end.
    pub(crate) fn from_bytes(mut bytes: Vec<u8>) -> Self {
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromIterator<bool> for Existed {
    fn from_iter<I: IntoIterator<Item = bool>>(places: I) -> Self {
        let mut bytes = Vec::new();
        for (place, existed) in places.into_iter().enumerate() {
            if existed {
                bytes.resize(place / 8 + 1, 0);
                bytes[place / 8] |= 1 << (place % 8);
            }
        }
        Self(bytes)
    }
}

/// A request's name among those born in the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name {
    random: [u8; 16],
    millis: u16,
}

/// An outcome in few bytes: millions of them are held.
#[derive(Clone, Copy, Debug)]
struct Packed {
    version: Version,
    fingerprint: u32,
    /// The first sixteen places of `existed`.
    existed: [u8; 2],
    /// Whether it is a whole outcome; else the rest is kept aside.
    is_whole: bool,
    /// Whether there is a number, and which.
    has_number: bool,
    number: i64,
}

#[derive(Debug, Default)]
struct Second {
    outcomes: HashMap<Name, Packed>,
    /// For the few requests that deleted or incremented more than [`Packed`] holds.
    long: HashMap<Name, (Existed, Vec<i64>)>,
    /// Places that all of them take.
    places: usize,
}

/// The outcomes of all applied requests that a master would still accept.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// By the second of their birth.
    seconds: BTreeMap<u64, Second>,
    places: usize,
    /// Requests born before this millisecond are refused everywhere, so they are forgotten.
    horizon: u64,
}

fn place(id: &RequestId) -> (u64, Name) {
    let second = id.birth_millis / MILLIS_PER_SECOND;
    let millis = id.birth_millis % MILLIS_PER_SECOND;
    let name = Name {
        random: id.random,
        // Below a thousand.
        millis: u16::try_from(millis).unwrap_or(u16::MAX),
    };
    (second, name)
}

impl Requests {
    pub(crate) fn insert(&mut self, id: &RequestId, outcome: &Outcome) {
        if id.birth_millis < self.horizon {
            return;
        }
        let (second, name) = place(id);
        let second = self.seconds.entry(second).or_default();
        let existed = outcome.existed.as_bytes();
        let mut first = [0; 2];
        let inline = existed.len().min(first.len());
        first[..inline].copy_from_slice(&existed[..inline]);
        let packed = Packed {
            version: outcome.version,
            fingerprint: outcome.fingerprint,
            existed: first,
            is_whole: existed.len() <= first.len() && outcome.numbers.len() <= 1,
            has_number: !outcome.numbers.is_empty(),
            number: outcome.numbers.first().copied().unwrap_or(0),
        };
        let known = second.outcomes.insert(name, packed);
        if !packed.is_whole {
            let rest = (outcome.existed.clone(), outcome.numbers.clone());
            second.long.insert(name, rest);
        }
        if known.is_none() {
            second.places += outcome.places();
            self.places += outcome.places();
        }
    }

    pub(crate) fn get(&self, id: &RequestId) -> Option<Outcome> {
        let (second, name) = place(id);
        let second = self.seconds.get(&second)?;
        let packed = second.outcomes.get(&name)?;
        let (existed, numbers) = match second.long.get(&name) {
            Some(rest) if !packed.is_whole => rest.clone(),
            _ => {
                let number = packed.has_number.then_some(packed.number);
                let existed = Existed::from_bytes(packed.existed.to_vec());
                (existed, number.into_iter().collect())
            }
        };
        Some(Outcome {
            version: packed.version,
            fingerprint: packed.fingerprint,
            existed,
            numbers,
        })
    }

    /// Forgets what was born in seconds that ended before `horizon`, in milliseconds of
    /// platform time. The horizon never goes back.
    pub(crate) fn forget(&mut self, horizon: u64) {
        self.horizon = self.horizon.max(horizon);
        while let Some(oldest) = self.seconds.first_entry()
            && (oldest.key() + 1) * MILLIS_PER_SECOND <= self.horizon
        {
            self.places -= oldest.remove().places;
        }
    }

    /// How many places are taken of [`REQUEST_LIMIT`].
    pub(crate) const fn places(&self) -> usize {
        self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(birth_millis: u64, nth: u8) -> RequestId {
        RequestId {
            birth_millis,
            random: [nth; 16],
        }
    }

    fn outcome(places: &[usize], numbers: &[i64]) -> Outcome {
        Outcome {
            version: Version::from_bits(9),
            fingerprint: 7,
            existed: (0..=1_000).map(|place| places.contains(&place)).collect(),
            numbers: numbers.to_vec(),
        }
    }

    #[test]
    fn outcomes_come_back_whatever_their_length() {
        let mut requests = Requests::default();
        let outcomes = [
            outcome(&[], &[]),
            outcome(&[0], &[0]),
            outcome(&[15], &[-1]),
            outcome(&[16], &[]),
            outcome(&[3, 999], &[i64::MIN]),
            outcome(&[], &[1, 2, i64::MAX]),
        ];
        for (nth, outcome) in (0_u8..).zip(&outcomes) {
            requests.insert(&id(5_000, nth), outcome);
        }
        for (nth, outcome) in (0_u8..).zip(&outcomes) {
            assert_eq!(requests.get(&id(5_000, nth)).as_ref(), Some(outcome));
            assert_eq!(requests.get(&id(5_001, nth)), None);
        }
        let existed = &outcomes[4].existed;
        assert!(existed.contains(3) && existed.contains(999));
        assert!(!existed.contains(4) && !existed.contains(5_000));
        let places = outcomes.iter().map(Outcome::places).sum::<usize>();
        assert_eq!(requests.places(), places);
        assert!(places > outcomes.len(), "a long one takes more than one");
    }

    #[test]
    fn an_id_is_remembered_until_its_birth_is_behind_the_horizon() {
        let mut requests = Requests::default();
        requests.insert(&id(4_999, 1), &outcome(&[1], &[]));
        requests.insert(&id(5_000, 2), &outcome(&[], &[]));
        requests.insert(&id(5_000, 2), &outcome(&[], &[]));
        assert_eq!(requests.places(), 2);
        requests.forget(4_999);
        assert!(requests.get(&id(4_999, 1)).is_some());
        requests.forget(5_000);
        assert!(requests.get(&id(4_999, 1)).is_none());
        assert!(requests.get(&id(5_000, 2)).is_some());
        requests.forget(1);
        requests.insert(&id(4_999, 1), &outcome(&[], &[]));
        assert_eq!((requests.places(), requests.horizon), (1, 5_000));
    }
}
