//! What a member must not forget, beside its log and snapshot: one small record, replaced as a whole.

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Incarnation, MemberId, View};

/// Who this store belongs to; written when the store is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// This life of its store.
    pub incarnation: Incarnation,
}

/// Founding, promises and votes, the last decided view. Because it is replaced atomically, a member that learns a view
/// drops its promises for the view's own instance in the same write (S1).
///
/// A member that is listed in the last decided view has *entered* it: learning and entering are one write (S2), and the
/// number only rises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The first view as a founder proposed it; not in force (S10).
    pub founding: Option<View>,
    /// Promise, vote, proposal, last decided view; present once a view in force is known.
    pub config: Option<paxos::Durable<View>>,
}

impl Control {
    /// The cluster; 0 while no view in force is known.
    pub fn cluster(&self) -> ClusterId {
        self.config.as_ref().map_or(ClusterId(0), |config| config.last.cluster)
    }
}
