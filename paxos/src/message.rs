//! What nodes say to each other, and what a node asks of its caller.
//!
//! Why it is right: each message names its instance and the hash of the decree before it, so that it cannot be taken
//! for one of another instance or of another chain. Each may be lost, doubled, delayed and overtaken at will.

use crate::ballot::{Ballot, NodeId};
use serde::{Deserialize, Serialize};

/// A value that was voted for, or is proposed, in a ballot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote<V> {
    /// The ballot.
    pub ballot: Ballot,
    /// The one value of that ballot.
    pub value: V,
}

/// A message between two nodes. `instance` is the number of the decree that is being decided, `parent` the hash of
/// the decree before it. Variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<V> {
    /// Phase 1, proposer to acceptors: promise to take part in no lower ballot.
    Prepare {
        /// Number of the decree being decided.
        instance: u64,
        /// Hash of the decree before it.
        parent: u64,
        /// The attempt; owned by the sender.
        ballot: Ballot,
    },
    /// Acceptor to proposer: promised, durably.
    Promise {
        /// Number of the decree being decided.
        instance: u64,
        /// Hash of the decree before it.
        parent: u64,
        /// The ballot of the Prepare.
        ballot: Ballot,
        /// The acceptor's latest vote, if it has voted; its ballot is lower.
        vote: Option<Vote<V>>,
    },
    /// Acceptor to proposer: a higher ballot was promised. A hint that only saves time; nothing rests on it.
    Refused {
        /// Number of the decree being decided.
        instance: u64,
        /// Hash of the decree before it.
        parent: u64,
        /// The ballot of the Prepare or Accept.
        ballot: Ballot,
        /// The higher ballot that stands in its way.
        promised: Ballot,
    },
    /// Phase 2, proposer to acceptors: vote for this value.
    Accept {
        /// Number of the decree being decided.
        instance: u64,
        /// Hash of the decree before it.
        parent: u64,
        /// The attempt; owned by the sender.
        ballot: Ballot,
        /// Its one value.
        value: V,
    },
    /// Acceptor to proposer: voted, durably.
    Accepted {
        /// Number of the decree being decided.
        instance: u64,
        /// Hash of the decree before it.
        parent: u64,
        /// The ballot of the Accept.
        ballot: Ballot,
        /// Hash of the value voted for.
        value_hash: u64,
    },
    /// Anybody to anybody: this decree is decided.
    Decided {
        /// The decree.
        value: V,
    },
    /// Anybody to anybody: send your last decree if its number is above this.
    Fetch {
        /// The number of the sender's own last decree.
        above: u64,
    },
}

impl<V> Message<V> {
    /// Instance, parent hash and ballot, of a message that belongs to one instance.
    pub fn place(&self) -> Option<(u64, u64, Ballot)> {
        match *self {
            Self::Prepare { instance, parent, ballot }
            | Self::Promise { instance, parent, ballot, .. }
            | Self::Refused { instance, parent, ballot, .. }
            | Self::Accept { instance, parent, ballot, .. }
            | Self::Accepted { instance, parent, ballot, .. } => Some((instance, parent, ballot)),
            Self::Decided { .. } | Self::Fetch { .. } => None,
        }
    }
}

/// What the caller has to do, in this order: persist, send, act on the last of `decided`.
///
/// If `persist` is set, [`crate::Node::durable`] as it is *now* is stored in one atomic record before any of `send`
/// leaves and before `decided` is acted on. Effects without it may overtake earlier ones that are still being stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a dropped effect is a promise made and not kept"]
pub struct Effects<V> {
    /// Whether the durable state must be stored first.
    pub persist: bool,
    /// To whom to send what; never to the node itself.
    pub send: Vec<(NodeId, Message<V>)>,
    /// Decrees that became known just now, oldest first.
    pub decided: Vec<V>,
}

impl<V> Effects<V> {
    /// Nothing to do.
    pub fn none() -> Self {
        Self { persist: false, send: Vec::new(), decided: Vec::new() }
    }

    /// Whether there is nothing to do.
    pub fn is_none(&self) -> bool {
        !self.persist && self.send.is_empty() && self.decided.is_empty()
    }
}
