//! Ballots: the numbers that order all attempts to decide one instance.
//!
//! Why it is right: two attempts never share a ballot. Two nodes differ in `proposer`; two stores of one node differ in
//! `incarnation`; one store never goes back, because a proposer promises its ballot to itself durably before anybody
//! hears of it, and takes its next round above everything that it promised.

use serde::{Deserialize, Serialize};

/// A node's number in the cluster; stays the same over a loss of its store.
pub type NodeId = u64;

/// The highest round that is answered. At one attempt a millisecond it is reached after 8,900 years, so a higher one
/// is damage; answering it would leave no round for anybody else. Unit: rounds.
pub const MAX_ROUND: u64 = 1 << 48;

/// The number of an attempt, ordered by round, then proposer, then incarnation (Paxos Made Simple 2.2: "different
/// proposals have different numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Grows with each attempt; above every round that the proposer has seen in the instance.
    pub round: u64,
    /// Who attempts.
    pub proposer: NodeId,
    /// Under which store. A proposer reborn with an empty store cannot use a ballot of its former life.
    pub incarnation: u128,
}

impl Ballot {
    /// Whether `sender` is the one that may send Prepare and Accept of this ballot.
    pub fn is_owned_by(&self, sender: Sender) -> bool {
        self.proposer == sender.node && self.incarnation == sender.incarnation
    }
}

/// Who sent a message: the caller takes it from the connection's handshake or the message's envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sender {
    /// The node.
    pub node: NodeId,
    /// The incarnation of its store.
    pub incarnation: u128,
}
