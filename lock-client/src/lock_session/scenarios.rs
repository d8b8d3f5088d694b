//! A session event by event. Tests that begin with an M number are the client's part of that scenario of the protocol review.

use lock_protocol::{Command, LockSet, Opened, RequestNumber};

use super::*;
use crate::fate::SessionEvent;
use Mode::{Exclusive, Shared};

struct Script {
    session: LockSession<char>,
    now: Clocks,
    effects: Vec<SessionEffect<char>>,
}

fn name() -> LockName {
    LockName::new("orders/42").expect("a name")
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::Tcp(format!("h:{port}"))
}

fn granted(token: u64) -> Outcome {
    Outcome::Granted { token: FencingToken(token), others_waiting: false }
}

impl Script {
    /// A session with a lease of 10 s (9 s less the margin), connected at 100 s.
    fn new() -> Self {
        let now = Clocks { boot_ns: 100_000_000_000, real_ns: 0 };
        let opened = Opened { session: SessionId(7), lease_ms: 10_000 };
        let session = Session::opened(opened, now).expect("a lease that the protocol allows");
        let route = Route::new(vec![endpoint(1), endpoint(2), endpoint(3)]).expect("there are some");
        let limits = CacheLimits { locks: 100, idle_ns: u64::MAX };
        let session = LockSession::new(session, endpoint(1), route, limits, true);
        let mut script = Script { session, now, effects: Vec::new() };
        script.connect();
        script
    }

    fn step<R>(&mut self, act: impl FnOnce(&mut LockSession<char>, Clocks) -> R) -> R {
        let result = act(&mut self.session, self.now);
        self.effects.extend(self.session.take_effects());
        result
    }

    fn advance(&mut self, ms: u64) {
        self.now.boot_ns += ms * 1_000_000;
        self.now.real_ns += ms * 1_000_000;
    }

    /// Lets time go by, with a look at each moment that is due.
    fn run(&mut self, ms: u64) {
        let end_ns = self.now.boot_ns + ms * 1_000_000;
        while let Some(next_ns) = self.session.next_ns().filter(|next_ns| *next_ns < end_ns) {
            let step_ns = next_ns.saturating_sub(self.now.boot_ns).max(1_000_000);
            self.now.boot_ns += step_ns;
            self.now.real_ns += step_ns;
            self.step(LockSession::on_time);
        }
        let left_ms = end_ns.saturating_sub(self.now.boot_ns) / 1_000_000;
        self.advance(left_ms);
        self.step(LockSession::on_time);
    }

    fn link(&self) -> LinkId {
        self.session.link
    }

    fn connect(&mut self) {
        let link = self.link();
        self.step(|session, now| session.on_connected(now, link));
    }

    fn disconnect(&mut self) {
        let link = self.link();
        self.step(|session, now| session.on_disconnected(now, link, "gone"));
    }

    fn acquire(&mut self, mode: Mode, waiter: char) -> Acquired {
        self.step(|session, now| session.acquire(now, &name(), mode, waiter)).expect("the session is open")
    }

    /// The submissions since the last look: batch, and each request as (number, text).
    fn submitted(&mut self) -> Vec<(BatchId, Vec<(u64, String)>)> {
        let mut all = Vec::new();
        self.effects.retain(|effect| {
            let SessionEffect::Submit { batch, submission, .. } = effect else { return true };
            let requests = submission.requests.iter().map(|request| {
                let text = match &request.command {
                    Command::Acquire { mode, .. } => format!("acquire {mode}"),
                    Command::Cancel { acquire, .. } => format!("cancel {acquire}"),
                    Command::Release { token, .. } => format!("release {token}"),
                    Command::Downgrade { token, .. } => format!("downgrade {token}"),
                    Command::Upgrade { token, .. } => format!("upgrade {token}"),
                    Command::AcquireAll { set } => format!("acquire {}", set.len()),
                };
                (request.number.0, text)
            });
            all.push((*batch, requests.collect()));
            false
        });
        all
    }

    fn answer(&mut self, batch: BatchId, outcome: Outcome) {
        let link = self.link();
        self.step(|session, now| session.on_submitted(now, link, batch, Ok(vec![outcome])));
    }

    /// With this tenure, in use by 'a'.
    fn in_use(token: u64) -> (Self, Grant) {
        let mut script = Script::new();
        script.acquire(Exclusive, 'a');
        let batch = script.submitted()[0].0;
        script.answer(batch, granted(token));
        let (_, grant) = script.served().pop().expect("it was served");
        (script, grant)
    }

    fn served(&mut self) -> Vec<(char, Grant)> {
        let mut all = Vec::new();
        self.effects.retain(|effect| {
            let SessionEffect::Serve { waiter, grant, .. } = effect else { return true };
            all.push((*waiter, *grant));
            false
        });
        all
    }

