//! Downgrades and upgrades by users.

use super::*;

fn grant(token: u64, mode: Mode) -> Grant {
    Grant { token: FencingToken(token), mode, epoch: 0 }
}

impl Script {
    /// With this tenure, and one user who has it so.
    fn used(mode: Mode, token: u64) -> Self {
        let mut script = Script::cached(mode, token);
        script.lock.start_cached(mode, 0, 2).expect("it is cached");
        script
    }

    fn downgrade(&mut self, token: u64) {
        let lowered = self.step(|lock, step| lock.downgrade(grant(token, Exclusive), step));
        assert_eq!(lowered, grant(token, Shared));
    }

    fn upgrade(&mut self, token: u64) -> Upgrade {
        self.step(|lock, step| lock.upgrade(grant(token, Shared), 'u', step))
    }

    /// An upgrade that is asked of the server: its waiter, and the request's number.
    fn upgrading(token: u64) -> (Self, WaiterId, u64) {
        let mut script = Script::used(Shared, token);
        let Upgrade::Waits(id) = script.upgrade(token) else { panic!("the server has to be asked") };
        let (number, text) = script.sent_one();
        assert_eq!(text, format!("upgrade {token}"));
        (script, id, number)
    }

    fn served_grant(&mut self) -> Grant {
        match std::mem::take(&mut self.effects).as_slice() {
            [Effect::Serve { waiter: 'u', grant }] => *grant,
            other => panic!("{other:?}"),
        }
    }
}

fn upgraded(token: u64) -> Outcome {
    Outcome::Upgraded { token: FencingToken(token) }
}

#[test]
fn a_user_that_downgrades_lets_shared_waiters_in_and_no_request_leaves() {
    let mut script = Script::used(Exclusive, 5);
    script.wait('b', Shared);
    script.wait('c', Exclusive);
    script.downgrade(5);
    assert_eq!(script.served(), ['b']);
    assert!(script.sent().is_empty());
    script.end();
    assert!(script.served().is_empty(), "one reader is left");
    script.end();
    assert_eq!(script.served(), ['c']);
}

#[test]
fn readers_elsewhere_come_in_while_the_user_that_downgraded_still_reads() {
    let mut script = Script::used(Exclusive, 5);
    script.revoke(5, Some(Shared));
    assert!(script.effects.is_empty(), "it writes");
    script.downgrade(5);
    assert_eq!(script.flush(), Some(Shared));
    script.flushed(5);
    let (number, text) = script.sent_one();
    assert_eq!(text, "downgrade 5");
    script.outcome(number, Outcome::Downgraded);
    assert_eq!(script.lock.start_cached(Shared, 0, 3), Some(FencingToken(5)), "beside the first");
    script.revoke(5, None);
    script.end();
    assert!(script.effects.is_empty());
    script.end();
    assert_eq!(script.flush(), None);
}

#[test]
fn m10_a_user_that_read_through_a_downgrade_when_the_lease_ran_out_has_its_tenure_given_up() {
    let mut script = Script::used(Exclusive, 5);
    script.revoke(5, Some(Shared));
    script.downgrade(5);
    script.flush();
    script.lock.suspend(1);
    script.flushed(5);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Downgraded);
    assert_eq!(script.flush(), None);
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5");
}

#[test]
fn an_upgrade_alone_under_an_exclusive_tenure_asks_nobody_and_keeps_the_token() {
    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Shared, 0, 2).expect("it is cached");
    assert_eq!(script.upgrade(5), Upgrade::Had(grant(5, Exclusive)));
    assert!(script.sent().is_empty());
    assert_eq!(script.lock.start_cached(Shared, 0, 3), None);
    script.end();
    assert_eq!(script.lock.start_cached(Shared, 0, 3), Some(FencingToken(5)));
}

#[test]
fn an_upgrade_that_the_server_grants_has_a_new_token_and_excludes_local_readers() {
    let (mut script, _, number) = Script::upgrading(5);
    assert_eq!(script.lock.start_cached(Shared, 0, 3), None);
    script.wait('b', Shared);
    script.outcome(number, upgraded(9));
    assert_eq!(script.served_grant(), grant(9, Exclusive));
    script.end();
    assert_eq!(script.served(), ['b']);
    script.end();
    assert_eq!(script.lock.start_cached(Exclusive, 0, 4), Some(FencingToken(9)));
}

