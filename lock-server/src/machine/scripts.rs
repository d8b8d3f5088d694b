//! Scripts: one situation of clients and ops each, and what must come of it.

use lock_protocol::{
    Answer, ClientIdentity, Command, FencingToken, LockName, Mode, Notice, Open, Outcome, Query, Request,
    RequestNumber, Requeued, SessionId,
};
use rsm::StateMachine;

use super::{Effect, Limits, Machine, Op, Reply, Revoke, SWEEP_MAX_STEPS};

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

#[test]
fn a_long_pause_between_two_ticks_costs_a_lease_at_most_the_cap() {
    let mut script = Script::new();
    let session = script.open(1, 10_000);
    assert_eq!(script.tick(500, &[session]), []);
    // The primary was paused for eight seconds; a keep-alive from within the pause comes in this very tick.
    assert_eq!(script.tick(8_000, &[session]), []);
    for _ in 0..19 {
        assert_eq!(script.tick(500, &[]), []);
    }
    assert!(!script.machine.needs_sweep(), "the lease counts from after the elapsed time was added");
    script.tick(500, &[]);
    assert!(script.machine.needs_sweep());
}

#[test]
fn a_tick_renews_from_the_time_after_its_own_elapsed_time() {
    let mut script = Script::new();
    let session = script.open(1, 500);
    script.tick(100, &[session]);
    script.pass(450, &[]);
    assert!(!script.machine.needs_sweep());
    script.pass(50, &[]);
    assert!(script.machine.needs_sweep());
}

#[test]
fn a_lease_opened_between_ticks_lasts_a_cap_longer_whoever_leaves_before_the_next_tick() {
    let mut script = Script::new();
    let short = script.open(1, 500);
    let long = script.open(2, 20_000);
    // With the short lease gone, the next tick may add two seconds that passed before the long one was opened.
    script.apply(&Op::Close { session: short });
    script.tick(2_000, &[]);
    for _ in 0..19 {
        script.tick(1_000, &[]);
    }
    assert!(!script.machine.needs_sweep());
    assert_eq!(script.tick(1_000, &[long]), [long]);
}

#[test]
fn a_repeated_open_gets_its_session_and_no_longer_lease() {
    let mut script = Script::new();
    let session = script.open(7, 500);
    script.pass(400, &[]);
    assert_eq!(script.open(7, 500), session);
    script.restart_from_snapshot();
    assert_eq!(script.open(7, 9_999), session);
    script.pass(200, &[]);
    assert_ne!(script.open(7, 500), session, "the first is dead, so the nonce opens another");
    assert_eq!(script.apply(&Op::Sweep), Reply::Swept { more: false });
    assert_eq!(script.machine.session_count(), 1, "sweeping the first leaves the second its nonce");
    let again = script.open(7, 500);
    assert_eq!(script.machine.session_count(), 1);
    assert_ne!(again, session);
}

