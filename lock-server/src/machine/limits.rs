//! Limits that change what an op does. They are part of the state and of snapshots: members that disagreed about one
//! would execute the same op differently.

use serde::{Deserialize, Serialize};

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Sessions, dead ones that are not swept yet included.
    pub sessions: u64,
    /// Locks that a session holds or waits for.
    pub locks_per_session: u64,
    /// Queues in which a session waits.
    pub waiters_per_session: u64,
    /// Request numbers at and above a session's floor; bounds what the duplicate window keeps.
    pub request_window: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sessions: 100_000,
            locks_per_session: 1_000_000,
            waiters_per_session: 65_536,
            request_window: lock_protocol::REQUEST_WINDOW,
        }
    }
}
