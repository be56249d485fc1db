//! Clients that write: their requests, and checks of the answers against the log.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tierkv_storage::Effects;
use tierkv_types::{
    Code, Error, Index, ItemKey, Operation, OperationKind, Payload, Record, RequestId, RequestName,
    Version, WriteRequest, limits::MAX_REQUEST_LEAD,
};
use tokio::time::Instant;

use super::{World, inbox::News, model, node::INVALIDATION_WAIT, requests::words};
use crate::{
    judgement::Effect,
    proposal::{Answer, Proposal, Sequenced},
    write_path::Answers,
};

/// Attempts under way at once.
const MOST_ATTEMPTS: usize = 24;

/// The state that was known when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    /// Everything up to this index had been answered to a client.
    pub(super) acknowledged: Index,
    pub(super) clock: Version,
}

/// A write that a client requested.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) write: WriteRequest,
    /// Attempts that were or may still be logged: under way, or of unknown outcome.
    open: u32,
    /// The client was answered that the write is done.
    is_done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    asked: usize,
    asking: Asking,
    /// When a coordinator received it; used if the write is named by an idempotency key.
    received: u64,
}

/// The clients that write, and their state.
#[derive(Debug, Default)]
pub(super) struct Writers {
    pub(super) asked: Vec<Asked>,
    /// By the random part of the name and the request's content.
    named: BTreeMap<([u8; 16], u32), usize>,
    attempts: BTreeMap<u64, Attempt>,
    /// Writes of unknown outcome.
    doubtful: Vec<usize>,
    last_attempt: u64,
}

impl Answers for super::inbox::Inbox {
    async fn give(&self, answers: Vec<Answer>) {
        for answer in answers {
            self.push(News::Written(answer));
        }
    }
}

impl Writers {
    pub(super) fn under_way(&self) -> usize {
        self.attempts.len()
    }

    /// The number of writes of unknown outcome.
    pub(super) fn doubtful(&self) -> usize {
        self.doubtful.len()
    }

    /// Breaks the connections of all attempts: their outcomes stay unknown.
    pub(super) fn cut_off(&mut self) {
        for attempt in std::mem::take(&mut self.attempts).into_values() {
            self.doubtful.push(attempt.asked);
        }
    }

    pub(super) fn note(&mut self, write: WriteRequest) -> usize {
        let name = (*write.name.random(), write.fingerprint());
        let place = self.asked.len();
        let at = *self.named.entry(name).or_insert(place);
        if at == place {
            self.asked.push(Asked {
                write,
                open: 0,
                is_done: false,
            });
        }
        at
    }
}

impl World {
    /// Sends a frame of writes, if not too many are under way.
    pub(super) fn send_writes(&mut self) {
        if self.node.is_none() || self.writers.under_way() >= MOST_ATTEMPTS {
            return;
        }
        let count = 1 + self.chance.index(3);
        let writes = (0..count).map(|_| self.draw_write()).collect();
        self.send_frame(writes);
    }

    /// Retries writes of unknown outcome; returns whether there were any.
    pub(super) fn send_doubtful(&mut self) -> bool {
        if self.node.is_none() || self.writers.doubtful.is_empty() {
            return false;
        }
        let at = self.chance.index(self.writers.doubtful.len());
        let asked = self.writers.doubtful.swap_remove(at);
        self.send_frame(vec![asked]);
        true
    }

    fn send_frame(&mut self, asked: Vec<usize>) {
        let Some(node) = &self.node else { return };
        let asking = Asking {
            acknowledged: self.acknowledged,
            clock: node.clock(),
        };
        let time = Duration::from_millis(50 + self.chance.below(3_000));
        let deadline = self.scheduler.within(Instant::now) + time;
        let mut proposals = Vec::new();
        for asked in asked {
            self.writers.last_attempt += 1;
            let id = self.writers.last_attempt;
            let received = self.draw_received(asking.clock);
            let attempt = Attempt {
                asked,
                asking,
                received,
            };
            self.writers.attempts.insert(id, attempt);
            let known = &mut self.writers.asked[asked];
            known.open += 1;
            let mut write = known.write.clone();
            if let RequestName::Key {
                received_millis, ..
            } = &mut write.name
            {
                *received_millis = received;
            }
            self.trace
                .note(format_args!("client: write {id} asks {}", words(&write)));
            proposals.push(Proposal::new(id, write, deadline));
        }
        let (path, inbox) = (node.write_path(), Arc::clone(&self.inbox));
        let group = node.group.clone();
        self.scheduler.spawn(&group, "write", async move {
            path.write(proposals, &*inbox).await;
        });
    }

