//! What went wrong in a scenario, and whether it says anything about the servers.

use std::fmt;

use lock_client::{AcquireError, CloseError, ConnectError, QueryError};

/// Why a scenario, or a test of locks, did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What must never be, or what must come and did not within a generous deadline.
    Wrong(String),
    /// What a healthy cluster does only where the machine stood still for longer than members wait for each other: a change of
    /// view that nobody asked for, a session that ran out. Wrong all the same where the machine did not stand still.
    Disturbed(String),
}

/// The result of anything in the lab.
pub type Checked<T> = Result<T, Failure>;

/// A failure of the worse kind.
pub(crate) fn wrong<T>(text: impl Into<String>) -> Checked<T> {
    Err(Failure::Wrong(text.into()))
}

/// A failure that a standstill of the machine excuses.
pub(crate) fn disturbed<T>(text: impl Into<String>) -> Checked<T> {
    Err(Failure::Disturbed(text.into()))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Wrong(text) => write!(f, "WRONG: {text}"),
            Failure::Disturbed(text) => write!(f, "not as expected: {text}"),
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::SessionLost => Failure::Disturbed(error.to_string()),
            other => Failure::Wrong(other.to_string()),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Failure::Wrong(error.to_string())
    }
}

impl From<CloseError> for Failure {
    fn from(error: CloseError) -> Self {
        Failure::Wrong(format!("a session was not closed: {error}"))
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Failure::Wrong(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Wrong(format!("the system: {error}"))
    }
}
