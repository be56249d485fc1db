//! What a driver does: it feeds the machine and carries out its commands.

use std::sync::Arc;

use rand::Rng;
use tierkv_types::{Epoch, Index, NodeId, Payload, Position, Record};

use super::{AtProcess, Event, World};
use crate::replication::{
    Append, ClusterState, Command, Event as MachineEvent, Message, Process, Seen, SwapOutcome,
    simulation::{
        climate::Fault,
        disk::{Content, Disk, Log},
        history::Violation,
    },
};

/// Most records of a message.
const RECORDS_A_MESSAGE: usize = 64;
/// Chance of a handover's swap to be late, in a thousand.
const LATE_HANDOVERS: u32 = 300;
/// How long a driver waits for an answer of the store.
const SWAP_TIMEOUT: u64 = 2_000;
/// Later than the end of every world.
const NEVER: u64 = 1 << 40;
/// Most pieces in which committed records are applied.
const APPLY_AT_ONCE: u64 = 16;

impl World {
    pub(super) fn at_process(&mut self, node: usize, what: AtProcess) {
        match what {
            AtProcess::Tick => {
                let interval = self.nodes[node].run.as_ref().and_then(|run| {
                    let replica = run.replica.as_ref()?;
                    u64::try_from(replica.heartbeat_interval().as_millis()).ok()
                });
                self.at(interval.unwrap_or(50), node, AtProcess::Tick);
                self.step(node, MachineEvent::Tick);
            }
            AtProcess::Machine(event) => self.step(node, *event),
            AtProcess::Promised { epoch, seen } => {
                let disk = &mut self.nodes[node].disk;
                disk.promised = disk.promised.max(epoch);
                if let Some(seen) = seen
                    && disk
                        .seen
                        .as_ref()
                        .is_none_or(|it| it.order() <= seen.order())
                {
                    disk.seen = Some(seen);
                }
                if let Some(run) = &mut self.nodes[node].run {
                    run.queue.promised(epoch);
                }
                self.step(node, MachineEvent::Promised(epoch));
            }
            AtProcess::Flushed { up_to } => self.flushed(node, up_to),
            AtProcess::CutDone(position) => {
                self.nodes[node].disk.log.truncate(position.index);
                if let Some(run) = &mut self.nodes[node].run {
                    run.log.truncate(position.index);
                    run.index_requests();
                    run.queue.cut(position.index);
                }
                self.outcome.cuts += 1;
                self.step(node, MachineEvent::Cut(position));
            }
            AtProcess::Apply => self.apply(node),
            AtProcess::ReadNote => self.compare_note(node),
            AtProcess::Installed { from } => self.installed(node, from),
            AtProcess::Request(request) => self.request(node, request),
            AtProcess::Question { from, operation } => {
                self.question(node, from, operation);
            }
            AtProcess::Index { operation, index } => self.index_answered(node, operation, index),
        }
    }

    /// Steps a node's machine and carries out what it commands.
    pub(super) fn step(&mut self, node: usize, event: MachineEvent) {
        let stalled = self.nodes[node].stalled_until;
        if stalled > self.now {
            let what = AtProcess::Machine(Box::new(event));
            return self.at(stalled - self.now, node, what);
        }
        self.trace(node, || format!("event {event:?}"));
        let moment = self.nodes[node].moment(self.now);
        let mut commands = Vec::new();
        {
            let Some(run) = self.nodes[node].run.as_mut() else {
                return;
            };
            if let MachineEvent::Received(_, Message::Append(append)) = &event {
                run.clock.merge(append.clock);
            }
            let Some(replica) = run.replica.as_mut() else {
                return;
            };
            if let MachineEvent::Durable(position) = &event {
                run.queue.durable(position.index);
            }
            replica.step(moment, event, &mut commands);
            run.queue.extend(commands);
        }
        self.carry_out_ready(node);
        self.send_appends(node);
    }

    pub(super) fn carry_out_ready(&mut self, node: usize) {
        while self.violation.is_none() {
            let run = self.nodes[node].run.as_mut();
            let Some(command) = run.and_then(|run| run.queue.take_ready()) else {
                return;
            };
            self.carry_out(node, command);
        }
    }

    fn disk_time(&mut self, node: usize) -> u64 {
        if self.stuck == Some(node) {
            return NEVER;
        }
        let slow = self.nodes[node].slow_disk_until.saturating_sub(self.now);
        1 + self.up_to(self.climate.disk) + slow
    }