    /// A write to every key that can't be refused.
    pub(super) fn send_last_writes(&mut self) {
        let writes = self.keys.clone().into_iter().map(|key| {
            let kind = OperationKind::Put {
                value: "last".into(),
                ttl: None,
            };
            let name = self.draw_name();
            self.writers.note(WriteRequest {
                name,
                conditions: Vec::new(),
                operations: vec![Operation { key, kind }],
                return_previous: false,
            })
        });
        let writes = writes.collect();
        self.send_frame(writes);
    }

    // --- Checks of logged records ---

    /// Checks a logged write against the state before it; returns its effects.
    pub(super) fn judge_logged(&mut self, record: &Record) -> Vec<Effect> {
        let position = record.position;
        let last = self.history.last();
        match &record.payload {
            Payload::Expire(changes) => {
                for change in changes {
                    let held = self.history.at(change.key.as_bytes(), last);
                    let is_over = held
                        .and_then(|item| item.expires)
                        .is_some_and(|at| at <= record.version);
                    assert!(
                        is_over,
                        "record {position} expires what does not expire: {held:?}"
                    );
                }
                Vec::new()
            }
            Payload::Write(write) => {
                let name = (write.request.random, write.fingerprint);
                let asked = self.writers.named.get(&name);
                let asked = asked.map(|asked| &self.writers.asked[*asked]);
                let asked = asked.expect("nobody asked for what is logged");
                let earlier = self.history.of_request(&write.request.random);
                let is_known = |index: &Index| match asked.write.name {
                    RequestName::Id(_) => true,
                    // A key that is over two minutes old may be used for another write.
                    RequestName::Key { .. } => {
                        self.history.birth(*index) >= RequestId::horizon(record.version)
                    }
                };
                assert!(
                    !earlier.iter().any(is_known),
                    "I8: record {position} applies a request again"
                );
                assert!(asked.open > 0, "record {position} applies what was refused");
                // It was judged at the time of the previous version.
                let now = Version::from_bits(record.version.to_bits() - 1);
                let applied = model::apply(&asked.write, record.version, now, |key| {
                    self.history.at(key.as_bytes(), last)
                });
                let applied = applied.unwrap_or_else(|code| {
                    panic!("record {position} applies what had to be refused: {code}")
                });
                assert_eq!(
                    write.changes, applied.changes,
                    "record {position} is judged by another state"
                );
                applied.effects
            }
            // A record that changes no key is no client's.
            _ => Vec::new(),
        }
    }

    // --- Checks of answers ---

    pub(super) fn judge_written(&mut self, answer: Answer) {
        let Answer { id, result, .. } = answer;
        let attempt = self
            .writers
            .attempts
            .remove(&id)
            .expect("an answer to nothing");
        let is_success = result.is_ok();
        match result {
            Ok(sequenced) => self.judge_success(id, attempt, &sequenced),
            Err(error) => self.judge_refusal(id, attempt, &error),
        }
        self.seen.acknowledged += u64::from(is_success);
    }

    fn judge_success(&mut self, id: u64, attempt: Attempt, sequenced: &Sequenced) {
        let node = self.node.as_ref().expect("an answer of nobody");
        assert!(
            node.is_acting(),
            "REP-CONFIRM: write {id} is answered by no master"
        );
        let index = self.history.index_of(sequenced.version);
        let index = index.unwrap_or_else(|| panic!("write {id}'s version is in no record"));
        self.trace
            .note(format_args!("client: write {id} is record {index}"));
        let record = Arc::clone(self.history.record(index));
        let Payload::Write(write) = &record.payload else {
            panic!("write {id} is told of a record that is no write");
        };
        let asked = &mut self.writers.asked[attempt.asked];
        let name = (*asked.write.name.random(), asked.write.fingerprint());
        assert_eq!(
            (write.request.random, write.fingerprint),
            name,
            "write {id} is another"
        );
        assert!(
            index <= self.history.committed(),
            "REP-APPLY: write {id} is answered before its record {index} is committed"
        );
        let (applied, _) = node.storage.applied();
        assert!(
            index <= applied,
            "REP-APPLY: write {id} is answered before it is applied"
        );
        // The write is answered; a second attempt's answer changes nothing.
        asked.open -= 1;
        asked.is_done = true;
        if sequenced.replayed {
            let told = model::remembered(&write.changes);
            assert_eq!(sequenced.effects, told, "I8: write {id} is told otherwise");
            self.seen.replays += 1;
        } else {
            assert_eq!(
                sequenced.effects,
                self.history.effects(index),
                "write {id} is told what record {index} did not do"
            );
            assert!(
                index > attempt.asking.acknowledged,
                "write {id} stands before what was known when it was asked"
            );
            let is_keyed = matches!(asked.write.name, RequestName::Key { .. });
            assert!(
                !is_keyed || attempt.received >= RequestId::horizon(attempt.asking.clock),
                "I8: write {id} is applied, and an earlier attempt may be forgotten"
            );
            let lead = u64::try_from(MAX_REQUEST_LEAD.as_millis()).unwrap();
            assert!(
                !is_keyed || attempt.received <= sequenced.version.millis() + lead,
                "I8: write {id} is applied, and was received in the future"
            );
        }
        self.check_deletes(id, &record);
        self.acknowledged = self.acknowledged.max(index);
    }

