//! Known bugs that tests put back, one at a time, to see that the net catches them. Absent from a normal build.
//!
//! The cores ask [`is`], which is the constant `false` in a normal build. In a build with the feature `mutants` it looks at what
//! [`switch_on`] set for this *thread*: a simulator of one thread switches a bug on for all its clients, and tests beside it on
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
pub const MUTANTS: [(&str, Mutant); 14] = [
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