#[test]
fn a_lease_outside_the_bounds_is_clamped() {
    let mut script = Script::new();
    for (nonce, wish_ms, lease_ms) in [(1, 0, 500), (2, u64::MAX, 3_600_000), (3, 1234, 1234)] {
        match script.try_open(nonce, wish_ms) {
            Reply::Opened(opened) => assert_eq!(opened.lease_ms, lease_ms),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_keep_alive_in_the_tick_that_ends_the_lease_does_not_revive_it() {
    let mut script = Script::new();
    let session = script.open(1, 500);
    let other = script.open(2, 60_000);
    script.acquire(session, "a", X);
    let waiting = script.acquire(other, "a", X);
    assert_eq!(waiting, Outcome::Queued);
    script.pass(550, &[]);
    assert_eq!(script.tick(50, &[session]), [session]);
    assert_eq!(script.acquire(session, "b", X), Outcome::SessionGone);
    assert_eq!(script.tick(50, &[session]), [session]);
    assert_eq!(script.holders("a"), [session], "cleaning up is the sweep's");
    assert_eq!(script.apply(&Op::Sweep), Reply::Swept { more: false });
    assert_eq!(script.holders("a"), [other]);
    assert!(!script.machine.needs_sweep());
}

#[test]
fn a_dead_waiter_is_skipped_before_its_sweep() {
    let mut script = Script::new();
    let [holder, dying, next] = [script.open(1, 60_000), script.open(2, 500), script.open(3, 60_000)];
    let held = token(&script.acquire(holder, "a", X));
    assert_eq!(script.acquire(dying, "a", X), Outcome::Queued);
    assert_eq!(script.acquire(next, "a", X), Outcome::Queued);
    script.pass(600, &[holder, next]);
    script.release(holder, "a", held, None);
    assert_eq!(script.holders("a"), [next]);
    assert!(script.machine.needs_sweep());
}

#[test]
fn a_dead_exclusive_waiter_at_the_head_does_not_stop_a_shared_acquire() {
    let mut script = Script::new();
    let [holder, dying, reader] = [script.open(1, 60_000), script.open(2, 500), script.open(3, 60_000)];
    script.acquire(holder, "a", S);
    assert_eq!(script.acquire(dying, "a", X), Outcome::Queued);
    script.pass(600, &[holder, reader]);
    token(&script.acquire(reader, "a", S));
    script.apply(&Op::Sweep);
    assert_eq!(script.holders("a"), [holder, reader]);
}

#[test]
fn a_mass_expiry_is_swept_a_thousand_steps_at_a_time_and_each_lock_passes_on_in_its_step() {
    let mut script = Script::new();
    let [dying, heir] = [script.open(1, 500), script.open(2, 60_000)];
    for lock in 0..2_500 {
        script.next = lock + 1;
        token(&script.acquire(dying, &format!("{lock:05}"), X));
    }
    script.next = 1;
    assert_eq!(script.acquire(heir, "00999", X), Outcome::Queued);
    assert_eq!(script.acquire(heir, "01000", X), Outcome::Queued);
    script.pass(600, &[heir]);
    assert_eq!(script.apply(&Op::Sweep), Reply::Swept { more: true });
    assert_eq!(script.machine.lock_count(), 2_500 - SWEEP_MAX_STEPS + 1);
    assert_eq!((script.holders("00999"), script.holders("01000")), (vec![heir], vec![dying]));
    script.restart_from_snapshot();
    assert_eq!(script.apply(&Op::Sweep), Reply::Swept { more: true });
    assert_eq!(script.apply(&Op::Sweep), Reply::Swept { more: false });
    assert_eq!((script.machine.lock_count(), script.machine.session_count()), (2, 1));
}

#[test]
fn a_repeated_acquire_whose_grant_notice_was_lost_is_answered_with_the_grant() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let acquire = Command::Acquire { name: name("a"), mode: X };
    let held = token(&script.number(first, 1, acquire.clone()));
    assert_eq!(script.number(second, 1, acquire.clone()), Outcome::Queued);
    assert_eq!(script.number(second, 1, acquire.clone()), Outcome::Queued);
    let released = script.number(first, 2, Command::Release { name: name("a"), token: held, requeue: None });
    assert_eq!(released, Outcome::Released { requeued: None });
    let granted = token(&script.number(second, 1, acquire.clone()));
    assert!(granted > held);
    script.restart_from_snapshot();
    assert_eq!(token(&script.number(second, 1, acquire.clone())), granted);
    assert_eq!(script.number(first, 1, acquire.clone()), Outcome::Gone, "its grant has ended");
    script.number(second, 2, Command::Release { name: name("a"), token: granted, requeue: None });
    assert_eq!(script.number(second, 1, acquire), Outcome::Gone);
    assert_eq!(script.machine.lock_count(), 0);
}

#[test]
fn a_waiter_whose_floor_has_moved_past_its_acquire_is_still_told_what_became_of_it() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let acquire = Command::Acquire { name: name("a"), mode: X };
    let held = token(&script.number(first, 1, acquire.clone()));
    assert_eq!(script.number(second, 1, acquire.clone()), Outcome::Queued);
    let ask = |script: &mut Script| {
        let request = Request { number: RequestNumber(1), command: acquire.clone() };
        match script.apply(&Op::Request { session: second, floor: RequestNumber(2), request }) {
            Reply::Outcome(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut script), Outcome::Queued);
    script.number(first, 2, Command::Release { name: name("a"), token: held, requeue: None });
    let granted = token(&ask(&mut script));
    assert!(granted > held);
    script.number(second, 2, Command::Release { name: name("a"), token: granted, requeue: None });
    assert_eq!(ask(&mut script), Outcome::BelowFloor, "and it is never executed anew");
    assert_eq!(script.machine.lock_count(), 0);
}

#[test]
fn a_client_that_waits_after_a_requeue_asks_with_an_acquire_of_the_releases_number() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    script.acquire(second, "a", X);
    script.number(first, 50, Command::Release { name: name("a"), token: held, requeue: Some(X) });
    let acquire = Command::Acquire { name: name("a"), mode: X };
    assert_eq!(script.number(first, 50, acquire.clone()), Outcome::Queued);
    script.apply(&Op::Close { session: second });
    assert!(token(&script.number(first, 50, acquire)) > held);
}

#[test]
fn a_repeated_request_after_a_snapshot_is_not_executed_again() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    let release = Command::Release { name: name("a"), token: held, requeue: None };
    assert_eq!(script.number(first, 100, release.clone()), Outcome::Released { requeued: None });
    token(&script.acquire(second, "a", X));
    script.restart_from_snapshot();
    assert_eq!(script.number(first, 100, release), Outcome::Released { requeued: None });
    assert_eq!(script.holders("a"), [second]);
    let acquire = Command::Acquire { name: name("b"), mode: X };
    let held = token(&script.number(first, 101, acquire.clone()));
    script.number(first, 102, Command::Release { name: name("b"), token: held, requeue: None });
    script.restart_from_snapshot();
    assert_eq!(script.number(first, 101, acquire), Outcome::Gone);
    assert_eq!(script.machine.lock_count(), 1);
}

