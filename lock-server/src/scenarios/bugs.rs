//! One scenario for each known bug: it goes wrong where the bug is put back, and does not where it is not.

use lock_protocol::{
    Answer, Command, FencingToken, LockSet, Notice, Outcome, Query, RecoveryStep, RequestNumber, SessionId,
};
use rsm::StateMachine;

use super::{Primary, S, X, ms, name, token};
use crate::machine::{Machine, Op, Reply};
use crate::mutant::{MUTANTS, Mutant};

/// Whether it goes wrong.
type Scenario = fn(Option<Mutant>) -> bool;

/// Every known bug has one: the compiler asks for it.
fn scenario(mutant: Mutant) -> Scenario {
    match mutant {
        Mutant::ClockFirst => keep_alive_in_a_pause_is_cut_short,
        Mutant::ElapsedTwice | Mutant::ExpiresEarly => lease_ends_before_its_time,
        Mutant::FormerTerm => other_primarys_term_counts_again,
        Mutant::NoCap => outage_ends_a_lease,
        Mutant::AnswersLater => keep_alive_is_answered_by_a_tick_closed_before_it,
        Mutant::Revives => dead_session_comes_back,
        Mutant::GrantsDead => dead_waiter_is_granted,
        Mutant::IgnoresNonce => repeated_open_makes_a_session,
        Mutant::ExecutesTwice => repeated_acquire_takes_the_lock_again,
        Mutant::IgnoresFloor => request_below_the_floor_is_executed,
        Mutant::SnapshotForgets => repeated_release_after_a_snapshot_is_answered_otherwise,
        Mutant::SnapshotTears => snapshot_in_parts_shows_what_came_later,
        Mutant::StaleQueued => granted_acquire_is_said_to_be_queued,
        Mutant::CancelForgotten => acquire_that_its_cancel_overtook_is_granted,
        Mutant::CancelKeeps => cancelled_acquire_holds_the_lock,
        Mutant::LastComeFirst => later_waiter_is_granted_first,
        Mutant::SharedOvertakes => shared_overtakes_a_waiting_exclusive,
        Mutant::TokenRestarts => token_falls,
        Mutant::UpgradesBesideOthers => reader_becomes_a_writer_beside_another_reader,
        Mutant::SetsOvertake => set_is_granted_before_one_who_came_first,
        Mutant::ReleaseUnchecked => late_release_ends_a_later_tenure,
        Mutant::ForcesAtOnce => next_has_the_lock_while_the_forced_holder_believes_in_its_own,
        Mutant::ForcesSilently => forced_holder_is_renewed_and_not_told,
        Mutant::IgnoresDelay => {
            |mutant| lock_passes_on_too_early(mutant, |primary| primary.open_with(1, 500, 60_000, false))
        }
        Mutant::FreesUnrecovered => |mutant| lock_passes_on_too_early(mutant, |primary| primary.open_in_group(1, 500)),
        Mutant::AnyRecoverer => late_recoverer_is_believed,
        Mutant::LostRevoke => holder_hears_nothing_from_a_new_primary,
        Mutant::RevokesOnce => lost_revoke_is_not_repeated,
        Mutant::RevokesNewest => revoke_names_anothers_tenure,
    }
}

#[test]
fn each_known_bug_is_seen_and_what_prevents_it_is_not_taken_for_it() {
    for (name, mutant) in MUTANTS {
        let goes_wrong = scenario(mutant);
        assert!(!goes_wrong(None), "{name}: the scenario goes wrong without the bug");
        assert!(goes_wrong(Some(mutant)), "{name} is not seen");
    }
}

/// M1: the primary is paused for eight seconds; a keep-alive that was sent within the pause comes with the next tick.
fn keep_alive_in_a_pause_is_cut_short(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 500);
    primary.run_renewing(ms(1_000), &[session]);
    primary.due();
    primary.now += ms(7_800);
    primary.keep_alive(session);
    let sent = primary.now;
    primary.now += ms(200);
    primary.run_until(primary.now);
    primary.dies_at(session) < sent + ms(500)
}

