//! Recovery of a dead session by a live one of its group (M25).

use lock_protocol::{
    Answer, ClientIdentity, DeadSession, FencingToken, GroupName, KeptLocks, LockName, Notice, Open, OpenWith, Outcome,
    Query, RECOVERIES_MAX, RecoveryAnswer, RecoveryGroup, RecoveryReport, RecoveryStep, RecoveryToken, SessionEnd,
    SessionId, SessionOptions,
};

use super::{Primary, S, X, ms, name, token};
use crate::machine::{KeptCounts, Limits, Machine, Op, Reply};
use RecoveryStep::{Declined, Progress, Recovered};

const ACCEPTED: Reply = Reply::Recovery(RecoveryAnswer::Accepted);
const REFUSED: Reply = Reply::Recovery(RecoveryAnswer::NotAssigned);

impl Primary {
    pub(super) fn open_with(&mut self, nonce: u128, lease_ms: u64, lock_delay_ms: u64, required: bool) -> SessionId {
        let open = Open { nonce, lease_ms, identity: ClientIdentity::default() };
        let group = RecoveryGroup { name: GroupName::new("volume-7").expect("a name"), required };
        let options = SessionOptions { lock_delay_ms, recovery: Some(group) };
        match self.apply(&Op::OpenWith(OpenWith { open, options })) {
            Reply::Opened(opened) => opened.session,
            other => panic!("not opened: {other:?}"),
        }
    }

    /// A session whose death requires a recovery.
    pub(super) fn open_in_group(&mut self, nonce: u128, lease_ms: u64) -> SessionId {
        self.open_with(nonce, lease_ms, 0, true)
    }

    /// The right to recover the dead one, where this session is told of it.
    pub(super) fn recovery_of(&self, session: SessionId, dead: SessionId) -> Option<RecoveryToken> {
        self.told(session).iter().find(|told| told.session == dead).map(|told| told.token)
    }

    fn told(&self, session: SessionId) -> Vec<DeadSession> {
        let (notices, _) = self.machine.revokes_of(session, 999);
        let told = notices.into_iter().filter_map(|notice| match notice {
            Notice::Recover(dead) => Some(dead),
            _ => None,
        });
        told.collect()
    }

    pub(super) fn report(
        &mut self,
        session: SessionId,
        dead: SessionId,
        token: RecoveryToken,
        step: RecoveryStep,
    ) -> Reply {
        self.apply(&Op::Recovery(RecoveryReport { session, dead, token, step }))
    }

    fn kept(&self) -> Vec<KeptLocks> {
        match self.machine.on_read(&Query::Kept { after: None, limit: 9 }) {
            Answer::Kept { entries, more: false } => entries,
            other => panic!("{other:?}"),
        }
    }

    fn abandon(&mut self, session: SessionId) {
        assert_eq!(self.apply(&Op::End { session, end: SessionEnd::Abandoned }), Reply::Closed);
    }
}

/// A session that died with "a" and was not recovered, one that waits for "a", and the group's first and second.
fn dead_and_wanted() -> (Primary, [SessionId; 4], FencingToken) {
    let mut primary = Primary::new(None);
    let dead = primary.open_in_group(1, 2_000);
    let waiter = primary.open(2, 3_600_000);
    let mates = [3, 4].map(|nonce| primary.open_in_group(nonce, 3_600_000));
    let held = token(&primary.acquire(dead, "a", X));
    assert_eq!(primary.acquire(waiter, "a", X), Outcome::Queued);
    primary.connected.extend(mates);
    primary.dies_at(dead);
    primary.sweep();
    (primary, [dead, waiter, mates[0], mates[1]], held)
}

#[test]
fn m25_the_locks_of_a_dead_session_pass_on_when_a_live_one_has_recovered_it_and_not_before() {
    let (mut primary, [dead, waiter, first, second], held) = dead_and_wanted();
    assert_eq!((primary.holders("a"), primary.told(second)), (vec![dead], vec![]));
    assert_eq!(primary.machine.kept_counts(), KeptCounts { recovery: 1, ..KeptCounts::default() });
    let right = primary.recovery_of(first, dead).expect("the lowest is told");
    let told = primary.heard(first);
    assert!(matches!(&told[..], [Notice::Recover(told), ..] if told.session == dead && told.token == right));
    let stamp = primary.keep_alive(first);
    primary.run_until(primary.now + ms(200));
    let Some(Ok(renewed)) = primary.answer_to(stamp) else { panic!("no answer") };
    assert!(matches!(&renewed.notices[..], [Notice::Recover(told)] if told.session == dead));
    assert_eq!(primary.holders("a"), [dead]);
    assert_eq!(primary.report(first, dead, right, Recovered), ACCEPTED);
    assert_eq!(primary.holders("a"), [waiter], "in the same op");
    let Answer::Inspect(entry) = primary.machine.on_read(&Query::Inspect { name: name("a") }) else { panic!() };
    assert!(entry.holders[0].token > held);
    assert_eq!(primary.report(first, dead, right, Recovered), REFUSED, "it is done");
    assert_eq!((primary.told(first), primary.machine.session_count()), (vec![], 3));
}

