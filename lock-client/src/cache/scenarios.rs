//! One lock, event by event. Tests that begin with an M number are the client's part of that scenario of the protocol review.

use lock_protocol::{Outcome, Requeued};

use super::*;
use crate::error::AcquireError;

pub(crate) mod forced;
pub(crate) mod mode_change;
pub(crate) mod sets;
pub(crate) mod turns;

const NAME: &str = "orders/42";

struct Script {
    lock: CachedLock<char>,
    outbox: Outbox,
    now_ns: u64,
    live: bool,
    effects: Vec<Effect<char>>,
}

impl Script {
    fn new() -> Self {
        let lock = CachedLock::new(LockName::new(NAME).expect("a name"), 0);
        Script { lock, outbox: Outbox::new(), now_ns: 1, live: true, effects: Vec::new() }
    }

    /// With this tenure granted to waiter 'a', who is done with it.
    fn cached(mode: Mode, token: u64) -> Self {
        let mut script = Script::new();
        script.wait('a', mode);
        let number = script.sent_one().0;
        script.outcome(number, granted(token, false));
        assert_eq!(script.served(), ['a']);
        script.end();
        script
    }

    fn step<R>(&mut self, act: impl FnOnce(&mut CachedLock<char>, &mut Step<'_, char>) -> R) -> R {
        let mut step =
            Step { now_ns: self.now_ns, live: self.live, outbox: &mut self.outbox, effects: &mut self.effects };
        act(&mut self.lock, &mut step)
    }

    fn wait(&mut self, waiter: char, mode: Mode) -> WaiterId {
        self.step(|lock, step| lock.wait(mode, waiter, step))
    }

    fn leave(&mut self, id: WaiterId) -> bool {
        self.step(|lock, step| lock.leave(id, step))
    }

    fn end(&mut self) {
        if !self.lock.end_cached(self.lock.epoch(), FencingToken(u64::MAX)) {
            self.step(CachedLock::settle);
        }
    }

    fn revoke(&mut self, token: u64, target: Option<Mode>) -> bool {
        self.step(|lock, step| lock.on_revoke(FencingToken(token), target, step))
    }

    fn force(&mut self, token: u64) {
        self.step(|lock, step| lock.on_forced(FencingToken(token), step));
    }

    fn notice(&mut self, acquire: u64, token: u64) {
        self.step(|lock, step| lock.on_granted(RequestNumber(acquire), FencingToken(token), false, step));
    }

    fn outcome(&mut self, number: u64, outcome: Outcome) {
        self.step(|lock, step| lock.on_outcome(RequestNumber(number), outcome, step));
    }

    fn flushed(&mut self, token: u64) {
        self.step(|lock, step| lock.on_flushed(FencingToken(token), step));
    }

    /// What left since the last look, as (number, text).
    fn sent(&mut self) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(batch) = self.outbox.take() {
            self.outbox.on_answered(batch.id);
            all.extend(batch.requests.into_iter().map(|request| {
                let text = match request.command {
                    Command::Acquire { mode, .. } => format!("acquire {mode}"),
                    Command::Cancel { acquire, .. } => format!("cancel {acquire}"),
                    Command::Release { token, requeue: None, .. } => format!("release {token}"),
                    Command::Release { token, requeue: Some(mode), .. } => format!("release {token} requeue {mode}"),
                    Command::Downgrade { token, .. } => format!("downgrade {token}"),
                    Command::Upgrade { token, .. } => format!("upgrade {token}"),
                    Command::AcquireAll { set } => format!("acquire {}", set.len()),
                };
                (request.number.0, text)
            }));
        }
        all
    }

