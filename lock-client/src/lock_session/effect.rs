//! What a session's shell has to do.

use std::time::Duration;

use lock_protocol::{FencingToken, KeepAlive, LockName, Mode, RecoveryReport, Submission};
use wire::Endpoint;

use crate::cache::{Grant, WaiterId};
use crate::error::AcquireError;
use crate::fate::{SessionEvent, Stage};
use crate::outbox::BatchId;
use crate::recovery::RecoveryEffect;

/// One attempt to connect, and the connections that came of it; events that name an earlier one are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What the shell has to do, in this order.
#[derive(Debug)]
pub enum SessionEffect<W> {
    /// Dial both connections, after the pause; then `LockSession::on_connected` or `LockSession::on_disconnected`.
    Dial {
        /// Names the attempt.
        link: LinkId,
        /// Where.
        endpoint: Endpoint,
        /// Before; to be shortened at random, by up to a half.
        pause: Duration,
        /// For each connection with its welcome.
        timeout: Duration,
    },
    /// Drop both connections: no answer on them counts any longer.
    Disconnect {
        /// Which.
        link: LinkId,
    },
    /// Drop the callback connection and dial it anew; where that fails, `LockSession::on_disconnected`.
    DialCallback {
        /// Beside which connection.
        link: LinkId,
        /// Where.
        endpoint: Endpoint,
        /// For the connection with its welcome.
        timeout: Duration,
    },
    /// Send it; then `LockSession::on_submitted`.
    Submit {
        /// Over which connection.
        link: LinkId,
        /// To tell the answer by.
        batch: BatchId,
        /// The message.
        submission: Submission,
    },
    /// Send it; then `LockSession::on_kept_alive`.
    KeepAlive {
        /// Over which connection.
        link: LinkId,
        /// The message.
        keep_alive: KeepAlive,
    },
    /// Send it; then `LockSession::on_reported`.
    Report {
        /// Over which connection.
        link: LinkId,
        /// The message.
        report: RecoveryReport,
    },
    /// Run the owner's hook for a dead session, then `LockSession::on_hook_ended`; or drop it.
    Recover(RecoveryEffect),
    /// Ask the server to end the session; then `LockSession::on_closed`.
    Close {
        /// Over which connection.
        link: LinkId,
    },
    /// The waiter has the lock.
    Serve {
        /// Which lock.
        name: LockName,
        /// Whom.
        waiter: W,
        /// What it has; its end goes to `LockSession::end_guard`.
        grant: Grant,
    },
    /// The waiter will not have the lock.
    Fail {
        /// Which lock.
        name: LockName,
        /// Whom.
        waiter: W,
        /// Why.
        error: AcquireError,
    },
    /// The waiter's set is of no use any more: let go what was served of it, leave its other locks, and acquire it anew.
    Dissolve {
        /// Which lock.
        name: LockName,
        /// Whom.
        waiter: W,
    },
    /// Run the owner's hook, again and again until it succeeds, but only while the lease is in force; then
    /// `LockSession::on_flushed`.
    Flush {
        /// Which lock.
        name: LockName,
        /// As the session holds it.
        from: Mode,
        /// What it keeps.
        to: Option<Mode>,
        /// Of the tenure.
        token: FencingToken,
    },
    /// Every guard of an earlier epoch is invalid from now on. (It was invalid before where its time had run out: see
    /// `LockSession::valid_for`.)
    GuardsDie {
        /// The new epoch.
        epoch: u64,
    },
    /// Tell the owner.
    Tell(SessionEvent),
    /// The session is over; there will be no more effects.
    Over(Stage),
}

/// What a local user's wish came to at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It was cached and free.
    Had(Grant),
    /// It is served by an effect, maybe among those of this very event.
    Waits(WaiterId),
}
