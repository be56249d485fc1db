//! Clients, and the answers of nodes to them.

use rand::Rng;
use tierkv_types::{Index, Version};

use super::{AtProcess, Event, World};
use crate::replication::{
    Mastership, Refusal,
    simulation::{
        climate::choose,
        disk::KEYS,
        node::{Kind, Request, write},
    },
};

/// How long a client waits for an answer.
const PATIENCE: u64 = 800;
/// How often a write is tried.
const TRIES: u32 = 12;
/// A difference between two clocks above which ages begin anew (CLOCK-STEADY).
const JUMP: u64 = 500;

/// A client with one operation at a time.
#[derive(Debug, Default)]
pub(super) struct Client {
    operation: Option<Operation>,
    hint: usize,
    /// For each key, the last version that it saw.
    versions: [Version; KEYS],
}

#[derive(Clone, Debug)]
struct Operation {
    id: u64,
    kind: Kind,
    tries: u32,
    /// What a linearizable read must see at least, and a write must be above.
    floor: Version,
}

/// A node's answer.
#[derive(Debug)]
pub(super) enum Answer {
    Refused,
    Written(Version),
    Read(Version),
}

impl World {
    pub(super) fn client_acts(&mut self, client: usize) {
        if self.is_ending() {
            return;
        }
        let key = self.rng.random_range(0..KEYS);
        let kind = match self.rng.random_range(0..100) {
            0..60 => {
                self.numbers += 1;
                Kind::Write {
                    key,
                    number: self.numbers,
                }
            }
            60..75 => Kind::Latest { key },
            75..95 => Kind::Cached {
                key,
                bound: self.climate.max_staleness,
            },
            _ => Kind::Session {
                key,
                min: self.clients[client].versions[key],
            },
        };
        self.operations += 1;
        self.clients[client].operation = Some(Operation {
            id: self.operations,
            kind,
            tries: 0,
            floor: self.history.floor(key),
        });
        self.send_request(client);
    }

    /// Whether clients begin nothing more, so that all nodes can become equal.
    fn is_ending(&self) -> bool {
        self.now + 2_000 > self.climate.until
    }

    fn send_request(&mut self, client: usize) {
        let Some(operation) = self.clients[client].operation.clone() else {
            return;
        };
        let is_anywhere =
            !matches!(operation.kind, Kind::Write { .. }) && self.rng.random_bool(0.7);
        let node = match is_anywhere {
            true => self.rng.random_range(0..self.nodes.len()),
            false => self.clients[client].hint,
        };
        let request = Request {
            client,
            operation: operation.id,
            kind: operation.kind,
        };
        let after = 1 + self.up_to(self.climate.latency);
        self.at(after, node, AtProcess::Request(request));
        let event = Event::TimedOut {
            client,
            operation: operation.id,
        };
        self.schedule(PATIENCE, event);
    }

    pub(super) fn timed_out(&mut self, client: usize, operation: u64) {
        let is_it = |it: &Operation| it.id == operation;
        if self.clients[client].operation.as_ref().is_some_and(is_it) {
            self.try_again(client);
        }
    }

    /// Tries a write again, under the same number, at some node; gives up a read.
    fn try_again(&mut self, client: usize) {
        let is_ending = self.is_ending();
        let think = self.up_to(2 * self.climate.think);
        let known = self.master().filter(|_| self.rng.random_bool(0.5));
        self.clients[client].hint = known.unwrap_or_else(|| self.any_node());
        let Some(operation) = &mut self.clients[client].operation else {
            return;
        };
        operation.tries += 1;
        let is_write = matches!(operation.kind, Kind::Write { .. });
        let goes_on = operation.tries < TRIES && !is_ending;
        if is_write && goes_on {
            self.operations += 1;
            operation.id = self.operations;
            return self.send_request(client);
        }
        self.clients[client].operation = None;
        self.schedule(think, Event::Client { client });
    }

    pub(super) fn answered(&mut self, client: usize, operation: u64, answer: &Answer) {
        let is_it = self.clients[client]
            .operation
            .as_ref()
            .is_some_and(|it| it.id == operation);
        if !is_it {
            return;
        }
        let key = match self.clients[client].operation.as_ref() {
            Some(operation) => Self::check_kind(operation.kind),
            None => return,
        };
        match answer {
            Answer::Refused => self.try_again(client),
            Answer::Written(version) | Answer::Read(version) => {
                let known = &mut self.clients[client].versions[key];
                *known = (*known).max(*version);
                self.clients[client].operation = None;
                let think = 1 + self.up_to(2 * self.climate.think);
                self.schedule(think, Event::Client { client });
            }
        }
    }

