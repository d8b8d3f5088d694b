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
    /// S12: n changes in the view after one that has not started.
    ChangesBeforeBarrier,
    /// S12: a view takes a second member away with the first, and acceptors let it pass.
    TwoSlotsInOneView,
    /// S12: a learner's acknowledgements commit.
    LearnerCounts,
    /// A member that is removed stops as soon as it knows, told or untold the others.
    LeavesUntold,
    /// S13: a witness drops what is committed, whoever holds it.
    WitnessDropsEarly,
    /// S13: a new primary asks the witness for all that it lacks, though others hold what the witness has dropped.
    WitnessLogAlone,
    /// Section 3: the primary executes what it has itself, whoever else has it.
    ExecutesAlone,
    /// S9: backups acknowledge and never execute.
    BackupsNeverExecute,
    /// Section 7: a snapshot from another member is installed, and its state is not taken over.
    TransferForgets,
    /// S14: a member acknowledges what its guard does not hold yet.
    RingUnguarded,
    /// S14: a guard's word of an older view counts in this one.
    RingOldBound,
    /// S14: the record names a memory that holds less than was acknowledged.
    RingAnyRecord,
    /// Paxos: an acceptor answers before its promise or vote is stored.
    PaxosAnswersBeforePersist,
    /// Paxos: a member's number is enough to vote, whatever its incarnation.
    PaxosIgnoresIncarnations,
    /// Paxos: a finished instance is voted on again.
    PaxosVotesAgain,
    /// Paxos: a proposer puts its own value forward, whatever was voted for.
    PaxosChoosesFreely,
    /// Paxos: one promise and one vote are enough.
    PaxosQuorumOfOne,
}

impl Mutant {
    /// The rule that the Paxos core is to break.
    pub(crate) fn in_paxos(self) -> Option<paxos::mutant::Mutant> {
        match self {
            Mutant::PaxosAnswersBeforePersist => Some(paxos::mutant::Mutant::AnswersBeforePersist),
            Mutant::PaxosIgnoresIncarnations => Some(paxos::mutant::Mutant::IgnoresIncarnations),
            Mutant::PaxosVotesAgain => Some(paxos::mutant::Mutant::VotesFinishedInstanceAgain),
            Mutant::PaxosChoosesFreely => Some(paxos::mutant::Mutant::ChoosesFreely),
            Mutant::PaxosQuorumOfOne => Some(paxos::mutant::Mutant::QuorumOfOne),
            _ => None,
        }
    }
}

/// Those that need no change of members, with their names on the command line.
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

/// Those of membership and witnesses, of the Paxos core, and three that an old tester is known to pass.
pub const MORE_MUTANTS: [(&str, Mutant); 14] = [
    ("changes-before-barrier", Mutant::ChangesBeforeBarrier),
    ("two-slots-in-one-view", Mutant::TwoSlotsInOneView),
    ("learner-counts", Mutant::LearnerCounts),
    ("leaves-untold", Mutant::LeavesUntold),
    ("witness-drops-early", Mutant::WitnessDropsEarly),
    ("witness-log-alone", Mutant::WitnessLogAlone),
    ("paxos-answers-before-persist", Mutant::PaxosAnswersBeforePersist),
    ("paxos-ignores-incarnations", Mutant::PaxosIgnoresIncarnations),
    ("paxos-votes-again", Mutant::PaxosVotesAgain),
    ("paxos-chooses-freely", Mutant::PaxosChoosesFreely),
    ("paxos-quorum-of-one", Mutant::PaxosQuorumOfOne),
    ("executes-alone", Mutant::ExecutesAlone),
    ("backups-never-execute", Mutant::BackupsNeverExecute),
    ("transfer-forgets", Mutant::TransferForgets),
];

/// Those of `ring`.
pub const RING_MUTANTS: [(&str, Mutant); 3] = [
    ("ring-unguarded", Mutant::RingUnguarded),
    ("ring-old-bound", Mutant::RingOldBound),
    ("ring-any-record", Mutant::RingAnyRecord),
];

thread_local! {
    /// Whether acceptors on this thread let views pass that change two slots: a view has no place of its own for a mutant.
    static LENIENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(crate) fn set_lenient(lenient: bool) {
    LENIENT.set(lenient);
}

pub(crate) fn is_lenient() -> bool {
    LENIENT.get()
}
