//! The outcomes of applied requests (I8, TXN-IDS).
//!
//! A request's key is the random part of its id. Its outcome is remembered as long as a master
//! would accept the request, independent of the log's retention. All requests born in the same
//! second are forgotten together. Checkpoints write new outcomes to the store, so store plus
//! log always hold every remembered outcome.

use std::collections::BTreeMap;

use hashbrown::{HashMap, hash_map::EntryRef};
use tierkv_types::{RequestId, Version};

use super::outcome::{Existed, Outcome};

/// Most places for remembered requests; over it writers wait until the oldest are forgotten.
/// Nearly every request takes one place: it is enough for 69,000 writes a second over two
/// minutes, in about three quarters of a GiB.
pub(crate) const REQUEST_LIMIT: usize = 8 << 20;

const MILLIS_PER_SECOND: u64 = 1_000;
/// Most requests forgotten at once while writers wait: about a millisecond's work.
const FORGOTTEN_TOGETHER: usize = 10_000;
/// Parts of the table, each with its own hash table. A hash table that grows moves its entries
/// while writers wait; with so many parts that takes about a millisecond.
const PARTS: usize = 256;

/// The random part of a request's id.
type RequestKey = [u8; 16];

/// An outcome in few bytes, as there are millions.
#[derive(Clone, Copy, Debug)]
struct Packed {
    version: Version,
    /// The second of the request's birth; it wraps after 136 years.
    second: u32,
    fingerprint: u32,
    number: i64,
    /// The first sixteen places of `existed`.
    existed: [u8; 2],
    /// Whether this is the whole outcome; else the rest is in `Requests::long`.
    is_whole: bool,
    /// Whether `number` is set.
    has_number: bool,
}

/// The requests born in one second.
#[derive(Debug, Default)]
struct Second {
    keys: Vec<RequestKey>,
    /// The places of all of them.
    places: usize,
}

/// The outcomes of all applied requests that a master would still accept.
#[derive(Debug)]
pub(crate) struct Requests {
    parts: Box<[HashMap<RequestKey, Packed>]>,
    /// For the few requests that deleted or incremented more than [`Packed`] holds.
    long: HashMap<RequestKey, (Existed, Vec<i64>)>,
    /// By the second of their birth.
    seconds: BTreeMap<u64, Second>,
    places: usize,
    /// Requests born before this millisecond are refused everywhere, so they are forgotten.
    horizon: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| HashMap::new()).collect(),
            long: HashMap::new(),
            seconds: BTreeMap::new(),
            places: 0,
            horizon: 0,
        }
    }
}

/// The part of the table for a request, by its last byte: the first bytes of a UUID of version
/// 7 are its time.
const fn part(key: &RequestKey) -> usize {
    key[15] as usize % PARTS
}

#[allow(clippy::cast_possible_truncation)] // Compared with numbers truncated the same way.
const fn short(second: u64) -> u32 {
    second as u32
}

impl Requests {
    /// Remembers a request's outcome. Replaces an outcome with the same key, which an earlier
    /// release allowed for requests of different births.
    pub(crate) fn insert(&mut self, id: &RequestId, outcome: &Outcome) {
        if id.birth_millis < self.horizon {
            return;
        }
        let second = id.birth_millis / MILLIS_PER_SECOND;
        let existed = outcome.existed.as_bytes();
        let mut first = [0; 2];
        let inline = existed.len().min(first.len());
        first[..inline].copy_from_slice(&existed[..inline]);
        let packed = Packed {
            version: outcome.version,
            second: short(second),
            fingerprint: outcome.fingerprint,
            number: outcome.numbers.first().copied().unwrap_or(0),
            existed: first,
            is_whole: existed.len() <= first.len() && outcome.numbers.len() <= 1,
            has_number: !outcome.numbers.is_empty(),
        };
        if !packed.is_whole {
            let rest = (outcome.existed.clone(), outcome.numbers.clone());
            self.long.insert(id.random, rest);
        }
        let known = self.parts[part(&id.random)].insert(id.random, packed);
        if known.is_some_and(|known| known.second == packed.second) {
            return;
        }
        let born = self.seconds.entry(second).or_default();
        born.keys.push(id.random);
        born.places += outcome.places();
        self.places += outcome.places();
    }