    fn reply(&mut self, request: &Request, answer: Answer) {
        let after = 1 + self.up_to(self.climate.latency);
        let (client, operation) = (request.client, request.operation);
        self.schedule(
            after,
            Event::Answer {
                client,
                operation,
                answer,
            },
        );
    }

    /// A client's request arrives at a node.
    pub(super) fn request(&mut self, node: usize, request: Request) {
        self.notice_jump(node);
        match request.kind {
            Kind::Write { key, number } => self.write(node, request, key, number),
            Kind::Latest { .. } => self.read_latest(node, request),
            Kind::Cached { key, bound } => self.read_cached(node, &request, key, bound),
            Kind::Session { key, min } => {
                let value = self.nodes[node]
                    .run
                    .as_ref()
                    .map(|run| run.content.values[key]);
                match value.filter(|value| value.0 >= min) {
                    Some(value) => self.reply(&request, Answer::Read(value.0)),
                    None => self.reply(&request, Answer::Refused),
                }
            }
        }
        self.carry_out_ready(node);
        self.send_appends(node);
    }

    /// A request shows what time it is: a clock that stood still is noticed.
    fn notice_jump(&mut self, node: usize) {
        let boot_time = self.nodes[node].boot_time(self.now);
        let node = &mut self.nodes[node];
        if node.stood_still_for >= JUMP {
            node.stood_still_for = 0;
            if let Some(replica) = node.run.as_mut().and_then(|run| run.replica.as_mut()) {
                replica.forget_ages(boot_time);
            }
        }
    }

    fn write(&mut self, node: usize, request: Request, key: usize, number: i64) {
        let platform = self.nodes[node].wall_millis(self.now);
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let Some(replica) = run.replica.as_mut() else {
            return self.reply(&request, Answer::Refused);
        };
        if replica.confirm().is_err() {
            return self.reply(&request, Answer::Refused);
        }
        if let Some(index) = run.requests.get(&number.unsigned_abs()).copied() {
            run.writes.push((index, request));
            return self.answer_applied(node);
        }
        match replica.propose() {
            Ok(position) => {
                let commit = replica.commit();
                run.append(position, write(key, number), platform, commit);
                run.writes.push((position.index, request));
                self.flush(node);
            }
            Err(Refusal::NotMaster | Refusal::HandingOver) => {
                self.reply(&request, Answer::Refused);
            }
        }
    }

    fn read_latest(&mut self, node: usize, request: Request) {
        let moment = self.nodes[node].moment(self.now);
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let Some(replica) = run.replica.as_mut() else {
            return self.reply(&request, Answer::Refused);
        };
        match replica.begin_read(moment) {
            Ok(None) => self.answer_latest(node, &request),
            Ok(Some(round)) => run.reads.push((round, request)),
            Err(_) => self.ask_index(node, request),
        }
    }

    /// A replica asks its master for the commit index (REP-CONFIRM).
    fn ask_index(&mut self, node: usize, request: Request) {
        let moment = self.nodes[node].moment(self.now);
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let master = run
            .replica
            .as_ref()
            .and_then(|replica| replica.master(moment.now).cloned());
        let operation = request.operation;
        let Some(to) = master
            .and_then(|master| self.node_of(&master.node))
            .filter(|to| *to != node)
        else {
            return self.reply(&request, Answer::Refused);
        };
        if let Some(run) = self.nodes[node].run.as_mut() {
            run.confirming.insert(operation, request);
        }
        if !self.is_cut(node, to) {
            let after = self.up_to(self.climate.latency);
            self.at(
                after,
                to,
                AtProcess::Question {
                    from: node,
                    operation,
                },
            );
        }
    }

    /// A replica's question arrives.
    pub(super) fn question(&mut self, node: usize, from: usize, operation: u64) {
        let moment = self.nodes[node].moment(self.now);
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let Some(replica) = run.replica.as_mut() else {
            return;
        };
        match replica.begin_read(moment) {
            Ok(None) => {
                let index = replica.applied();
                self.answer_question(node, from, operation, index);
            }
            Ok(Some(round)) => run.questions.push((round, from, operation)),
            Err(_) => {}
        }
        self.carry_out_ready(node);
        self.send_appends(node);
    }

    fn answer_question(&mut self, node: usize, to: usize, operation: u64, index: Index) {
        if !self.is_cut(node, to) {
            let after = self.up_to(self.climate.latency);
            self.at(after, to, AtProcess::Index { operation, index });
        }
    }

