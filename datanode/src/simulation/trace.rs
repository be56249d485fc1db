//! The trace of a run: a hash over all events, and the text of the last ones.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use xxhash_rust::xxh3::Xxh3;

use super::clock::VirtualTime;

/// Events whose text a trace keeps for a failure report.
const KEPT: usize = 300;

/// The trace of one run. Clones share it.
///
/// Events must contain only data that depends on the seed: no random ids (a log's, an
/// incarnation), no paths, no addresses, no order of a `HashMap`.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    time: VirtualTime,
    events: Arc<Mutex<Events>>,
}

struct Events {
    hash: Xxh3,
    last: VecDeque<String>,
    kept: usize,
}

impl Trace {
    pub(super) fn new(time: VirtualTime) -> Self {
        Self::keeping(KEPT, time)
    }

    /// A trace that keeps this many events: all of them to find the first difference between two
    /// runs.
    pub(super) fn keeping(kept: usize, time: VirtualTime) -> Self {
        let events = Events {
            hash: Xxh3::new(),
            last: VecDeque::new(),
            kept,
        };
        Self {
            time,
            events: Arc::new(Mutex::new(events)),
        }
    }

    /// Adds an event to the hash and to the kept text.
    pub(super) fn note(&self, event: fmt::Arguments<'_>) {
        let event = format!("{:>6} ms  {event}", self.time.millis());
        let mut events = self.events();
        events.take_in(&event);
        if events.last.len() == events.kept {
            events.last.pop_front();
        }
        events.last.push_back(event);
    }

    /// Adds an event only to the hash.
    pub(super) fn count(&self, event: &str) {
        self.events().take_in(event);
    }

    /// The hash over all events so far.
    pub(super) fn hash(&self) -> u64 {
        self.events().hash.digest()
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        // Read after a panic, too.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    fn take_in(&mut self, event: &str) {
        self.hash.update(event.as_bytes());
        self.hash.update(b"\n");
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events()
            .last
            .iter()
            .try_for_each(|event| writeln!(f, "{event}"))
    }
}

#[test]
fn the_hash_covers_everything_and_the_words_are_the_last() {
    let trace = |first: &str| {
        let time = VirtualTime::default();
        let trace = Trace::keeping(2, time.clone());
        trace.count(first);
        for nth in 1..=3 {
            time.advance(1);
            trace.note(format_args!("event {nth}"));
        }
        trace
    };
    assert_eq!(trace("a").hash(), trace("a").hash());
    assert_ne!(trace("a").hash(), trace("b").hash());
    assert_eq!(
        trace("a").to_string(),
        "     2 ms  event 2\n     3 ms  event 3\n"
    );
    assert!(Trace::new(VirtualTime::default()).to_string().is_empty());
}
