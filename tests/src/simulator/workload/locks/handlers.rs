//! A member's handlers: each takes one request of a client to the replica, and its answer back.
//!
//! A handler is a task of its own. So two requests of one connection may reach the replica in either order, and a request is executed
//! though its connection has ended meanwhile.

use lock_client::cores::BatchId;
use lock_protocol::{RecoveryReport, Refusal, SessionId, SessionOptions, Submission};
use lock_server::machine::Op;
use lock_server::primary::{RetryerEvent, RevokerEvent, SWEEP_PAUSE, answers};
use rsm::{Input, MemberId, Rejection, Tag};

use super::calls::{CallId, Kind};
use super::{LineId, LockEvent, Packet};
use crate::simulator::invariants::{Check, Run, Violation};
use crate::simulator::world::{Event, World};

/// Who waits for a command.
#[derive(Debug)]
pub(super) enum Asked {
    Open(LineId),
    Close(LineId),
    Report(LineId, RecoveryReport),
    /// A part of a submission, and its place there.
    Part(u64, usize),
    Call(CallId, Kind),
    Tick,
    Sweep,
}

/// Who waits for a submission.
#[derive(Clone, Copy, Debug)]
pub(super) enum Submitter {
    Line(LineId, BatchId),
    Call(CallId),
}

/// A submission whose commands are under way.
#[derive(Debug)]
pub(super) struct Parts {
    of: Submitter,
    answers: Vec<Option<Result<Vec<u8>, Rejection>>>,
}

impl World {
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
            Packet::Open(_) | Packet::Close(..) | Packet::Submit(..) | Packet::KeepAlive(_) | Packet::Report(_) => {
                match self.lock_dice.below(self.plan.locks.others.handler_us + 1) {
                    0 => self.handle(id, index, run, packet),
                    wait => {
                        self.schedule(wait, Event::Lock(LockEvent::Handle { line: id, member: index, run, packet }))
                    }
                }
            }
            Packet::Taken { is_grant, number } => self.call_ended(index, (is_grant, number), true),
            Packet::End => self.line_ended_at_member(id, index),
            _ => {}
        }
    }

    /// A handler has its turn.
    pub(crate) fn handle(&mut self, id: LineId, index: usize, run: Run, packet: Packet) {
        if self.process(index, run).is_none() {
            return;
        }
        match packet {
            Packet::Open(with) => {
                let is_plain = with.options == SessionOptions::default();
                let op = if is_plain { Op::Open(with.open) } else { Op::OpenWith(with) };
                self.submit_op(id, index, &op, Asked::Open(id));
            }
            Packet::Close(session, None) => self.submit_op(id, index, &Op::Close { session }, Asked::Close(id)),
            Packet::Close(session, Some(end)) => {
                self.submit_op(id, index, &Op::End { session, end }, Asked::Close(id));
            }
            Packet::Report(report) => self.submit_op(id, index, &Op::Recovery(report), Asked::Report(id, report)),
            Packet::Submit(batch, submission) => self.on_submission(Submitter::Line(id, batch), index, submission),
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

    pub(super) fn line_ended_at_member(&mut self, id: LineId, index: usize) {
        self.close_at_member(id);
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.callbacks.retain(|_, line| *line != id);
        let broken = process.edge.calls.iter().filter(|(_, (_, line, _))| *line == id);
        for call in broken.map(|(call, _)| *call).collect::<Vec<_>>() {
            self.call_ended(index, call, false);
        }
    }

    pub(super) fn not_serving(&self, index: usize) -> Refusal {
        let view = self.members[index].process.as_ref().and_then(|process| process.replica.status().view);
        answers::not_serving(MemberId(index as u64 + 1), view.as_ref())
    }

    // ----- what goes to the replica

    fn submit_op(&mut self, id: LineId, index: usize, op: &Op, asked: Asked) {
        match answers::command(op) {
            Ok(command) => self.submit_command(index, command, false, asked),
            Err(refusal) => {
                let answer = match asked {
                    Asked::Open(_) => Packet::Opened(Err(refusal)),
                    Asked::Report(_, report) => Packet::Reported(report, Err(refusal)),
                    _ => Packet::Closed(Err(refusal)),
                };
                self.send_on(id, false, answer);
            }
        }
    }

    pub(super) fn submit_command(&mut self, index: usize, command: Vec<u8>, urgent: bool, asked: Asked) {
        let tag = self.asking.attempts.next_tag();
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.asked.insert(tag, asked);
        self.deliver(index, Input::Submit { tag, command, urgent });
    }

    pub(super) fn on_submission(&mut self, of: Submitter, index: usize, submission: Submission) {
        let commands = match answers::commands(submission) {
            Ok(commands) => commands,
            Err(refusal) => return self.answer_submitter(of, Err(refusal)),
        };
        let Some(process) = self.members[index].process.as_mut() else { return };
        process.edge.last_submission += 1;
        let number = process.edge.last_submission;
        process.edge.submissions.insert(number, Parts { of, answers: vec![None; commands.len()] });
        for (place, command) in commands.into_iter().enumerate() {
            self.submit_command(index, command, false, Asked::Part(number, place));
        }
    }

    /// The replica answers a command, which somebody has asked it.
    pub(crate) fn on_command_answered(&mut self, index: usize, tag: Tag, answer: Result<Vec<u8>, Rejection>) -> Check {
        let Some(process) = self.members[index].process.as_mut() else { return Ok(()) };
        let Some(asked) = process.edge.asked.remove(&tag) else {
            let detail = format!("tag {tag} by member {}", index + 1);
            return Err(Violation::new("a command is answered once", detail));
        };
        match asked {
            Asked::Open(line) => {
                let answer = answer.map_err(answers::refusal_of).and_then(|bytes| answers::opened(&bytes));
                self.send_on(line, false, Packet::Opened(answer));
            }
            Asked::Close(line) => {
                let answer = answer.map_err(answers::refusal_of).and_then(|bytes| answers::closed(&bytes));
                self.send_on(line, false, Packet::Closed(answer));
            }
            Asked::Report(line, report) => {
                let answer = answer.map_err(answers::refusal_of).and_then(|bytes| answers::recovery(&bytes));
                self.send_on(line, false, Packet::Reported(report, answer));
            }
            Asked::Call(call, kind) => self.answer_call(call, kind.answer(answer)),
            Asked::Part(number, place) => self.on_part(index, number, place, answer),
            Asked::Tick => return self.on_tick_answered(index, answer),
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
        Ok(())
    }

    fn on_part(&mut self, index: usize, number: u64, place: usize, answer: Result<Vec<u8>, Rejection>) {
        let Some(process) = self.members[index].process.as_mut() else { return };
        let Some(parts) = process.edge.submissions.get_mut(&number) else { return };
        parts.answers[place] = Some(answer);
        if parts.answers.iter().any(Option::is_none) {
            return;
        }
        let Some(Parts { of, answers }) = process.edge.submissions.remove(&number) else { return };
        let outcomes = answers::outcomes(answers.into_iter().flatten().collect());
        self.answer_submitter(of, outcomes);
    }

    fn answer_submitter(&mut self, of: Submitter, outcomes: Result<Vec<lock_protocol::Outcome>, Refusal>) {
        match of {
            Submitter::Line(line, batch) => self.send_on(line, false, Packet::Submitted(batch, outcomes)),
            Submitter::Call(call) => self.answer_call(call, outcomes.map(super::calls::Told::Outcomes)),
        }
    }
}