    /// The stamps of the keep-alives since the last look.
    fn stamps(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        self.effects.retain(|effect| {
            let SessionEffect::KeepAlive { keep_alive, .. } = effect else { return true };
            all.push(keep_alive.stamp);
            false
        });
        all
    }

    fn renew(&mut self, stamp: u64, notices: Vec<Notice>) {
        let link = self.link();
        self.step(|session, now| session.on_kept_alive(now, link, Ok(Renewed { stamp, notices, more: false })));
    }

    /// Whether there was such an effect since the last look at all of them.
    fn any(&self, which: impl Fn(&SessionEffect<char>) -> bool) -> bool {
        self.effects.iter().any(which)
    }

    fn is_valid(&self, grant: Grant) -> bool {
        !self.session.valid_for(&name(), grant, self.now).is_zero()
    }

    fn end(&mut self, grant: Grant) {
        self.step(|session, now| session.end_guard(now, &name(), grant));
    }
}

#[test]
fn m21_a_guard_says_how_long_it_is_valid_and_is_invalid_at_the_deadline_without_any_event() {
    let (mut script, grant) = Script::in_use(5);
    assert_eq!(script.session.valid_for(&name(), grant, script.now), Duration::from_secs(9));
    script.advance(8999);
    assert!(script.is_valid(grant));
    script.advance(1);
    assert!(!script.is_valid(grant));
}

#[test]
pub(crate) fn m9_a_lease_is_taken_as_over_a_margin_early() {
    let (mut script, grant) = Script::in_use(5);
    script.advance(9500);
    assert!(!script.is_valid(grant), "a tenth before the end of the lease");
}

#[test]
fn m9_real_time_that_ran_ahead_of_boot_time_ends_guards_until_a_fresh_answer() {
    let (mut script, grant) = Script::in_use(5);
    script.now.real_ns += 2_000_000_000;
    assert!(!script.is_valid(grant));
    script.step(LockSession::on_time);
    assert!(script.any(|effect| matches!(effect, SessionEffect::Tell(SessionEvent::Suspended))));
    script.stamps();
    script.run(1100);
    let stamp = script.stamps().pop().expect("one was sent");
    script.renew(stamp, Vec::new());
    assert!(script.any(|effect| matches!(effect, SessionEffect::Tell(SessionEvent::Resumed))));
    assert!(!script.is_valid(grant), "dead for good");
}

#[test]
pub(crate) fn m10_guards_that_died_with_the_lease_stay_dead_when_it_is_in_force_again() {
    let (mut script, grant) = Script::in_use(5);
    script.advance(9000);
    script.disconnect();
    script.connect();
    let stamp = script.stamps().pop().expect("one was sent");
    script.renew(stamp, Vec::new());
    assert!(!script.is_valid(grant));
    assert!(script.any(|effect| matches!(effect, SessionEffect::Flush { .. })), "what was in use is flushed");
    script.step(|session, now| session.on_flushed(now, &name(), FencingToken(5)));
    assert_eq!(script.submitted()[0].1[0].1, "release 5");
    script.end(grant);
}

#[test]
fn m10_nothing_is_served_or_flushed_while_the_session_is_suspended() {
    let (mut script, grant) = Script::in_use(5);
    script.end(grant);
    script.advance(9000);
    script.step(LockSession::on_time);
    assert!(matches!(script.acquire(Exclusive, 'b'), Acquired::Waits(_)));
    let revoke = Notice::Revoke { name: name(), token: FencingToken(5), target: None };
    script.step(|session, now| session.on_notices(now, vec![revoke]));
    assert!(script.served().is_empty());
    assert!(!script.any(|effect| matches!(effect, SessionEffect::Flush { .. })));
    script.disconnect();
    script.connect();
    let stamp = script.stamps().pop().expect("one was sent");
    script.renew(stamp, Vec::new());
    let (waiter, grant) = script.served().pop().expect("it was served");
    assert_eq!(waiter, 'b', "it came before the revoke");
    script.end(grant);
    assert!(script.any(|effect| matches!(effect, SessionEffect::Flush { .. })));
}

#[test]
fn an_answer_lost_with_its_connection_is_asked_for_again_under_the_same_number() {
    let mut script = Script::new();
    script.acquire(Exclusive, 'a');
    let first = script.submitted().remove(0);
    let old = script.link();
    script.disconnect();
    assert!(script.any(|effect| matches!(effect, SessionEffect::Dial { .. })));
    script.connect();
    let again = script.submitted().remove(0);
    assert_eq!(again.1, first.1);
    script.step(|session, now| session.on_submitted(now, old, first.0, Ok(vec![granted(4)])));
    assert!(script.served().is_empty(), "an answer on a connection that was left");
    script.answer(again.0, granted(5));
    assert_eq!(script.served().len(), 1);
}

