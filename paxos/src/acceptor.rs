//! The acceptor: what a node remembers of the open instance, and what it may promise and vote.
//!
//! Why it is right: `promised` only grows within an instance, and a vote is cast only in a ballot that is not below it.
//! So when an acceptor promised b and told its latest vote, no vote of its own below b can follow: the proposer of b has
//! seen all that this acceptor will ever have voted below b. The record is replaced as a whole when a decree is learned;
//! nothing of a finished instance stays, and nothing of a finished instance is ever answered with a promise or a vote.

use crate::ballot::{Ballot, MAX_ROUND};
use crate::decree::Decree;
use crate::message::Vote;
use serde::{Deserialize, Serialize};

/// What a node must find again after a crash: the last decree it knows, and its part in the instance after that.
///
/// It is stored as one atomic record before any message returned with it is sent (see [`crate::Effects`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable<V> {
    /// The highest decree known to be decided. All fields below belong to instance `last.number() + 1`.
    pub last: V,
    /// The highest ballot promised, to oneself too.
    pub promised: Option<Ballot>,
    /// The latest vote; its ballot is at most `promised`.
    pub vote: Option<Vote<V>>,
    /// The value put forward in an own ballot: one ballot carries one value.
    pub proposal: Option<Vote<V>>,
    /// At least the round of every ballot in this record; the next own attempt goes above it.
    pub highest_round: u64,
}

/// The acceptor's answer to a vote that is asked of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ballotting {
    /// Voted, now or before.
    Voted,
    /// Promised to this higher ballot.
    Refused(Ballot),
    /// The ballot already carries another value: its proposer is broken, and gets no answer.
    TwoValues,
}

impl<V: Decree> Durable<V> {
    /// The state of a node that knows `last` as decided and has taken part in nothing since.
    pub fn after(last: V) -> Self {
        Self { last, promised: None, vote: None, proposal: None, highest_round: 0 }
    }

    /// The instance in which this node takes part, the only one.
    pub(crate) fn open_instance(&self) -> u64 {
        self.last.number().saturating_add(1)
    }

    /// Remembers a round that was heard of, so that the next own attempt is above it. Needs no storing by itself.
    pub(crate) fn hear_of(&mut self, ballot: Ballot) {
        self.highest_round = self.highest_round.max(ballot.round);
    }

    /// Phase 1b: promises `ballot` unless a higher one is promised. A repeated promise is the same promise.
    ///
    /// Returns the latest vote, or the higher ballot.
    pub(crate) fn promise(&mut self, ballot: Ballot) -> Result<Option<Vote<V>>, Ballot> {
        if let Some(higher) = self.promised.filter(|&promised| promised > ballot) {
            return Err(higher);
        }
        self.hear_of(ballot);
        self.promised = Some(ballot);
        Ok(self.vote.clone())
    }

    /// Phase 2b: votes for `value` in `ballot` unless a higher one is promised. `check_two_values` is only ever unset
    /// by a mutant.
    pub(crate) fn vote(&mut self, ballot: Ballot, value: &V, check_two_values: bool) -> Ballotting {
        if let Some(higher) = self.promised.filter(|&promised| promised > ballot) {
            return Ballotting::Refused(higher);
        }
        if check_two_values && self.vote.as_ref().is_some_and(|vote| vote.ballot == ballot && vote.value != *value) {
            return Ballotting::TwoValues;
        }
        self.hear_of(ballot);
        self.promised = Some(ballot);
        self.vote = Some(Vote { ballot, value: value.clone() });
        Ballotting::Voted
    }

    /// What holds of every record that this crate wrote. A record that breaks it comes from a foreign or broken store;
    /// to go on with it could break a promise.
    pub(crate) fn assert_consistent(&self) {
        assert!(self.vote.as_ref().map(|vote| vote.ballot) <= self.promised, "a vote was promised first");
        assert!(self.proposal.as_ref().map(|own| own.ballot) <= self.promised, "an own ballot was promised to oneself");
        assert!(self.promised.is_none_or(|ballot| ballot.round <= self.highest_round), "rounds are remembered");
        assert!(self.highest_round <= MAX_ROUND, "no round above the bound is ever heard of");
    }
}
