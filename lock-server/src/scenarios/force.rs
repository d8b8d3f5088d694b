//! Tenures that are ended by force (M23).

use lock_protocol::{
    Answer, Command, FencingToken, ForcedTenure, Notice, Outcome, Query, Refusal, Requeued, SessionId,
};
use rsm::StateMachine;

use super::{Primary, S, X, ms, name, token};
use crate::machine::{FORCED_MAX, Machine, Op, Reply};
use crate::primary::RawTime;

fn forced(text: &str, token: FencingToken) -> Notice {
    Notice::Forced { name: name(text), token }
}

/// A holder that holds "a" and a waiter.
fn held_and_wanted() -> (Primary, SessionId, SessionId, FencingToken) {
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 2_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    assert_eq!(primary.acquire(waiter, "a", X), Outcome::Queued);
    (primary, holder, waiter, held)
}

#[test]
fn a_forced_lock_is_withheld_until_its_holder_confirms_with_a_release() {
    let (mut primary, holder, waiter, held) = held_and_wanted();
    primary.connected.insert(holder);
    let ended = ForcedTenure { session: holder, withheld_ms: Some(2_200) };
    assert_eq!(primary.force("a", held, false), [ended]);
    assert_eq!(primary.force("a", held, false), [ended], "repeating it changes nothing");
    assert!(primary.heard(holder).contains(&forced("a", held)), "told at once");
    primary.run_renewing(primary.now + ms(1_000), &[holder, waiter]);
    primary.sweep();
    assert_eq!(primary.holders("a"), [holder]);
    assert_eq!(primary.release(holder, "a", held), Outcome::Released { requeued: None });
    assert_eq!(primary.holders("a"), [waiter]);
    let stamp = primary.keep_alive(holder);
    primary.run_until(primary.now + ms(3_000));
    assert!(primary.answer_to(stamp).is_some_and(|answer| answer.as_ref().is_ok_and(|told| told.notices.is_empty())));
    assert_eq!(primary.revoker.due(), None, "nothing is left to tell");
}

#[test]
fn a_forced_lock_passes_on_after_a_lease_and_its_holder_is_told_until_it_confirms() {
    let (mut primary, holder, waiter, held) = held_and_wanted();
    let at = primary.now;
    primary.force("a", held, false);
    while primary.holders("a") == [holder] {
        assert!(primary.now < at + ms(4_000), "withheld for too long");
        primary.run_renewing(primary.now + ms(50), &[holder, waiter]);
        primary.sweep();
    }
    assert!(primary.now >= at + ms(2_000), "a keep-alive sent before the op may count until then");
    assert_eq!(primary.holders("a"), [waiter]);
    for _ in 0..2 {
        let stamp = primary.keep_alive(holder);
        primary.run_until(primary.now + ms(200));
        let Some(Ok(renewed)) = primary.answer_to(stamp) else { panic!("no answer") };
        assert_eq!(renewed.notices, [forced("a", held)], "it may have been out of reach all the time");
        primary.fail_over(None);
    }
    let acquire = primary.acquire(holder, "a", X);
    assert_eq!(acquire, Outcome::AlreadyHeld { token: held, mode: X }, "first it has to confirm");
    let release = Command::Release { name: name("a"), token: held, requeue: Some(X) };
    assert_eq!(primary.ask(holder, release), Outcome::Released { requeued: Some(Requeued::Queued) });
    assert_eq!(primary.holders("a"), [waiter]);
    assert_eq!(primary.machine.revokes_of(holder, 9).0, []);
}

#[test]
fn with_now_the_next_has_the_lock_in_the_same_op() {
    let (mut primary, holder, waiter, held) = held_and_wanted();
    primary.force("a", held, false);
    let ended = ForcedTenure { session: holder, withheld_ms: None };
    assert_eq!(primary.force("a", held, true), [ended]);
    assert_eq!(primary.holders("a"), [waiter]);
    assert_eq!(primary.machine.revokes_of(holder, 9).0, [forced("a", held)]);
    assert_eq!(primary.force("a", held, true), [], "nobody holds it with that token");
    assert_eq!(primary.release(holder, "a", held), Outcome::Released { requeued: None });
    assert_eq!(primary.holders("a"), [waiter], "the confirmation ends no other tenure");
}

#[test]
fn another_tenures_token_forces_nothing() {
    let (mut primary, holder, _, held) = held_and_wanted();
    assert_eq!(primary.force("a", FencingToken(held.0 + 1), true), []);
    assert_eq!(primary.force("b", held, true), []);
    assert_eq!(primary.holders("a"), [holder]);
}

#[test]
fn shared_tenures_with_one_token_are_ended_together_and_others_stay() {
    let mut primary = Primary::new(None);
    let [writer, first, second, third] = [1, 2, 3, 4].map(|nonce| primary.open(nonce, 60_000));
    let held = token(&primary.acquire(writer, "a", X));
    primary.acquire(first, "a", S);
    primary.acquire(second, "a", S);
    primary.release(writer, "a", held);
    let later = token(&primary.acquire(third, "a", S));
    let Answer::Inspect(entry) = primary.machine.on_read(&Query::Inspect { name: name("a") }) else {
        panic!("one lock")
    };
    let common = entry.holders[0].token;
    assert!(common < later && entry.holders[1].token == common);
    assert_eq!(primary.force("a", common, true).len(), 2);
    assert_eq!(primary.holders("a"), [third]);
}

