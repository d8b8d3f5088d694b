//! Sessions: opening, keeping alive, and the times that both sides compute alike.
//!
//! The server counts a lease in *service time*, which advances only by ticks in the replicated log and never faster than
//! real time. The client counts it from the moment at which it *sent* what renewed it, and ends it a margin early. So the
//! client's deadline lies before the server's, as long as the client's clock loses less than the margin over a lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Notice, RecoveryGroup, RequestNumber, SessionId};

/// The shortest lease.
pub const LEASE_MIN: Duration = Duration::from_millis(500);
/// The longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// The longest lock delay.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(3600);

/// How much before the lease's end, counted from the send time, the client takes it as over: a tenth, at least 50 ms.
pub fn lease_margin(lease: Duration) -> Duration {
    (lease / 10).max(Duration::from_millis(50))
}

/// How often the primary logs a tick while the shortest lease is `lease`: a twentieth, within 50 ms and 1 s.
pub fn tick_interval(lease: Duration) -> Duration {
    (lease / 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// Who a client is, as shown to people; not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientIdentity {
    /// Its chosen name ("indexer-7"), at most 255 bytes.
    pub client: String,
    /// Its host's name, at most 255 bytes.
    pub host: String,
    /// Its process.
    pub pid: u32,
}

/// Opens a session. The same nonce gets the same session, whose lease counts from the first transmission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Random, made once per session.
    pub nonce: u128,
    /// The wish, ms; the server clamps it to [`LEASE_MIN`], [`LEASE_MAX`].
    pub lease_ms: u64,
    /// For people.
    pub identity: ClientIdentity,
}

/// What a session may ask for besides, fixed when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// For so long its exclusive locks are withheld from others after it has expired or was abandoned, in service time, ms; cut to
    /// [`LOCK_DELAY_MAX`]. It gives what the dead one had sent time to arrive where nothing checks fencing tokens (Burrows, OSDI 2006,
    /// section 2.4). Not after a release, nor after a close in order.
    pub lock_delay_ms: u64,
    /// Who recovers what it leaves behind.
    pub recovery: Option<RecoveryGroup>,
}

/// [`Open`], with options. Those of the first transmission count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWith {
    /// The session.
    pub open: Open,
    /// What else it asks for.
    pub options: SessionOptions,
}

/// How a client ends its session. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEnd {
    /// All that its locks protect was flushed while the lease was in force: they are free at once.
    Flushed,
    /// Like an expiry: lock delay and recovery apply.
    Abandoned,
}

/// The session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id.
    pub session: SessionId,
    /// The lease in force, ms.
    pub lease_ms: u64,
}

/// Renews a session's lease. Never goes through the session table: each transmission has a new stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// Whose.
    pub session: SessionId,
    /// Greater in each transmission; the client remembers when it sent which.
    pub stamp: u64,
    /// As in [`crate::Submission`].
    pub floor: RequestNumber,
}

/// The lease is renewed: its end is at least one lease after the sending of the stamped transmission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The transmission that this answers.
    pub stamp: u64,
    /// The session's revokes that wait for an answer, at most [`crate::NOTICES_MAX`]: a client that learns of one here
    /// first has lost its callback connection, and opens it anew.
    pub notices: Vec<Notice>,
    /// There are more than fit.
    pub more: bool,
}