    fn sent_one(&mut self) -> (u64, String) {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn sent_texts(&mut self) -> Vec<String> {
        self.sent().into_iter().map(|(_, text)| text).collect()
    }

    fn served(&mut self) -> Vec<char> {
        let (served, rest) =
            std::mem::take(&mut self.effects).into_iter().partition(|effect| matches!(effect, Effect::Serve { .. }));
        self.effects = rest;
        Vec::into_iter(served)
            .map(|effect| match effect {
                Effect::Serve { waiter, .. } => waiter,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The one flush that was asked for: what is kept.
    fn flush(&mut self) -> Option<Mode> {
        let effects = std::mem::take(&mut self.effects);
        match effects.as_slice() {
            [Effect::Flush { to, .. }] => *to,
            other => panic!("{other:?}"),
        }
    }
}

fn granted(token: u64, others_waiting: bool) -> Outcome {
    Outcome::Granted { token: FencingToken(token), others_waiting }
}

fn released(requeued: Option<Requeued>) -> Outcome {
    Outcome::Released { requeued }
}

use Mode::{Exclusive, Shared};

#[test]
fn a_cached_lock_is_had_again_without_a_request() {
    let mut script = Script::cached(Exclusive, 5);
    assert_eq!(script.lock.start_cached(Exclusive, 0, 2), Some(FencingToken(5)));
    assert_eq!(script.lock.start_cached(Shared, 0, 2), None, "in use");
    script.end();
    assert_eq!(script.lock.start_cached(Shared, 0, 2), Some(FencingToken(5)));
    assert_eq!(script.lock.start_cached(Shared, 0, 2), Some(FencingToken(5)));
    assert!(script.sent().is_empty());
}

#[test]
pub(crate) fn a_revoked_free_lock_is_flushed_and_then_released() {
    let mut script = Script::cached(Exclusive, 5);
    assert!(script.revoke(5, None));
    assert!(script.sent().is_empty(), "nothing leaves before the flush");
    assert_eq!(script.flush(), None);
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5");
}

#[test]
pub(crate) fn a_stale_revoke_or_grant_of_an_earlier_tenure_does_nothing() {
    let mut script = Script::cached(Exclusive, 5);
    assert!(!script.revoke(4, None));
    script.notice(1, 4);
    assert_eq!(script.lock.start_cached(Exclusive, 0, 2), Some(FencingToken(5)));
    assert!(script.sent().is_empty() && script.effects.is_empty());
}

#[test]
fn a_revoke_to_shared_flushes_then_downgrades_and_keeps_the_token() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, Some(Shared));
    assert_eq!(script.flush(), Some(Shared));
    script.flushed(5);
    let (number, text) = script.sent_one();
    assert_eq!(text, "downgrade 5");
    script.outcome(number, Outcome::Downgraded);
    assert_eq!(script.lock.start_cached(Shared, 0, 2), Some(FencingToken(5)));
    assert!(!script.revoke(5, Some(Shared)), "at or below the target it does nothing");
    script.end();
    assert!(script.sent().is_empty());
}

#[test]
fn a_revoke_to_nothing_during_a_downgrade_is_followed_after_it() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, Some(Shared));
    script.flush();
    assert!(script.revoke(5, None));
    script.flushed(5);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Downgraded);
    assert_eq!(script.flush(), None);
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5");
}

#[test]
fn m10_a_tenure_with_a_live_guard_at_the_deadline_is_given_up_and_asked_for_anew() {
    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Exclusive, 0, 2).expect("it is cached");
    script.live = false;
    script.lock.suspend(1);
    script.wait('b', Exclusive);
    script.step(CachedLock::settle);
    assert!(script.effects.is_empty() && script.sent().is_empty(), "suspended: no guard, no flush");
    script.live = true;
    assert_eq!(script.lock.start_cached(Exclusive, 1, 3), None);
    script.step(CachedLock::settle);
    assert_eq!(script.flush(), None);
    script.flushed(5);
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 5 requeue exclusive");
    // The dead guard's end counts for nothing.
    script.lock.end_cached(0, FencingToken(5));
    let requeued = Requeued::Granted { token: FencingToken(9), others_waiting: false };
    script.outcome(number, released(Some(requeued)));
    assert_eq!(script.served(), ['b']);
    assert_eq!(script.lock.start_cached(Exclusive, 1, 4), None);
}