    /// CACHE-DELETE: the cache confirmed the deletes of its keys, or the wait timed out.
    fn check_deletes(&self, id: u64, record: &Record) {
        let index = record.position.index;
        let applied = self.history.applied(index).expect("it is applied");
        let waited = self.now().millis - applied.millis;
        if u128::from(waited) >= INVALIDATION_WAIT.as_millis() {
            return;
        }
        for change in Effects::of(record).changes {
            let answered = self.cached.answered(change.key.as_bytes());
            assert!(
                answered > applied.turn,
                "CACHE-DELETE: write {id} is answered while the cache has its keys"
            );
        }
    }

    fn judge_refusal(&mut self, id: u64, attempt: Attempt, error: &Error) {
        self.trace.note(format_args!(
            "client: write {id} is refused: {}",
            error.code
        ));
        if error.code == Code::OutcomeUnknown {
            self.writers.doubtful.push(attempt.asked);
            return;
        }
        self.seen.refusals += 1;
        let asked = &mut self.writers.asked[attempt.asked];
        asked.open -= 1;
        if asked.open == 0 && !asked.is_done {
            let fingerprint = asked.write.fingerprint();
            let logged = self.history.of_request(asked.write.name.random());
            let is_logged = logged
                .iter()
                .any(|index| match &self.history.record(*index).payload {
                    Payload::Write(write) => write.fingerprint == fingerprint,
                    _ => false,
                });
            assert!(!is_logged, "write {id} is refused ({error}), and done");
        }
        match error.code {
            Code::ConditionFailed
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists => {
                let node = self.node.as_ref().expect("an answer of nobody");
                assert!(
                    node.is_acting(),
                    "REP-CONFIRM: write {id} is refused by no master"
                );
                self.seen.judged += 1;
                assert!(
                    self.is_right(attempt, error),
                    "write {id} is refused by what never was: {error}"
                );
            }
            Code::NotMaster
            | Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted => self.doubt_on(attempt.asked),
            _ if self.disk.is_cut() => self.doubt_on(attempt.asked),
            other => panic!("write {id} is refused with {other}: {error}"),
        }
    }

    /// Handles a refused retry, which shows nothing about the attempt before it.
    fn doubt_on(&mut self, at: usize) {
        let asked = &self.writers.asked[at];
        if asked.open > 0 && !asked.is_done {
            self.writers.doubtful.push(at);
        }
    }

    /// Whether a refusal is right for a state committed between request and answer.
    fn is_right(&self, attempt: Attempt, error: &Error) -> bool {
        let write = &self.writers.asked[attempt.asked].write;
        let node = self.node.as_ref().expect("an answer of nobody");
        let (then, now) = (attempt.asking.clock, node.sequencer.now());
        let lead = u64::try_from(MAX_REQUEST_LEAD.as_millis()).unwrap();
        let fingerprint = write.fingerprint();
        if error.message.contains("was used for another write") {
            let known = self.history.of_request(write.name.random());
            return known
                .iter()
                .any(|index| match &self.history.record(*index).payload {
                    Payload::Write(other) => {
                        *index <= self.history.committed() && other.fingerprint != fingerprint
                    }
                    _ => false,
                });
        }
        if let RequestName::Id(id) = write.name {
            if error.message.contains("born in the future") {
                return id.birth_millis > then.millis() + lead;
            }
            if error.message.contains("two minutes old") {
                return id.birth_millis < RequestId::horizon(now);
            }
        }
        let first = attempt.asking.acknowledged;
        let last = first.max(node.storage.applied().0);
        let conditions = write.conditions.iter().map(|condition| &condition.key);
        let operations = write.operations.iter().map(|operation| &operation.key);
        let keys: Vec<ItemKey> = conditions.chain(operations).cloned().collect();
        let states = self.history.states(&keys, first, last);
        states.into_iter().any(|state| {
            let items = keys
                .iter()
                .filter_map(|key| self.history.at(key.as_bytes(), state));
            let ends = items.filter_map(|item| item.expires);
            let mut clocks: Vec<Version> = ends.filter(|end| then < *end && *end < now).collect();
            clocks.extend([then, now]);
            clocks.into_iter().any(|clock| {
                let prior = |key: &ItemKey| self.history.at(key.as_bytes(), state);
                model::apply(write, now, clock, prior).err() == Some(error.code)
            })
        })
    }
}