#[test]
fn m25_only_what_it_held_exclusively_waits_and_acquires_of_it_queue_and_revoke_nobody() {
    let mut primary = Primary::new(None);
    let [dead, mate] = [1, 2].map(|nonce| primary.open_in_group(nonce, 3_600_000));
    let other = primary.open(3, 3_600_000);
    primary.acquire(dead, "exclusive", X);
    primary.acquire(dead, "shared", S);
    primary.acquire(other, "wanted", X);
    primary.acquire(dead, "wanted", X);
    primary.acquire(mate, "wanted", X);
    primary.abandon(dead);
    assert_eq!(
        primary.acquire(other, "shared", X),
        Outcome::Granted { token: FencingToken(10), others_waiting: false }
    );
    assert_eq!(primary.acquire(other, "exclusive", S), Outcome::Queued);
    let revokes = primary.machine.outstanding_revokes(None, 9);
    assert!(revokes.iter().all(|revoke| revoke.session == other), "{revokes:?}");
    let Answer::Inspect(entry) = primary.machine.on_read(&Query::Inspect { name: name("wanted") }) else { panic!() };
    assert_eq!(entry.waiters.len(), 1, "the dead one waits no longer");
}

#[test]
fn m25_when_the_recoverer_dies_the_next_is_told_and_the_right_of_the_first_is_over() {
    let (mut primary, [dead, waiter, first, second], _) = dead_and_wanted();
    let right = primary.recovery_of(first, dead).expect("it is told");
    assert_eq!(primary.report(first, dead, right, Progress), ACCEPTED);
    primary.abandon(first);
    assert_eq!(primary.report(first, dead, right, Recovered), Reply::SessionGone);
    let later = primary.recovery_of(second, dead).expect("it is told");
    assert!(later > right);
    assert_eq!(primary.report(second, dead, right, Recovered), REFUSED, "with the right of another");
    assert_eq!(primary.holders("a"), [dead]);
    assert_eq!(primary.report(second, dead, later, Recovered), ACCEPTED);
    assert_eq!(primary.holders("a"), [waiter]);
    assert_eq!(primary.machine.session_count(), 2, "the first held nothing: there is nothing to recover");
}

#[test]
fn m25_a_recoverer_that_is_alive_and_silent_loses_it_after_thirty_seconds_and_progress_keeps_it() {
    let (mut primary, [dead, _, first, second], _) = dead_and_wanted();
    let right = primary.recovery_of(first, dead).expect("it is told");
    for _ in 0..3 {
        primary.run_until(primary.now + ms(25_000));
        assert_eq!(primary.report(first, dead, right, Progress), ACCEPTED);
    }
    primary.run_until(primary.now + ms(29_000));
    assert_eq!(primary.recovery_of(first, dead), Some(right));
    primary.run_until(primary.now + ms(1_200));
    assert_eq!(primary.report(first, dead, right, Progress), REFUSED);
    let second_right = primary.recovery_of(second, dead).expect("the next is told");
    primary.run_until(primary.now + ms(31_000));
    let again = primary.recovery_of(first, dead).expect("all were tried, a new round begins");
    assert!(again > second_right);
}

#[test]
fn m25_where_all_have_declined_nobody_is_asked_for_a_while_but_one_that_joins() {
    let (mut primary, [dead, _, first, second], _) = dead_and_wanted();
    for mate in [first, second] {
        let right = primary.recovery_of(mate, dead).expect("it is told");
        assert_eq!(primary.report(mate, dead, right, Declined), ACCEPTED);
        assert_eq!(primary.report(mate, dead, right, Recovered), REFUSED);
    }
    assert_eq!((primary.told(first), primary.told(second)), (vec![], vec![]));
    assert_eq!(primary.machine.kept_counts(), KeptCounts { recoverer: 1, ..KeptCounts::default() });
    let third = primary.open_in_group(9, 3_600_000);
    let right = primary.recovery_of(third, dead).expect("it is told at once");
    assert_eq!(primary.report(third, dead, right, Declined), ACCEPTED);
    primary.run_until(primary.now + ms(29_000));
    assert_eq!(primary.told(first), []);
    primary.run_until(primary.now + ms(1_200));
    assert!(primary.recovery_of(first, dead).is_some(), "the next round");
}