#[test]
fn m10_a_cached_lock_without_a_guard_survives_the_suspension() {
    let mut script = Script::cached(Exclusive, 5);
    script.live = false;
    script.lock.suspend(1);
    script.revoke(5, None);
    assert!(script.effects.is_empty(), "no flush while suspended");
    script.live = true;
    script.step(CachedLock::settle);
    assert_eq!(script.flush(), None);

    let mut script = Script::cached(Exclusive, 5);
    script.lock.suspend(1);
    assert_eq!(script.lock.start_cached(Exclusive, 0, 3), None, "an epoch that is over starts nobody");
    assert_eq!(script.lock.start_cached(Exclusive, 1, 3), Some(FencingToken(5)));
}

#[test]
fn m11_a_lost_grant_notice_is_made_good_by_asking_again_under_the_same_number() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Queued);
    assert_eq!(script.lock.queued(), Some((RequestNumber(number), Exclusive)));
    script.outcome(number, granted(7, false));
    assert_eq!(script.served(), ['a']);
    script.notice(number, 7);
    script.outcome(number, Outcome::Queued);
    script.outcome(number, Outcome::Gone);
    assert!(script.served().is_empty() && script.sent().is_empty(), "late answers to the same number change nothing");
}

#[test]
fn m11_a_place_in_the_queue_that_is_gone_is_taken_anew() {
    let mut script = Script::new();
    script.wait('a', Shared);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Queued);
    script.outcome(number, Outcome::Gone);
    let (again, text) = script.sent_one();
    assert!(again > number && text == "acquire shared");
}

#[test]
pub(crate) fn m12_a_wish_that_is_withdrawn_is_cancelled_and_a_grant_meanwhile_is_not_used() {
    let mut script = Script::new();
    let id = script.wait('a', Exclusive);
    let (acquire, _) = script.sent_one();
    assert!(script.leave(id));
    let (cancel, text) = script.sent_one();
    assert_eq!(text, format!("cancel {acquire}"));
    script.wait('b', Exclusive);
    script.notice(acquire, 7);
    script.revoke(7, None);
    script.outcome(acquire, granted(7, true));
    assert!(script.served().is_empty() && script.sent().is_empty(), "the cancel releases it");
    script.outcome(cancel, Outcome::Cancelled);
    assert_eq!(script.sent_one().1, "acquire exclusive");
}

#[test]
pub(crate) fn m12_a_revoke_for_a_tenure_that_the_client_has_not_is_answered_with_its_release() {
    let mut script = Script::new();
    assert!(script.revoke(7, None));
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 7");
    script.wait('a', Shared);
    script.revoke(7, None);
    assert!(script.sent().is_empty(), "one at a time");
    script.outcome(number, Outcome::NotHeld);
    assert_eq!(script.sent_one().1, "acquire shared");
}

#[test]
fn m12_a_revoke_that_overtakes_its_grant_is_remembered_and_the_first_waiter_still_has_its_turn() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    assert!(script.revoke(7, None));
    assert!(!script.revoke(7, None), "no news");
    assert!(script.sent().is_empty());
    script.outcome(number, granted(7, false));
    assert_eq!(script.served(), ['a']);
    script.wait('b', Exclusive);
    script.end();
    assert_eq!(script.flush(), None);
    script.flushed(7);
    assert_eq!(script.sent_one().1, "release 7 requeue exclusive");
}

#[test]
fn m12_a_revoke_while_queued_makes_the_client_ask_at_once_instead_of_releasing_what_it_may_be_granted() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::Queued);
    script.revoke(7, None);
    assert_eq!(script.sent_one(), (number, "acquire exclusive".to_owned()));
    script.notice(number, 7);
    assert_eq!(script.served(), ['a']);
    script.end();
    assert_eq!(script.flush(), None);
}

#[test]
pub(crate) fn m13_a_user_who_comes_while_the_release_is_unanswered_waits_for_the_answer() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, None);
    script.flush();
    script.flushed(5);
    let (number, _) = script.sent_one();
    script.wait('b', Exclusive);
    assert_eq!(script.lock.start_cached(Exclusive, 0, 9), None);
    assert!(script.sent().is_empty() && script.served().is_empty());
    script.outcome(number, released(None));
    assert_eq!(script.sent_one().1, "acquire exclusive");
}

