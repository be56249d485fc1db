//! A session's own writes, so that its reads see them.
//!
//! For each key, the version of the last acknowledged write is kept, and a read of that key asks
//! for at least this version. Only the [`MAX_SESSION_KEYS`] keys written last are kept. When a key
//! is dropped, only the time of its write is kept. Every answer has an upper bound of its age: one
//! that is fresh up to that time includes the dropped writes. One that may be older is read again
//! at the key's master.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv_types::ItemKey;
use tokio::time::Instant;

/// Maximum number of keys whose last written version a session keeps. For keys written earlier it
/// keeps only the time of the write.
pub const MAX_SESSION_KEYS: usize = 10_000;

/// The writes of a session.
pub(crate) struct OwnWrites {
    state: Mutex<State>,
    max_keys: usize,
}

#[derive(Default)]
struct State {
    keys: HashMap<ItemKey, OwnWrite>,
    /// The keys in the order of their last writes.
    order: BTreeMap<u64, ItemKey>,
    next: u64,
    /// When the latest of the dropped writes was acknowledged.
    forgotten: Option<Instant>,
}

struct OwnWrite {
    version: u64,
    acknowledged: Instant,
    place: u64,
}

/// What a read of a key must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Nothing in particular.
    None,
    /// This version.
    Version(u64),
    /// Everything up to this moment.
    Moment(Instant),
}

impl Floor {
    /// Whether an answer is fresh enough. The request was sent at `asked`; the answer was at most
    /// `age` old when the request arrived.
    pub(crate) fn is_met(self, asked: Instant, age: Duration) -> bool {
        match self {
            Self::None | Self::Version(_) => true,
            Self::Moment(moment) => asked
                .checked_sub(age)
                .is_some_and(|known_up_to| known_up_to >= moment),
        }
    }
}

impl OwnWrites {
    pub(crate) fn new(max_keys: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_keys,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between the changes of the two maps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an acknowledged write of a key.
    pub(crate) fn wrote(&self, key: &ItemKey, version: u64) {
        let mut guard = self.state();
        let state = &mut *guard;
        let place = state.next;
        state.next += 1;
        // Answers may arrive out of order.
        let earlier = state.keys.get(key);
        let version = earlier.map_or(version, |earlier| earlier.version.max(version));
        if let Some(earlier) = earlier {
            state.order.remove(&earlier.place);
        }
        state.order.insert(place, key.clone());
        let write = OwnWrite {
            version,
            acknowledged: Instant::now(),
            place,
        };
        state.keys.insert(key.clone(), write);
        if state.keys.len() > self.max_keys
            && let Some((_, oldest)) = state.order.pop_first()
            && let Some(write) = state.keys.remove(&oldest)
        {
            state.forgotten = state.forgotten.max(Some(write.acknowledged));
        }
    }

    /// What a read of this key must see.
    pub(crate) fn floor(&self, key: &ItemKey) -> Floor {
        let state = self.state();
        match (state.keys.get(key), state.forgotten) {
            (Some(write), _) => Floor::Version(write.version),
            (None, Some(moment)) => Floor::Moment(moment),
            (None, None) => Floor::None,
        }
    }

    /// Whether the session has written anything.
    pub(crate) fn any(&self) -> bool {
        self.state().next > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ItemKey {
        ItemKey::new("default", name.as_bytes()).unwrap()
    }

    #[test]
    fn the_greatest_version_of_a_key_is_kept() {
        let writes = OwnWrites::new(2);
        assert!(!writes.any());
        assert_eq!(writes.floor(&key("a")), Floor::None);
        writes.wrote(&key("a"), 7);
        writes.wrote(&key("a"), 5);
        assert_eq!(writes.floor(&key("a")), Floor::Version(7));
        assert_eq!(writes.floor(&key("b")), Floor::None);
        assert!(writes.any());
    }

    #[test]
    fn of_a_key_that_fell_out_the_moment_is_kept() {
        let writes = OwnWrites::new(2);
        for (name, version) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            writes.wrote(&key(name), version);
        }
        let after = Instant::now();
        assert_eq!(writes.floor(&key("a")), Floor::Version(3), "written again");
        assert_eq!(writes.floor(&key("c")), Floor::Version(4));
        let Floor::Moment(moment) = writes.floor(&key("b")) else {
            panic!("the time of the dropped write was not kept");
        };
        assert!(moment <= after);
        let state = writes.state();
        assert_eq!((state.keys.len(), state.order.len()), (2, 2));
    }

    #[test]
    fn an_answer_must_be_younger_than_the_forgotten_write() {
        let moment = Instant::now();
        let asked = moment + Duration::from_secs(3);
        let floor = Floor::Moment(moment);
        assert!(floor.is_met(asked, Duration::from_secs(3)));
        assert!(!floor.is_met(asked, Duration::from_millis(3_001)));
        assert!(!floor.is_met(moment, Duration::MAX));
        assert!(Floor::None.is_met(moment, Duration::MAX));
    }
}
