//! Numbers that name things. Each is its own type, so that mixing them does not compile.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::view::Fnv;

/// A member's number, given by the operator; stays the same over a loss of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub u64);

/// One life of a member's store: random, made when the store is formatted. A member that lost its log or its promises is
/// another incarnation, and counts for nothing until a decided view lists it (rule S10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u128);

/// A cluster's id, made at its founding: half of it random, half a hash of the cluster's name, so that a store can tell
/// whether it was made under another name. 0 stands for "not founded".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// The place of an entry: the view that ordered it, and the number of its last op. Ordered by view, then op (Liskov and
/// Cowling, "Viewstamped Replication Revisited", 2012; Oki and Liskov, 1988).
///
/// Op numbers run on through all views without gaps, so within one log both parts rise together. The default, (0, 0), is
/// the place before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Viewstamp {
    /// The view's number.
    pub view: u64,
    /// The op's number.
    pub op: u64,
}

impl Incarnation {
    /// No store yet: what a view lists for a member whose store is awaited. Nobody speaks under it.
    pub const NOBODY: Incarnation = Incarnation(0);
}

impl ClusterId {
    /// The id of a new cluster.
    pub(crate) fn new(random: u64, name: &str) -> Self {
        ClusterId((u128::from(random) << 64) | u128::from(hash_of_name(name)))
    }

    /// Whether a cluster of this name can have this id.
    pub(crate) fn may_be_named(self, name: &str) -> bool {
        self.0 as u64 == hash_of_name(name)
    }
}

fn hash_of_name(name: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.bytes(name.as_bytes());
    hash.finish().max(1)
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", (self.0 >> 96) as u32)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Viewstamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.view, self.op)
    }
}
