//! Queues, requeues, downgrades, and what holders are told.

use lock_protocol::{Command, FencingToken, Notice, Outcome, Requeued};

use super::{S, Script, X, granted, name, token};
use crate::machine::{Effect, Op, Revoke};

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
fn an_upgrade_of_a_holder_that_is_alone_is_a_new_tenure_and_a_repetition_is_answered_the_same() {
    let mut script = Script::new();
    let [reader, other] = [script.open(1, 60_000), script.open(2, 60_000)];
    let shared = token(&script.acquire(reader, "a", S));
    let upgrade = Command::Upgrade { name: name("a"), token: shared };
    let outcome = script.number(reader, 50, upgrade.clone());
    let exclusive = FencingToken(script.op);
    assert_eq!(outcome, Outcome::Upgraded { token: exclusive });
    assert!(exclusive > shared);
    script.restart_from_snapshot();
    assert_eq!(script.number(reader, 50, upgrade.clone()), outcome);
    assert_eq!(script.next(reader, upgrade), Outcome::NotHeld, "that tenure is over");
    let again = Command::Upgrade { name: name("a"), token: exclusive };
    assert_eq!(script.next(reader, again), outcome, "an exclusive tenure is as it was");
    assert_eq!(script.acquire(other, "a", S), Outcome::Queued);
    assert_eq!(script.machine.is_revoke_due(reader, &name("a"), exclusive), Some(Some(S)));
    assert_eq!(script.release(reader, "a", shared, None), Outcome::NotHeld);
    assert_eq!(script.release(reader, "a", exclusive, None), Outcome::Released { requeued: None });
    assert_eq!(script.holders("a"), [other]);
}

#[test]
fn an_upgrade_changes_nothing_while_another_holds_or_waits() {
    let mut script = Script::new();
    let [first, second, writer] = [script.open(1, 60_000), script.open(2, 60_000), script.open(3, 60_000)];
    let held = [token(&script.acquire(first, "a", S)), token(&script.acquire(second, "a", S))];
    let upgrade = |token| Command::Upgrade { name: name("a"), token };
    assert_eq!(script.next(first, upgrade(held[0])), Outcome::NotUpgraded);
    assert_eq!(script.next(second, upgrade(held[1])), Outcome::NotUpgraded, "or both would wait for each other");
    assert_eq!(script.holders("a"), [first, second]);
    script.release(second, "a", held[1], None);
    assert_eq!(script.acquire(writer, "a", X), Outcome::Queued);
    assert_eq!(script.next(first, upgrade(held[0])), Outcome::NotUpgraded, "nobody overtakes a waiter");
    assert_eq!(script.release(first, "a", held[0], None), Outcome::Released { requeued: None });
    assert_eq!(script.holders("a"), [writer]);
}

#[test]
fn an_upgrade_beside_a_dead_holder_waits_for_the_sweep() {
    let mut script = Script::new();
    let [reader, dying] = [script.open(1, 60_000), script.open(2, 500)];
    let held = token(&script.acquire(reader, "a", S));
    script.acquire(dying, "a", S);
    script.pass(600, &[reader]);
    let upgrade = Command::Upgrade { name: name("a"), token: held };
    assert_eq!(script.next(reader, upgrade.clone()), Outcome::NotUpgraded, "cleaning up is the sweep's");
    script.apply(&Op::Sweep);
    assert!(matches!(script.next(reader, upgrade), Outcome::Upgraded { .. }));
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