    pub(super) fn index_answered(&mut self, node: usize, operation: u64, index: Index) {
        if let Some(run) = self.nodes[node].run.as_mut()
            && let Some(request) = run.confirming.remove(&operation)
        {
            run.confirmed.push((index, request));
            self.outcome.confirmed += 1;
        }
        self.answer_applied(node);
    }

    /// Answers the reads whose round is vouched.
    pub(super) fn answer_reads(&mut self, node: usize) {
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let vouched = run.vouched;
        let reads: Vec<Request> = (run.reads.extract_if(.., |(round, _)| *round <= vouched))
            .map(|(_, request)| request)
            .collect();
        let questions: Vec<(usize, u64)> = (run.questions.extract_if(.., |it| it.0 <= vouched))
            .map(|(_, from, operation)| (from, operation))
            .collect();
        let applied = run.applied;
        for request in reads {
            self.answer_latest(node, &request);
        }
        for (from, operation) in questions {
            self.answer_question(node, from, operation, applied);
        }
    }

    /// Answers what waited until a record is applied.
    pub(super) fn answer_applied(&mut self, node: usize) {
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        let applied = run.applied;
        let done: Vec<(Index, Request)> = run
            .writes
            .extract_if(.., |(index, _)| *index <= applied)
            .collect();
        let reads: Vec<Request> = (run.confirmed.extract_if(.., |(index, _)| *index <= applied))
            .map(|(_, request)| request)
            .collect();
        for (index, request) in done {
            self.answer_write(node, &request, index);
        }
        for request in reads {
            self.answer_latest(node, &request);
        }
    }

    fn operation_of(&self, request: &Request) -> Option<Operation> {
        let operation = self.clients[request.client].operation.clone();
        operation.filter(|it| it.id == request.operation)
    }

    fn answer_write(&mut self, node: usize, request: &Request, index: Index) {
        let Some(operation) = self.operation_of(request) else {
            return;
        };
        let Kind::Write { key, number } = request.kind else {
            return;
        };
        let Some(version) = self.history.get(index).map(|record| record.version) else {
            return self.fail(Err(format!(
                "I1: record {index} is applied and not committed"
            )));
        };
        let run = self.nodes[node].run.as_ref();
        let term = run.and_then(|run| run.replica.as_ref()?.mastership());
        // Writes wait at masters only.
        let Some(epoch) = term.map(Mastership::epoch) else {
            return;
        };
        let acknowledged =
            (self.history).acknowledge(epoch, self.now, key, number, version, operation.floor);
        self.fail(acknowledged);
        self.check_listed();
        self.reply(request, Answer::Written(version));
    }

    fn answer_latest(&mut self, node: usize, request: &Request) {
        let Some(operation) = self.operation_of(request) else {
            return;
        };
        let key = Self::check_kind(request.kind);
        let Some(value) = self.nodes[node]
            .run
            .as_ref()
            .map(|run| run.content.values[key])
        else {
            return;
        };
        let checked = self.history.latest(key, value, operation.floor);
        self.fail(checked);
        self.outcome.latest += 1;
        self.reply(request, Answer::Read(value.0));
    }

    fn read_cached(&mut self, node: usize, request: &Request, key: usize, bound: u64) {
        let boot_time = self.nodes[node].boot_time(self.now);
        let Some(run) = self.nodes[node].run.as_ref() else {
            return;
        };
        let fresh = run
            .replica
            .as_ref()
            .and_then(|it| it.fresh_since(boot_time));
        let age = fresh.map(|since| boot_time.since(since).as_millis());
        let age = age
            .and_then(|age| u64::try_from(age).ok())
            .filter(|age| *age <= bound);
        let Some(age) = age else {
            return self.reply(request, Answer::Refused);
        };
        let value = run.content.values[key];
        let is_replica = run
            .replica
            .as_ref()
            .is_some_and(|it| it.mastership().is_none());
        // Less than this is not noticed.
        let slack = self.nodes[node].stood_still_for;
        let checked = self.history.cached(self.now, key, value, age + slack);
        self.fail(checked);
        self.outcome.cached += 1;
        self.outcome.cached_at_replicas += u64::from(is_replica);
        self.reply(request, Answer::Read(value.0));
    }

    pub(super) fn any_node(&mut self) -> usize {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|place| self.nodes[*place].run.is_some())
            .collect();
        match running.is_empty() {
            true => 0,
            false => *choose(&mut self.rng, &running),
        }
    }
}