#[test]
fn m13_a_tenure_that_only_the_server_knows_is_exchanged_and_never_used() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::AlreadyHeld { token: FencingToken(3), mode: Shared });
    assert!(script.served().is_empty());
    let (release, text) = script.sent_one();
    assert_eq!(text, "release 3 requeue exclusive");
    script.outcome(release, released(Some(Requeued::Queued)));
    script.notice(release, 11);
    assert_eq!(script.served(), ['a']);
}

#[test]
fn m13_a_grant_notice_that_overtakes_the_answer_to_its_requeue_counts_once() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, None);
    script.flush();
    script.wait('b', Exclusive);
    script.flushed(5);
    let (number, text) = script.sent_one();
    assert_eq!(text, "release 5 requeue exclusive");
    script.notice(number, 9);
    assert_eq!(script.served(), ['b']);
    script.outcome(number, released(Some(Requeued::Queued)));
    script.end();
    assert_eq!(script.lock.start_cached(Exclusive, 0, 9), Some(FencingToken(9)));
}

#[test]
fn m17_a_lock_whose_hook_has_not_succeeded_is_neither_released_nor_used() {
    let mut script = Script::cached(Exclusive, 5);
    script.revoke(5, None);
    script.flush();
    script.revoke(5, None);
    script.wait('b', Exclusive);
    assert!(script.effects.is_empty() && script.sent().is_empty());
    script.flushed(4);
    assert!(script.sent().is_empty(), "the flush of another tenure");
    script.flushed(5);
    assert_eq!(script.sent_one().1, "release 5 requeue exclusive");
}

#[test]
fn m18_a_try_that_gives_up_leaves_the_queue() {
    let mut script = Script::new();
    let id = script.wait('a', Exclusive);
    let (acquire, _) = script.sent_one();
    script.outcome(acquire, Outcome::Queued);
    script.leave(id);
    let (cancel, text) = script.sent_one();
    assert_eq!(text, format!("cancel {acquire}"));
    script.outcome(cancel, Outcome::Cancelled);
    assert!(script.lock.is_unknown());
}

#[test]
fn a_wish_that_another_user_shares_is_not_cancelled() {
    let mut script = Script::new();
    let first = script.wait('a', Exclusive);
    script.wait('b', Exclusive);
    let (number, _) = script.sent_one();
    assert!(script.leave(first) && !script.leave(first));
    assert!(script.sent().is_empty());
    script.outcome(number, granted(5, false));
    assert_eq!(script.served(), ['b']);
}

#[test]
fn a_lock_that_nobody_used_has_nothing_to_flush() {
    let mut script = Script::new();
    let id = script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.live = false;
    script.outcome(number, granted(5, false));
    script.leave(id);
    script.live = true;
    assert!(script.step(|lock, step| lock.evict(step)));
    assert!(script.effects.is_empty());
    assert_eq!(script.sent_one().1, "release 5");
}

#[test]
fn a_limit_is_told_to_every_waiter_and_asked_for_no_more() {
    let mut script = Script::new();
    script.wait('a', Exclusive);
    script.wait('b', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, Outcome::LimitReached { limit: "full".into() });
    assert_eq!(script.effects.len(), 2);
    assert!(script.sent_texts().is_empty() && script.lock.is_unknown());
}

#[test]
fn a_denied_acquire_is_told_to_the_waiter_and_asked_for_no_more() {
    let denied = Outcome::Denied { reason: "client a may not acquire 'x'".into() };
    let mut script = Script::new();
    script.wait('a', Exclusive);
    let (number, _) = script.sent_one();
    script.outcome(number, denied);
    assert!(matches!(&script.effects[..], [Effect::Refuse { error: AcquireError::Denied(_), .. }]));
    assert!(script.sent_texts().is_empty() && script.lock.is_unknown());
}

#[test]
fn only_an_idle_lock_is_evicted() {
    let mut script = Script::cached(Exclusive, 5);
    script.lock.start_cached(Shared, 0, 2).expect("it is cached");
    assert!(!script.step(|lock, step| lock.evict(step)));
    script.end();
    assert!(script.step(|lock, step| lock.evict(step)));
    assert_eq!(script.flush(), None);
    assert!(!script.step(|lock, step| lock.evict(step)), "once");
}
