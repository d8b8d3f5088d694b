//! Sets of locks: all at once, or nothing.

use lock_protocol::{Command, FencingToken, LockSet, Mode, Outcome, RequestNumber, SessionId};
use rsm::StateMachine;

use super::{S, Script, X, name, token};
use crate::machine::{Effect, Limits, Machine, Op};

fn set(locks: &[(&str, Mode)]) -> LockSet {
    LockSet::new(locks.iter().map(|(text, mode)| (name(text), *mode))).expect("some locks")
}

fn acquire_all(script: &mut Script, session: SessionId, number: u64, locks: &[(&str, Mode)]) -> Outcome {
    script.number(session, number, Command::AcquireAll { set: set(locks) })
}

fn granted_now(script: &Script) -> Outcome {
    Outcome::Granted { token: FencingToken(script.op), others_waiting: false }
}

fn three(script: &mut Script) -> [SessionId; 3] {
    [1, 2, 3].map(|nonce| script.open(nonce, 60_000))
}

#[test]
fn free_locks_are_granted_as_a_set_in_one_op_under_one_token() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    let outcome = acquire_all(&mut script, session, 101, &[("b", X), ("a", S)]);
    assert_eq!(outcome, granted_now(&script));
    assert_eq!((script.holders("a"), script.holders("b")), (vec![session], vec![session]));
    let released = script.release(session, "a", token(&outcome), None);
    assert_eq!(released, Outcome::Released { requeued: None });
    assert_eq!((script.holders("a"), script.holders("b")), (vec![], vec![session]));
}

#[test]
fn a_set_holds_nothing_until_the_last_of_its_locks_is_free_and_is_then_told_of_each() {
    let mut script = Script::new();
    let [first, second, waiter] = three(&mut script);
    let a = token(&script.acquire(first, "a", X));
    let b = token(&script.acquire(second, "b", X));
    assert_eq!(acquire_all(&mut script, waiter, 101, &[("a", X), ("b", X), ("c", S)]), Outcome::Queued);
    script.release(first, "a", a, None);
    assert_eq!((script.holders("a"), script.holders("c")), (vec![], vec![]));
    script.machine.take_effects();
    script.release(second, "b", b, None);
    let token = FencingToken(script.op);
    let effects = script.machine.take_effects();
    assert_eq!(["a", "b", "c"].map(|text| script.holders(text)), [[waiter], [waiter], [waiter]]);
    let told = effects.into_iter().filter_map(|effect| match effect {
        Effect::Granted { session, name, acquire, token, .. } => Some((session, name, acquire, token)),
        _ => None,
    });
    assert!(told.eq(["a", "b", "c"].map(|text| (waiter, name(text), RequestNumber(101), token))));
}

#[test]
fn everybody_who_is_in_the_way_of_a_waiting_set_is_asked_to_leave_at_once() {
    let mut script = Script::new();
    let [first, second, waiter] = three(&mut script);
    script.acquire(first, "a", X);
    script.acquire(second, "b", X);
    acquire_all(&mut script, waiter, 101, &[("a", X), ("b", S)]);
    let asked = script.machine.outstanding_revokes(None, 9);
    let asked = asked.iter().map(|revoke| (revoke.session, revoke.name.clone(), revoke.target));
    assert!(asked.eq([(first, name("a"), None), (second, name("b"), Some(S))]));
}

#[test]
fn two_sets_over_the_same_locks_are_served_one_after_the_other() {
    let mut script = Script::new();
    let [holder, one, other] = three(&mut script);
    let held = token(&script.acquire(holder, "b", X));
    assert_eq!(acquire_all(&mut script, one, 101, &[("a", X), ("b", X)]), Outcome::Queued);
    assert_eq!(acquire_all(&mut script, other, 101, &[("b", X), ("a", X)]), Outcome::Queued);
    script.release(holder, "b", held, None);
    let held = FencingToken(script.op);
    assert_eq!((script.holders("a"), script.holders("b")), (vec![one], vec![one]));
    script.release(one, "a", held, None);
    assert_eq!((script.holders("a"), script.holders("b")), (vec![], vec![one]));
    script.release(one, "b", held, None);
    assert_eq!((script.holders("a"), script.holders("b")), (vec![other], vec![other]));
}

#[test]
fn a_waiting_set_stops_those_who_come_later_and_conflict_and_nobody_else() {
    let mut script = Script::new();
    let [holder, waiter, later] = three(&mut script);
    let held = token(&script.acquire(holder, "c", X));
    acquire_all(&mut script, waiter, 101, &[("a", S), ("b", X), ("c", X)]);
    let shared = script.acquire(later, "a", S);
    assert_eq!(shared, granted_now(&script));
    assert_eq!(script.acquire(later, "b", S), Outcome::Queued);
    script.release(holder, "c", held, None);
    assert_eq!((script.holders("a"), script.holders("b")), (vec![later, waiter], vec![waiter]));
}