#[test]
fn a_cancel_that_comes_after_the_grant_releases_it_and_does_so_once() {
    let mut script = Script::new();
    let [first, second, third] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    assert_eq!(script.number(second, 50, Command::Acquire { name: name("a"), mode: X }), Outcome::Queued);
    script.release(first, "a", held, None);
    assert_eq!(script.acquire(third, "a", X), Outcome::Queued);
    let cancel = Command::Cancel { name: name("a"), acquire: RequestNumber(50) };
    assert_eq!(script.number(second, 51, cancel.clone()), Outcome::Cancelled);
    assert_eq!(script.holders("a"), [third], "released to the next in the same op");
    assert_eq!(script.number(second, 51, cancel.clone()), Outcome::Cancelled);
    assert_eq!(script.number(second, 52, cancel), Outcome::Cancelled, "under a new number as well");
    assert_eq!(script.holders("a"), [third]);
}

#[test]
fn a_cancelled_waiter_leaves_the_queue_and_shared_ones_behind_it_come_in() {
    let mut script = Script::new();
    let [holder, writer, reader] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    script.acquire(holder, "a", S);
    assert_eq!(script.number(writer, 50, Command::Acquire { name: name("a"), mode: X }), Outcome::Queued);
    assert_eq!(script.acquire(reader, "a", S), Outcome::Queued, "no shared one overtakes a waiting exclusive");
    assert_eq!(script.cancel(writer, "a", 50), Outcome::Cancelled);
    assert_eq!(script.holders("a"), [holder, reader]);
    assert_eq!(script.number(writer, 50, Command::Acquire { name: name("a"), mode: X }), Outcome::Gone);
}

#[test]
fn a_cancel_that_overtakes_its_acquire_keeps_it_from_being_executed() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    assert_eq!(script.cancel(session, "a", 50), Outcome::Cancelled);
    script.restart_from_snapshot();
    assert_eq!(script.number(session, 50, Command::Acquire { name: name("a"), mode: X }), Outcome::Gone);
    assert_eq!(script.machine.lock_count(), 0);
}

#[test]
fn a_cancel_that_overtakes_a_release_with_requeue_takes_only_the_requeue() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    let held = token(&script.acquire(session, "a", X));
    assert_eq!(script.cancel(session, "a", 50), Outcome::Cancelled);
    let release = Command::Release { name: name("a"), token: held, requeue: Some(X) };
    assert_eq!(script.number(session, 50, release.clone()), Outcome::Released { requeued: None });
    assert_eq!(script.number(session, 50, release), Outcome::Released { requeued: None });
    assert_eq!(script.machine.lock_count(), 0);
}

#[test]
fn a_holders_acquire_is_refused_with_its_tenure_and_a_waiters_second_one_as_well() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    assert_eq!(script.acquire(first, "a", S), Outcome::AlreadyHeld { token: held, mode: X });
    assert_eq!(script.acquire(second, "a", S), Outcome::Queued);
    assert!(matches!(script.acquire(second, "a", S), Outcome::LimitReached { .. }));
    assert_eq!(script.waiters("a"), [second]);
}

