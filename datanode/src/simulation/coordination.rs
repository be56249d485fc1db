//! A simulated coordination store for one cluster's record, which loses, delays and repeats
//! requests and answers.
//!
//! ```text
//!  life 1's client ──swap──► in flight ──lands──► history ──shown late──► watchers
//!  life 2's client ──read────────────────────────► newest
//! ```
//!
//! The store outlives the nodes. A swap is in flight once it is sent, so it may take effect
//! after its sender's end. A read returns the newest record at some moment between request and
//! answer; a watch may show any older record, late or again.
//!
//! Reading order: this file (the store), `client` (the traits, as one life of a node
//! sees them).

mod client;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tierkv_coordination::{CoordinationError, Revision, Swap, Versioned, Watched};
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

pub(super) use self::client::Client;
use super::{chance::Chance, pace::Pace, trace::Trace};

/// The faults, each in calls of a hundred.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoordinationFaults {
    /// Calls that are refused, with nothing done.
    pub(super) unavailable: u32,
    /// Swaps with an unknown outcome: they took effect, will, or never do.
    pub(super) unknown: u32,
    /// Turns of the store's own task in which a watch shows an older record.
    pub(super) old: u32,
    /// The store's delays.
    pub(super) pace: Pace,
    /// Longest time between two turns of the store's own task, in milliseconds; not 0.
    pub(super) turn_millis: u64,
}

impl CoordinationFaults {
    pub(super) const NONE: Self = Self {
        unavailable: 0,
        unknown: 0,
        old: 0,
        pace: Pace::PROMPT,
        turn_millis: 1,
    };
}

/// The store of one cluster's record.
#[derive(Debug)]
pub(super) struct FaultyCoordination {
    key: String,
    chance: Chance,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: CoordinationFaults,
    /// All records, the newest last; empty at first.
    history: Vec<Option<Versioned>>,
    revision: u64,
    in_flight: Vec<Flight>,
    watchers: Vec<watch::Sender<Arc<Option<Versioned>>>>,
    proposals: Vec<Proposal>,
}

/// A record that a life of a node wanted to install.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) life: u64,
    pub(super) value: Bytes,
}

/// A swap on its way to the store.
#[derive(Clone, Debug)]
struct Flight {
    life: u64,
    /// The revision to replace; `None`: there must be no record.
    expected: Option<Revision>,
    /// The record to install; `None` removes it.
    value: Option<Bytes>,
    /// Set once it took effect.
    landed: Arc<OnceLock<Swap>>,
}

/// The fate of a swap and of its answer.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// It takes effect, but the answer is lost.
    AnswerLost,
    /// It never takes effect, and there is no answer.
    Lost,
    /// It takes effect later, and there is no answer.
    Delayed,
    /// Certainly nothing is done.
    Refused,
}

impl FaultyCoordination {
    /// The store of the record `key`, with its `first` value if it exists already.
    pub(super) fn new(
        seed: u64,
        key: String,
        first: Option<Bytes>,
        faults: CoordinationFaults,
        trace: Trace,
    ) -> Arc<Self> {
        let first = first.map(|value| Versioned {
            value,
            revision: Revision(1),
        });
        let state = State {
            faults,
            revision: u64::from(first.is_some()),
            history: [None].into_iter().chain(first.map(Some)).collect(),
            in_flight: Vec::new(),
            watchers: Vec::new(),
            proposals: Vec::new(),
        };
        Arc::new(Self {
            key,
            chance: Chance::of(seed, "coordination"),
            trace,
            state: Mutex::new(state),
        })
    }

    /// The store's client for a life of a node.
    pub(super) fn client(self: &Arc<Self>, life: u64) -> Arc<Client> {
        Arc::new(Client::new(vec![Arc::clone(self)], life))
    }

    /// A client for a life of a node that has the other's record, too.
    pub(super) fn client_with(self: &Arc<Self>, other: &Arc<Self>, life: u64) -> Arc<Client> {
        let stores = vec![Arc::clone(self), Arc::clone(other)];
        Arc::new(Client::new(stores, life))
    }

    /// Changes the faults from here on.
    pub(super) fn set_faults(&self, faults: CoordinationFaults) {
        self.state().faults = faults;
    }

    /// The record now.
    pub(super) fn newest(&self) -> Option<Versioned> {
        self.state().newest()
    }

    /// Every record that was proposed, in the order in which the swaps were sent.
    pub(super) fn proposals(&self) -> Vec<Proposal> {
        self.state().proposals.clone()
    }

    /// Those of them after the first `known`.
    pub(super) fn proposals_after(&self, known: usize) -> Vec<Proposal> {
        self.state().proposals[known..].to_vec()
    }