/// M1: a lease lasts as long as its client counts, at least.
fn lease_ends_before_its_time(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 2_000);
    primary.run_renewing(ms(3_000), &[session]);
    primary.keep_alive(session);
    let sent = primary.now;
    primary.dies_at(session) < sent + ms(2_000)
}

/// M4: another member serves for a minute and renews the session at its end; then this one is primary again.
fn other_primarys_term_counts_again(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 2_000);
    primary.run_renewing(ms(1_000), &[session]);
    primary.ticker.end();
    primary.now += ms(60_000);
    primary.apply(&Op::Tick { elapsed_us: 0, keep_alives: vec![(session, RequestNumber(1))] });
    let renewed = primary.now;
    primary.ticker.begin(primary.now, primary.reading());
    primary.dies_at(session) < renewed + ms(2_000)
}

/// M5: no quorum for twenty seconds. It costs a lease of ten at most two caps of a second, not all.
fn outage_ends_a_lease(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 10_000);
    primary.run_renewing(ms(2_000), &[session]);
    primary.run_until(ms(2_500));
    let op = primary.close().expect("a tick");
    primary.now += ms(20_000);
    primary.execute(op);
    let healed = primary.now;
    primary.dies_at(session) < healed + ms(10_000 - 2 * 1_000 - 500)
}

/// M1: a keep-alive that comes while a tick is under way is not attached to it.
fn keep_alive_is_answered_by_a_tick_closed_before_it(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 2_000);
    primary.run_until(ms(100));
    let op = primary.close().expect("a tick");
    primary.now += ms(300);
    let stamp = primary.keep_alive(session);
    primary.execute(op);
    primary.answer_to(stamp).is_some()
}

/// M7: the lease has ended, and the sweep has not come yet.
fn dead_session_comes_back(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 500);
    primary.run_until(primary.now);
    primary.dies_at(session);
    let stamp = primary.keep_alive(session);
    primary.run_until(primary.now + ms(200));
    primary.answer_to(stamp).is_some_and(Result::is_ok)
}

/// M7: a waiter's lease has ended when the lock is released, and the sweep has not come yet.
fn dead_waiter_is_granted(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, dying] = [primary.open(1, 60_000), primary.open(2, 500)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(dying, "a", X);
    primary.dies_at(dying);
    primary.release(holder, "a", held);
    primary.holders("a") == [dying]
}

/// M3: the reply to an open is lost, and it is sent again.
fn repeated_open_makes_a_session(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    primary.open(1, 500) != primary.open(1, 500)
}

/// An acquire is granted, released, and then comes a second time off the network.
fn repeated_acquire_takes_the_lock_again(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    let acquire = Command::Acquire { name: name("a"), mode: X };
    let held = token(&primary.number(session, 1, 1, acquire.clone()));
    primary.number(session, 1, 2, Command::Release { name: name("a"), token: held, requeue: None });
    primary.number(session, 1, 1, acquire);
    !primary.holders("a").is_empty()
}

/// M20: as before, but the client's floor has moved past the acquire.
fn request_below_the_floor_is_executed(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    let acquire = Command::Acquire { name: name("a"), mode: X };
    let held = token(&primary.number(session, 1, 1, acquire.clone()));
    primary.number(session, 3, 3, Command::Release { name: name("a"), token: held, requeue: None });
    primary.number(session, 1, 1, acquire);
    !primary.holders("a").is_empty()
}

/// The reply to a release is lost with the primary; the next one has the state from a snapshot.
fn repeated_release_after_a_snapshot_is_answered_otherwise(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    let held = token(&primary.acquire(session, "a", X));
    let release = Command::Release { name: name("a"), token: held, requeue: None };
    let first = primary.number(session, 1, 9, release.clone());
    primary.fail_over(mutant);
    primary.number(session, 1, 9, release) != first
}

/// M11: the grant's notice is lost, and the waiter asks again.
fn granted_acquire_is_said_to_be_queued(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    let acquire = Command::Acquire { name: name("a"), mode: X };
    primary.number(waiter, 1, 50, acquire.clone());
    primary.release(holder, "a", held);
    primary.number(waiter, 1, 50, acquire) == Outcome::Queued
}

