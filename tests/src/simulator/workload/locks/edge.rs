//! A member's edge: what the server's tasks and threads do around the real cores.
//!
//! It dies with its process. A tick is closed after all packets that had come by then were read, as the server's runtime
//! does it.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::{Refusal, SessionId};
use lock_server::machine::Op;
use lock_server::primary::{
    Action, Call, RawTime, Retryer, RetryerEvent, Revoker, RevokerEvent, SWEEP_PAUSE, Ticker, answers, news,
    notices_of, pages,
};
use rsm::{Input, MemberId, Rejection, Tag};

use super::{LineId, LockEvent, Packet};
use crate::simulator::invariants::Run;
use crate::simulator::member::Process;
use crate::simulator::mutation::Mutation;
use crate::simulator::world::{Event, World};

/// The edge of one process.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    ticker: Ticker<LineId>,
    revoker: Revoker,
    retryer: Retryer,
    serving: bool,
    /// Sessions' callback connections, the newest of each.
    callbacks: BTreeMap<SessionId, LineId>,
    /// Calls under way: on which connection, and when they are given up.
    calls: BTreeMap<(bool, u64), (SessionId, LineId, Duration)>,
    /// Commands that the replica has not answered.
    asked: BTreeMap<Tag, Asked>,
    submissions: BTreeMap<u64, Parts>,
    last_submission: u64,
    sweeping: bool,
    /// A look at the clock is due then, true time; none where none is planned.
    looks_at: Option<u64>,
    closing: bool,
    /// This time of serving has derived its revokes.
    derived: bool,
}

/// Who waits for a command.
#[derive(Debug)]
enum Asked {
    Open(LineId),
    Close(LineId),
    /// A part of a submission, and its place there.
    Part(u64, usize),
    Tick,
    Sweep,
}

/// A submission whose commands are under way.
#[derive(Debug)]
struct Parts {
    line: LineId,
    batch: lock_client::cores::BatchId,
    answers: Vec<Option<Result<Vec<u8>, Rejection>>>,
}

impl Edge {
    pub(crate) fn new(mutation: Mutation) -> Self {
        Edge {
            ticker: mutation.put_into_ticker(Ticker::default()),
            revoker: mutation.put_into_revoker(Revoker::default()),
            ..Edge::default()
        }
    }
}

impl Process {
    fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.read_clock(now))
    }

    fn raw(&self, now: u64) -> RawTime {
        RawTime::from_ns(self.read_clock(now) * 1_000)
    }
}

impl World {
    fn process(&mut self, index: usize, run: Run) -> Option<&mut Process> {
        self.members[index].process.as_mut().filter(|process| process.run == run)
    }

    // ----- what comes from clients

    pub(crate) fn on_packet_at_member(&mut self, id: LineId, packet: Packet) {
        let Some(line) = self.locks.lines.get(id) else { return };
        let (index, member_run, open) = (line.member, line.member_run, line.member_open);
        let Some(process) = self.members[index].process.as_ref() else {
            // A host without such a process says so.
            return if self.dice.chance(self.plan.network.unreachable) {
                self.close_at_member(id)
            };
        };
        let run = process.run;
        if !open || member_run.is_some_and(|taken| taken != run) {
            return self.close_at_member(id);
        }
        match packet {
            Packet::Hello(session) => self.on_hello(id, index, session),
            Packet::Open(open) => self.submit_op(id, index, &Op::Open(open), Asked::Open(id)),
            Packet::Close(session) => self.submit_op(id, index, &Op::Close { session }, Asked::Close(id)),
            Packet::Submit(batch, submission) => self.on_submission(id, index, batch, submission),
            Packet::KeepAlive(keep_alive) => {
                let refusal = self.not_serving(index);
                let Some(process) = self.process(index, run) else { return };
                if process.edge.serving {
                    process.edge.ticker.take_in(keep_alive, id);
                    self.edge_goes_on(index);
                } else {
                    self.send_on(id, false, Packet::Renewed(Err(refusal)));
                }
            }
            Packet::Taken { is_grant, number } => self.call_ended(index, (is_grant, number), true),
            Packet::End => self.line_ended_at_member(id, index),
            _ => {}
        }
    }

