//! Exclusive locks that stay held after the death of their holder.

use lock_protocol::{KeptLocks, OpenWith, SessionEnd, SessionOptions};

use super::*;
use crate::machine::SWEEP_MAX_STEPS;

impl Script {
    fn open_delayed(&mut self, nonce: u128, lease_ms: u64, lock_delay_ms: u64) -> SessionId {
        let open = Open { nonce, lease_ms, identity: ClientIdentity::default() };
        let options = SessionOptions { lock_delay_ms, recovery: None };
        match self.apply(&Op::OpenWith(OpenWith { open, options })) {
            Reply::Opened(opened) => opened.session,
            other => panic!("not opened: {other:?}"),
        }
    }

    fn end(&mut self, session: SessionId, end: SessionEnd) {
        assert_eq!(self.apply(&Op::End { session, end }), Reply::Closed);
    }

    fn kept(&mut self) -> Vec<KeptLocks> {
        match self.apply(&Op::Read(Query::Kept { after: None, limit: 9 })) {
            Reply::Answer(Answer::Kept { entries, more: false }) => entries,
            other => panic!("no answer: {other:?}"),
        }
    }

    fn sweep(&mut self) {
        while self.machine.needs_sweep() {
            self.apply(&Op::Sweep);
        }
    }

    /// Lets time pass until the session expires, renewing the other.
    fn expire(&mut self, session: SessionId, other: SessionId) {
        while self.machine.lives(session) {
            self.tick(50, &[other]);
        }
    }
}

#[test]
fn exclusive_locks_are_withheld_for_the_lock_delay_after_an_expiry_and_shared_ones_are_free() {
    let mut script = Script::new();
    let [holder, waiter] = [script.open_delayed(1, 500, 2_000), script.open(2, 60_000)];
    let held = token(&script.acquire(holder, "x", X));
    script.acquire(holder, "s", S);
    script.acquire(waiter, "w", X);
    script.acquire(holder, "w", X);
    script.acquire(waiter, "x", X);
    script.acquire(waiter, "s", X);
    script.expire(holder, waiter);
    let died_us = script.machine.service_time_us();
    script.sweep();
    assert_eq!((script.holders("x"), script.holders("s")), (vec![holder], vec![waiter]));
    assert_eq!(script.waiters("w"), [], "its places in queues are given up");
    let kept = script.kept();
    assert_eq!((kept[0].session, kept[0].locks, kept[0].delay_left_ms), (holder, 1, 2_000));
    assert_eq!(script.machine.outstanding_revokes(None, 9), [], "there is nobody to be asked");
    script.restart_from_snapshot();
    while script.holders("x") == [holder] {
        assert!(script.machine.service_time_us() - died_us < 2_200_000, "withheld for too long");
        script.tick(50, &[waiter]);
        script.sweep();
    }
    assert!(script.machine.service_time_us() - died_us >= 2_000_000, "before its time");
    assert_eq!((script.holders("x"), script.kept().len()), (vec![waiter], 0));
    let Reply::Answer(Answer::Inspect(entry)) = script.apply(&Op::Read(Query::Inspect { name: name("x") })) else {
        panic!("one lock")
    };
    assert!(entry.holders[0].token > held);
    assert_eq!(script.machine.session_count(), 1, "the dead one is forgotten");
}

#[test]
fn nothing_is_withheld_after_a_release_or_an_end_in_order() {
    for end in [Op::Close { session: SessionId(1) }, Op::End { session: SessionId(1), end: SessionEnd::Flushed }] {
        let mut script = Script::new();
        let [holder, waiter] = [script.open_delayed(1, 500, 2_000), script.open(2, 60_000)];
        let held = token(&script.acquire(holder, "r", X));
        script.acquire(holder, "x", X);
        script.acquire(waiter, "r", X);
        script.acquire(waiter, "x", X);
        script.release(holder, "r", held, None);
        assert_eq!((script.holders("r"), script.holders("x")), (vec![waiter], vec![holder]));
        assert_eq!(script.apply(&end), Reply::Closed);
        assert_eq!((script.holders("x"), script.machine.session_count()), (vec![waiter], 1));
    }
}

#[test]
fn a_session_that_is_abandoned_withholds_its_locks_from_that_moment_on_and_for_all_of_the_delay() {
    let mut script = Script::new();
    let [holder, waiter] = [script.open_delayed(1, 60_000, 2_000), script.open(2, 60_000)];
    script.acquire(holder, "x", X);
    script.acquire(waiter, "x", X);
    script.end(holder, SessionEnd::Abandoned);
    assert!(!script.machine.lives(holder) && script.holders("x") == [holder]);
    // The next tick's elapsed time began before the op, by up to a cap of two ticks: those do not count.
    for _ in 0..3 {
        script.tick(1_000, &[waiter]);
        script.sweep();
        assert_eq!(script.holders("x"), [holder]);
    }
    script.tick(1_000, &[waiter]);
    script.sweep();
    assert_eq!(script.holders("x"), [waiter]);
    script.end(holder, SessionEnd::Abandoned);
}

#[test]
fn a_session_with_very_many_locks_is_passed_over_in_bounded_steps_and_the_same_after_a_snapshot() {
    let mut script = Script::new();
    let [holder, other] = [script.open_delayed(1, 500, 1_000), script.open(2, 60_000)];
    let count = 2 * SWEEP_MAX_STEPS as u64 + 500;
    for lock in 0..count {
        let mode = if lock % 5 == 0 { S } else { X };
        script.acquire(holder, &format!("{lock:05}"), mode);
    }
    script.expire(holder, other);
    let mut ops = 0;
    while script.machine.needs_sweep() {
        let mut restored = Machine::default();
        restored.restore(&script.machine.snapshot()).expect("own snapshot");
        script.apply(&Op::Sweep);
        restored.apply(script.op, &Op::Sweep.encode());
        assert_eq!(restored.digest(), script.machine.digest(), "it goes on where the other was");
        ops += 1;
    }
    assert_eq!((ops, script.machine.lock_count() as u64), (3, count - count / 5));
    while script.machine.lock_count() > 0 {
        script.tick(50, &[other]);
        script.sweep();
    }
    assert_eq!(script.machine.session_count(), 1);
}

#[test]
fn a_lock_delay_is_cut_to_its_limit_and_the_first_transmission_counts() {
    let mut script = Script::new();
    let [holder, other] = [script.open_delayed(1, 500, u64::MAX), script.open(2, 60_000)];
    assert_eq!(script.open_delayed(1, 500, 0), holder, "the same nonce, the same session");
    script.acquire(holder, "x", X);
    script.expire(holder, other);
    assert_eq!(script.kept()[0].delay_left_ms, 3_600_000);
}
