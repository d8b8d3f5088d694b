//! What a primary owes its clients in time: ticks, revokes, grants.

use std::time::Duration;

use lock_protocol::{Notice, Outcome, Refusal, Renewed};
use rsm::Rejection;

use super::{Primary, X, ms, token};
use crate::machine::Op;
use crate::primary::{RetryerEvent, RevokerEvent};

#[test]
fn each_transmission_of_a_keep_alive_is_answered_under_its_own_stamp_and_counts_anew() {
    // M2
    let mut primary = Primary::new(None);
    let session = primary.open(1, 2_000);
    primary.run_until(ms(500));
    let [first, again] = [primary.keep_alive(session), primary.keep_alive(session)];
    primary.run_until(ms(700));
    for stamp in [first, again] {
        assert_eq!(primary.answer_to(stamp), Some(&Ok(Renewed { stamp, notices: vec![], more: false })));
    }
    primary.run_until(ms(1_900));
    primary.keep_alive(session);
    assert!(primary.dies_at(session) >= ms(3_900), "not answered from memory");
}

#[test]
fn leases_end_though_nobody_asks_for_anything() {
    // M4
    let mut primary = Primary::new(None);
    let session = primary.open(1, 2_000);
    primary.acquire(session, "a", X);
    let died = primary.dies_at(session);
    assert!(died >= ms(2_000) && died <= ms(2_000 + 2 * 200 + 100), "{died:?}");
    assert!(primary.due().is_some(), "time goes on for a session that is not swept yet");
    primary.apply(&Op::Sweep);
    assert_eq!(primary.due(), None, "and stands still without sessions");
}

#[test]
fn time_that_passed_without_sessions_does_not_count() {
    let mut primary = Primary::new(None);
    let other = primary.open(1, 500);
    primary.run_until(ms(100));
    primary.apply(&Op::Close { session: other });
    assert_eq!(primary.due(), None);
    primary.now += ms(60_000);
    primary.open(2, 500);
    primary.now = primary.due().expect("a tick");
    let Some(Op::Tick { elapsed_us, .. }) = primary.close() else { panic!("a tick") };
    assert_eq!(elapsed_us, 50_000, "not a minute, which only the cap would make harmless");
}

#[test]
fn a_tick_that_is_busy_puts_its_keep_alives_back_before_those_that_came_since() {
    // M6
    let mut primary = Primary::new(None);
    let session = primary.open(1, 500);
    primary.run_until(ms(100));
    let early = primary.keep_alive(session);
    primary.now = primary.due().expect("a tick");
    assert!(primary.close().is_some());
    assert_eq!((primary.close(), primary.due()), (None, None), "one is uncommitted at a time");
    let late = primary.keep_alive(session);
    primary.reject(Rejection::Busy);
    assert_eq!((primary.answer_to(early), primary.answer_to(late)), (None, None), "nobody is refused");
    primary.run_until(primary.now + ms(100));
    let stamps: Vec<_> = primary.answers.iter().map(|(stamp, _)| *stamp).collect();
    assert_eq!(stamps, [early, late]);
    assert!(primary.answers.iter().all(|(_, answer)| answer.is_ok()));
}

#[test]
fn a_tick_takes_every_keep_alive_that_came_in_as_many_ops_as_it_needs() {
    // M6
    let mut primary = Primary::new(None);
    let session = primary.open(1, 500);
    primary.run_until(ms(100));
    let stamps: Vec<_> = (0..7_000).map(|_| primary.keep_alive(session)).collect();
    primary.run_until(ms(170));
    assert_eq!(primary.answers.iter().map(|(stamp, _)| *stamp).collect::<Vec<_>>(), stamps);
    assert!(primary.dies_at(session) >= ms(600), "the elapsed time is in the first op alone");
}

#[test]
fn a_tick_whose_fate_is_unknown_refuses_its_keep_alives_and_is_not_made_up_for() {
    let mut primary = Primary::new(None);
    let session = primary.open(1, 500);
    primary.run_until(ms(100));
    let stamp = primary.keep_alive(session);
    primary.now = primary.due().expect("a tick");
    primary.close();
    primary.reject(Rejection::Unknown);
    assert_eq!(primary.answer_to(stamp), Some(&Err(Refusal::Unknown)));
    primary.now += ms(50);
    let Some(Op::Tick { elapsed_us, .. }) = primary.close() else { panic!("a tick") };
    assert_eq!(elapsed_us, 50_000);
}

#[test]
fn whoever_waits_for_a_tick_when_this_member_stops_serving_is_given_back() {
    let mut primary = Primary::new(None);
    let session = primary.open(1, 500);
    let stamp = primary.keep_alive(session);
    assert_eq!(primary.ticker.end(), [stamp]);
    assert_eq!((primary.due(), primary.close()), (None, None));
}

#[test]
fn a_session_with_a_shorter_lease_brings_the_next_tick_forward() {
    let mut primary = Primary::new(None);
    primary.open(1, 20_000);
    assert_eq!(primary.due(), Some(ms(1_000)));
    primary.now = ms(200);
    primary.open(2, 500);
    assert_eq!(primary.due(), Some(ms(250)));
}