#[test]
pub(crate) fn numbers_go_on_over_a_broken_connection() {
    let (mut script, grant) = Script::in_use(5);
    script.disconnect();
    script.connect();
    let revoke = Notice::Revoke { name: name(), token: FencingToken(5), target: None };
    script.step(|session, now| session.on_notices(now, vec![revoke]));
    script.end(grant);
    script.step(|session, now| session.on_flushed(now, &name(), FencingToken(5)));
    assert_eq!(script.submitted()[0].1, [(2, "release 5".to_owned())], "1 was the acquire");
}

#[test]
pub(crate) fn m11_a_lost_grant_notice_is_made_good_within_three_seconds_and_on_a_new_connection() {
    let mut script = Script::new();
    script.acquire(Exclusive, 'a');
    let (batch, requests) = script.submitted().remove(0);
    script.answer(batch, Outcome::Queued);
    let link = script.link();
    for _ in 0..4 {
        script.run(900);
        for stamp in script.stamps() {
            script.renew(stamp, Vec::new());
        }
    }
    assert_eq!(script.link(), link);
    let asked = script.submitted();
    assert_eq!((asked.len(), &asked[0].1), (1, &requests), "once, under the old number");
    script.disconnect();
    script.connect();
    let (batch, again) = script.submitted().remove(0);
    assert_eq!(again, requests);
    script.answer(batch, granted(5));
    assert_eq!(script.served().len(), 1);
}

#[test]
fn a_grant_notice_that_overtakes_the_answer_queued_is_not_lost() {
    let mut script = Script::new();
    script.acquire(Exclusive, 'a');
    let (batch, requests) = script.submitted().remove(0);
    let acquire = RequestNumber(requests[0].0);
    let notice = Notice::Granted { name: name(), acquire, token: FencingToken(5), others_waiting: false };
    script.step(|session, now| session.on_notices(now, vec![notice]));
    assert_eq!(script.served().len(), 1);
    script.answer(batch, Outcome::Queued);
    assert!(matches!(script.acquire(Shared, 'b'), Acquired::Waits(_)), "in use, and not asked for anew");
    assert!(script.submitted().is_empty());
}

#[test]
pub(crate) fn m16_a_revoke_that_came_with_a_keep_alive_first_reopens_a_silent_callback_connection() {
    let (mut script, _) = Script::in_use(5);
    let stamp = script.stamps().pop().expect("one was sent");
    let revoke = || vec![Notice::Revoke { name: name(), token: FencingToken(5), target: None }];
    script.renew(stamp, revoke());
    script.run(250);
    assert!(script.any(|effect| matches!(effect, SessionEffect::DialCallback { .. })));

    let (mut script, _) = Script::in_use(5);
    let stamp = script.stamps().pop().expect("one was sent");
    script.renew(stamp, revoke());
    script.step(|session, now| session.on_notices(now, revoke()));
    script.run(250);
    assert!(!script.any(|effect| matches!(effect, SessionEffect::DialCallback { .. })), "it was heard");
}

#[test]
fn m23_a_force_that_comes_with_a_keep_alive_kills_the_guard_at_once() {
    let (mut script, grant) = Script::in_use(5);
    let stamp = script.stamps().pop().expect("one was sent");
    script.renew(stamp, vec![Notice::Forced { name: name(), token: FencingToken(5) }]);
    assert!(!script.is_valid(grant));
    assert!(!script.any(|effect| matches!(effect, SessionEffect::Flush { .. })));
    assert_eq!(script.submitted()[0].1[0].1, "release 5");
}

#[test]
fn a_close_flushes_then_asks_the_server_and_asks_the_next_one_where_that_is_not_the_primary() {
    let (mut script, grant) = Script::in_use(5);
    script.acquire(Exclusive, 'b');
    script.step(LockSession::close);
    assert!(!script.is_valid(grant));
    let failed = |effect: &_| matches!(effect, SessionEffect::Fail { waiter: 'b', error: AcquireError::Closed, .. });
    assert!(script.any(failed));
    assert!(!script.any(|effect| matches!(effect, SessionEffect::Close { .. })), "not before the flush");
    script.step(|session, now| session.on_flushed(now, &name(), FencingToken(5)));
    assert!(script.any(|effect| matches!(effect, SessionEffect::Close { .. })));
    script.effects.clear();
    let link = script.link();
    script.step(|session, now| session.on_closed(now, link, Err(Refusal::NotPrimary { hint: Some("h:3".into()) })));
    let dialled = |effect: &_| matches!(effect, SessionEffect::Dial { endpoint: to, .. } if *to == endpoint(3));
    assert!(script.any(dialled));
    script.connect();
    let link = script.link();
    script.step(|session, now| session.on_closed(now, link, Ok(())));
    assert!(script.any(|effect| matches!(effect, SessionEffect::Over(Stage::Closed))));
    assert_eq!(script.session.next_ns(), None);
}