    fn on_hello(&mut self, id: LineId, index: usize, session: Option<(SessionId, u128)>) {
        let Some(process) = self.members[index].process.as_mut() else { return };
        let run = process.run;
        let welcome = session.is_none_or(|(session, nonce)| {
            let known =
                process.replica.machine().locks().is_some_and(|machine| machine.admits_callback(session, nonce));
            process.edge.serving && known
        });
        if let Some(line) = self.locks.lines.get_mut(id) {
            line.member_run = Some(run);
            line.session = session;
        }
        if !welcome {
            return self.close_at_member(id);
        }
        self.send_on(id, false, Packet::Welcome);
        let Some((session, _)) = session else { return };
        let true_now = self.now;
        let Some(process) = self.process(index, run) else { return };
        let now = process.local(true_now);
        let before = process.edge.callbacks.insert(session, id);
        process.edge.revoker.on_event(now, RevokerEvent::Connected(session));
        process.edge.retryer.on_event(now, RetryerEvent::Connected(session));
        if let Some(before) = before {
            self.line_ended_at_member(before, index);
        }
        self.edge_goes_on(index);
    }

    fn line_ended_at_member(&mut self, id: LineId, index: usize) {
        self.close_at_member(id);
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.callbacks.retain(|_, line| *line != id);
        let broken = process.edge.calls.iter().filter(|(_, (_, line, _))| *line == id);
        for call in broken.map(|(call, _)| *call).collect::<Vec<_>>() {
            self.call_ended(index, call, false);
        }
    }

    fn not_serving(&self, index: usize) -> Refusal {
        let view = self.members[index].process.as_ref().and_then(|process| process.replica.status().view);
        answers::not_serving(MemberId(index as u64 + 1), view.as_ref())
    }

    // ----- what goes to the replica

    fn submit_op(&mut self, id: LineId, index: usize, op: &Op, asked: Asked) {
        match answers::command(op) {
            Ok(command) => self.submit_command(index, command, false, asked),
            Err(refusal) => {
                let answer = if matches!(asked, Asked::Open(_)) {
                    Packet::Opened(Err(refusal))
                } else {
                    Packet::Closed(Err(refusal))
                };
                self.send_on(id, false, answer);
            }
        }
    }

    fn submit_command(&mut self, index: usize, command: Vec<u8>, urgent: bool, asked: Asked) {
        let tag = self.asking.attempts.next_tag();
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.asked.insert(tag, asked);
        self.deliver(index, Input::Submit { tag, command, urgent });
    }

    fn on_submission(
        &mut self,
        id: LineId,
        index: usize,
        batch: lock_client::cores::BatchId,
        submission: lock_protocol::Submission,
    ) {
        let commands = match answers::commands(submission) {
            Ok(commands) => commands,
            Err(refusal) => return self.send_on(id, false, Packet::Submitted(batch, Err(refusal))),
        };
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.last_submission += 1;
        let number = process.edge.last_submission;
        process.edge.submissions.insert(number, Parts { line: id, batch, answers: vec![None; commands.len()] });
        for (place, command) in commands.into_iter().enumerate() {
            self.submit_command(index, command, false, Asked::Part(number, place));
        }
    }

    // ----- what comes from the replica