#[test]
fn a_cancel_of_one_lock_withdraws_a_waiting_set_and_lets_those_behind_it_in() {
    let mut script = Script::new();
    let [holder, waiter, later] = three(&mut script);
    script.acquire(holder, "a", X);
    acquire_all(&mut script, waiter, 101, &[("a", X), ("b", X)]);
    script.acquire(later, "b", X);
    assert_eq!(script.holders("b"), []);
    let cancel = Command::Cancel { name: name("a"), acquire: RequestNumber(101) };
    assert_eq!(script.number(waiter, 102, cancel), Outcome::Cancelled);
    assert_eq!((script.waiters("a"), script.holders("b")), (vec![], vec![later]));
    assert_eq!(acquire_all(&mut script, waiter, 101, &[("a", X), ("b", X)]), Outcome::Gone);
}

#[test]
fn a_set_that_its_cancel_overtook_is_never_executed() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    script.number(session, 102, Command::Cancel { name: name("b"), acquire: RequestNumber(101) });
    assert_eq!(acquire_all(&mut script, session, 101, &[("a", X), ("b", X)]), Outcome::Gone);
    assert_eq!(script.machine.lock_count(), 0);
}

#[test]
fn a_set_ends_what_its_session_has_of_it_and_does_not_know_of() {
    let mut script = Script::new();
    let [session, holder, _] = three(&mut script);
    let held = token(&script.acquire(session, "a", X));
    script.acquire(holder, "b", X);
    script.acquire(session, "b", X);
    assert_eq!(acquire_all(&mut script, session, 103, &[("a", X), ("b", X)]), Outcome::Queued);
    assert_eq!((script.holders("a"), script.waiters("b")), (vec![], vec![session]));
    assert_eq!(script.release(session, "a", held, None), Outcome::NotHeld);
}

#[test]
fn a_dead_session_leaves_all_queues_of_its_set_and_its_locks_go_to_the_next() {
    let mut script = Script::new();
    let [holder, waiter, later] = three(&mut script);
    script.acquire(holder, "c", X);
    acquire_all(&mut script, waiter, 101, &[("a", X), ("b", X), ("c", X)]);
    script.acquire(later, "a", X);
    script.apply(&Op::Close { session: waiter });
    assert_eq!((script.holders("a"), script.waiters("c")), (vec![later], vec![]));
    assert_eq!(script.machine.lock_count(), 2, "nobody holds b or waits for it: no entry");
}

#[test]
fn a_repeated_set_is_answered_with_what_became_of_it_and_so_is_each_of_its_locks() {
    let mut script = Script::new();
    let [holder, waiter, _] = three(&mut script);
    let held = token(&script.acquire(holder, "a", X));
    let locks = [("a", X), ("b", X)];
    let ask = |text: &str| Command::Acquire { name: name(text), mode: X };
    assert_eq!(acquire_all(&mut script, waiter, 101, &locks), Outcome::Queued);
    assert_eq!(acquire_all(&mut script, waiter, 101, &locks), Outcome::Queued);
    assert_eq!(script.number(waiter, 101, ask("b")), Outcome::Queued);
    script.release(holder, "a", held, None);
    let granted = granted_now(&script);
    assert_eq!(acquire_all(&mut script, waiter, 101, &locks), granted);
    assert_eq!(script.number(waiter, 101, ask("b")), granted);
    script.release(waiter, "b", token(&granted), None);
    assert_eq!(script.number(waiter, 101, ask("a")), granted);
    assert_eq!(acquire_all(&mut script, waiter, 101, &locks), Outcome::Gone, "a part of it is of no use");
}

#[test]
fn a_set_waits_on_over_a_snapshot() {
    let mut script = Script::new();
    let [holder, waiter, _] = three(&mut script);
    let held = token(&script.acquire(holder, "a", X));
    acquire_all(&mut script, waiter, 101, &[("a", X), ("b", S)]);
    let snapshot = script.machine.snapshot();
    script.machine = Machine::default();
    script.machine.restore(&snapshot).expect("own snapshot");
    script.release(holder, "a", held, None);
    assert_eq!((script.holders("a"), script.holders("b")), (vec![waiter], vec![waiter]));
}

#[test]
fn a_set_beyond_a_limit_is_refused_and_changes_nothing() {
    let mut script = Script::with(Limits { locks_per_session: 3, waiters_per_session: 2, ..Limits::default() });
    let session = script.open(1, 60_000);
    let held = token(&script.acquire(session, "a", X));
    let refused = acquire_all(&mut script, session, 102, &[("a", X), ("b", X), ("c", X)]);
    assert!(matches!(refused, Outcome::LimitReached { .. }));
    assert_eq!(script.holders("a"), [session]);
    assert_eq!(script.release(session, "a", held, None), Outcome::Released { requeued: None });
}
