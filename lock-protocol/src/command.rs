//! What a session asks for within its lease, and what it is answered.

use serde::{Deserialize, Serialize};

use crate::{FencingToken, LockName, LockSet, Mode, RequestNumber, SessionId};

/// A session may have at most this many request numbers at or above its floor; the server refuses more as `Busy`.
pub const REQUEST_WINDOW: u64 = 4096;
/// The most requests in one [`Submission`]: beyond some hundreds a batch gains nothing, and replies stay far below a frame.
pub const SUBMISSION_MAX_REQUESTS: usize = 256;

/// An operation on one lock. Append-only.
///
/// Per session and name at most one of acquire, release, downgrade and upgrade may be unanswered at a time (`Cancel` apart).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take the lock, or join the end of its queue. A holder's acquire is refused `AlreadyHeld`.
    Acquire {
        /// The lock.
        name: LockName,
        /// How.
        mode: Mode,
    },
    /// The acquire with that number is not wanted any longer: leave the queue, or, where it was granted meanwhile,
    /// release that grant in this same op.
    Cancel {
        /// The lock.
        name: LockName,
        /// The acquire's number, or that of the release that carried the requeue, or of the upgrade.
        acquire: RequestNumber,
    },
    /// Give the tenure back; the next in the queue has the lock in the same op.
    Release {
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
        /// Join the end of the queue again, in the same op; the new place bears this request's number.
        requeue: Option<Mode>,
    },
    /// Turn an exclusive tenure into a shared one; the token stays.
    Downgrade {
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
    },
    /// End a shared tenure and begin an exclusive one, at once or not at all: only where nobody else holds the lock or waits for it. Two
    /// holders that waited for each other to leave would wait for ever.
    Upgrade {
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
    },
    /// Take all these locks, or join the end of each one's queue; all are granted in one op, and until then none is held. The session says by
    /// this that it holds none of them and waits for none: what there is of either, it does not know of, and ends in the same
    /// op. Each lock then has a tenure of its own under this number, asked for again, cancelled and released like any other; a cancel
    /// of one withdraws the whole set as long as it waits.
    AcquireAll {
        /// The locks.
        set: LockSet,
    },
}

impl Command {
    /// The locks that it is about.
    pub fn names(&self) -> impl Iterator<Item = &LockName> {
        let (one, all) = match self {
            Command::AcquireAll { set } => (None, Some(set.iter().map(|(name, _)| name))),
            _ => (Some(self.name()), None),
        };
        one.into_iter().chain(all.into_iter().flatten())
    }

    /// The lock that it is about; of several the first.
    pub fn name(&self) -> &LockName {
        match self {
            Command::AcquireAll { set } => set.first(),
            Command::Acquire { name, .. }
            | Command::Cancel { name, .. }
            | Command::Release { name, .. }
            | Command::Downgrade { name, .. }
            | Command::Upgrade { name, .. } => name,
        }
    }
}

/// A numbered command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The same over retransmissions.
    pub number: RequestNumber,
    /// What to do.
    pub command: Command,
}

/// Requests of one session, executed in the given order, each an op of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Whose.
    pub session: SessionId,
    /// Every number below it has been answered, and will not be sent again.
    pub floor: RequestNumber,
    /// At most [`SUBMISSION_MAX_REQUESTS`].
    pub requests: Vec<Request>,
}

/// The answer to a [`Request`]. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The session holds the lock, or all locks of the set.
    Granted {
        /// Of the tenure, or of each.
        token: FencingToken,
        /// Sessions with conflicting wishes are in the queue, of a set in any: give the lock back after use, without waiting for a revoke.
        others_waiting: bool,
    },
    /// The session is in the queue, or (to a repetition) still there.
    Queued,
    /// Released; says what became of the requeue.
    Released {
        /// None where none was asked for.
        requeued: Option<Requeued>,
    },
    /// The tenure is shared now.
    Downgraded,
    /// The acquire will not be granted; if it had been, that grant is released.
    Cancelled,
    /// An acquire by a session that holds the lock already.
    AlreadyHeld {
        /// Of the tenure.
        token: FencingToken,
        /// Its mode.
        mode: Mode,
    },
    /// A release, downgrade or upgrade of a tenure that the session has not (it ended, or never was).
    NotHeld,
    /// A repetition of an acquire whose grant has ended since, or which was cancelled.
    Gone,
    /// The session's lease has ended, or it was never opened: everything it held is lost.
    SessionGone,
    /// The number is below the floor, so nothing was executed.
    BelowFloor,
    /// The number is beyond the window, or a limit on locks or waiters is reached; nothing was executed.
    LimitReached {
        /// Which, for a person.
        limit: String,
    },
    /// The session holds the lock exclusively, in a new tenure. An exclusive tenure that was to be upgraded is as it was.
    Upgraded {
        /// Of the tenure.
        token: FencingToken,
    },
    /// Others hold the lock or wait for it; the tenure is as it was.
    NotUpgraded,
    /// The rules of access do not let this client acquire the lock; nothing was executed.
    Denied {
        /// Who may not do what, for a person.
        reason: String,
    },
}

/// What became of a release's requeue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requeued {
    /// In the queue.
    Queued,
    /// Nobody was before it: granted again, a new tenure.
    Granted {
        /// Of the new tenure.
        token: FencingToken,
        /// As in [`Outcome::Granted`].
        others_waiting: bool,
    },
}

/// The same, as an acquire is answered.
impl From<Requeued> for Outcome {
    fn from(place: Requeued) -> Outcome {
        match place {
            Requeued::Granted { token, others_waiting } => Outcome::Granted { token, others_waiting },
            Requeued::Queued => Outcome::Queued,
        }
    }
}
