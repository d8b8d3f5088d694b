//! node
use crate::acceptor::Durable;
use crate::ballot::{Ballot, NodeId, Sender};
use crate::message::{Effects, Message};
use std::fmt;

/// What an instance decides; the value decided by instance k-1 names the acceptors of instance k.
pub trait Decree: Clone + Eq + fmt::Debug {
    /// The instance that decides it.
    fn number(&self) -> u64;
    /// Digest of this decree, its parent's hash included.
    fn hash(&self) -> u64;
    /// Hash of the decree of instance `number() - 1`.
    fn parent_hash(&self) -> u64;
    /// The acceptors of instance `number() + 1`: each node once, with its listed incarnation.
    fn acceptors(&self) -> Vec<(NodeId, u128)>;
    /// How many of those decide instance `number() + 1`; more than half of them.
    fn quorum(&self) -> usize;
    /// Whether this value may follow `previous` by the rules of the values; acceptors refuse one that may not.
    ///
    /// # Errors
    /// The rule that it breaks.
    fn may_follow(&self, previous: &Self) -> Result<(), String>;
}

/// Why a value was not proposed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// The last decree does not list this node under this incarnation (or all rounds of the instance are used up).
    NotEligible,
    /// The value cannot follow the last decree, because of this.
    InvalidValue(String),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEligible => f.write_str("this node is no acceptor of the next instance under its incarnation"),
            Self::InvalidValue(reason) => write!(f, "the value may not follow the last decree: {reason}"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// One node: acceptor, proposer and learner of the instance after the last decree that it knows.
#[derive(Clone, Debug)]
pub struct Node<V> {
    durable: Durable<V>,
}

impl<V: Decree> Node<V> {
    /// A node, at its first start or after a restart, with what it stored.
    pub fn new(_node: NodeId, _incarnation: u128, durable: Durable<V>) -> Self {
        Self { durable }
    }
    /// Founding: the durable state of a node that knows `value` as decided and has taken part in nothing.
    pub fn first(value: V) -> Durable<V> {
        Durable { last: value, promised: None, vote: None, proposal: None, highest_round: 0 }
    }
    /// What must be stored when effects say so.
    pub fn durable(&self) -> &Durable<V> {
        &self.durable
    }
    /// The highest decree known to be decided.
    pub fn last(&self) -> &V {
        &self.durable.last
    }
    /// Whether the last decree lists this node under its own incarnation.
    pub fn is_acceptor(&self) -> bool {
        false
    }
    /// Starts an attempt above everything seen; replaces an own attempt under way.
    ///
    /// # Errors
    /// [`ProposeError`]
    pub fn propose(&mut self, _value: V) -> Result<Effects<V>, ProposeError> {
        Err(ProposeError::NotEligible)
    }
    /// Resends the current phase's message to those that have not answered.
    pub fn retransmit(&mut self) -> Effects<V> {
        Effects::none()
    }
    /// The ballot of the attempt under way.
    pub fn proposing(&self) -> Option<&Ballot> {
        None
    }
    /// Stops retransmitting; the outcome stays open (S11).
    pub fn abandon(&mut self) {}
    /// The highest ballot that refused the present attempt.
    pub fn refused_by(&self) -> Option<Ballot> {
        None
    }
    /// Takes in a message.
    pub fn on_message(&mut self, _from: Sender, _message: Message<V>) -> Effects<V> {
        Effects::none()
    }
    /// Takes in a decided decree from anywhere.
    pub fn learn(&mut self, _value: V) -> Effects<V> {
        Effects::none()
    }
}
