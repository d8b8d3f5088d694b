//! Ending a tenure by force: what an operator does about a holder that will not give its lock back.

use serde::{Deserialize, Serialize};

use crate::{FencingToken, LockName, SessionId};

/// Ends the tenure of this lock with this token; where shared tenures have it in common, each of them. Repeating it does no harm.
///
/// The holder is told with every keep-alive, and confirms with a [`crate::Command::Release`]. Until then, and for its lease at most, the
/// lock is withheld from others: only then can no guard of the holder look valid any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceRelease {
    /// The lock.
    pub name: LockName,
    /// The tenure.
    pub token: FencingToken,
    /// Do not withhold the lock: the next may have it while the holder still believes that it does. Then only the token, checked by
    /// the resource, tells the two apart.
    pub now: bool,
}

/// A tenure that was ended by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedTenure {
    /// Whose it was.
    pub session: SessionId,
    /// For how long the lock is withheld at most, in service time, ms; none where it is not, or no longer.
    pub withheld_ms: Option<u64>,
}