#[test]
fn m25_without_a_live_session_of_the_group_it_is_shown_and_the_next_that_joins_is_told() {
    let mut primary = Primary::new(None);
    let dead = primary.open_in_group(1, 2_000);
    primary.acquire(dead, "a", X);
    primary.dies_at(dead);
    primary.sweep();
    let kept = primary.kept();
    let recovery = kept[0].recovery.as_ref().expect("it has to be recovered");
    assert_eq!((kept[0].session, kept[0].locks, recovery.by.as_ref()), (dead, 1, None));
    assert_eq!(recovery.group.as_str(), "volume-7");
    let before = primary.machine.service_time_us();
    primary.run_until(primary.now + ms(120_000));
    assert!(primary.machine.service_time_us() > before + 100_000_000, "time goes on though nobody lives");
    let late = primary.open_with(2, 3_600_000, 0, false);
    let right = primary.recovery_of(late, dead).expect("also one that needs none itself");
    assert_eq!(primary.report(late, dead, right, Recovered), ACCEPTED);
    assert_eq!((primary.holders("a"), primary.kept()), (vec![], vec![]));
}

#[test]
fn the_dead_that_wait_keep_out_everybody_but_one_who_can_recover_them() {
    let mut primary = Primary::new(None);
    primary.machine = Machine::new(Limits { sessions: 3, ..Limits::default() });
    primary.machine.set_serving(true);
    for (nonce, text) in [(1, "a"), (2, "b"), (3, "c")] {
        let doomed = primary.open_in_group(nonce, 3_600_000);
        primary.acquire(doomed, text, X);
    }
    for doomed in 1..=3 {
        primary.abandon(SessionId(2 * doomed - 1));
    }
    primary.sweep();
    let open = |primary: &mut Primary, nonce, recovery| {
        let open = Open { nonce, lease_ms: 3_600_000, identity: ClientIdentity::default() };
        primary.apply(&Op::OpenWith(OpenWith { open, options: SessionOptions { lock_delay_ms: 0, recovery } }))
    };
    let group = |name| Some(RecoveryGroup { name: GroupName::new(name).expect("a name"), required: true });
    assert!(matches!(open(&mut primary, 4, None), Reply::Busy(_)));
    assert!(matches!(open(&mut primary, 5, group("volume-8")), Reply::Busy(_)), "nobody of it is dead");
    let Reply::Opened(first) = open(&mut primary, 6, group("volume-7")) else { panic!("it is waited for") };
    assert!(matches!(open(&mut primary, 7, group("volume-7")), Reply::Busy(_)), "there is one who can do it");
    for doomed in [1, 3, 5].map(SessionId) {
        let right = primary.recovery_of(first.session, doomed).expect("it is told");
        assert_eq!(primary.report(first.session, doomed, right, Recovered), ACCEPTED);
    }
    assert_eq!(primary.machine.session_count(), 1);
    assert!(matches!(open(&mut primary, 8, None), Reply::Opened(_)));
}

#[test]
fn m25_a_new_primary_goes_on_with_the_recovery_as_it_was() {
    let (mut primary, [dead, waiter, first, _], _) = dead_and_wanted();
    let right = primary.recovery_of(first, dead).expect("it is told");
    let before = (primary.machine.digest(), primary.kept());
    primary.fail_over(None);
    assert_eq!((primary.machine.digest(), primary.kept()), before);
    let stamp = primary.keep_alive(first);
    primary.run_until(primary.now + ms(200));
    let Some(Ok(renewed)) = primary.answer_to(stamp) else { panic!("no answer") };
    assert!(matches!(&renewed.notices[..], [Notice::Recover(told)] if told.token == right));
    assert_eq!(primary.report(first, dead, right, Progress), ACCEPTED);
    primary.fail_over(None);
    assert_eq!(primary.report(first, dead, right, Recovered), ACCEPTED);
    assert_eq!(primary.holders("a"), [waiter]);
}

