//! Known bugs that tests put back, one at a time, to see that the net catches them. Absent from a normal build.

/// A rule to be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// S3: entries of old views are counted without a barrier.
    NoBarrier,
    /// S3: acks of syncing members count.
    SyncingCounts,
    /// S4: the longest log wins instead of the highest viewstamp.
    LongestLog,
    /// S4: the new primary trusts its own log alone.
    OwnLogOnly,
    /// S6: a new incarnation is in sync at once.
    NewcomerInSync,
    /// S8: a restarted primary resumes its view.
    ResumesView,
    /// S9: a backup executes what it has not verified.
    ExecutesUnverified,
    /// S10: a store that lost its memory keeps its incarnation (the simulator does the losing).
    Amnesia,
    /// Section 3: a backup acknowledges its log's end, verified or not.
    AcksUnverified,
    /// S2: a new primary speaks before it is durable that it entered its view.
    SpeaksBeforeEntered,
    /// Section 2: an ack leaves before what it promises is durable.
    AcksBeforeDurable,
}

/// All of them, with their names on the command line.
pub const MUTANTS: [(&str, Mutant); 11] = [
    ("speaks-before-entered", Mutant::SpeaksBeforeEntered),
    ("no-barrier", Mutant::NoBarrier),
    ("syncing-counts", Mutant::SyncingCounts),
    ("longest-log", Mutant::LongestLog),
    ("own-log-only", Mutant::OwnLogOnly),
    ("newcomer-in-sync", Mutant::NewcomerInSync),
    ("resumes-view", Mutant::ResumesView),
    ("executes-unverified", Mutant::ExecutesUnverified),
    ("amnesia", Mutant::Amnesia),
    ("acks-unverified", Mutant::AcksUnverified),
    ("acks-before-durable", Mutant::AcksBeforeDurable),
];