#[test]
fn a_release_with_requeue_goes_to_the_end_of_the_queue_in_the_same_op() {
    let mut script = Script::new();
    let [first, second, third] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    script.acquire(second, "a", X);
    script.acquire(third, "a", X);
    let released = script.release(first, "a", held, Some(X));
    assert_eq!(released, Outcome::Released { requeued: Some(Requeued::Queued) });
    assert_eq!((script.holders("a"), script.waiters("a")), (vec![second], vec![third, first]));
}

#[test]
fn a_requeue_with_nobody_waiting_is_granted_as_a_new_tenure() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    let held = token(&script.acquire(session, "a", S));
    let release = Command::Release { name: name("a"), token: held, requeue: Some(X) };
    let outcome = script.number(session, 9, release.clone());
    let granted = Requeued::Granted { token: FencingToken(script.op), others_waiting: false };
    assert_eq!(outcome, Outcome::Released { requeued: Some(granted) });
    assert_eq!(script.number(session, 9, release), Outcome::Released { requeued: Some(granted) });
    assert!(script.op > held.0);
}

#[test]
fn a_repeated_requeue_tells_what_became_of_it() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let held = token(&script.acquire(first, "a", X));
    script.acquire(second, "a", X);
    let release = Command::Release { name: name("a"), token: held, requeue: Some(X) };
    let queued = Outcome::Released { requeued: Some(Requeued::Queued) };
    assert_eq!(script.number(first, 50, release.clone()), queued);
    assert_eq!(script.number(first, 50, release.clone()), queued);
    script.apply(&Op::Close { session: second });
    let granted = Requeued::Granted { token: FencingToken(script.op), others_waiting: false };
    assert_eq!(script.number(first, 50, release), Outcome::Released { requeued: Some(granted) });
}

#[test]
fn a_release_with_another_tenures_token_changes_nothing() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    let old = token(&script.acquire(first, "a", X));
    script.release(first, "a", old, None);
    let held = token(&script.acquire(first, "a", X));
    assert_eq!(script.release(first, "a", old, Some(X)), Outcome::NotHeld);
    assert_eq!(script.release(second, "a", held, None), Outcome::NotHeld);
    let downgrade = Command::Downgrade { name: name("a"), token: old };
    assert_eq!(script.next(first, downgrade), Outcome::NotHeld);
    assert_eq!(script.holders("a"), [first]);
}

#[test]
fn grants_say_that_others_wait_only_where_those_conflict() {
    let mut script = Script::new();
    let sessions: Vec<_> = (1..=5).map(|nonce| script.open(nonce, 60_000)).collect();
    let held = token(&script.acquire(sessions[0], "a", X));
    script.acquire(sessions[1], "a", S);
    script.acquire(sessions[2], "a", S);
    script.machine.take_effects();
    script.release(sessions[0], "a", held, None);
    let others: Vec<bool> = granted(&script.machine.take_effects()).iter().map(|(_, others)| *others).collect();
    assert_eq!(others, [false, false], "two readers do not disturb each other");
    script.acquire(sessions[3], "a", X);
    script.acquire(sessions[4], "a", S);
    for session in [sessions[1], sessions[2]] {
        let held = FencingToken(script.machine.outstanding_revokes(None, 9)[0].token.0);
        script.release(session, "a", held, None);
    }
    assert_eq!(granted(&script.machine.take_effects()), [(sessions[3], true)]);
}

fn granted(effects: &[Effect]) -> Vec<(SessionId, bool)> {
    let grants = effects.iter().filter_map(|effect| match effect {
        Effect::Granted { session, others_waiting, .. } => Some((*session, *others_waiting)),
        _ => None,
    });
    grants.collect()
}

#[test]
fn a_downgrade_keeps_the_token_and_lets_the_shared_ones_at_the_head_in() {
    let mut script = Script::new();
    let sessions: Vec<_> = (1..=4).map(|nonce| script.open(nonce, 60_000)).collect();
    let held = token(&script.acquire(sessions[0], "a", X));
    script.acquire(sessions[1], "a", S);
    script.acquire(sessions[2], "a", X);
    script.acquire(sessions[3], "a", S);
    script.machine.take_effects();
    let downgrade = Command::Downgrade { name: name("a"), token: held };
    assert_eq!(script.next(sessions[0], downgrade.clone()), Outcome::Downgraded);
    assert_eq!(script.next(sessions[0], downgrade), Outcome::Downgraded);
    assert_eq!(script.holders("a"), [sessions[0], sessions[1]]);
    assert_eq!(granted(&script.machine.take_effects()), [(sessions[1], true)]);
    assert_eq!(script.release(sessions[0], "a", held, None), Outcome::Released { requeued: None });
}

