//! One cache node: entries, stubs of leases, marks. It may lose any of them at any time.

use std::collections::BTreeMap;

use crate::cache::{Entry, Mark};

/// How long a stub lives, as in memcached.
const STUB_LIFE_MILLIS: u64 = 3_000;

/// A key of the simulation with the slot revision in it (CACHE-KEY).
pub(super) type NodeKey = (usize, u64);

/// The right to fill, as the node gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(u64);

enum Place {
    Stub { token: Token, until: u64 },
    Entry(Entry),
}

/// What a lookup finds.
pub(super) enum Looked {
    Entry(Entry),
    Leased(Token),
    Busy,
}

/// The node.
#[derive(Default)]
pub(super) struct Node {
    places: BTreeMap<NodeKey, Place>,
    marks: BTreeMap<usize, Mark>,
    last_token: u64,
}

impl Node {
    pub(super) fn look(&mut self, key: NodeKey, now: u64) -> Looked {
        match self.places.get(&key) {
            Some(Place::Entry(entry)) => return Looked::Entry(entry.clone()),
            Some(Place::Stub { until, .. }) if now < *until => return Looked::Busy,
            _ => {}
        }
        self.last_token += 1;
        let token = Token(self.last_token);
        let until = now + STUB_LIFE_MILLIS;
        self.places.insert(key, Place::Stub { token, until });
        Looked::Leased(token)
    }

    /// Fills, by its token or, if `blind`, whatever is there.
    pub(super) fn fill(
        &mut self,
        key: NodeKey,
        token: Token,
        entry: Entry,
        now: u64,
        blind: bool,
    ) -> bool {
        let live = match self.places.get(&key) {
            Some(Place::Stub { token: held, until }) => *held == token && now < *until,
            _ => false,
        };
        if live || blind {
            self.places.insert(key, Place::Entry(entry));
        }
        live || blind
    }

    pub(super) fn delete(&mut self, key: NodeKey, with_lease: bool) {
        let is_stub = matches!(self.places.get(&key), Some(Place::Stub { .. }));
        if with_lease || !is_stub {
            self.places.remove(&key);
        }
    }

    pub(super) fn mark(&self, cluster: usize) -> Option<Mark> {
        self.marks.get(&cluster).copied()
    }

    pub(super) fn write_mark(&mut self, cluster: usize, mark: Mark) {
        let held = self.marks.entry(cluster).or_insert(mark);
        if !held.outranks(&mark) {
            *held = mark;
        }
    }

    pub(super) fn evict(&mut self, key: NodeKey) {
        self.places.remove(&key);
    }

    pub(super) fn evict_mark(&mut self, cluster: usize) {
        self.marks.remove(&cluster);
    }

    /// Restarts empty. Tokens go on: a lease ends with its connection.
    pub(super) fn restart(&mut self) {
        self.places.clear();
        self.marks.clear();
    }
}
