//! A cluster that begins with the state of a backup.

use std::time::Duration;

use lock_protocol::{LEASE_MAX, LOCK_DELAY_MAX};
use rsm::StateMachine;

use super::*;

/// Far above what the old cluster executed.
const FIRST: u64 = 1 << 50;

impl Script {
    /// This cluster is lost; another begins with its state.
    fn restore(&mut self, longest_lease: Duration) {
        let backup = self.machine.snapshot();
        self.machine = Machine::restored(&backup, FIRST, longest_lease).expect("its own state");
        self.machine.set_serving(true);
        self.op = FIRST;
    }
}

#[test]
fn a_restored_cluster_opens_a_session_when_the_longest_lease_has_passed_and_its_tokens_are_above_all_before() {
    let mut script = Script::new();
    let old = script.open(1, 2_000);
    let before = token(&script.acquire(old, "a", X));
    script.restore(Duration::from_secs(5));
    assert_eq!(script.machine.lock_count(), 0, "its locks are free");
    assert_eq!(script.machine.shortest_lease(), Some(LEASE_MAX), "time passes without sessions");
    assert_eq!(script.number(old, 9, Command::Acquire { name: name("a"), mode: X }), Outcome::SessionGone);
    for elapsed_ms in [1_000; 5] {
        assert!(matches!(script.try_open(2, 60_000), Reply::Busy(_)));
        assert_eq!(script.tick(elapsed_ms, &[old]), [old], "the old session is told that it is gone");
    }
    assert_eq!(script.machine.shortest_lease(), None);
    let session = script.open(2, 60_000);
    assert!(session.0 > FIRST && token(&script.acquire(session, "a", X)) > before);
    assert!(token(&script.acquire(session, "b", X)).0 > FIRST);
}

#[test]
fn a_session_of_the_backup_with_a_longer_lease_than_was_said_prolongs_the_wait() {
    let mut script = Script::new();
    script.open(1, 10_000);
    script.restore(Duration::from_secs(1));
    assert_eq!(script.machine.waits_after_restore(), Some(Duration::from_secs(10)));
    script.restore(Duration::from_secs(3));
    assert_eq!(script.machine.waits_after_restore(), Some(Duration::from_secs(10)), "a wait is not cut short");
    let mut longest = Script::new();
    longest.restore(Duration::MAX);
    assert_eq!(longest.machine.waits_after_restore(), Some(LEASE_MAX + LOCK_DELAY_MAX));
}

#[test]
fn the_wait_survives_a_restart_and_leaves_no_trace_when_it_is_over() {
    let mut script = Script::new();
    script.restore(Duration::from_secs(2));
    script.tick(1_500, &[]);
    script.restart_from_snapshot();
    assert_eq!(script.machine.waits_after_restore(), Some(Duration::from_millis(500)));
    assert!(matches!(script.try_open(2, 60_000), Reply::Busy(_)));
    script.tick(500, &[]);
    assert!(script.machine.snapshot().starts_with(b"PLUMLK"), "as of any other cluster");
    script.restart_from_snapshot();
    script.open(2, 60_000);
}

#[test]
fn a_wait_has_these_bytes_for_ever() {
    let mut script = Script::new();
    let plain = script.machine.snapshot();
    script.restore(Duration::from_millis(500));
    let golden = [&b"PLUMRS\x00\x01"[..], &500_000u64.to_le_bytes()].concat();
    let snapshot = script.machine.snapshot();
    assert_eq!((&snapshot[..16], &snapshot[16..24]), (&golden[..], &plain[..8]));
}

#[test]
fn a_state_that_cannot_wait_is_no_snapshot() {
    let mut script = Script::new();
    let empty = script.machine.snapshot();
    script.open(1, 60_000);
    let with_session = script.machine.snapshot();
    let waiting = |until_us: u64, rest: &[u8]| [&b"PLUMRS\x00\x01"[..], &until_us.to_le_bytes(), rest].concat();
    let restores = |bytes: &[u8]| Machine::default().restore(bytes).is_ok();
    assert!(restores(&waiting(1, &empty)) && !restores(&waiting(1, &with_session)));
    assert!(!restores(&waiting(u64::MAX, &empty)) && !restores(b"PLUMRS\x00\x01"));
    assert!(!restores(&[&b"PLUMRS\x00\x02"[..], &waiting(1, &empty)[8..]].concat()), "of another release");
    for op in [0, 1 << 53] {
        assert!(Machine::restored(&with_session, op, Duration::ZERO).is_err(), "op {op}");
    }
}