#[test]
fn a_revoke_of_a_lock_that_only_readers_want_leaves_the_holder_shared() {
    let mut script = Script::new();
    let [holder, reader, writer] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    let held = token(&script.acquire(holder, "a", X));
    script.acquire(reader, "a", S);
    assert_eq!(script.machine.is_revoke_due(holder, &name("a"), held), Some(Some(S)));
    script.number(writer, 50, Command::Acquire { name: name("a"), mode: X });
    assert_eq!(script.machine.is_revoke_due(holder, &name("a"), held), Some(None));
    assert_eq!(script.machine.is_revoke_due(holder, &name("a"), FencingToken(held.0 + 1)), None);
    let wanted = |target| Effect::Revoke {
        revoke: Revoke { session: holder, name: name("a"), token: held, target },
        told_by_grant: false,
    };
    assert_eq!(script.machine.take_effects(), [wanted(Some(S)), wanted(None)]);
    script.cancel(writer, "a", 50);
    script.next(holder, Command::Downgrade { name: name("a"), token: held });
    assert_eq!(script.machine.is_revoke_due(holder, &name("a"), held), None);
    assert_eq!(script.machine.outstanding_revokes(None, 9), []);
    let effects = script.machine.take_effects();
    assert!(effects.contains(&Effect::RevokeMoot { session: holder, name: name("a"), token: held }), "{effects:?}");
}

#[test]
fn a_keep_alive_reply_carries_the_sessions_own_revokes_and_says_if_there_are_more() {
    let mut script = Script::new();
    let [holder, other, wanting] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    for text in ["a", "b", "c"] {
        script.acquire(holder, text, X);
        script.acquire(wanting, text, X);
    }
    script.acquire(other, "d", X);
    script.acquire(wanting, "d", X);
    let (notices, more) = script.machine.revokes_of(holder, 2);
    assert!(more);
    assert!(
        matches!(&notices[..], [Notice::Revoke { .. }, Notice::Revoke { name, target: None, .. }] if *name == self::name("b"))
    );
    let (notices, more) = script.machine.revokes_of(holder, 3);
    assert_eq!((notices.len(), more), (3, false));
    assert_eq!(script.machine.revokes_of(wanting, 3), (vec![], false));
    let first = script.machine.outstanding_revokes(None, 2);
    let last = first.last().map(|revoke| (revoke.session, revoke.name.clone()));
    let second = script.machine.outstanding_revokes(last.as_ref(), 9);
    assert_eq!((first.len(), second.len()), (2, 2));
    let all = script.machine.outstanding_revokes(None, 9);
    script.restart_from_snapshot();
    assert_eq!(script.machine.outstanding_revokes(None, 9), all, "a new primary derives them anew");
    assert_eq!(script.machine.take_effects(), []);
}

#[test]
fn a_number_below_the_floor_or_beyond_the_window_is_not_executed() {
    let mut script = Script::with(Limits { request_window: 8, ..Limits::default() });
    let session = script.open(1, 60_000);
    let mut ask = |number: u64, floor: u64| {
        let command = Command::Acquire { name: name(&format!("{number}")), mode: X };
        let request = Request { number: RequestNumber(number), command };
        script.apply(&Op::Request { session, floor: RequestNumber(floor), request })
    };
    assert!(matches!(ask(8, 1), Reply::Outcome(Outcome::Granted { .. })));
    assert!(matches!(ask(9, 1), Reply::Outcome(Outcome::LimitReached { .. })));
    assert!(matches!(ask(9, 5), Reply::Outcome(Outcome::Granted { .. })), "it was refused, not executed");
    assert_eq!(ask(4, 1), Reply::Outcome(Outcome::BelowFloor), "a late floor does not lower it");
    assert_eq!(script.machine.lock_count(), 2);
    script.apply(&Op::Tick { elapsed_us: 0, keep_alives: vec![(session, RequestNumber(9))] });
    let request = Request { number: RequestNumber(8), command: Command::Acquire { name: name("x"), mode: X } };
    let late = script.apply(&Op::Request { session, floor: RequestNumber(1), request });
    assert_eq!(late, Reply::Outcome(Outcome::BelowFloor), "the keep-alive's floor counts");
}

