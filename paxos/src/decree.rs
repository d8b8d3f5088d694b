//! Decrees: the values of the chain.
//!
//! Why it is right: all that an instance needs to know (its number, its acceptors, how many of them decide) stands in
//! the decree before it. Two nodes that agree on that decree therefore agree on who decides the next one, and every
//! value that is voted for was checked to be a child of it with quorums that meet.

use crate::ballot::NodeId;
use std::collections::BTreeSet;
use std::fmt;

/// The most acceptors that a decree may name; bounds each broadcast and each set of answers.
pub const MAX_ACCEPTORS: usize = 64;

/// What an instance decides; the value decided by instance k-1 names the acceptors of instance k (Vertical Paxos and
/// the views of Viewstamped Replication do the same by other means).
pub trait Decree: Clone + Eq + fmt::Debug {
    /// The instance that decides it.
    fn number(&self) -> u64;
    /// Digest of this decree, its parent's hash included. Equal decrees have equal hashes.
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
    /// The rule that it breaks, for the one who proposed it.
    fn may_follow(&self, previous: &Self) -> Result<(), String>;
}

/// Whether `value` may be voted for as the decree after `last`: its place in the chain, its quorums, its own rules.
pub(crate) fn check_child<V: Decree>(last: &V, value: &V) -> Result<(), String> {
    if last.number().checked_add(1) != Some(value.number()) || value.number() == u64::MAX {
        return Err(format!("it is decree {}, the last one is {}", value.number(), last.number()));
    }
    if value.parent_hash() != last.hash() {
        return Err(format!("its parent is {:#x}, the last decree is {:#x}", value.parent_hash(), last.hash()));
    }
    check_quorums(value)?;
    value.may_follow(last)
}

/// Any two quorums of the next instance must share an acceptor, else it could decide twice; and one must exist, else it
/// could never decide.
fn check_quorums<V: Decree>(value: &V) -> Result<(), String> {
    let acceptors = value.acceptors();
    let nodes: BTreeSet<NodeId> = acceptors.iter().map(|&(node, _)| node).collect();
    let quorum = value.quorum();
    if acceptors.len() > MAX_ACCEPTORS {
        return Err(format!("it names {} acceptors, at most {MAX_ACCEPTORS} are allowed", acceptors.len()));
    }
    if nodes.len() != acceptors.len() {
        return Err("it names a node twice as acceptor".to_owned());
    }
    if quorum > nodes.len() || quorum <= nodes.len() / 2 {
        return Err(format!("quorums of {quorum} among {} acceptors do not meet or do not exist", nodes.len()));
    }
    Ok(())
}
