//! Whose turn it is among local users (M14), and before whom a tenure is given up (M15).

use super::*;

#[test]
pub(crate) fn m14_after_a_revoke_only_those_who_waited_already_are_served_and_at_most_sixteen() {
    let mut script = Script::new();
    script.wait('x', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, granted(5, false));
    assert_eq!(script.served(), ['x']);
    for waiter in ('A'..='Z').take(20) {
        script.wait(waiter, Exclusive);
    }
    script.revoke(5, None);
    let mut served = 0;
    loop {
        script.end();
        match script.served().len() {
            0 => break,
            count => served += count,
        }
    }
    assert_eq!(served, 16);
    assert_eq!(script.flush(), None);

    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Exclusive, 0, 1).expect("it is cached");
    script.revoke(5, None);
    script.wait('b', Exclusive);
    script.end();
    assert!(script.served().is_empty(), "it came after the revoke");
    assert_eq!(script.flush(), None);
}

#[test]
fn m14_a_shared_lock_that_is_revoked_admits_no_later_user_beside_those_that_it_has() {
    let mut script = Script::cached(Shared, 5);
    script.lock.start_cached(Shared, 0, 2).expect("it is cached");
    script.revoke(5, None);
    assert_eq!(script.lock.start_cached(Shared, 0, 3), None);
    script.wait('b', Shared);
    assert!(script.served().is_empty());
    script.end();
    assert_eq!(script.flush(), None);
}

#[test]
fn m14_nobody_is_started_after_the_time_for_starts_but_the_one_for_whom_it_was_asked() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    script.wait('b', Exclusive);
    let (number, _) = script.sent_one();
    script.live = false;
    script.outcome(number, granted(5, true));
    script.now_ns += YIELD_STARTS_NS;
    script.live = true;
    script.step(CachedLock::settle);
    assert_eq!(script.served(), ['a']);
    script.end();
    assert!(script.served().is_empty());
    assert_eq!(script.flush(), None);
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5 requeue exclusive");
}

#[test]
fn m14_a_waiting_exclusive_stops_later_shared_users() {
    let mut script = Script::new();
    for (waiter, mode) in [('a', Exclusive), ('b', Shared), ('c', Shared), ('d', Exclusive), ('e', Shared)] {
        script.wait(waiter, mode);
    }
    let (number, _) = script.sent_one();
    script.outcome(number, granted(5, false));
    assert_eq!(script.served(), ['a']);
    script.end();
    assert_eq!(script.served(), ['b', 'c']);
    assert_eq!(script.lock.start_cached(Shared, 0, 2), None);
    script.end();
    assert!(script.served().is_empty());
    script.end();
    assert_eq!(script.served(), ['d']);
}

#[test]
fn m15_a_shared_tenure_is_given_up_before_exclusive_is_asked_for() {
    let mut script = Script::cached(Shared, 5);
    script.wait('b', Exclusive);
    assert_eq!(script.flush(), None);
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5 requeue exclusive");
}
