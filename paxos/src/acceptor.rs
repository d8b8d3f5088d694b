//! acceptor
use crate::ballot::Ballot;
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
