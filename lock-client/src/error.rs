//! What can go wrong, each in words that name the cause: never a bare "deadline exceeded".

use std::fmt;
use std::io;
use std::time::Duration;

use lock_protocol::{LockSetError, NameError};
use wire::{Endpoint, EndpointError};

use crate::guard::LockGuard;

/// What one server answered while the primary was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Where.
    pub endpoint: Endpoint,
    /// In its own words, or why it could not be asked.
    pub answer: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.answer)
    }
}

fn list(tried: &[Tried]) -> String {
    tried.iter().map(Tried::to_string).collect::<Vec<_>>().join("; ")
}

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An endpoint is written wrong.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The list of endpoints is empty.
    #[error("no endpoint was given")]
    NoEndpoint,
    /// No server opened the session.
    #[error("no primary opened a session within {waited:?}; {}", list(tried))]
    NoPrimary {
        /// For how long it was tried.
        waited: Duration,
        /// The last answer of each server that was asked.
        tried: Vec<Tried>,
    },
    /// A server found the request itself wrong.
    #[error("{0}")]
    Refused(Tried),
    /// No group has such a name.
    #[error("the name of the recovery group: {0}")]
    Group(NameError),
    /// The background threads could not be started.
    #[error("the client's background thread could not be started: {0}")]
    Thread(#[from] io::Error),
    /// The background thread ended first; a bug.
    #[error("the client's background thread ended before it had answered")]
    ThreadEnded,
}

/// Why a shared guard did not become exclusive.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Others have the lock or wait for it, or the guard was invalid. Here it is, as it was.
    #[error("others hold '{}' or wait for it", .0.name())]
    NotAlone(LockGuard),
    /// The session ended meanwhile, and the guard with it.
    #[error(transparent)]
    Ended(AcquireError),
}

/// Why a lock was not had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Somebody else had it all the time, or no primary answered.
    #[error("the lock was not had within {waited:?}: {reason}")]
    Timeout {
        /// For how long it was waited.
        waited: Duration,
        /// What was in the way, as far as the client knows.
        reason: &'static str,
    },
    /// The session ended at the server; everything it held is lost. Open a new one.
    #[error("the session is lost, and its locks with it: connect again")]
    SessionLost,
    /// The client was closed or abandoned.
    #[error("the lock client is closed")]
    Closed,
    /// It cannot be a lock's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// They cannot be taken at once: none is named, or too many.
    #[error(transparent)]
    Set(#[from] LockSetError),
    /// A limit of the server or of this client.
    #[error("a limit is reached: {0}")]
    Limit(String),
    /// The server's rules of access do not let this client acquire the lock.
    #[error("{0}")]
    Denied(String),
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No primary answered it in time.
    #[error("no primary answered within {waited:?}{}", last.as_ref().map(|last| format!("; the last word was: {last}")).unwrap_or_default())]
    NoPrimary {
        /// For how long it was tried.
        waited: Duration,
        /// The last thing that was heard.
        last: Option<String>,
    },
    /// The server found the question wrong, or a member could not be asked.
    #[error("{0}")]
    Refused(String),
    /// The server's rules of access do not let this client ask it.
    #[error("{0}")]
    Denied(String),
    /// It cannot be a lock's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The session is lost, or the client closed.
    #[error("the lock client is closed or has lost its session")]
    Closed,
}

/// Why a session was not closed in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It was lost before; its locks are free.
    #[error("the session was lost before it could be closed")]
    SessionLost,
    /// The revoke hook has not succeeded for these locks: they are kept. Close again, or abandon.
    #[error("{count} locks could not be flushed, '{first}' among them; close again, or abandon")]
    Unflushed {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// No primary confirmed it: everything is flushed, and the locks are free when the lease has run out.
    #[error("no primary confirmed the close ({0}); the locks are free when the lease has run out")]
    Unconfirmed(QueryError),
}

/// Why a recovery hook could not recover a dead session; another of the group is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecoveryError(pub String);

impl RecoveryError {
    /// From anything that can say why.
    pub fn new(reason: impl fmt::Display) -> Self {
        RecoveryError(reason.to_string())
    }
}

/// Why a revoke hook could not flush; the lock is kept, and the hook is called again after a pause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FlushError(pub String);

impl FlushError {
    /// From anything that can say why.
    pub fn new(reason: impl fmt::Display) -> Self {
        FlushError(reason.to_string())
    }
}
