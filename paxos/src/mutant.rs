//! Rules that can be broken on purpose, to prove that the tests notice. In a normal build none can be.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "mutants")), allow(unreachable_pub))]
pub enum Mutant {
    /// An acceptor answers before its promise or vote is stored.
    AnswersBeforePersist,
    /// A node promises and votes in an instance that it knows to be decided.
    VotesFinishedInstanceAgain,
    /// Ballots are (round, proposer) alone, anybody may propose, and acceptors do not compare values of one ballot.
    ReusesBallotAfterRebirth,
    /// A node id is enough to take part and to be counted, whatever the incarnation.
    IgnoresIncarnations,
    /// A proposer puts its own value forward, whatever was voted for.
    ChoosesFreely,
    /// One promise and one vote are enough.
    QuorumOfOne,
}