    fn carry_out(&mut self, node: usize, command: Command) {
        self.trace(node, || format!("command {command:?}"));
        match command {
            Command::Promise { epoch, seen } => self.promise(node, epoch, seen),
            Command::Swap {
                number,
                expected,
                state,
            } => {
                self.send_swap(node, number, expected, &state);
            }
            Command::Read => {
                let after = 1 + self.up_to(10) + self.slowness();
                if let Some(machine) = self.nodes[node].machine() {
                    self.schedule(after, Event::ReadRecord { node, machine });
                }
            }
            Command::AppendNoop(position) => self.append_noop(node, position),
            Command::Append(records) => self.append(node, records),
            Command::Cut(position) => {
                let after = self.disk_time(node);
                self.at(after, node, AtProcess::CutDone(position));
            }
            Command::Commit(index) => self.commit(node, index),
            Command::Vouched { round, .. } => {
                if let Some(run) = &mut self.nodes[node].run {
                    run.vouched = run.vouched.max(round);
                }
                self.answer_reads(node);
            }
            Command::Send { to, message } => self.send(node, &to, &message),
            Command::GaveUp(_) => self.outcome.given_up += 1,
            Command::SteppedDown(_) => {
                if let Some(run) = &mut self.nodes[node].run {
                    run.writes.clear();
                    run.reads.clear();
                    run.questions.clear();
                }
            }
            Command::Install { source, .. } => self.install(node, &source),
            Command::Changed { result, .. } => self.outcome.changes += u64::from(result.is_ok()),
            Command::HandedOver { result, .. } => {
                self.outcome.handovers += u64::from(result.is_ok());
            }
            Command::Wait(epoch) => {
                let name = self.nodes[node].name.clone();
                self.fail(Err(format!("{name} waits for an epoch above {epoch}")));
            }
            Command::Halt(why) => {
                let name = self.nodes[node].name.clone();
                self.fail(Err(format!("{name} halts: {why}")));
            }
        }
    }

    fn promise(&mut self, node: usize, epoch: Epoch, seen: Option<Seen>) {
        let mut after = self.disk_time(node);
        // A file of its own, which may take longer than the log.
        if !self.is_calm && self.chance(200) {
            after += self.up_to(300);
        }
        self.at(after, node, AtProcess::Promised { epoch, seen });
    }

    fn append(&mut self, node: usize, records: Vec<Arc<Record>>) {
        let Some(run) = self.nodes[node].run.as_mut() else {
            return;
        };
        for record in records {
            let last = run.log.last();
            if record.position.index != last.index.next() {
                let why = format!("record {} is appended after {last}", record.position);
                return self.fail(Err(why));
            }
            run.push(record);
        }
        self.flush(node);
    }

    fn install(&mut self, node: usize, master: &Process) {
        let from = self.node_of(&master.node);
        if let (Some(run), Some(from)) = (&mut self.nodes[node].run, from) {
            run.replica = None;
            let stuck = if self.stuck == Some(node) { NEVER } else { 0 };
            let after = 50 + self.up_to(500) + stuck;
            self.at(after, node, AtProcess::Installed { from });
        }
    }

    fn append_noop(&mut self, node: usize, position: Position) {
        let platform = self.nodes[node].wall_millis(self.now);
        let process = self.nodes[node].process();
        if let Some(run) = &mut self.nodes[node].run {
            let commit = run.commit;
            run.append(position, Payload::Noop, platform, commit);
        }
        if let Some(process) = process {
            let checked = self.history.master(position.epoch, &process);
            self.fail(checked);
        }
        self.check_new_master(node, position.epoch);
        self.flush(node);
    }

    /// The log of a new master has everything that earlier epochs acknowledged (I1).
    fn check_new_master(&mut self, node: usize, epoch: Epoch) {
        let needed = self.history.acknowledged_before(epoch);
        let Some(run) = &self.nodes[node].run else {
            return;
        };
        let has_it =
            needed <= run.log.base.index || run.log.get(needed) == self.history.get(needed);
        if !has_it {
            let name = self.nodes[node].name.clone();
            let why = format!("I1: {name} takes mastership without record {needed}");
            self.fail(Err(why));
        }
    }

    /// Makes the end of the log durable, later.
    pub(super) fn flush(&mut self, node: usize) {
        let after = self.disk_time(node);
        let durable = self.nodes[node].disk.log.last();
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        if run.is_flushing || run.log.last() == durable {
            return;
        }
        run.is_flushing = true;
        let up_to = run.log.last();
        self.at(after, node, AtProcess::Flushed { up_to });
    }

    fn flushed(&mut self, node: usize, up_to: Position) {
        let name = &mut self.nodes[node];
        let Some(run) = &mut name.run else {
            return;
        };
        run.is_flushing = false;
        let durable = name.disk.log.last();
        let end = up_to.index.min(run.log.last().index);
        let records = &run.log.records;
        let fresh = records
            .iter()
            .filter(|record| record.position.index > durable.index && record.position.index <= end);
        let fresh: Vec<_> = fresh.cloned().collect();
        name.disk.log.records.extend(fresh);
        let durable = name.disk.log.last();
        self.step(node, MachineEvent::Durable(durable));
        self.flush(node);
    }

