//! Histories of locks: who asked for what, who was told what, and until when it counted on it.
//!
//! # Chapter
//!
//! A history can be taken down in two places ([`View`]).
//!
//! - **Service**: what sessions ask the service for. A grant begins a tenure, a release ends it, and its token never comes
//!   again.
//! - **Users**: what the users of clients that cache locks see, guard by guard. A guard that is dropped ends nothing: the
//!   session may keep the tenure, and serve its next user from it, with the same token. In return, a user's release comes
//!   no later than the moment from which its guard was not valid.
//!
//! **The end of a session** is an operation too, [`Action::Expire`]: called when the client's own validity ended (its
//! lease ran out by its own clock, or its process died), returned when the end was known from the service, or never. The
//! checker puts it anywhere in between. A guard that is invalid though its session lives (a lease that ran out and was
//! renewed) is a release that was called when the guard was last valid, and returned when it was dropped.
//!
//! So mutual exclusion is in the order itself: a grant beside a guard that is still in use can follow nothing.
//!
//! Two passes: [`tenures`](check_tenures) looks at what is certain without any search, in O(n log n), and so can take any
//! length; the search is exact. [`check`] does both.
//!
//! # Limits of this implementation
//!
//! - The end of a session is placed for each lock by itself, so what two locks tell about one session's end is not put together.
//! - Who comes first in the queue is not looked at: a queue is no part of the specification.
//! - A user's "busy" says nothing: others' caches, queues and an outage are reasons enough.

mod operation;
mod recorder;
mod specification;
mod tenures;

pub use operation::{Action, Answer, FormatError, History, Operation};
pub use recorder::{Call, Guard, Recorder};
pub use specification::View;
pub use tenures::{TenureViolation, check_tenures};

use super::search::{self, seek};
use specification::{Placed, State};

/// Why a history of locks is wrong, or not known to be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Seen without a search.
    #[error(transparent)]
    Tenure(#[from] TenureViolation),
    /// The search found no order, or gave up.
    #[error(transparent)]
    Order(#[from] search::Violation),
}

impl Violation {
    /// Whether it is only that the search gave up: what is certain without it has been found right.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Violation::Order(search::Violation::Undecided { .. }))
    }
}

/// Whether the history is linearizable.
///
/// # Errors
/// It is not, or the search gave up; of the first lock, in the order of names, where it is so, and what is seen without a
/// search before all else.
pub fn check(history: &History, view: View) -> Result<(), Violation> {
    check_tenures(history, view)?;
    check_order(history, view)
}

/// The search alone: exact, and in time and space that grow with what goes on at once.
///
/// # Errors
/// As [`check`].
pub fn check_order(history: &History, view: View) -> Result<(), Violation> {
    for (name, operations) in history.locks() {
        let placed = Placed::all(operations, view);
        seek(&format!("lock {name:?}"), State::default(), &placed)?;
    }
    Ok(())
}
