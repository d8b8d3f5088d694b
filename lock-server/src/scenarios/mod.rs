//! Scenarios of a primary: its cores and the machine together, in time that a script moves; [`bugs`] shows that the absence of each
//! rule is seen. The M numbers are those of the review that the rules came from:
//!
//! | M | what | seen by | known bug |
//! |---|---|---|---|
//! | 1 | the clock is read after the keep-alives were taken, T added before they count | `bugs`, `a_long_pause..`, `a_tick_renews..` | clock-first, elapsed-twice, answers-later |
//! | 2 | each transmission of a keep-alive counts by itself | `each_transmission..` | |
//! | 3 | a repeated open gets its session | `a_repeated_open..` | ignores-nonce |
//! | 4 | time goes on while there is a session, and counts from the barrier | `leases_end..`, `time_that_passed..` | former-term |
//! | 5 | an outage costs at most two caps, one tick is uncommitted | `bugs`, `a_tick_that_is_busy..`, `a_tick_whose_fate..` | no-cap |
//! | 6 | a tick takes all that came, and is never busy | `a_tick_takes..`, `a_tick_that_is_busy..` | |
//! | 7 | dead is dead, before the tick's own keep-alives | `a_keep_alive_in_the_tick..`, `a_dead_waiter..` | revives, grants-dead, expires-early |
//! | 8 | a fail-over extends no lease | `fail_overs_more_often..` | |
//! | 11 | "queued" is an answer; a repetition is answered from the lock | `a_repeated_acquire..`, `a_grant_is_told..`, `a_new_primary_tells..` | stale-queued |
//! | 12 | a cancel ends whatever its acquire has come to | `a_cancel_that_..` | cancel-keeps, cancel-forgotten |
//! | 13 | a holder's acquire is refused, a release names its tenure | `a_holders_acquire..`, `a_release_with_another..` | release-unchecked, executes-twice |
//! | 14 | first come, first served; the hint means conflicting ones | `grants_say_that_others..` | last-come-first, shared-overtakes |
//! | 15 | a downgrade keeps the token, a revoke says what may stay | `a_downgrade_keeps..`, `a_revoke_of_a_lock..` | revokes-newest |
//! | 16 | keep-alives carry revokes | `a_holder_without..` | lost-revoke, revokes-once |
//! | 20 | a number below the floor is not executed, the window is bounded | `a_number_below..` | ignores-floor, snapshot-forgets |
//! | 25 | a dead session is recovered by one live session at a time, and its locks wait for it | [`recovery`] | frees-unrecovered, any-recoverer |
//! | | a lock delay withholds what the dead held | `bugs`, `a_lock_delay_and..` | ignores-delay |
//! | 23 | force withholds, and tells until it is confirmed | [`force`] | forces-at-once, forces-silently |
//!
//! What is not here is in `machine::scripts`.

mod bugs;
mod duties;
mod force;
mod leases;
mod recovery;

use std::collections::BTreeSet;
use std::time::Duration;

use lock_protocol::{
    ClientIdentity, Command, FencingToken, ForceRelease, ForcedTenure, KeepAlive, LockName, Mode, Notice, Open,
    Outcome, Refusal, Renewed, Request, RequestNumber, SessionId,
};
use rsm::{Rejection, StateMachine};

use crate::machine::{Machine, Op, Reply};
use crate::mutant::Mutant;
use crate::primary::{
    Action, Call, RawTime, Retryer, RetryerEvent, Revoker, RevokerEvent, Ticker, news, notices_of, pages,
};

pub(crate) const S: Mode = Mode::Shared;
pub(crate) const X: Mode = Mode::Exclusive;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).expect("a lock name")
}

pub(crate) fn token(outcome: &Outcome) -> FencingToken {
    match outcome {
        Outcome::Granted { token, .. } => *token,
        other => panic!("not granted: {other:?}"),
    }
}

/// A primary whose ops are committed at once, and clients that answer every call unless told otherwise.
pub(crate) struct Primary {
    pub(crate) machine: Machine,
    pub(crate) ticker: Ticker<u64>,
    pub(crate) revoker: Revoker,
    pub(crate) retryer: Retryer,
    pub(crate) now: Duration,
    pub(crate) stamp: u64,
    /// Keep-alives' answers, by stamp.
    pub(crate) answers: Vec<(u64, Result<Renewed, Refusal>)>,
    /// Calls to clients, in their order.
    pub(crate) calls: Vec<Call>,
    /// Sessions with a callback connection.
    pub(crate) connected: BTreeSet<SessionId>,
    /// Calls are not answered.
    pub(crate) is_deaf: bool,
    op: u64,
    next_number: u64,
}