/// M12: a cancel overtakes its acquire.
fn acquire_that_its_cancel_overtook_is_granted(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    primary.number(session, 1, 2, Command::Cancel { name: name("a"), acquire: RequestNumber(1) });
    primary.number(session, 1, 1, Command::Acquire { name: name("a"), mode: X });
    !primary.holders("a").is_empty()
}

/// M12: the grant is executed before the cancel.
fn cancelled_acquire_holds_the_lock(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    primary.number(session, 1, 1, Command::Acquire { name: name("a"), mode: X });
    primary.number(session, 1, 2, Command::Cancel { name: name("a"), acquire: RequestNumber(1) });
    !primary.holders("a").is_empty()
}

/// Two wait for an exclusive tenure to end.
fn later_waiter_is_granted_first(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, second, third] = [1, 2, 3].map(|nonce| primary.open(nonce, 60_000));
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(second, "a", X);
    primary.acquire(third, "a", X);
    primary.release(holder, "a", held);
    primary.holders("a") != [second]
}

/// M14: readers come and go while a writer waits.
fn shared_overtakes_a_waiting_exclusive(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [reader, writer, late] = [1, 2, 3].map(|nonce| primary.open(nonce, 60_000));
    primary.acquire(reader, "a", S);
    primary.acquire(writer, "a", X);
    primary.acquire(late, "a", S) != Outcome::Queued
}

/// A lock becomes free between two tenures.
fn token_falls(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    let first = token(&primary.acquire(session, "a", X));
    primary.release(session, "a", first);
    token(&primary.acquire(session, "a", X)) <= first
}

/// Two sessions read, and one of them wants to write.
fn reader_becomes_a_writer_beside_another_reader(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [writer, reader] = [1, 2].map(|nonce| primary.open(nonce, 60_000));
    let token = token(&primary.acquire(writer, "a", S));
    primary.acquire(reader, "a", S);
    primary.ask(writer, Command::Upgrade { name: name("a"), token }) != Outcome::NotUpgraded
}

/// A writer waits for a lock that a reader has; then somebody asks for it and another, to read.
fn set_is_granted_before_one_who_came_first(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [reader, writer, third] = [1, 2, 3].map(|nonce| primary.open(nonce, 60_000));
    primary.acquire(reader, "a", S);
    primary.acquire(writer, "a", X);
    let set = LockSet::new([(name("a"), S), (name("b"), S)]).expect("two locks");
    primary.ask(third, Command::AcquireAll { set }) != Outcome::Queued
}

/// M13: a late release of an old tenure arrives under a number of its own.
fn late_release_ends_a_later_tenure(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    let first = token(&primary.acquire(session, "a", X));
    primary.release(session, "a", first);
    primary.acquire(session, "a", X);
    primary.release(session, "a", first);
    primary.holders("a").is_empty()
}