#[test]
fn a_session_that_the_server_ended_is_lost_with_its_guards_and_waiters() {
    let (mut script, grant) = Script::in_use(5);
    script.acquire(Shared, 'b');
    let link = script.link();
    script.step(|session, now| session.on_kept_alive(now, link, Err(Refusal::SessionGone)));
    assert!(!script.is_valid(grant));
    let failed =
        |effect: &_| matches!(effect, SessionEffect::Fail { waiter: 'b', error: AcquireError::SessionLost, .. });
    assert!(script.any(failed) && script.any(|effect| matches!(effect, SessionEffect::Over(Stage::Lost))));
    let refused = script.step(|session, now| session.acquire(now, &name(), Shared, 'c'));
    assert_eq!(refused, Err(AcquireError::SessionLost));
    script.end(grant);
}

#[test]
fn a_session_whose_callback_no_server_takes_is_lost_where_the_server_says_that_it_has_ended() {
    let mut script = Script::new();
    script.disconnect();
    let link = script.link();
    script.step(|session, now| session.on_callback_refused(now, link, None, "refused"));
    assert!(!script.session.stage().is_over());
    let link = script.link();
    let gone = Some(Refusal::SessionGone);
    script.step(|session, now| session.on_callback_refused(now, link, gone, "refused"));
    assert_eq!(script.session.stage(), Stage::Lost);
}

#[test]
fn a_server_that_leaves_a_submission_or_keep_alives_without_an_answer_is_left() {
    let mut script = Script::new();
    let link = script.link();
    script.run(2500);
    assert!(script.link() > link, "keep-alives unanswered for a fifth of the lease");
    script.connect();
    script.acquire(Exclusive, 'a');
    let link = script.link();
    for _ in 0..8 {
        script.run(700);
        for stamp in script.stamps() {
            script.renew(stamp, Vec::new());
        }
    }
    assert!(script.link() > link, "a submission unanswered for five seconds");
}

#[test]
fn a_busy_server_is_asked_again_after_a_pause_and_not_before() {
    let mut script = Script::new();
    script.acquire(Exclusive, 'a');
    let (batch, requests) = script.submitted().remove(0);
    let link = script.link();
    script.step(|session, now| session.on_submitted(now, link, batch, Err(Refusal::Busy("full".into()))));
    assert!(script.submitted().is_empty());
    script.run(25);
    assert_eq!(script.submitted()[0].1, requests);
    assert_eq!(script.link(), link);
}

impl Script {
    /// 'b' and 'c' stand for one user who wants this lock and another one.
    fn acquire_both(&mut self) -> Vec<WaiterId> {
        let other = LockName::new("orders/43").expect("a name");
        let both = LockSet::new([(name(), Exclusive), (other, Shared)]).expect("two locks");
        let waiter = |lock: &LockName| if *lock == name() { 'b' } else { 'c' };
        self.step(|session, now| session.acquire_all(now, &both, waiter)).expect("the session is open")
    }
}

#[test]
fn a_set_is_asked_for_when_the_last_of_its_locks_is_given_back_and_served_by_one_answer() {
    let (mut script, grant) = Script::in_use(3);
    script.acquire_both();
    assert!(script.submitted().is_empty(), "one of them is in use");
    script.end(grant);
    script.step(|session, now| session.on_flushed(now, &name(), grant.token));
    let (batch, requests) = script.submitted().pop().expect("the release");
    assert_eq!(requests[0].1, "release 3");
    script.answer(batch, Outcome::Released { requeued: None });
    let (batch, requests) = script.submitted().pop().expect("the set");
    assert_eq!(requests[0].1, "acquire 2");
    script.answer(batch, granted(9));
    let served: Vec<(char, u64)> = script.served().into_iter().map(|(waiter, grant)| (waiter, grant.token.0)).collect();
    assert_eq!((served, script.session.waiters()), (vec![('b', 9), ('c', 9)], 0));
}

#[test]
fn a_set_that_is_left_before_it_was_asked_for_is_not_asked_for() {
    let (mut script, grant) = Script::in_use(3);
    let waiters = script.acquire_both();
    let names = [name(), LockName::new("orders/43").expect("a name")];
    for (lock, waiter) in names.iter().zip(waiters) {
        assert!(script.step(|session, now| session.leave(now, lock, waiter)));
    }
    script.end(grant);
    assert!(script.submitted().is_empty());
    assert_eq!((script.session.held.sets.len(), script.session.waiters()), (0, 0));
}