    /// The replica took a step: what its ops mean, and whether it serves; in the order of the contract.
    pub(crate) fn edge_after_step(&mut self, index: usize, serving: Option<bool>) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let (local, raw) = (process.local(now), process.raw(now));
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine_mut().locks_mut() else { return };
        let mut refused = Vec::new();
        if serving.is_some() && edge.serving {
            edge.serving = false;
            machine.set_serving(false);
            refused = edge.ticker.end();
            edge.revoker.on_event(local, RevokerEvent::Stopped);
            edge.retryer.on_event(local, RetryerEvent::Stopped);
        }
        let news = news(machine.take_effects());
        if edge.serving && !news.grants.is_empty() {
            edge.retryer.on_event(local, RetryerEvent::Granted(news.grants));
        }
        if edge.serving && !news.revokes.is_empty() {
            edge.revoker.on_event(local, RevokerEvent::Revokes(news.revokes));
        }
        if serving == Some(true) {
            edge.serving = true;
            edge.derived = false;
            machine.set_serving(true);
            edge.ticker.begin(local, raw);
            edge.revoker.on_event(local, RevokerEvent::Serving);
        }
        if !refused.is_empty() {
            let refusal = self.not_serving(index);
            for line in refused {
                self.send_on(line, false, Packet::Renewed(Err(refusal.clone())));
            }
        }
        self.edge_goes_on(index);
    }

    /// The replica answers a command; false where nobody asked it.
    pub(crate) fn on_command_answered(&mut self, index: usize, tag: Tag, answer: Result<Vec<u8>, Rejection>) -> bool {
        let Some(process) = self.members[index].process.as_mut() else { return true };
        let Some(asked) = process.edge.asked.remove(&tag) else { return false };
        match asked {
            Asked::Open(line) => {
                let answer = answer.map_err(answers::refusal_of).and_then(|bytes| answers::opened(&bytes));
                self.send_on(line, false, Packet::Opened(answer));
            }
            Asked::Close(line) => {
                let answer = answer.map_err(answers::refusal_of).and_then(|bytes| answers::closed(&bytes));
                self.send_on(line, false, Packet::Closed(answer));
            }
            Asked::Part(number, place) => self.on_part(index, number, place, answer),
            Asked::Tick => self.on_tick_answered(index, answer),
            Asked::Sweep => {
                let run = process.run;
                if answer.is_err() {
                    let pause = process.true_time(SWEEP_PAUSE.as_micros() as u64);
                    self.schedule(pause, Event::Lock(LockEvent::Sweep(index, run)));
                } else {
                    process.edge.sweeping = false;
                    self.edge_goes_on(index);
                }
            }
        }
        true
    }

    fn on_part(&mut self, index: usize, number: u64, place: usize, answer: Result<Vec<u8>, Rejection>) {
        let Some(process) = self.members[index].process.as_mut() else { return };
        let Some(parts) = process.edge.submissions.get_mut(&number) else { return };
        parts.answers[place] = Some(answer);
        if parts.answers.iter().any(Option::is_none) {
            return;
        }
        let Some(Parts { line, batch, answers }) = process.edge.submissions.remove(&number) else { return };
        let outcomes = answers::outcomes(answers.into_iter().flatten().collect());
        self.send_on(line, false, Packet::Submitted(batch, outcomes));
    }

    fn on_tick_answered(&mut self, index: usize, answer: Result<Vec<u8>, Rejection>) {
        let Some(process) = self.members[index].process.as_mut() else { return };
        let run = process.run;
        let mut next = None;
        let mut answered = Vec::new();
        match answer {
            Ok(reply) => {
                let (renewals, op) = process.edge.ticker.executed(&reply);
                let machine = process.replica.machine().locks();
                let notices = machine.map(|machine| notices_of(machine, &renewals.sessions()));
                answered = renewals.answers(notices);
                next = op;
            }
            Err(rejection) => {
                let refused = process.edge.ticker.rejected(rejection);
                answered.extend(refused.into_iter().map(|(line, refusal)| (line, Err(refusal))));
            }
        }
        for (line, answer) in answered {
            self.send_on(line, false, Packet::Renewed(answer));
        }
        if let Some(op) = next {
            self.submit_tick(index, run, &op);
        }
        self.edge_goes_on(index);
    }

    fn submit_tick(&mut self, index: usize, run: Run, op: &Op) {
        let command = op.encode();
        self.invariants.tick_made(run, self.now, &command);
        self.submit_command(index, command, true, Asked::Tick);
    }

    // ----- its own clock

    pub(crate) fn on_edge_time(&mut self, index: usize, run: Run) {
        let now = self.now;
        let Some(process) = self.process(index, run) else { return };
        if process.edge.looks_at.is_some_and(|at| at <= now) {
            process.edge.looks_at = None;
        }
        let local = process.local(now);
        let overdue = process.edge.calls.iter().filter(|(_, (_, _, until))| *until <= local);
        for call in overdue.map(|(call, _)| *call).collect::<Vec<_>>() {
            self.call_ended(index, call, false);
        }
        self.edge_goes_on(index);
    }

    pub(crate) fn on_close_tick(&mut self, index: usize, run: Run) {
        let now = self.now;
        let Some(process) = self.process(index, run) else { return };
        process.edge.closing = false;
        let raw = process.raw(now);
        let op = process.edge.ticker.close(|| raw);
        if let Some(op) = op {
            self.submit_tick(index, run, &op);
        }
        self.edge_goes_on(index);
    }

    pub(crate) fn on_sweep_again(&mut self, index: usize, run: Run) {
        let Some(process) = self.process(index, run) else { return };
        process.edge.sweeping = false;
        self.edge_goes_on(index);
    }

    fn call_ended(&mut self, index: usize, call: (bool, u64), acknowledged: bool) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let local = process.local(now);
        let Some((session, _, _)) = process.edge.calls.remove(&call) else { return };
        let (is_grant, number) = call;
        if is_grant {
            process.edge.retryer.on_event(local, RetryerEvent::Ended { session, number, acknowledged });
        } else {
            process.edge.revoker.on_event(local, RevokerEvent::Ended(session, number));
        }
        if !acknowledged {
            self.invariants.counters.hit("calls to clients that failed");
        }
        self.edge_goes_on(index);
    }

    /// Does all that is to be done now, and plans the next look at the clock.
    fn edge_goes_on(&mut self, index: usize) {
        while self.revoker_acts(index) || self.retryer_acts(index) {}
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let (local, raw, run) = (process.local(now), process.raw(now), process.run);
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine().locks() else { return };
        let tick = edge.ticker.due(local, machine.shortest_lease(), || raw);
        let ticks_now = tick.is_some_and(|at| at <= local) && !edge.closing;
        edge.closing |= ticks_now;
        let sweeps = edge.serving && machine.needs_sweep() && !edge.sweeping;
        edge.sweeping |= sweeps;
        let call = edge.calls.values().map(|(_, _, until)| *until).min();
        let next = [tick.filter(|at| *at > local), edge.revoker.due(), edge.retryer.due(), call];
        let next = next.into_iter().flatten().min();
        if let Some(next) = next {
            let left = process.true_time(next.saturating_sub(local).as_micros() as u64) + 1;
            let at = now + left;
            if process.edge.looks_at.is_none_or(|planned| planned > at) {
                process.edge.looks_at = Some(at);
                self.schedule(left, Event::Lock(LockEvent::EdgeTime(index, run)));
            }
        }
        if ticks_now {
            self.schedule(0, Event::Lock(LockEvent::CloseTick(index, run)));
        }
        if sweeps {
            self.submit_command(index, Op::Sweep.encode(), false, Asked::Sweep);
        }
    }

    fn revoker_acts(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return false };
        let local = process.local(now);
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine().locks() else { return false };
        let Some(action) = edge.revoker.next_action(local) else { return false };
        match action {
            Action::CloseConnections => {
                for line in std::mem::take(&mut edge.callbacks).into_values() {
                    self.line_ended_at_member(line, index);
                }
            }
            Action::Call(call) => self.call_client(index, false, call),
            Action::Derive { after, limit } => {
                let revokes = machine.outstanding_revokes(after.as_ref(), limit);
                if !std::mem::replace(&mut edge.derived, true) {
                    self.invariants.counters.add("revokes derived by a new primary", revokes.len() as u64);
                }
                edge.revoker.derived(local, Some(revokes));
            }
            Action::Look(wanted) => {
                let pages = pages(machine, &wanted);
                let count = pages.iter().map(Vec::len).sum::<usize>();
                self.invariants.counters.add("revokes repeated", count as u64);
                edge.revoker.looked(local, wanted, Some(pages));
            }
        }
        true
    }

    fn retryer_acts(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return false };
        let local = process.local(now);
        let Some(call) = process.edge.retryer.next_call(local) else { return false };
        self.call_client(index, true, call);
        true
    }

    fn call_client(&mut self, index: usize, is_grant: bool, Call { session, number, notices }: Call) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let local = process.local(now);
        let Some(line) = process.edge.callbacks.get(&session).copied() else {
            self.invariants.counters.hit("calls to clients without a connection");
            return match is_grant {
                true => process.edge.retryer.not_connected(local, session),
                false => process.edge.revoker.not_connected(session),
            };
        };
        let until = local + lock_server::primary::CALL_TIMEOUT;
        process.edge.calls.insert((is_grant, number), (session, line, until));
        self.send_on(line, false, Packet::Notify { is_grant, number, notices });
    }
}
