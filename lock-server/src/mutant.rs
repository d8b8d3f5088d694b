//! Known bugs that tests put back, one at a time, to see that the net catches them. In a normal build none can be put back: what is
//! asked here is false when the program is compiled.

/// A rule to be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Time: a tick's clock reading is the one from when it was planned, before its keep-alives came. The cap hides most of it, so it
    /// is left out too.
    ClockFirst,
    /// Time: a tick's elapsed time begins with the tick before the last, so that each interval counts twice.
    ElapsedTwice,
    /// Time: who becomes primary again counts from what it measured in its former term. Without the cap, which hides it.
    FormerTerm,
    /// Time: a tick adds whatever was measured.
    NoCap,
    /// Leases: a keep-alive that came while a tick was under way is answered by that tick.
    AnswersLater,
    /// Leases: a keep-alive brings a dead session back.
    Revives,
    /// Leases: a lease ends after three quarters of its time.
    ExpiresEarly,
    /// Leases: a waiter whose session is dead is granted.
    GrantsDead,
    /// Sessions: every open makes a session, whatever its nonce.
    IgnoresNonce,
    /// Requests: a repeated request is executed again.
    ExecutesTwice,
    /// Requests: a request below the floor is executed.
    IgnoresFloor,
    /// Requests: snapshots leave the duplicate window out.
    SnapshotForgets,
    /// Snapshots: what is changed while one is taken is not kept as it was.
    SnapshotTears,
    /// Requests: a repeated acquire is answered as it was at first, queued for ever.
    StaleQueued,
    /// Requests: a cancel that overtakes its acquire leaves no trace.
    CancelForgotten,
    /// Locks: the cancel of an acquire that was granted does not release it.
    CancelKeeps,
    /// Locks: the last in the queue is granted first.
    LastComeFirst,
    /// Locks: shared waiters do not wait for an exclusive one before them.
    SharedOvertakes,
    /// Locks: the tokens of a lock begin anew when it was free.
    TokenRestarts,
    /// Locks: a shared holder is made exclusive although others have the lock.
    UpgradesBesideOthers,
    /// Locks: a set does not wait for those before it in its queues.
    SetsOvertake,
    /// Locks: a release ends whatever tenure the session has.
    ReleaseUnchecked,
    /// Force: the next may have the lock at once.
    ForcesAtOnce,
    /// Force: nobody tells the holder.
    ForcesSilently,
    /// Lock delay: the locks of a dead session that asked for one are free when it dies.
    IgnoresDelay,
    /// Recovery: the locks of a dead session that is to be recovered are free when it dies.
    FreesUnrecovered,
    /// Recovery: whoever says that a session is recovered is believed.
    AnyRecoverer,
    /// Revokes: a new primary derives none, and keep-alives carry none.
    LostRevoke,
    /// Revokes: none is repeated, and keep-alives carry none.
    RevokesOnce,
    /// Revokes: each names the newest tenure of its lock, whoever's it is.
    RevokesNewest,
}

/// All of them, with their names on the command line.
#[cfg(any(test, feature = "mutants"))]
pub const MUTANTS: [(&str, Mutant); 30] = [
    ("clock-first", Mutant::ClockFirst),
    ("elapsed-twice", Mutant::ElapsedTwice),
    ("former-term", Mutant::FormerTerm),
    ("no-cap", Mutant::NoCap),
    ("answers-later", Mutant::AnswersLater),
    ("revives", Mutant::Revives),
    ("expires-early", Mutant::ExpiresEarly),
    ("grants-dead", Mutant::GrantsDead),
    ("ignores-nonce", Mutant::IgnoresNonce),
    ("executes-twice", Mutant::ExecutesTwice),
    ("ignores-floor", Mutant::IgnoresFloor),
    ("snapshot-forgets", Mutant::SnapshotForgets),
    ("snapshot-tears", Mutant::SnapshotTears),
    ("stale-queued", Mutant::StaleQueued),
    ("cancel-forgotten", Mutant::CancelForgotten),
    ("cancel-keeps", Mutant::CancelKeeps),
    ("last-come-first", Mutant::LastComeFirst),
    ("shared-overtakes", Mutant::SharedOvertakes),
    ("token-restarts", Mutant::TokenRestarts),
    ("upgrades-beside-others", Mutant::UpgradesBesideOthers),
    ("sets-overtake", Mutant::SetsOvertake),
    ("release-unchecked", Mutant::ReleaseUnchecked),
    ("forces-at-once", Mutant::ForcesAtOnce),
    ("forces-silently", Mutant::ForcesSilently),
    ("ignores-delay", Mutant::IgnoresDelay),
    ("frees-unrecovered", Mutant::FreesUnrecovered),
    ("any-recoverer", Mutant::AnyRecoverer),
    ("lost-revoke", Mutant::LostRevoke),
    ("revokes-once", Mutant::RevokesOnce),
    ("revokes-newest", Mutant::RevokesNewest),
];

/// What a core was made with. Without size in a normal build.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mutation {
    #[cfg(any(test, feature = "mutants"))]
    mutant: Option<Mutant>,
}

impl Mutation {
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        Mutation { mutant }
    }

    /// Whether this rule is left out.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn is(self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this rule is left out: never.
    #[cfg(not(any(test, feature = "mutants")))]
    #[inline(always)]
    pub(crate) fn is(self, _: Mutant) -> bool {
        false
    }
}
