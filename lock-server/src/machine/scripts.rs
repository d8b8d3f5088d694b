//! Scripts: one situation of clients and ops each, and what must come of it.

mod formats;
mod lock_delay;
mod locks;
mod queries;
mod requests;
mod restored;
mod sessions;
mod sets;
mod statistics;

use lock_protocol::{
    Answer, ClientIdentity, Command, FencingToken, LockName, Mode, Open, Outcome, Query, Request, RequestNumber,
    SessionId,
};
use rsm::StateMachine;

use super::{Effect, Limits, Machine, Op, Reply};

const S: Mode = Mode::Shared;
const X: Mode = Mode::Exclusive;

/// A machine, and clients that number their requests as they should.
struct Script {
    machine: Machine,
    op: u64,
    next: u64,
}

fn name(text: &str) -> LockName {
    LockName::new(text).expect("a lock name")
}

fn token(outcome: &Outcome) -> FencingToken {
    match outcome {
        Outcome::Granted { token, .. } => *token,
        other => panic!("not granted: {other:?}"),
    }
}

impl Script {
    fn new() -> Self {
        Script::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut machine = Machine::new(limits);
        machine.set_serving(true);
        Script { machine, op: 0, next: 1 }
    }

    fn apply(&mut self, op: &Op) -> Reply {
        self.op += 1;
        Reply::decode(&self.machine.apply(self.op, &op.encode())).expect("replies decode")
    }

    fn try_open(&mut self, nonce: u128, lease_ms: u64) -> Reply {
        self.apply(&Op::Open(Open { nonce, lease_ms, identity: ClientIdentity::default() }))
    }

    fn open(&mut self, nonce: u128, lease_ms: u64) -> SessionId {
        match self.try_open(nonce, lease_ms) {
            Reply::Opened(opened) => opened.session,
            other => panic!("not opened: {other:?}"),
        }
    }

    fn number(&mut self, session: SessionId, number: u64, command: Command) -> Outcome {
        let request = Request { number: RequestNumber(number), command };
        match self.apply(&Op::Request { session, floor: RequestNumber(1), request }) {
            Reply::Outcome(outcome) => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }

    fn next(&mut self, session: SessionId, command: Command) -> Outcome {
        self.next += 1;
        self.number(session, self.next - 1, command)
    }

    fn acquire(&mut self, session: SessionId, text: &str, mode: Mode) -> Outcome {
        self.next(session, Command::Acquire { name: name(text), mode })
    }

    fn release(&mut self, session: SessionId, text: &str, token: FencingToken, requeue: Option<Mode>) -> Outcome {
        self.next(session, Command::Release { name: name(text), token, requeue })
    }

    fn cancel(&mut self, session: SessionId, text: &str, acquire: u64) -> Outcome {
        self.next(session, Command::Cancel { name: name(text), acquire: RequestNumber(acquire) })
    }

    fn tick(&mut self, elapsed_ms: u64, sessions: &[SessionId]) -> Vec<SessionId> {
        let keep_alives = sessions.iter().map(|&session| (session, RequestNumber(1))).collect();
        match self.apply(&Op::Tick { elapsed_us: elapsed_ms * 1000, keep_alives }) {
            Reply::Ticked { gone, .. } => gone,
            other => panic!("not ticked: {other:?}"),
        }
    }

    /// Lets time pass, renewing these.
    fn pass(&mut self, ms: u64, sessions: &[SessionId]) {
        for _ in 0..ms / 50 {
            assert_eq!(self.tick(50, sessions), []);
        }
    }

    fn holders(&mut self, text: &str) -> Vec<SessionId> {
        match self.apply(&Op::Read(Query::Inspect { name: name(text) })) {
            Reply::Answer(Answer::Inspect(entry)) => entry.holders.iter().map(|holder| holder.session).collect(),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn waiters(&mut self, text: &str) -> Vec<SessionId> {
        match self.apply(&Op::Read(Query::Inspect { name: name(text) })) {
            Reply::Answer(Answer::Inspect(entry)) => entry.waiters.iter().map(|waiter| waiter.session).collect(),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn restart_from_snapshot(&mut self) {
        let mut restored = Machine::default();
        restored.restore(&self.machine.snapshot()).expect("own snapshot");
        assert_eq!(restored.digest(), self.machine.digest());
        assert_eq!(restored.hash(), self.machine.hash());
        restored.set_serving(true);
        self.machine = restored;
    }
}

fn granted(effects: &[Effect]) -> Vec<(SessionId, bool)> {
    let grants = effects.iter().filter_map(|effect| match effect {
        Effect::Granted { session, others_waiting, .. } => Some((*session, *others_waiting)),
        _ => None,
    });
    grants.collect()
}

#[test]
fn an_op_number_that_was_executed_is_not_executed_again() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    let before = (script.machine.digest(), script.machine.hash());
    let again = script.machine.apply(1, &Op::Close { session }.encode());
    assert_eq!(Reply::decode(&again), Ok(Reply::Replayed));
    assert_eq!((script.machine.digest(), script.machine.hash()), before);
}

#[test]
fn bytes_that_are_no_op_change_only_the_hash() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    script.acquire(session, "a", X);
    let hash = script.machine.hash();
    let reply = script.machine.apply(script.op + 1, b"\x01\x63no op");
    assert_eq!(Reply::decode(&reply), Ok(Reply::Malformed));
    assert_ne!(script.machine.hash(), hash);
    script.op += 1;
    assert_eq!((script.machine.lock_count(), script.holders("a")), (1, vec![session]));
}