#[test]
fn a_session_at_its_limits_is_refused_and_others_are_not() {
    let limits = Limits { locks_per_session: 3, waiters_per_session: 1, sessions: 2, ..Limits::default() };
    let mut script = Script::with(limits);
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    assert!(matches!(script.try_open(3, 500), Reply::Busy(_)));
    for text in ["a", "b", "c"] {
        token(&script.acquire(first, text, X));
    }
    assert!(matches!(script.acquire(first, "d", X), Outcome::LimitReached { .. }));
    assert_eq!(script.acquire(second, "a", X), Outcome::Queued);
    assert!(matches!(script.acquire(second, "b", X), Outcome::LimitReached { .. }));
    token(&script.acquire(second, "d", X));
    script.restart_from_snapshot();
    assert!(matches!(script.acquire(first, "e", X), Outcome::LimitReached { .. }), "limits are in the snapshot");
}

#[test]
fn a_close_frees_everything_in_the_same_op_and_the_rest_of_very_much_in_sweeps() {
    let mut script = Script::new();
    let [first, second] = [script.open(1, 60_000), script.open(2, 60_000)];
    script.acquire(first, "a", X);
    script.acquire(second, "a", X);
    assert_eq!(script.apply(&Op::Close { session: first }), Reply::Closed);
    assert_eq!(script.holders("a"), [second]);
    assert_eq!(script.machine.session_count(), 1);
    assert_eq!(script.apply(&Op::Close { session: first }), Reply::Closed);
    for lock in 0..1_500 {
        script.acquire(second, &format!("{lock:05}"), X);
    }
    script.apply(&Op::Close { session: second });
    assert!(script.machine.needs_sweep());
    assert_eq!(script.acquire(second, "z", X), Outcome::SessionGone);
    script.apply(&Op::Sweep);
    assert_eq!((script.machine.lock_count(), script.machine.has_sessions()), (0, false));
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

#[test]
fn a_page_of_locks_ends_at_its_limit_and_the_next_begins_behind_it() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    for text in ["b/1", "a", "b/3", "b/2", "c"] {
        script.acquire(session, text, X);
    }
    script.pass(1_500, &[session]);
    let mut page = |prefix: &str, after: Option<&str>, limit| {
        let query = Query::Locks { prefix: prefix.into(), after: after.map(name), limit };
        match script.apply(&Op::Read(query)) {
            Reply::Answer(Answer::Locks { entries, more }) => {
                assert!(entries.iter().all(|entry| entry.holders[0].since_ms == 1_500));
                (entries.iter().map(|entry| entry.name.as_str().to_owned()).collect::<Vec<_>>().join(" "), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page("b/", None, 2), ("b/1 b/2".into(), true));
    assert_eq!(page("b/", Some("b/2"), 2), ("b/3".into(), false));
    assert_eq!(page("", None, 0), ("a".into(), true));
    assert_eq!(page("", Some("a"), 9), ("b/1 b/2 b/3 c".into(), false));
    assert_eq!(page("b/", Some("a"), 1), ("b/1".into(), true));
    assert_eq!(page("b/", Some("c"), 1), (String::new(), false));
    assert_eq!(page("b\n", None, 9), (String::new(), false));
    assert_eq!(page(&"b".repeat(300), None, 9), (String::new(), false));
}

#[test]
fn a_page_with_very_many_waiters_stays_below_a_frame() {
    let mut script = Script::new();
    let identity = ClientIdentity { client: "c".repeat(255), host: "h".repeat(255), pid: u32::MAX };
    let mut sessions = Vec::new();
    for nonce in 0..1_200 {
        script.apply(&Op::Open(Open { nonce, lease_ms: 60_000, identity: identity.clone() }));
        sessions.push(SessionId(script.op));
    }
    for (number, text) in (1..).zip((0..8).map(|lock| format!("{lock}"))) {
        for &session in &sessions {
            let mode = if session == sessions[0] { X } else { S };
            script.number(session, number, Command::Acquire { name: name(&text), mode });
        }
    }
    let query = Query::Locks { prefix: String::new(), after: None, limit: u32::MAX };
    let bytes = Reply::Answer(script.machine.on_read(&query)).encode();
    assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
    assert!(matches!(script.machine.on_read(&query), Answer::Locks { entries, more: true } if entries.len() == 1));
}
