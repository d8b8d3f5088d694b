//! Calls of those who keep no connection: operators, and strangers who speak the protocol in their own way.
//!
//! A call goes to one member, and may be lost, doubled or late, as its answer may; so calls overtake each other.

use std::collections::BTreeMap;

use lock_protocol::{Answer, ForcedTenure, Opened, Outcome, RecoveryAnswer, Refusal, Submission};
use lock_server::machine::Op;
use lock_server::primary::answers;
use rsm::Rejection;

use super::LockEvent;
use super::handlers::{Asked, Submitter};
use crate::simulator::invariants::Check;
use crate::simulator::world::{Event, World};

/// A call, by the order in which it was made.
pub(crate) type CallId = u64;

/// Chance that a call or its answer is lost while faults happen; that one comes late; that it comes twice. Per million.
const LOST: u64 = 30_000;
const LATE: u64 = 100_000;
const TWICE: u64 = 30_000;
/// How late, µs.
const LATE_US: (u64, u64) = (1_000, 2_000_000);
/// Chance that a caller knows who serves, per million.
const KNOWS: u64 = 800_000;

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Operator,
    /// A stranger, and how many sessions it had had.
    Stranger(usize, u64),
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    Op(Op),
    Submission(Submission),
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Opened(Opened),
    Closed,
    Outcomes(Vec<Outcome>),
    Answer(Answer),
    Forced(Vec<ForcedTenure>),
    Recovery(RecoveryAnswer),
}

/// What kind of answer an op has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Open,
    Close,
    Read,
    Force,
    Recovery,
}

/// Calls that were not answered.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: CallId,
    callers: BTreeMap<CallId, (Caller, Asking)>,
}

impl Kind {
    fn of(op: &Op) -> Kind {
        match op {
            Op::Open(_) | Op::OpenWith(_) => Kind::Open,
            Op::Close { .. } | Op::End { .. } => Kind::Close,
            Op::ForceRelease(_) | Op::ForceKept { .. } => Kind::Force,
            Op::Recovery(_) => Kind::Recovery,
            _ => Kind::Read,
        }
    }

    /// As the service translates the replica's answer.
    pub(super) fn answer(self, answer: Result<Vec<u8>, Rejection>) -> Result<Told, Refusal> {
        let bytes = answer.map_err(answers::refusal_of)?;
        match self {
            Kind::Open => answers::opened(&bytes).map(Told::Opened),
            Kind::Close => answers::closed(&bytes).map(|()| Told::Closed),
            Kind::Read => answers::answer(&bytes).map(Told::Answer),
            Kind::Force => answers::forced(&bytes).map(Told::Forced),
            Kind::Recovery => answers::recovery(&bytes).map(Told::Recovery),
        }
    }
}

impl World {
    pub(super) fn call(&mut self, caller: Caller, asking: Asking) {
        self.locks.calls.last += 1;
        let call = self.locks.calls.last;
        self.locks.calls.callers.insert(call, (caller, asking.clone()));
        let knows = self.lock_dice.chance(KNOWS);
        let member = match self.serving().filter(|_| knows) {
            Some(member) => member,
            None => self.lock_dice.index(self.members.len()),
        };
        let times = 1 + u64::from(self.lock_dice.chance(TWICE));
        for _ in 0..times {
            if let Some(delay) = self.call_delay() {
                self.schedule(delay, Event::Lock(LockEvent::Call { member, call, asking: asking.clone() }));
            }
        }
    }

    /// None where it is lost.
    fn call_delay(&mut self) -> Option<u64> {
        let delay = self.lock_dice.between(self.plan.locks.delay_us);
        if !self.unsafe_now {
            return Some(delay);
        }
        let late = if self.lock_dice.chance(LATE) { self.lock_dice.spread(LATE_US) } else { 0 };
        (!self.lock_dice.chance(LOST)).then_some(delay + late)
    }

    pub(crate) fn on_call(&mut self, member: usize, call: CallId, asking: Asking) {
        if self.members[member].process.is_none() {
            return;
        }
        match asking {
            Asking::Submission(submission) => self.on_submission(Submitter::Call(call), member, submission),
            Asking::Op(op) => match answers::command(&op) {
                Ok(command) => self.submit_command(member, command, false, Asked::Call(call, Kind::of(&op))),
                Err(refusal) => self.answer_call(call, Err(refusal)),
            },
        }
    }

    pub(super) fn answer_call(&mut self, call: CallId, answer: Result<Told, Refusal>) {
        if let Some(delay) = self.call_delay() {
            self.schedule(delay, Event::Lock(LockEvent::Told { call, answer }));
        }
    }

    pub(crate) fn on_told(&mut self, call: CallId, answer: Result<Told, Refusal>) -> Check {
        let Some((caller, asking)) = self.locks.calls.callers.remove(&call) else { return Ok(()) };
        if answer.is_ok() {
            self.answers_ok += 1;
        }
        self.trace.note(self.now, [31, call, 0], || format!("  {caller:?} is told of {asking:?}: {answer:?}"));
        match (caller, answer) {
            (Caller::Operator, Ok(Told::Answer(answer))) => self.operator_reads(answer),
            (Caller::Operator, Ok(Told::Forced(tenures))) => {
                self.invariants.counters.add("operators that were told of a tenure's end", tenures.len() as u64);
            }
            (Caller::Operator, _) => {}
            (Caller::Stranger(stranger, life), answer) => self.stranger_hears(stranger, life, asking, answer),
        }
        Ok(())
    }
}