#[test]
fn m10_a_close_that_says_nothing_of_flushing_is_refused_where_a_recovery_is_required() {
    let mut primary = Primary::new(None);
    let [session, waiter] = [primary.open_in_group(1, 2_000), primary.open(2, 3_600_000)];
    let held = token(&primary.acquire(session, "a", X));
    primary.acquire(waiter, "a", X);
    assert!(matches!(primary.apply(&Op::Close { session }), Reply::Refused(_)));
    assert_eq!((primary.holders("a"), primary.machine.lives(session)), (vec![session], true));
    assert_eq!(primary.apply(&Op::End { session, end: SessionEnd::Flushed }), Reply::Closed);
    assert_eq!((primary.holders("a"), primary.kept()), (vec![waiter], vec![]));
    let [idle, helper] = [primary.open_in_group(3, 2_000), primary.open_with(4, 2_000, 0, false)];
    primary.acquire(helper, "b", X);
    for session in [idle, helper] {
        assert_eq!(primary.apply(&Op::Close { session }), Reply::Closed);
    }
    assert_eq!((primary.holders("b"), held.0), (vec![], 3));
}

#[test]
fn m23_a_recovering_lock_is_freed_by_force_only_where_that_is_said_in_so_many_words() {
    let (mut primary, [dead, waiter, first, _], held) = dead_and_wanted();
    let force = lock_protocol::ForceRelease { name: name("a"), token: held, now: true };
    assert!(matches!(primary.apply(&Op::ForceRelease(force)), Reply::Refused(_)));
    assert_eq!(primary.holders("a"), [dead]);
    let right = primary.recovery_of(first, dead).expect("it is told");
    let free = |token| Op::ForceKept { name: name("a"), token };
    assert_eq!(primary.apply(&free(FencingToken(held.0 + 1))), Reply::Forced(vec![]));
    let Reply::Forced(ended) = primary.apply(&free(held)) else { panic!("freed") };
    assert_eq!((ended[0].session, primary.holders("a")), (dead, vec![waiter]));
    assert_eq!(primary.report(first, dead, right, Progress), REFUSED, "nothing waits for it any longer");
    assert_eq!((primary.kept(), primary.told(first)), (vec![], vec![]));
    let own = FencingToken(right.0 + 1);
    assert_eq!(primary.apply(&free(own)), Reply::Forced(vec![]), "who lives keeps what it has");
}

#[test]
fn a_lock_delay_and_a_recovery_must_both_be_over() {
    for recovers_first in [true, false] {
        let mut primary = Primary::new(None);
        let dead = primary.open_with(1, 2_000, 20_000, true);
        let mate = primary.open_in_group(2, 3_600_000);
        primary.acquire(dead, "a", X);
        primary.dies_at(dead);
        let right = primary.recovery_of(mate, dead).expect("it is told");
        primary.run_until(primary.now + ms(if recovers_first { 10_000 } else { 21_000 }));
        primary.sweep();
        assert_eq!(primary.holders("a"), [dead]);
        assert_eq!(primary.report(mate, dead, right, Recovered), ACCEPTED);
        assert_eq!(primary.holders("a").is_empty(), !recovers_first);
        primary.run_until(primary.now + ms(11_000));
        primary.sweep();
        assert_eq!(primary.holders("a"), []);
    }
}

#[test]
fn a_session_to_which_very_many_recoveries_fall_is_told_some_and_that_there_are_more() {
    let mut primary = Primary::new(None);
    let mate = primary.open_in_group(1, 3_600_000);
    let dead: Vec<SessionId> = (0..=RECOVERIES_MAX as u128)
        .map(|nonce| {
            let dead = primary.open_in_group(2 + nonce, 3_600_000);
            primary.acquire(dead, &format!("lock-{nonce}"), X);
            dead
        })
        .collect();
    dead.iter().for_each(|&dead| primary.abandon(dead));
    let (notices, more) = primary.machine.revokes_of(mate, lock_protocol::NOTICES_MAX);
    assert_eq!((notices.len(), more), (RECOVERIES_MAX, true));
    let right = primary.recovery_of(mate, dead[0]).expect("the first is among them");
    assert_eq!(primary.report(mate, dead[0], right, Recovered), ACCEPTED);
    let (notices, more) = primary.machine.revokes_of(mate, lock_protocol::NOTICES_MAX);
    assert_eq!((notices.len(), more), (RECOVERIES_MAX, false));
    assert!(primary.recovery_of(mate, dead[RECOVERIES_MAX]).is_some());
    assert!(LockName::new("lock-0").is_ok_and(|name| primary.machine.holders_of(&name).is_empty()));
}