    /// The outcome of the request with this random part.
    pub(crate) fn get(&self, key: &RequestKey) -> Option<Outcome> {
        let packed = self.parts[part(key)].get(key)?;
        let rest = (!packed.is_whole).then(|| self.long.get(key)).flatten();
        let (existed, numbers) = match rest {
            Some(rest) => rest.clone(),
            None => {
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

    /// Forgets requests born in seconds that ended before `horizon`, in milliseconds of
    /// platform time. Forgets a limited number at once, so that writers wait only shortly, and
    /// returns whether that was all. The horizon never goes back.
    pub(crate) fn forget(&mut self, horizon: u64) -> bool {
        self.horizon = self.horizon.max(horizon);
        let mut left = FORGOTTEN_TOGETHER;
        while let Some(mut oldest) = self.seconds.first_entry()
            && (oldest.key() + 1) * MILLIS_PER_SECOND <= self.horizon
        {
            let second = short(*oldest.key());
            let born = oldest.get_mut();
            let kept = born.keys.len().saturating_sub(left);
            let gone = born.keys.split_off(kept);
            left -= gone.len();
            for key in &gone {
                // A request that was remembered again has a later second.
                if let EntryRef::Occupied(known) = self.parts[part(key)].entry_ref(key)
                    && known.get().second == second
                {
                    known.remove();
                    // Mostly `long` is empty.
                    if !self.long.is_empty() {
                        self.long.remove(key);
                    }
                }
            }
            if kept > 0 {
                return false;
            }
            self.places -= oldest.remove().places;
        }
        true
    }

    /// The places taken of [`REQUEST_LIMIT`].
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
            assert_eq!(requests.get(&id(5_000, nth).random).as_ref(), Some(outcome));
            assert_eq!(requests.get(&id(5_000, nth + 100).random), None);
        }
        let existed = &outcomes[4].existed;
        assert!(existed.contains(3) && existed.contains(999));
        assert!(!existed.contains(4) && !existed.contains(5_000));
        let places = outcomes.iter().map(Outcome::places).sum::<usize>();
        assert_eq!(requests.places(), places);
        assert!(places > outcomes.len(), "a long one takes more than one");
    }

    /// A client that names its requests itself sends a repetition with another birth.
    #[test]
    fn a_request_is_known_by_the_random_part_of_its_id() {
        let mut requests = Requests::default();
        requests.insert(&id(4_000, 1), &outcome(&[1], &[5, 6]));
        requests.insert(&id(6_000, 1), &outcome(&[2], &[]));
        requests.insert(&id(6_000, 2), &outcome(&[], &[]));
        requests.forget(5_000);
        assert_eq!(requests.get(&[1; 16]), Some(outcome(&[2], &[])));
        requests.forget(7_000);
        assert_eq!(requests.get(&[1; 16]), None);
        assert_eq!((requests.places(), requests.long.len()), (0, 0));
    }

    #[test]
    fn many_are_forgotten_in_turns() {
        let mut requests = Requests::default();
        for nth in 0..25_000_u64 {
            let mut id = id(4_000, 0);
            id.random[8..].copy_from_slice(&nth.to_be_bytes());
            requests.insert(&id, &outcome(&[], &[]));
        }
        requests.insert(&id(6_000, 1), &outcome(&[], &[]));
        let turns: Vec<bool> = (0..3).map(|_| requests.forget(5_000)).collect();
        assert_eq!(turns, [false, false, true]);
        let left: usize = requests.parts.iter().map(HashMap::len).sum();
        assert_eq!((requests.places(), left), (1, 1));
    }

    /// A UUID of version 7 begins with its time; tables that grow are to be small ones.
    #[test]
    fn ids_that_begin_alike_are_in_many_parts() {
        let mut requests = Requests::default();
        for nth in 0..2_560_u64 {
            let mut id = id(4_000, 1);
            id.random[8..].copy_from_slice(&nth.to_be_bytes());
            requests.insert(&id, &outcome(&[], &[]));
        }
        assert!(requests.parts.iter().all(|part| part.len() < 20));
    }

    #[test]
    fn an_id_is_remembered_until_its_birth_is_behind_the_horizon() {
        let mut requests = Requests::default();
        requests.insert(&id(4_999, 1), &outcome(&[1], &[]));
        requests.insert(&id(5_000, 2), &outcome(&[], &[]));
        requests.insert(&id(5_000, 2), &outcome(&[], &[]));
        assert_eq!(requests.places(), 2);
        requests.forget(4_999);
        assert!(requests.get(&id(4_999, 1).random).is_some());
        requests.forget(5_000);
        assert!(requests.get(&id(4_999, 1).random).is_none());
        assert!(requests.get(&id(5_000, 2).random).is_some());
        requests.forget(1);
        requests.insert(&id(4_999, 1), &outcome(&[], &[]));
        assert_eq!((requests.places(), requests.horizon), (1, 5_000));
    }
}