/// M23: a holder that is kept alive is forced while somebody waits.
fn next_has_the_lock_while_the_forced_holder_believes_in_its_own(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, waiter] = [primary.open(1, 2_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.force("a", held, false);
    primary.holders("a") != [holder]
}

/// M23: as before; the holder is renewed, and hears of it with the answer or not at all.
fn forced_holder_is_renewed_and_not_told(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let holder = primary.open(1, 2_000);
    let held = token(&primary.acquire(holder, "a", X));
    primary.force("a", held, false);
    let stamp = primary.keep_alive(holder);
    primary.run_until(ms(300));
    let told = Notice::Forced { name: name("a"), token: held };
    primary.answer_to(stamp).is_some_and(|answer| answer.as_ref().is_ok_and(|renewed| !renewed.notices.contains(&told)))
}

/// The primary fails while somebody waits, before the holder has heard of it.
fn holder_hears_nothing_from_a_new_primary(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.fail_over(mutant);
    primary.connected.insert(holder);
    primary.revoker.on_event(primary.now, crate::primary::RevokerEvent::Connected(holder));
    primary.run_renewing(primary.now + ms(5_000), &[holder, waiter]);
    told(&primary, holder, held) == 0
}

/// The call that carries a revoke is lost.
fn lost_revoke_is_not_repeated(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [holder, waiter] = [primary.open(1, 60_000), primary.open(2, 60_000)];
    primary.connected.insert(holder);
    primary.is_deaf = true;
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(waiter, "a", X);
    primary.run_renewing(primary.now + ms(5_000), &[holder, waiter]);
    told(&primary, holder, held) < 2
}

/// A lock is released while a snapshot is under way that has not come to it.
fn snapshot_in_parts_shows_what_came_later(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let session = primary.open(1, 60_000);
    primary.acquire(session, "a", X);
    let held = token(&primary.acquire(session, "b", X));
    let whole = primary.machine.snapshot();
    let mut part = primary.machine.begin_snapshot(1);
    let mut bytes = part.bytes;
    primary.release(session, "b", held);
    while !part.is_last {
        part = primary.machine.next_snapshot_part(1);
        bytes.extend(part.bytes);
    }
    bytes != whole
}

/// Two readers hold a lock, granted by different ops, and a writer waits.
fn revoke_names_anothers_tenure(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [first, second, writer] = [1, 2, 3].map(|nonce| primary.open(nonce, 60_000));
    primary.connected.extend([first, second]);
    let held = token(&primary.acquire(first, "a", S));
    primary.acquire(second, "a", S);
    primary.acquire(writer, "a", X);
    primary.run_until(primary.now + ms(5_000));
    told(&primary, first, held) == 0
}

/// How often a holder was asked for this tenure, by call or with a keep-alive.
fn told(primary: &Primary, session: SessionId, tenure: FencingToken) -> usize {
    let renewed = primary.answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let notices = renewed.flat_map(|renewed| renewed.notices.clone()).chain(primary.heard(session));
    notices.filter(|notice| matches!(notice, Notice::Revoke { token, .. } if *token == tenure)).count()
}

#[test]
fn a_bug_is_not_carried_by_snapshots_and_is_kept_over_a_restore() {
    let snapshot = Machine::default().with_mutant(Some(Mutant::TokenRestarts)).snapshot();
    let mut machine = Machine::default();
    machine.restore(&snapshot).expect("a snapshot");
    assert!(!machine.is_mutant(Mutant::TokenRestarts));
    let mut machine = Machine::default().with_mutant(Some(Mutant::Revives));
    machine.restore(&snapshot).expect("a snapshot");
    assert!(machine.is_mutant(Mutant::Revives));
    let query = Op::Read(Query::Locks { prefix: String::new(), after: None, limit: 1 });
    let reply = Reply::decode(&machine.apply(1, &query.encode()));
    assert_eq!(reply, Ok(Reply::Answer(Answer::Locks { entries: vec![], more: false })));
}

/// A session dies whose lock has to wait for its delay, or (M25) for its recovery; another asked for it.
fn lock_passes_on_too_early(mutant: Option<Mutant>, open: fn(&mut Primary) -> SessionId) -> bool {
    let mut primary = Primary::new(mutant);
    let dead = open(&mut primary);
    let waiter = primary.open(2, 60_000);
    primary.acquire(dead, "a", X);
    primary.acquire(waiter, "a", X);
    primary.dies_at(dead);
    primary.sweep();
    primary.holders("a") == [waiter]
}

/// M25: the first recoverer declines, and then says that it is done after all, while the second is at it.
fn late_recoverer_is_believed(mutant: Option<Mutant>) -> bool {
    let mut primary = Primary::new(mutant);
    let [dead, first, _second] =
        [(1, 500), (2, 60_000), (3, 60_000)].map(|(nonce, lease_ms)| primary.open_in_group(nonce, lease_ms));
    primary.acquire(dead, "a", X);
    primary.dies_at(dead);
    let token = primary.recovery_of(first, dead).expect("it is told");
    primary.report(first, dead, token, RecoveryStep::Declined);
    primary.report(first, dead, token, RecoveryStep::Recovered);
    primary.sweep();
    primary.holders("a").is_empty()
}