    fn commit(&mut self, node: usize, index: Index) {
        let checked = self.check_commit(node, index);
        self.fail(checked);
        if let Some(run) = &mut self.nodes[node].run {
            run.commit = run.commit.max(index);
            if run.is_applying {
                return;
            }
            run.is_applying = true;
        }
        let after = if self.chance(100) { self.up_to(40) } else { 0 };
        self.at(after, node, AtProcess::Apply);
    }

    fn check_commit(&mut self, node: usize, index: Index) -> Result<(), Violation> {
        let Some(run) = &self.nodes[node].run else {
            return Ok(());
        };
        for at in run.commit.0 + 1..=index.0 {
            let Some(record) = run.log.get(Index(at)) else {
                continue;
            };
            self.history.commit(&Arc::clone(record))?;
        }
        Ok(())
    }

    fn apply(&mut self, node: usize) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let up_to = Index(run.commit.0.min(run.applied.0 + APPLY_AT_ONCE));
        for at in run.applied.0 + 1..=up_to.0 {
            if let Some(record) = run.log.get(Index(at)).cloned() {
                run.content.apply(&record);
            }
        }
        run.applied = up_to;
        run.is_applying = run.applied < run.commit;
        let goes_on = run.is_applying;
        run.queue.applied(up_to);
        if goes_on {
            self.at(0, node, AtProcess::Apply);
        }
        // A checkpoint, now and then.
        if self.rng.random_ratio(1, 20) {
            self.nodes[node].disk.stored = up_to;
        }
        self.step(node, MachineEvent::Applied(up_to));
        self.answer_applied(node);
    }

    fn slowness(&mut self) -> u64 {
        match self.coordination.slow_until > self.now {
            true => self.up_to(1_500),
            false => 0,
        }
    }

    fn send_swap(&mut self, node: usize, number: u64, expected: u64, state: &ClusterState) {
        let Some(machine) = self.nodes[node].machine() else {
            return;
        };
        let is_handover = state
            .master
            .as_ref()
            .is_some_and(|it| *it != self.nodes[node].name);
        let swap = |answers| Event::Swap {
            node,
            machine,
            number,
            expected,
            state: Box::new(state.clone()),
            answers,
        };
        let after = 1 + self.up_to(10) + self.slowness();
        let (unknown, late) = match (self.is_calm, is_handover) {
            (true, _) => (0, 0),
            (false, false) => (10 * self.climate.unknown, 10 * self.climate.late),
            (false, true) => (10 * self.climate.unknown, LATE_HANDOVERS),
        };
        if self.chance(late) {
            self.count(if is_handover {
                Fault::LateHandover
            } else {
                Fault::LateSwap
            });
            let after = 500 + self.up_to(20_000);
            self.schedule(after, swap(false));
        } else if self.chance(unknown) {
            self.count(Fault::UnknownSwap);
            if self.rng.random_bool(0.5) {
                self.schedule(after, swap(false));
            } else {
                self.count(Fault::UnheardSwap);
                self.schedule(after + 1_000, swap(false));
            }
        } else {
            self.schedule(after, swap(true));
            if !self.is_calm && self.chance(100) {
                self.count(Fault::DoubledSwap);
                let again = after + self.up_to(3_000);
                self.schedule(again, swap(false));
            }
            return;
        }
        let what = MachineEvent::Swapped(number, SwapOutcome::Unknown);
        let waits = if self.rng.random_bool(0.5) {
            100
        } else {
            SWAP_TIMEOUT
        };
        self.at(waits, node, AtProcess::Machine(Box::new(what)));
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts
            .get(&(from, to))
            .is_some_and(|until| *until > self.now)
    }

    fn send(&mut self, node: usize, to: &NodeId, message: &Message) {
        let (Some(to), Some(from)) = (self.node_of(to), self.nodes[node].process()) else {
            return;
        };
        if self.is_cut(node, to) {
            return;
        }
        let mut copies = 1;
        let mut after = self.up_to(self.climate.latency);
        if !self.is_calm {
            if self.chance(self.climate.loss) {
                self.count(Fault::Loss);
                return;
            }
            if self.chance(self.climate.duplication) {
                self.count(Fault::Duplication);
                copies = 2;
            }
            if self.chance(self.climate.delay) {
                self.count(Fault::Delay);
                self.count(Fault::Reordering);
                after += self.up_to(self.climate.delay_for);
            }
        }
        for copy in 0..copies {
            let late = if copy == 0 { 0 } else { self.up_to(1_000) };
            let (from, message) = (from.clone(), Box::new(message.clone()));
            self.schedule(
                after + late,
                Event::Deliver {
                    node: to,
                    from,
                    message,
                },
            );
        }
    }

    /// Sends what there is to send to the followers of a master.
    pub(super) fn send_appends(&mut self, node: usize) {
        let Some(replica) = self.nodes[node]
            .run
            .as_ref()
            .and_then(|run| run.replica.as_ref())
        else {
            return;
        };
        if replica.mastership().is_none() {
            return;
        }
        let followers: Vec<_> = replica.followers().cloned().collect();
        for to in followers {
            while let Some(append) = self.next_append(node, &to) {
                self.trace(node, || format!("append to {to}: {append:?}"));
                self.send(node, &to, &Message::Append(append));
            }
        }
    }

    fn next_append(&mut self, node: usize, to: &NodeId) -> Option<Append> {
        let run = self.nodes[node].run.as_mut()?;
        let replica = run.replica.as_mut()?;
        let (mut append, takes_records) = replica.next_append(to)?;
        if takes_records {
            if append.prev.index < run.log.base.index {
                replica.lies_beyond_log(to);
                return self.next_append(node, to);
            }
            append.records = run.records_after(append.prev.index, RECORDS_A_MESSAGE);
        }
        let run = self.nodes[node].run.as_mut()?;
        let replica = run.replica.as_mut()?;
        let up_to = append.records.last().map_or(append.prev, |it| it.position);
        replica.sent(to, append.epoch, up_to, append.round);
        Some(append)
    }

    /// Compares the log with the node's note (REP-LOGID).
    fn compare_note(&mut self, node: usize) {
        if self.coordination.down_until > self.now {
            return self.at(200, node, AtProcess::ReadNote);
        }
        let note = self.coordination.notes[node];
        let log = &self.nodes[node].disk.log;
        let is_short =
            note.is_some_and(|note| note.log_id == log.id && note.commit > log.last().index);
        if is_short {
            self.renew_log(node);
            return;
        }
        self.compared(node);
    }

    fn compared(&mut self, node: usize) {
        if let Some(run) = &mut self.nodes[node].run {
            run.is_compared = true;
        }
        self.step(node, MachineEvent::Compared);
    }

    /// Gives a node's log a new id, and starts the machine anew.
    fn renew_log(&mut self, node: usize) {
        let id = self.new_log_id();
        let Some(incarnation) = self.nodes[node].run.as_ref().map(|run| run.incarnation) else {
            return;
        };
        self.nodes[node].disk.log.id = id;
        let (now, rules) = (self.now, self.rules());
        // What was appended and not durable is lost, as at a start.
        self.nodes[node].start(now, incarnation, rules);
        self.at(0, node, AtProcess::Tick);
        if let Some(record) = self.coordination.record.clone() {
            self.schedule(1, Event::Watch { node, record });
        }
        self.compared(node);
    }

    /// A snapshot of a master's applied state replaces a node's log and store.
    fn installed(&mut self, node: usize, from: usize) {
        let source = &self.nodes[from];
        let is_able = source.stalled_until <= self.now && !self.is_cut(from, node) && from != node;
        let taken = source.run.as_ref().filter(|_| is_able).and_then(|run| {
            run.replica.as_ref()?.mastership()?;
            let mut epochs = run.log.epochs();
            epochs.truncate(run.applied);
            let version = match run.log.get(run.applied) {
                Some(record) => record.version,
                None => run.log.base_version,
            };
            Some((
                epochs.position(run.applied),
                epochs,
                run.content.clone(),
                version,
            ))
        });
        let id = self.new_log_id();
        let (promised, seen) = (
            self.nodes[node].disk.promised,
            self.nodes[node].disk.seen.clone(),
        );
        let Some(incarnation) = self.nodes[node].run.as_ref().map(|run| run.incarnation) else {
            return;
        };
        let log = match taken {
            Some((base, base_epochs, base_content, base_version)) => Log {
                id,
                base,
                base_epochs,
                base_content,
                base_version,
                records: Vec::new(),
            },
            // The transfer broke off: the node has nothing.
            None => Log {
                id,
                base_content: Content::default(),
                ..Log::default()
            },
        };
        self.outcome.installs += 1;
        self.nodes[node].disk = Disk {
            stored: log.base.index,
            log,
            promised,
            seen,
        };
        self.nodes[node].is_damaged = true;
        let (now, rules) = (self.now, self.rules());
        self.nodes[node].start(now, incarnation, rules);
        self.at(0, node, AtProcess::Tick);
        self.compared(node);
        if let Some(record) = self.coordination.record.clone() {
            self.schedule(1, Event::Watch { node, record });
        }
    }
}