#[test]
fn an_upgrade_that_could_deadlock_gives_the_shared_grant_back() {
    let (mut script, _, number) = Script::upgrading(5);
    script.revoke(5, None);
    script.outcome(number, Outcome::NotUpgraded);
    assert_eq!(script.served_grant(), grant(5, Shared));
    assert!(script.sent().is_empty());
    script.end();
    assert_eq!(script.flush(), None, "the revoke that came meanwhile is followed");
}

#[test]
pub(crate) fn an_upgrade_beside_a_local_user_or_waiter_or_under_a_revoke_is_refused_at_once() {
    let mut script = Script::used(Shared, 5);
    script.lock.start_cached(Shared, 0, 3).expect("it is cached");
    assert_eq!(script.upgrade(5), Upgrade::Refused, "or both would wait for each other");
    script.end();
    script.wait('b', Exclusive);
    assert_eq!(script.upgrade(5), Upgrade::Refused, "nobody overtakes a waiter");

    let mut script = Script::used(Shared, 5);
    script.revoke(5, None);
    assert_eq!(script.upgrade(5), Upgrade::Refused);
    script.live = false;
    let mut script = Script::used(Shared, 5);
    script.live = false;
    assert_eq!(script.upgrade(5), Upgrade::Refused, "no lease");
    assert!(script.sent().is_empty());
}

#[test]
fn an_upgrade_that_is_given_up_leaves_a_cached_exclusive_lock_and_is_counted_no_more() {
    let (mut script, id, number) = Script::upgrading(5);
    assert!(script.leave(id) && !script.leave(id));
    script.outcome(number, upgraded(9));
    assert!(script.effects.is_empty());
    assert_eq!(script.lock.start_cached(Exclusive, 0, 3), Some(FencingToken(9)));
}

#[test]
fn a_revoke_that_overtakes_the_answer_to_an_upgrade_is_remembered() {
    let (mut script, _, number) = Script::upgrading(5);
    script.revoke(9, Some(Shared));
    script.outcome(number, upgraded(9));
    assert_eq!(script.served_grant(), grant(9, Exclusive));
    script.end();
    assert_eq!(script.flush(), Some(Shared));
}

#[test]
fn m10_an_upgrade_under_way_when_the_lease_runs_out_ends_with_a_dead_guard_and_the_tenure_is_given_up() {
    let (mut script, _, number) = Script::upgrading(5);
    script.live = false;
    script.lock.suspend(1);
    script.outcome(number, upgraded(9));
    assert_eq!(script.served_grant(), grant(5, Shared), "of the epoch that is over");
    script.live = true;
    script.step(CachedLock::settle);
    assert_eq!(script.flush(), None);
    script.flushed(9);
    assert_eq!(script.sent_one().1, "release 9");
}

#[test]
fn m23_a_tenure_that_is_ended_by_force_while_it_is_upgraded_is_confirmed_and_not_used() {
    for (forced, outcome) in [(5, Outcome::NotHeld), (9, upgraded(9))] {
        let (mut script, _, number) = Script::upgrading(5);
        script.force(forced);
        assert_eq!(script.sent_texts(), [format!("release {forced}")]);
        script.outcome(number, outcome);
        assert_eq!(script.served_grant(), grant(5, Shared));
        assert!(script.lock.forced() >= FencingToken(5), "so the guard is dead");
        script.lock.end_cached(0, FencingToken(5));
        assert!(script.sent().is_empty() && script.lock.is_unknown());
    }
}

#[test]
fn m23_an_answer_that_says_not_held_before_the_news_of_force_confirms_it_once() {
    let (mut script, _, number) = Script::upgrading(5);
    script.outcome(number, Outcome::NotHeld);
    assert_eq!(script.served_grant(), grant(5, Shared));
    assert_eq!(script.lock.forced(), FencingToken(5));
    assert_eq!(script.sent_texts(), ["release 5"]);
    script.force(5);
    assert!(script.sent().is_empty());
}

#[test]
fn a_close_ends_an_upgrade_that_waits() {
    let (mut script, _, number) = Script::upgrading(5);
    script.step(|lock, step| lock.close(1, true, step));
    assert!(matches!(script.effects.as_slice(), [Effect::End { waiter: 'u' }]), "{:?}", script.effects);
    script.outcome(number, upgraded(9));
    assert!(script.sent().is_empty());
}
