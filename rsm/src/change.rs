//! Changes of the list of members that an operator asks for (S12).
//!
//! Why it is right: a change is made by one decided view, or not at all. Who asks again does no harm: the view that made the
//! change refuses it the second time, since the member is there (or gone) already. Who is told `Unknown` looks at the members.

use crate::{Kind, MemberId};

/// An address longer than this is refused: views are small, and every message about them carries all addresses.
const ADDRESS_MAX_BYTES: usize = 255;

/// A change of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Lists a new member, first as a learner that counts for nothing. Its process, started with an empty store and a
    /// configuration that names running members, joins; when it has caught up it is promoted, and n grows.
    Add {
        /// A number that no member has.
        member: MemberId,
        /// Where it listens.
        address: String,
        /// What it stores.
        kind: Kind,
    },
    /// Takes a member off the list for good; n shrinks, unless it was a learner. A primary hands over first: ask its successor.
    Remove {
        /// A listed one.
        member: MemberId,
    },
    /// Declares a member's store lost (S6). Its slot waits for an empty store of the same member, at this address; n stays.
    Replace {
        /// A listed one.
        member: MemberId,
        /// Where the new store will listen; the old address, or another.
        address: String,
    },
}

impl Change {
    /// The member that it is about.
    pub fn member(&self) -> MemberId {
        match self {
            Change::Add { member, .. } | Change::Remove { member } | Change::Replace { member, .. } => *member,
        }
    }

    /// What is wrong with it by itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Change::Add { address, .. } | Change::Replace { address, .. }
                if address.is_empty() || address.len() > ADDRESS_MAX_BYTES =>
            {
                Err(format!("an address has 1 to {ADDRESS_MAX_BYTES} bytes"))
            }
            _ => Ok(()),
        }
    }
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not made; ask the primary.
    #[error("not the primary")]
    NotPrimary {
        /// Its address, where known.
        hint: Option<String>,
    },
    /// Not made: no primary serves at this moment.
    #[error("a view change is under way")]
    ViewChanging,
    /// Not made, and why; one line for the operator.
    #[error("{0}")]
    Refused(String),
    /// Proposed, and then this member ceased to be primary: it may or may not be made. The list of members will tell.
    #[error("the primary changed while the change was under way")]
    Unknown,
}
