//! What a client process says and is told, a line of JSON each way.
//!
//! Times are of the machine's monotonic clock, ns, which all processes of the campaign read alike. What makes them right to judge by:
//! a client reads the clock *before* it calls, frees, or asks a guard for how long it is valid, and *after* it was granted
//! something. So the span from `Answered` to the earlier of `Freed` and the last `until` lies within the guard's true validity.

use serde::{Deserialize, Serialize};

/// What a user of a lock does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// With other readers, or alone.
    pub exclusive: bool,
    /// For how long it waits; none: as long as it takes.
    pub patience_ms: Option<u64>,
}

/// From a client to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// A session was opened.
    Opened {
        /// Its number at the server.
        session: u64,
    },
    /// A user calls for a lock.
    Called {
        /// Counts within the process.
        op: u64,
        /// The session that it has then.
        session: u64,
        /// Before the call.
        at: u64,
        /// Which.
        lock: u64,
        /// How.
        wish: Wish,
    },
    /// The call returned with a guard.
    Granted {
        /// Of the call.
        op: u64,
        /// After it returned.
        at: u64,
        /// The tenure's.
        token: u64,
        /// Until when the guard said that it is valid, at least.
        until: u64,
    },
    /// The call returned without.
    NotGranted {
        /// Of the call.
        op: u64,
        /// After it returned.
        at: u64,
        /// In the client's words.
        why: String,
    },
    /// The guard is valid for longer.
    Valid {
        /// Of the call.
        op: u64,
        /// As in `Granted`.
        until: u64,
    },
    /// The guard is about to be dropped.
    Freed {
        /// Of the call.
        op: u64,
        /// Before it is.
        at: u64,
    },
    /// The guard was dropped.
    Dropped {
        /// Of the call.
        op: u64,
        /// After it was.
        at: u64,
    },
    /// The user asks one of the stores.
    Ask(Ask),
    /// What the client met that a service must not do.
    Trouble(String),
    /// The session is closed, the process ends.
    Ended,
}

/// To one of the two stores that stand outside the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Of the call under whose guard it is asked; also the answer's.
    pub op: u64,
    /// The lock, and what it guards.
    pub lock: u64,
    /// The guard's.
    pub token: u64,
    /// As in [`Said::Granted`].
    pub until: u64,
    /// The store that looks at tokens, or the one that looks at the time.
    pub fenced: bool,
    /// None: read; else the value that was read, and is to be replaced by one greater.
    pub replace: Option<u64>,
}

/// From the driver to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The store's answer: the value after the request, or none where it was refused.
    Store {
        /// Of the call.
        op: u64,
        /// The counter.
        value: Option<u64>,
    },
    /// Finish what is begun, close, end.
    Finish,
}
