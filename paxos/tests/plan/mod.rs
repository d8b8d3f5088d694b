//! The decree of the tests: a list of acceptors and a tag.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test target uses its part of this")]

use paxos::{Decree, NodeId};

/// A plan with this tag breaks the rules of the values.
pub const FORBIDDEN_TAG: u64 = 13;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub number: u64,
    pub parent: u64,
    pub acceptors: Vec<(NodeId, u128)>,
    pub tag: u64,
}

impl Plan {
    /// Decree 1 over nodes 1 to `count`, each under the incarnation 100 times its id.
    pub fn founding(count: u64) -> Self {
        let acceptors = (1..=count).map(|node| (node, u128::from(node) * 100)).collect();
        Self { number: 1, parent: 0, acceptors, tag: 0 }
    }

    /// The next decree, with the same acceptors.
    pub fn child(&self, tag: u64) -> Self {
        Self { number: self.number + 1, parent: self.hash(), acceptors: self.acceptors.clone(), tag }
    }

    pub fn with_acceptors(mut self, acceptors: &[(NodeId, u128)]) -> Self {
        self.acceptors = acceptors.to_vec();
        self
    }
}

impl Decree for Plan {
    fn number(&self) -> u64 {
        self.number
    }
    fn hash(&self) -> u64 {
        let fields = [self.number, self.parent, self.tag];
        let listed = self.acceptors.iter().flat_map(|&(node, incarnation)| [node, incarnation as u64]);
        fields.into_iter().chain(listed).fold(0xcbf2_9ce4_8422_2325, |hash: u64, field| {
            (hash ^ field).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    }
    fn parent_hash(&self) -> u64 {
        self.parent
    }
    fn acceptors(&self) -> Vec<(NodeId, u128)> {
        self.acceptors.clone()
    }
    fn quorum(&self) -> usize {
        self.acceptors.len() / 2 + 1
    }
    fn may_follow(&self, _previous: &Self) -> Result<(), String> {
        if self.tag == FORBIDDEN_TAG { Err("its tag is forbidden".to_owned()) } else { Ok(()) }
    }
}
