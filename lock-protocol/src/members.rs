//! Changes of the list of members, and of who is primary, which an operator asks for.

use serde::{Deserialize, Serialize};

/// A change of one member. Append-only. Asking again does no harm: a change that was made is refused the second time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Lists a new member. Its process, started with an empty directory, catches up, and counts from then on.
    Add {
        /// A number that no member has.
        member: u64,
        /// Where it listens.
        address: String,
        /// It keeps the log's tail only, and is never primary.
        witness: bool,
    },
    /// Takes a member off the list for good.
    Remove {
        /// A listed one.
        member: u64,
    },
    /// Declares a member's directory lost: its place waits for the same member with an empty one.
    Replace {
        /// A listed one.
        member: u64,
        /// Where it will listen.
        address: String,
    },
    /// Lets another member be primary; the list stays as it is.
    Promote {
        /// A replica in sync.
        member: u64,
    },
}
