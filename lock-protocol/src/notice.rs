//! What the server calls a client back with.
//!
//! A notice is never a decision: losing, repeating or reordering one costs time and nothing else. Each names the tenure
//! or the request that it means, so that a late one cannot hit a later tenure.

use serde::{Deserialize, Serialize};

use crate::{DeadSession, FencingToken, LockName, Mode, RequestNumber};

/// The most notices in one call or one keep-alive reply.
pub const NOTICES_MAX: usize = 512;

/// A notice. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Somebody else wants the lock. Repeated until an op makes it moot.
    Revoke {
        /// The lock.
        name: LockName,
        /// The tenure that stands in the way.
        token: FencingToken,
        /// What the holder may keep: nothing, or shared. A holder at or below it does nothing.
        target: Option<Mode>,
    },
    /// A queued acquire was granted. Sent until acknowledged; a client also finds out by asking again.
    Granted {
        /// The lock.
        name: LockName,
        /// The acquire, or the release that requeued.
        acquire: RequestNumber,
        /// The tenure.
        token: FencingToken,
        /// As in [`crate::Outcome::Granted`].
        others_waiting: bool,
    },
    /// An operator ended the tenure by force: its guards are over, and nothing more may be done in its name. It is said in every
    /// keep-alive reply until the client confirms with a [`crate::Command::Release`] of this name and token; until then the lock
    /// is withheld from others, at most for a lease.
    Forced {
        /// The lock.
        name: LockName,
        /// The tenure that was ended.
        token: FencingToken,
    },
    /// This session is to recover a dead one. Said in every keep-alive reply until a [`crate::RecoveryReport`] ends it, or it is
    /// assigned to another; at most [`crate::RECOVERIES_MAX`] at a time.
    Recover(DeadSession),
}

impl Notice {
    /// The lock that it is about, where it is about one.
    pub fn name(&self) -> Option<&LockName> {
        match self {
            Notice::Revoke { name, .. } | Notice::Granted { name, .. } | Notice::Forced { name, .. } => Some(name),
            Notice::Recover(_) => None,
        }
    }
}