    /// The store's own task: carries out swaps in flight and shows records to watchers.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let within = self.state().faults.turn_millis;
            sleep(Duration::from_millis(1 + self.chance.below(within))).await;
            self.turn();
        }
    }

    fn turn(&self) {
        let mut state = self.state();
        if !state.in_flight.is_empty() && self.chance.percent(30) {
            let at = self.chance.index(state.in_flight.len());
            let flight = state.in_flight[at].clone();
            let swap = state.land(&flight);
            self.trace
                .note(format_args!("coordination: late, {flight} lands: {swap:?}"));
        }
        state
            .watchers
            .retain(|watcher| watcher.receiver_count() > 0);
        let is_old = self.chance.percent(state.faults.old);
        let at = match is_old {
            true => self.chance.index(state.history.len()),
            false => state.history.len() - 1,
        };
        let shown = Arc::new(state.history[at].clone());
        for watcher in &state.watchers {
            if is_old || *watcher.borrow() != shown {
                self.trace
                    .note(format_args!("coordination: shows {}", revision_of(&shown)));
                watcher.send_replace(Arc::clone(&shown));
            }
        }
    }

    /// Puts a swap in flight.
    fn send(&self, life: u64, expected: Option<Revision>, value: Option<Bytes>) -> Flight {
        let mut state = self.state();
        if let Some(value) = value.clone() {
            state.proposals.push(Proposal { life, value });
        }
        let flight = Flight {
            life,
            expected,
            value,
            landed: Arc::default(),
        };
        self.trace
            .note(format_args!("coordination: {flight} sets out"));
        state.in_flight.push(flight.clone());
        flight
    }

    /// Decides the fate of a swap, and returns its sender's answer.
    fn settle(&self, flight: &Flight) -> Result<Swap, CoordinationError> {
        let mut state = self.state();
        let fate = self.fate(state.faults);
        let unknown = Err(CoordinationError::OutcomeUnknown("no answer came".into()));
        let answer = match fate {
            Fate::Answered => Ok(state.land(flight)),
            Fate::AnswerLost => {
                let _landed = state.land(flight);
                unknown
            }
            Fate::Delayed => unknown,
            Fate::Lost => {
                state.forget(flight);
                unknown
            }
            // It was late, and took effect before it could be refused.
            Fate::Refused if flight.landed.get().is_some() => unknown,
            Fate::Refused => {
                state.forget(flight);
                Err(refused())
            }
        };
        self.trace.note(format_args!(
            "coordination: {flight} is {fate:?}: {answer:?}"
        ));
        answer
    }

    fn fate(&self, faults: CoordinationFaults) -> Fate {
        if self.chance.percent(faults.unavailable) {
            return Fate::Refused;
        }
        if !self.chance.percent(faults.unknown) {
            return Fate::Answered;
        }
        [Fate::AnswerLost, Fate::Lost, Fate::Delayed][self.chance.index(3)]
    }

    /// The record at this moment.
    fn read(&self, life: u64) -> Result<Option<Versioned>, CoordinationError> {
        let state = self.state();
        if self.chance.percent(state.faults.unavailable) {
            return Err(refused());
        }
        let record = state.newest();
        self.trace.note(format_args!(
            "coordination: life {life} reads {}",
            revision_of(&record)
        ));
        Ok(record)
    }

    /// A watch that has seen the newest record.
    fn follow(&self, life: u64) -> Result<Watched<Option<Versioned>>, CoordinationError> {
        let record = self.read(life)?;
        let (sender, watched) = Watched::channel(record);
        self.state().watchers.push(sender);
        Ok(watched)
    }

    async fn wait(&self) {
        let pace = self.state().faults.pace;
        pace.wait(&self.chance).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn newest(&self) -> Option<Versioned> {
        self.history.last().cloned().flatten()
    }

    /// Carries out a swap, unless it took effect before.
    fn land(&mut self, flight: &Flight) -> Swap {
        self.forget(flight);
        *flight.landed.get_or_init(|| {
            if self.newest().map(|record| record.revision) != flight.expected {
                return Swap::Lost;
            }
            self.revision += 1;
            let revision = Revision(self.revision);
            let value = flight.value.clone();
            self.history
                .push(value.map(|value| Versioned { value, revision }));
            Swap::Won(revision)
        })
    }

    /// Removes a swap from those in flight.
    fn forget(&mut self, flight: &Flight) {
        self.in_flight
            .retain(|other| !Arc::ptr_eq(&other.landed, &flight.landed));
    }
}

/// Without the record's bytes, as they contain random ids.
impl std::fmt::Display for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let expected = self.expected.unwrap_or_default();
        write!(f, "life {}'s swap of {expected}", self.life)
    }
}

fn revision_of(record: &Option<Versioned>) -> Revision {
    record
        .as_ref()
        .map_or(Revision::default(), |record| record.revision)
}

fn refused() -> CoordinationError {
    CoordinationError::Unavailable("the simulated store refuses".into())
}

#[cfg(test)]
mod tests;