#[test]
fn fail_overs_more_often_than_a_lease_do_not_keep_a_dead_client_alive() {
    // M8: each fail-over may cost the time since the last tick, and gives nothing.
    let mut primary = Primary::new(None);
    let session = primary.open(1, 10_000);
    for _ in 0..100 {
        primary.run_until(primary.now + ms(2_000));
        primary.fail_over(None);
        if !primary.machine.lives(session) {
            break;
        }
    }
    assert!(!primary.machine.lives(session));
    let bound = ms(10_000 + 1_000) + 8 * ms(500) + ms(2_000);
    assert!(primary.now <= bound, "{:?}", primary.now);
}

#[test]
fn a_holder_without_a_callback_connection_hears_of_the_waiter_with_its_keep_alive() {
    // M16
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 2_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    let stamp = primary.keep_alive(holder);
    primary.run_until(ms(200));
    let Some(Ok(renewed)) = primary.answer_to(stamp) else { panic!("no answer") };
    assert!(matches!(&renewed.notices[..], [Notice::Revoke { token, .. }] if *token == held));
    assert_eq!(primary.heard(holder), []);
    primary.connected.insert(holder);
    primary.revoker.on_event(primary.now, RevokerEvent::Connected(holder));
    primary.tell();
    assert_eq!(primary.heard(holder).len(), 1, "and when it connects, at once");
}

#[test]
fn a_revoke_is_repeated_until_it_is_moot_and_not_after() {
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    primary.connected.insert(holder);
    let held = token(&primary.acquire(holder, "a", X));
    assert_eq!(primary.acquire(waiter, "a", X), Outcome::Queued);
    assert_eq!(primary.heard(holder).len(), 1, "at once");
    primary.run_until(ms(10_000));
    let told = primary.heard(holder).len();
    assert_eq!(told, 1 + 8, "after 0.25, 0.5, 1, 2, 4, 6, 8 and 10 seconds");
    primary.release(holder, "a", held);
    primary.run_until(ms(30_000));
    assert_eq!(primary.heard(holder).len(), told);
    assert_eq!(primary.revoker.due(), None, "nothing is left to look at");
}

#[test]
fn a_client_that_does_not_answer_has_one_call_under_way() {
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    primary.connected.insert(holder);
    primary.is_deaf = true;
    for lock in 0..100 {
        primary.acquire(holder, &format!("{lock}"), X);
        primary.acquire(waiter, &format!("{lock}"), X);
    }
    primary.run_until(ms(1_000));
    assert_eq!(primary.calls.len(), 1);
    primary.run_until(ms(4_000));
    assert!(primary.calls.len() >= 2 && primary.heard(holder).len() >= 101, "given up, and told all of it then");
}

#[test]
fn a_grant_is_told_until_it_is_acknowledged_but_not_for_ever() {
    // M11
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    primary.connected.insert(waiter);
    primary.is_deaf = true;
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.release(holder, "a", held);
    primary.run_until(ms(60_000));
    let told = primary.heard(waiter).len();
    assert!((4..=10).contains(&told), "{told} times in 15 s");
    assert_eq!(primary.retryer.due(), None);
}

#[test]
fn a_grant_is_told_to_a_client_that_connects_later_and_once_it_is_acknowledged_no_more() {
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.release(holder, "a", held);
    primary.run_until(ms(1_000));
    primary.connected.insert(waiter);
    primary.retryer.on_event(primary.now, RetryerEvent::Connected(waiter));
    primary.tell();
    assert_eq!(primary.heard(waiter).len(), 1);
    primary.run_until(ms(20_000));
    assert_eq!(primary.heard(waiter).len(), 1);
}

#[test]
fn a_new_primary_tells_of_no_grant_and_the_waiter_asks() {
    // M11: grants are not derived anew.
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.release(holder, "a", held);
    primary.fail_over(None);
    primary.connected.insert(waiter);
    primary.retryer.on_event(primary.now, RetryerEvent::Connected(waiter));
    primary.run_until(Duration::from_secs(20));
    assert_eq!(primary.heard(waiter), []);
    assert_eq!(primary.holders("a"), [waiter]);
}

#[test]
fn a_holder_of_very_many_wanted_locks_is_asked_for_all_of_them_page_by_page_and_round_by_round() {
    let mut primary = Primary::new(None);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    let names: Vec<_> = (0..1_300).map(|lock| format!("{lock:04}")).collect();
    for text in &names {
        primary.acquire(holder, text, X);
        primary.acquire(waiter, text, X);
    }
    primary.connected.insert(holder);
    primary.fail_over(None);
    for _ in 0..2 {
        primary.run_until(primary.now + ms(200));
        let told: Vec<_> =
            primary.heard(holder).iter().map(|notice| notice.name().expect("a revoke").as_str().to_owned()).collect();
        assert!(told == names, "{} names, each once, in three calls", told.len());
        assert_eq!(primary.calls.len(), 3);
        primary.calls.clear();
        // The next round begins a quarter of a second after the end of this one.
        primary.run_until(ms(265));
    }
}
