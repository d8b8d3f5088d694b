//! Leases, service time and the end of sessions.

use lock_protocol::Outcome;

use super::{S, Script, X, token};
use crate::machine::{Op, Reply, SWEEP_MAX_STEPS};

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
fn requirement_5_a_mass_expiry_is_swept_a_thousand_steps_at_a_time_and_each_lock_passes_on_in_its_step() {
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
