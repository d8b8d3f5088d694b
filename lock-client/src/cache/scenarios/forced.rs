//! A tenure that an operator ends by force (M23).

use super::*;

#[test]
pub(crate) fn m23_a_tenure_that_is_ended_by_force_in_use_is_confirmed_without_a_flush_and_its_user_counts_no_longer() {
    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Exclusive, 0, 2).expect("it is cached");
    script.force(5);
    assert_eq!(script.lock.forced(), FencingToken(5), "its guard is dead");
    assert!(script.effects.is_empty(), "no flush");
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 5");
    script.force(5);
    assert!(script.sent().is_empty(), "said again, it counts once");
    script.wait('b', Exclusive);
    script.outcome(number, Outcome::NotHeld);
    let (number, text) = script.sent_one();
    assert_eq!(text, "acquire exclusive");
    script.outcome(number, granted(9, false));
    assert_eq!(script.served(), ['b']);
    // The dead guard's end frees nothing of the new tenure.
    script.lock.end_cached(0, FencingToken(5));
    assert_eq!(script.lock.start_cached(Exclusive, 0, 3), None);
}

#[test]
fn m23_local_waiters_of_a_tenure_that_is_ended_by_force_stand_in_the_queue_again() {
    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Exclusive, 0, 2).expect("it is cached");
    script.wait('b', Shared);
    script.force(5);
    assert!(script.served().is_empty());
    assert_eq!(script.sent_one().1, "release 5 requeue shared");
}

#[test]
fn m23_a_flush_under_way_for_a_tenure_that_is_ended_by_force_is_not_waited_for() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, None);
    script.flush();
    script.force(5);
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 5");
    script.flushed(5);
    script.outcome(number, Outcome::NotHeld);
    assert!(script.sent().is_empty() && script.lock.is_unknown());
}

#[test]
fn m23_a_force_that_overtakes_the_grant_it_ends_is_confirmed_and_the_grant_not_used() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.force(7);
    assert_eq!(script.sent_one().1, "release 7");
    script.outcome(number, granted(7, false));
    assert!(script.served().is_empty());
    let (again, text) = script.sent_one();
    assert!(again > number && text == "acquire exclusive");
    script.outcome(again, granted(9, false));
    assert_eq!(script.served(), ['a']);
}

#[test]
fn m23_a_queued_acquire_whose_grant_was_ended_by_force_is_asked_about_at_once() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Queued);
    script.force(7);
    let sent = script.sent();
    assert_eq!(sent[0], (number, "acquire exclusive".to_owned()));
    assert_eq!(sent[1].1, "release 7");
    script.outcome(number, Outcome::Gone);
    assert_eq!(script.sent_one().1, "acquire exclusive");
}

#[test]
fn m23_a_force_during_a_downgrade_leaves_nothing_to_use() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, Some(Shared));
    script.flush();
    script.flushed(5);
    let (number, _) = script.sent_one();
    script.force(5);
    assert_eq!(script.sent_one().1, "release 5");
    script.outcome(number, Outcome::Downgraded);
    assert_eq!(script.lock.start_cached(Shared, 0, 2), None);
    assert!(script.lock.is_unknown());
}

#[test]
fn m23_a_force_of_a_tenure_that_the_client_does_not_know_is_confirmed() {
    let mut script = Script::new();
    script.force(7);
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 7");
    script.outcome(number, Outcome::NotHeld);
    assert!(script.lock.is_unknown());

    let mut script = Script::cached(Exclusive, 9);
    script.force(5);
    assert_eq!(script.sent_one().1, "release 5");
    assert_eq!(script.lock.start_cached(Exclusive, 0, 2), Some(FencingToken(9)), "the present tenure goes on");
}
