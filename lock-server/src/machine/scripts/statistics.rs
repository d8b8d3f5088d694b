//! What is counted of all that happens.

use lock_protocol::{Command, Outcome};

use super::{S, Script, X, name, token};
use crate::machine::{Durations, Op};

fn durations(us: &[u64]) -> Durations {
    let mut durations = Durations::default();
    us.iter().for_each(|us| durations.record(*us));
    durations
}

#[test]
fn a_lock_that_is_waited_for_and_passed_on_is_counted_with_its_times() {
    let mut script = Script::new();
    let (first, second) = (script.open(1, 60_000), script.open(2, 60_000));
    let held = token(&script.acquire(first, "a", X));
    script.pass(100, &[first, second]);
    assert_eq!(script.acquire(second, "a", X), Outcome::Queued);
    assert_eq!(script.machine.statistics().waiters, 1);
    script.pass(200, &[first, second]);
    script.release(first, "a", held, None);
    let statistics = script.machine.statistics();
    assert_eq!((statistics.opened, statistics.granted_at_once, statistics.waiters), (2, 1, 0));
    assert_eq!((statistics.waits, statistics.holds), (durations(&[200_000]), durations(&[300_000])));
}

#[test]
fn a_shared_lock_beside_another_and_an_upgrade_are_granted_at_once() {
    let mut script = Script::new();
    let (first, second) = (script.open(1, 60_000), script.open(2, 60_000));
    let mine = token(&script.acquire(first, "a", S));
    let others = token(&script.acquire(second, "a", S));
    script.release(second, "a", others, None);
    let upgrade = Command::Upgrade { name: name("a"), token: mine };
    assert!(matches!(script.next(first, upgrade), Outcome::Upgraded { .. }));
    let statistics = script.machine.statistics();
    assert_eq!((statistics.granted_at_once, statistics.holds.count(), statistics.waits.count()), (3, 2, 0));
}

#[test]
fn what_a_session_held_when_its_lease_ran_out_is_lost_and_what_it_closed_with_is_not() {
    let mut script = Script::new();
    let (silent, closed) = (script.open(1, 500), script.open(2, 60_000));
    for lock in ["a", "b"] {
        script.acquire(silent, lock, X);
    }
    script.acquire(closed, "c", X);
    script.acquire(closed, "a", X);
    script.apply(&Op::Close { session: closed });
    script.pass(1000, &[]);
    script.apply(&Op::Sweep);
    let statistics = script.machine.statistics();
    assert_eq!((statistics.expired, statistics.closed, statistics.lost), (1, 1, 2));
    assert_eq!((statistics.waiters, statistics.holds.count()), (0, 3));
}

#[test]
fn a_restored_machine_goes_on_counting_and_knows_who_waits() {
    let mut script = Script::new();
    let sessions: Vec<_> = (1..=4).map(|nonce| script.open(nonce, 60_000)).collect();
    for session in &sessions {
        script.acquire(*session, "a", X);
    }
    let snapshot = rsm::StateMachine::snapshot(&script.machine);
    assert_eq!(script.cancel(sessions[3], "a", 4), Outcome::Cancelled);
    assert_eq!(script.machine.statistics().waiters, 2);
    rsm::StateMachine::restore(&mut script.machine, &snapshot).expect("own snapshot");
    assert_eq!((script.machine.statistics().waiters, script.machine.statistics().opened), (3, 4));
    script.restart_from_snapshot();
    assert_eq!((script.machine.statistics().waiters, script.machine.statistics().opened), (3, 0));
}
