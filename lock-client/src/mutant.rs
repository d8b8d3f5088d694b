//! Known bugs that tests put back, one at a time, to see that the net catches them. Absent from a normal build.
//!
//! The cores ask `is`, which is the constant `false` in a normal build. In a build with the feature `mutants` it looks at what
//! `switch_on` set for this *thread*: a simulator of one thread switches a bug on for all its clients, and tests beside it on
//! other threads are left alone. A [`crate::LockClient`] has threads of its own and is not reached.

/// A rule to be left out. M numbers are those of the protocol's review; each is named where the rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// M2: the lease counts from the arrival of the answer instead of from the sending.
    LeaseFromAnswer,
    /// M9: the lease is used to its last moment.
    NoMargin,
    /// M2: any answer is taken as that to the newest keep-alive.
    AnyStamp,
    /// A revoke is followed whatever tenure it names.
    RevokeAnyToken,
    /// M12: a revoke for a tenure that the client has not is ignored.
    IgnoresUnknownTenure,
    /// M13: a lock is asked for while its release is unanswered.
    AcquireDuringRelease,
    /// M10: a lease that is in force again revives the guards that had died.
    ResumeRevivesGuards,
    /// M11: queued acquires are never asked for again.
    NeverAsksAgain,
    /// After a broken connection numbers are given out that were given out before.
    ReusesNumbers,
    /// M12: a lock that was granted although its acquire was cancelled is kept.
    KeepsCancelledGrant,
    /// A user upgrades although others of the same client have the lock.
    UpgradesBesideReaders,
    /// M14: a lock that is to be given up goes on admitting local users.
    AdmitsForEver,
    /// M16: a silent callback connection is never opened anew.
    TrustsCallback,
    /// M17: a lock is given up before its owner has flushed.
    ReleasesUnflushed,
    /// M23: the holder of a lock that was taken by force goes on using it.
    IgnoresForce,
}

/// All of them, with their names on the command line.
pub const MUTANTS: [(&str, Mutant); 15] = [
    ("lease-from-answer", Mutant::LeaseFromAnswer),
    ("no-margin", Mutant::NoMargin),
    ("any-stamp", Mutant::AnyStamp),
    ("revoke-any-token", Mutant::RevokeAnyToken),
    ("ignores-unknown-tenure", Mutant::IgnoresUnknownTenure),
    ("acquire-during-release", Mutant::AcquireDuringRelease),
    ("resume-revives-guards", Mutant::ResumeRevivesGuards),
    ("never-asks-again", Mutant::NeverAsksAgain),
    ("reuses-numbers", Mutant::ReusesNumbers),
    ("keeps-cancelled-grant", Mutant::KeepsCancelledGrant),
    ("upgrades-beside-readers", Mutant::UpgradesBesideReaders),
    ("admits-for-ever", Mutant::AdmitsForEver),
    ("trusts-callback", Mutant::TrustsCallback),
    ("releases-unflushed", Mutant::ReleasesUnflushed),
    ("ignores-force", Mutant::IgnoresForce),
];

#[cfg(any(test, feature = "mutants"))]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// From now on this thread's cores have that bug, or none.
    pub fn switch_on(mutant: Option<Mutant>) {
        ON.set(mutant);
    }

    /// Runs with that bug, and switches it off again.
    pub fn with<R>(mutant: Mutant, run: impl FnOnce() -> R) -> R {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                switch_on(None);
            }
        }
        let _off = Off;
        switch_on(Some(mutant));
        run()
    }

    pub(super) fn on() -> Option<Mutant> {
        ON.get()
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{switch_on, with};

/// Whether that bug is switched on.
#[cfg(any(test, feature = "mutants"))]
pub(crate) fn is(mutant: Mutant) -> bool {
    switch::on() == Some(mutant)
}

/// Whether that bug is switched on.
#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::cache::scenarios::{self as lock, forced, mode_change, turns};
    use crate::lock_session::scenarios as session;
    use crate::session::tests as lease;

    /// The scenario of each bug, which passes without it.
    const SCENARIOS: [(Mutant, fn()); MUTANTS.len()] = [
        (Mutant::LeaseFromAnswer, lease::m2_a_lease_counts_from_the_sending_of_the_stamp_that_was_answered),
        (Mutant::NoMargin, session::m9_a_lease_is_taken_as_over_a_margin_early),
        (Mutant::AnyStamp, lease::m2_a_lease_counts_from_the_sending_of_the_stamp_that_was_answered),
        (Mutant::RevokeAnyToken, lock::a_stale_revoke_or_grant_of_an_earlier_tenure_does_nothing),
        (
            Mutant::IgnoresUnknownTenure,
            lock::m12_a_revoke_for_a_tenure_that_the_client_has_not_is_answered_with_its_release,
        ),
        (
            Mutant::AcquireDuringRelease,
            lock::m13_a_user_who_comes_while_the_release_is_unanswered_waits_for_the_answer,
        ),
        (
            Mutant::ResumeRevivesGuards,
            session::m10_guards_that_died_with_the_lease_stay_dead_when_it_is_in_force_again,
        ),
        (
            Mutant::NeverAsksAgain,
            session::m11_a_lost_grant_notice_is_made_good_within_three_seconds_and_on_a_new_connection,
        ),
        (Mutant::ReusesNumbers, session::numbers_go_on_over_a_broken_connection),
        (
            Mutant::KeepsCancelledGrant,
            lock::m12_a_wish_that_is_withdrawn_is_cancelled_and_a_grant_meanwhile_is_not_used,
        ),
        (
            Mutant::UpgradesBesideReaders,
            mode_change::an_upgrade_beside_a_local_user_or_waiter_or_under_a_revoke_is_refused_at_once,
        ),
        (
            Mutant::AdmitsForEver,
            turns::m14_after_a_revoke_only_those_who_waited_already_are_served_and_at_most_sixteen,
        ),
        (
            Mutant::TrustsCallback,
            session::m16_a_revoke_that_came_with_a_keep_alive_first_reopens_a_silent_callback_connection,
        ),
        (Mutant::ReleasesUnflushed, lock::a_revoked_free_lock_is_flushed_and_then_released),
        (
            Mutant::IgnoresForce,
            forced::m23_a_tenure_that_is_ended_by_force_in_use_is_confirmed_without_a_flush_and_its_user_counts_no_longer,
        ),
    ];

    #[test]
    fn each_known_bug_fails_its_scenario() {
        for ((name, mutant), (of, scenario)) in MUTANTS.into_iter().zip(SCENARIOS) {
            assert_eq!(mutant, of);
            scenario();
            assert!(catch_unwind(|| with(mutant, scenario)).is_err(), "{name} was not noticed");
        }
    }
}