#[test]
fn what_a_forced_tenure_is_asked_for_is_refused_and_its_acquire_is_gone() {
    let mut primary = Primary::new(None);
    let session = primary.open(1, 2_000);
    let acquire = Command::Acquire { name: name("a"), mode: X };
    let held = token(&primary.number(session, 1, 50, acquire.clone()));
    primary.force("a", held, false);
    assert_eq!(
        primary.number(session, 1, 50, acquire.clone()),
        Outcome::Gone,
        "the client must not take it for a grant"
    );
    assert_eq!(primary.number(session, 51, 50, acquire), Outcome::BelowFloor);
    assert_eq!(primary.number(session, 51, 51, Command::Downgrade { name: name("a"), token: held }), Outcome::NotHeld);
    let cancel = Command::Cancel { name: name("a"), acquire: lock_protocol::RequestNumber(50) };
    assert_eq!(primary.number(session, 51, 52, cancel), Outcome::Cancelled);
    assert_eq!(primary.holders("a"), [], "the cancel of its acquire confirms too");
    assert_eq!(primary.machine.revokes_of(session, 9).0, []);
}

#[test]
fn a_new_primary_withholds_and_tells_as_the_one_before() {
    let (mut primary, holder, waiter, held) = held_and_wanted();
    primary.force("a", held, false);
    let before = primary.machine.digest();
    primary.fail_over(None);
    assert_eq!(primary.machine.digest(), before);
    let Answer::Forced(shown) = primary.machine.on_read(&Query::Forced { name: name("a") }) else { panic!("shown") };
    assert_eq!(shown, [ForcedTenure { session: holder, withheld_ms: Some(2_200) }]);
    primary.run_renewing(primary.now + ms(1_500), &[holder, waiter]);
    primary.sweep();
    assert_eq!((primary.holders("a"), primary.machine.revokes_of(holder, 9).0.len()), (vec![holder], 2));
    primary.run_renewing(primary.now + ms(1_500), &[holder, waiter]);
    primary.sweep();
    assert_eq!(primary.holders("a"), [waiter]);
}

#[test]
fn a_forced_holder_that_dies_or_closes_withholds_nothing_any_longer() {
    for closes in [false, true] {
        let (mut primary, holder, waiter, held) = held_and_wanted();
        primary.force("a", held, false);
        if closes {
            primary.apply(&Op::Close { session: holder });
        } else {
            primary.dies_at(holder);
            primary.fail_over(None);
            primary.sweep();
        }
        assert_eq!(primary.holders("a"), [waiter]);
        assert!(!primary.machine.needs_sweep());
    }
}

#[test]
fn a_keep_alive_of_a_forced_holder_is_not_answered_without_the_notice() {
    let (mut primary, holder, waiter, held) = held_and_wanted();
    primary.force("a", held, false);
    let stamps = [primary.keep_alive(holder), primary.keep_alive(waiter)];
    primary.now = primary.due().expect("a tick");
    let op = primary.ticker.close(|| RawTime::from_ns(100_000_000)).expect("a tick");
    let reply = primary.apply(&op).encode();
    // Nobody could look at the state.
    let (renewals, _) = primary.ticker.executed(&reply);
    let answers = renewals.answers(None);
    assert_eq!(answers[0], (stamps[0], Err(Refusal::Unknown)));
    assert!(answers[1].1.as_ref().is_ok_and(|renewed| renewed.more));
}

#[test]
fn a_session_with_very_many_unconfirmed_tenures_is_told_all_of_them_and_more_are_refused() {
    let mut primary = Primary::new(None);
    let session = primary.open(1, 60_000);
    let mut last = FencingToken(0);
    for lock in 0..=FORCED_MAX {
        let number = lock as u64 + 1;
        let acquire = Command::Acquire { name: name(&format!("{lock:03}")), mode: X };
        last = token(&primary.number(session, number, number, acquire));
        if lock < FORCED_MAX {
            assert_eq!(primary.force(&format!("{lock:03}"), last, true).len(), 1);
        }
    }
    let force = lock_protocol::ForceRelease { name: name(&format!("{FORCED_MAX:03}")), token: last, now: true };
    assert!(matches!(primary.apply(&Op::ForceRelease(force)), Reply::Busy(_)));
    assert_eq!(primary.holders(&format!("{FORCED_MAX:03}")), [session]);
    let (notices, more) = primary.machine.revokes_of(session, lock_protocol::NOTICES_MAX);
    assert_eq!((notices.len(), more), (FORCED_MAX, false));
    let mut restored = Machine::default();
    restored.restore(&primary.machine.snapshot()).expect("own snapshot");
    assert_eq!(restored.revokes_of(session, 9_999).0.len(), FORCED_MAX);
}