impl Primary {
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        let mut machine = Machine::default().with_mutant(mutant);
        machine.set_serving(true);
        let mut ticker = Ticker::default().with_mutant(mutant);
        ticker.begin(Duration::ZERO, RawTime::from_ns(0));
        Primary {
            machine,
            ticker,
            revoker: Revoker::default().with_mutant(mutant),
            retryer: Retryer::default(),
            now: Duration::ZERO,
            stamp: 0,
            answers: Vec::new(),
            calls: Vec::new(),
            connected: BTreeSet::new(),
            is_deaf: false,
            op: 0,
            next_number: 1,
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Reply {
        self.op += 1;
        let reply = self.machine.apply(self.op, &op.encode());
        let news = news(self.machine.take_effects());
        self.revoker.on_event(self.now, RevokerEvent::Revokes(news.revokes));
        self.revoker.on_event(self.now, RevokerEvent::Notices(news.notices));
        self.retryer.on_event(self.now, RetryerEvent::Granted(news.grants));
        self.tell();
        Reply::decode(&reply).expect("replies decode")
    }

    pub(crate) fn open(&mut self, nonce: u128, lease_ms: u64) -> SessionId {
        let open = Open { nonce, lease_ms, identity: ClientIdentity::default() };
        match self.apply(&Op::Open(open)) {
            Reply::Opened(opened) => opened.session,
            other => panic!("not opened: {other:?}"),
        }
    }

    /// A request under this number, from a client whose floor is `floor`.
    pub(crate) fn number(&mut self, session: SessionId, floor: u64, number: u64, command: Command) -> Outcome {
        let request = Request { number: RequestNumber(number), command };
        match self.apply(&Op::Request { session, floor: RequestNumber(floor), request }) {
            Reply::Outcome(outcome) => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, session: SessionId, command: Command) -> Outcome {
        self.next_number += 1;
        self.number(session, 1, self.next_number - 1, command)
    }

    pub(crate) fn acquire(&mut self, session: SessionId, text: &str, mode: Mode) -> Outcome {
        self.ask(session, Command::Acquire { name: name(text), mode })
    }

    pub(crate) fn release(&mut self, session: SessionId, text: &str, token: FencingToken) -> Outcome {
        self.ask(session, Command::Release { name: name(text), token, requeue: None })
    }

    /// Ends a tenure by force.
    pub(crate) fn force(&mut self, text: &str, token: FencingToken, now: bool) -> Vec<ForcedTenure> {
        match self.apply(&Op::ForceRelease(ForceRelease { name: name(text), token, now })) {
            Reply::Forced(tenures) => tenures,
            other => panic!("not forced: {other:?}"),
        }
    }

    /// Cleans up as long as there is something to clean up behind.
    pub(crate) fn sweep(&mut self) {
        while self.machine.needs_sweep() {
            self.apply(&Op::Sweep);
        }
    }

    pub(crate) fn holders(&self, text: &str) -> Vec<SessionId> {
        self.machine.holders_of(&name(text))
    }

    /// A keep-alive arrives now; gives its stamp.
    pub(crate) fn keep_alive(&mut self, session: SessionId) -> u64 {
        self.stamp += 1;
        let keep_alive = KeepAlive { session, stamp: self.stamp, floor: RequestNumber(1) };
        self.ticker.take_in(keep_alive, self.stamp);
        self.stamp
    }

    pub(crate) fn answer_to(&self, stamp: u64) -> Option<&Result<Renewed, Refusal>> {
        self.answers.iter().find(|(answered, _)| *answered == stamp).map(|(_, answer)| answer)
    }

    /// The clock.
    pub(crate) fn reading(&self) -> RawTime {
        RawTime::from_ns(u64::try_from(self.now.as_nanos()).expect("some minutes"))
    }

    pub(crate) fn due(&mut self) -> Option<Duration> {
        let reading = self.reading();
        self.ticker.due(self.now, self.machine.shortest_lease(), || reading)
    }

    /// Closes the tick that is due.
    pub(crate) fn close(&mut self) -> Option<Op> {
        let reading = self.reading();
        self.ticker.close(|| reading)
    }

    /// Executes a tick's op, and those that follow.
    pub(crate) fn execute(&mut self, op: Op) {
        let mut next = Some(op);
        while let Some(op) = next {
            let reply = self.apply(&op).encode();
            let (renewals, more) = self.ticker.executed(&reply);
            let notices = notices_of(&self.machine, &renewals.sessions());
            self.answers.extend(renewals.answers(Some(notices)));
            next = more;
        }
    }

    /// The tick under way is rejected.
    pub(crate) fn reject(&mut self, rejection: Rejection) {
        let refused = self.ticker.rejected(rejection);
        self.answers.extend(refused.into_iter().map(|(stamp, refusal)| (stamp, Err(refusal))));
    }

    /// Lets time pass, ticking; dead sessions are not swept.
    pub(crate) fn run_until(&mut self, end: Duration) {
        loop {
            let due = self.due();
            let next = [due, self.revoker.due(), self.retryer.due()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if due.is_some_and(|due| due <= self.now)
                && let Some(op) = self.close()
            {
                self.execute(op);
            }
            self.tell();
        }
        self.now = self.now.max(end);
    }

    /// Lets time pass, renewing these ten times a second.
    pub(crate) fn run_renewing(&mut self, end: Duration, sessions: &[SessionId]) {
        while self.now < end {
            for &session in sessions {
                self.keep_alive(session);
            }
            self.run_until((self.now + ms(100)).min(end));
        }
    }

    /// The time at which a session dies without further keep-alives, to 10 ms.
    pub(crate) fn dies_at(&mut self, session: SessionId) -> Duration {
        let end = self.now + Duration::from_secs(120);
        while self.machine.lives(session) && self.now < end {
            self.run_until(self.now + ms(10));
        }
        self.now
    }

    /// Another member becomes primary, from a snapshot, and knows nothing else.
    pub(crate) fn fail_over(&mut self, mutant: Option<Mutant>) {
        let mut machine = Machine::default().with_mutant(mutant);
        machine.restore(&self.machine.snapshot()).expect("own snapshot");
        machine.set_serving(true);
        let refused = self.ticker.end();
        self.answers.extend(refused.into_iter().map(|stamp| (stamp, Err(Refusal::ViewChanging))));
        self.machine = machine;
        self.ticker = Ticker::default().with_mutant(mutant);
        self.ticker.begin(self.now, self.reading());
        self.revoker.on_event(self.now, RevokerEvent::Stopped);
        self.retryer.on_event(self.now, RetryerEvent::Stopped);
        self.revoker.on_event(self.now, RevokerEvent::Serving);
        self.tell();
    }

    /// What revoker and retryer want done now.
    pub(crate) fn tell(&mut self) {
        while let Some(action) = self.revoker.next_action(self.now) {
            match action {
                Action::CloseConnections => {}
                Action::Call(call) => {
                    let (session, number) = (call.session, call.number);
                    if !self.call(call) {
                        self.revoker.not_connected(session);
                    } else if !self.is_deaf {
                        self.revoker.on_event(self.now, RevokerEvent::Ended(session, number));
                    }
                }
                Action::Derive { after, limit } => {
                    let revokes = self.machine.outstanding_revokes(after.as_ref(), limit);
                    self.revoker.derived(self.now, Some(revokes));
                }
                Action::Look(wanted) => {
                    let pages = pages(&self.machine, &wanted);
                    self.revoker.looked(self.now, wanted, Some(pages));
                }
            }
        }
        while let Some(call) = self.retryer.next_call(self.now) {
            let (session, number) = (call.session, call.number);
            if !self.call(call) {
                self.retryer.not_connected(self.now, session);
            } else if !self.is_deaf {
                let ended = RetryerEvent::Ended { session, number, acknowledged: true };
                self.retryer.on_event(self.now, ended);
            }
        }
    }

    fn call(&mut self, call: Call) -> bool {
        let is_connected = self.connected.contains(&call.session);
        if is_connected {
            self.calls.push(call);
        }
        is_connected
    }

    /// What this session was told over its callback connection.
    pub(crate) fn heard(&self, session: SessionId) -> Vec<Notice> {
        let calls = self.calls.iter().filter(|call| call.session == session);
        calls.flat_map(|call| call.notices.clone()).collect()
    }
}
