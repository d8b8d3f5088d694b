//! Repeated, late and cancelled requests, and those beyond a limit.

use lock_protocol::{Command, Outcome, Request, RequestNumber};

use super::{S, Script, X, name, token};
use crate::machine::{Limits, Op, Reply};

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
