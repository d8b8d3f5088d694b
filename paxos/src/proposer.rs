//! The proposer: one attempt to have a value decided.
//!
//! Why it is right: P2c of Paxos Made Simple. Accept is sent for one value only, chosen when a quorum has promised: the
//! value of the highest-ballot vote among those promises, else the proposer's own. If a lower ballot has decided or can
//! still decide v, each quorum of promises holds a vote for v and no vote of a ballot between with another value (by
//! induction over the ballots), so v is what is chosen. The attempt itself is volatile: after a crash it is not taken
//! up again, because the next one has a higher ballot.

use crate::ballot::{Ballot, NodeId};
use crate::decree::Decree;
use crate::message::Vote;
use std::collections::BTreeSet;

/// An attempt under way. It ends when the instance is decided, by [`crate::Node::abandon`] or by a newer attempt.
#[derive(Clone, Debug)]
pub(crate) struct Attempt<V> {
    pub(crate) ballot: Ballot,
    pub(crate) phase: Phase<V>,
    /// Acceptors that have promised (phase 1) or voted (phase 2); at most the listed ones, each once.
    granted: BTreeSet<NodeId>,
    /// Acceptors that have refused in this phase.
    refused: BTreeSet<NodeId>,
    /// The highest ballot that stood in the way.
    pub(crate) refused_by: Option<Ballot>,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase<V> {
    /// Collecting promises; the own value, and the highest-ballot vote told so far.
    Prepare { own: V, highest: Option<Vote<V>> },
    /// Collecting votes for the one value of this ballot.
    Accept { value: V, value_hash: u64 },
}

impl<V: Decree> Attempt<V> {
    pub(crate) fn new(ballot: Ballot, own: V) -> Self {
        let phase = Phase::Prepare { own, highest: None };
        Self { ballot, phase, granted: BTreeSet::new(), refused: BTreeSet::new(), refused_by: None }
    }

    /// Counts a promise of this ballot with the vote that came with it. One of phase 2 comes too late to matter.
    pub(crate) fn count_promise(&mut self, acceptor: NodeId, vote: Option<Vote<V>>) {
        let Phase::Prepare { highest, .. } = &mut self.phase else { return };
        self.refused.remove(&acceptor);
        if self.granted.insert(acceptor)
            && let Some(vote) = vote
            && highest.as_ref().is_none_or(|known| known.ballot < vote.ballot)
        {
            *highest = Some(vote);
        }
    }

    /// Counts a vote for the value with this hash; a vote for anything else does not count.
    pub(crate) fn count_vote(&mut self, acceptor: NodeId, hash: u64) {
        if matches!(self.phase, Phase::Accept { value_hash, .. } if value_hash == hash) {
            self.refused.remove(&acceptor);
            self.granted.insert(acceptor);
        }
    }

    /// Notes a refusal: the attempt may still succeed with the others.
    pub(crate) fn count_refusal(&mut self, acceptor: NodeId, promised: Ballot) {
        if promised > self.ballot {
            self.refused_by = self.refused_by.max(Some(promised));
            if !self.granted.contains(&acceptor) {
                self.refused.insert(acceptor);
            }
        }
    }

    /// The value to put forward, as soon as a quorum has promised. `free_choice` is only ever set by a mutant.
    pub(crate) fn value_to_put_forward(&self, quorum: usize, free_choice: bool) -> Option<V> {
        match &self.phase {
            Phase::Prepare { own, highest } if self.granted.len() >= quorum => {
                Some(highest.as_ref().filter(|_| !free_choice).map_or(own, |vote| &vote.value).clone())
            }
            _ => None,
        }
    }

    /// Phase 2 begins: from now on this ballot carries `value`, and no other.
    pub(crate) fn put_forward(&mut self, value: V) {
        let value_hash = value.hash();
        self.phase = Phase::Accept { value, value_hash };
        self.granted.clear();
        self.refused.clear();
    }

    /// The value, as soon as a quorum has voted for it in this ballot: then it is decided.
    pub(crate) fn decided(&self, quorum: usize) -> Option<V> {
        match &self.phase {
            Phase::Accept { value, .. } if self.granted.len() >= quorum => Some(value.clone()),
            _ => None,
        }
    }

    /// Whether this acceptor has not answered in the current phase.
    pub(crate) fn awaits(&self, acceptor: NodeId) -> bool {
        !self.granted.contains(&acceptor) && !self.refused.contains(&acceptor)
    }
}
