//! What a Plumeria client and server must both know: names and ids, the commands that are ordered and executed, their
//! outcomes, the notices that the server calls back with, and the two tarpc services.
//!
//! # Chapter
//!
//! A client opens a **session** ([`Open`]) and keeps it alive ([`KeepAlive`]); everything it holds hangs on the session's
//! lease. Within the session each [`Command`] has a [`RequestNumber`], kept over retransmissions, so that one whose
//! answer was lost is executed once: the replicated session table answers the repetition. All numbers below the
//! client's **floor** are answered and forgotten.
//!
//! `Acquire` is answered at once: `Granted`, or `Queued`. A queued one is granted by a later op of somebody else (a
//! release), and the client is told by a [`Notice::Granted`] on its callback connection; because a notice can be lost,
//! the client also sends the same acquire (same number) again from time to time, and is then answered from the lock's
//! entry. Grants are **sticky**: the session keeps the lock until [`Notice::Revoke`] asks for it, or until it does not
//! want it any longer.
//!
//! `AcquireAll` takes several locks at once: it waits in the queue of each, at the place of its own op, holding none of them, and is
//! granted in the op in which it is first in all of them. So two sets never wait for one another, whatever order they were written in.
//!
//! A session that was opened with options ([`OpenWith`]) may belong to a **group** whose members recover each other. The exclusive locks of
//! one that died stay held until a live one has made good what it left; that one is told by a [`Notice::Recover`] and answers with a
//! [`RecoveryReport`].
//!
//! A grant carries a [`FencingToken`], the op number of the op that granted it. A later tenure of a name has a greater
//! one, over fail-over, restart and restore; a resource that remembers the greatest token that it has seen, and refuses smaller
//! ones, is safe from a holder that was paused past the end of its lease. (Burrows, "The Chubby lock service for
//! loosely-coupled distributed systems", OSDI 2006, section 2.4, calls it a sequencer.)
//!
//! # Limits of this implementation
//!
//! - Enums are append-only, and both ends must speak the same [`wire::VERSION`].
#![forbid(unsafe_code)]

mod backup;
mod command;
mod force;
mod ids;
mod lock_set;
mod members;
mod notice;
mod query;
mod recovery;
mod service;
mod session;

pub use backup::{BACKUP_PART_MAX_BYTES, BackupAnswer, BackupError, BackupHeader, BackupRequest, BackupWriter};
pub use command::{Command, Outcome, REQUEST_WINDOW, Request, Requeued, SUBMISSION_MAX_REQUESTS, Submission};
pub use force::{ForceRelease, ForcedTenure};
pub use ids::{FencingToken, LockName, Mode, NameError, RequestNumber, SessionId};
pub use lock_set::{LOCK_SET_MAX, LockSet, LockSetError};
pub use members::MemberChange;
pub use notice::{NOTICES_MAX, Notice};
pub use query::{
    Activity, Answer, Holder, KeptLocks, LockEntry, MemberStatus, PAGE_MAX_ENTRIES, Query, Role, ViewMember,
    ViewSummary, Waiter,
};
pub use recovery::{
    DeadSession, GroupName, RECOVERIES_MAX, RECOVERY_TIMEOUT, Recoverer, Recovering, RecoveryAnswer, RecoveryGroup,
    RecoveryReport, RecoveryStep, RecoveryToken,
};
pub use service::{
    LockCallback, LockCallbackClient, LockCallbackRequest, LockCallbackResponse, LockService, LockServiceClient,
    LockServiceRequest, LockServiceResponse, Refusal,
};
pub use session::{
    ClientIdentity, KeepAlive, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, Open, OpenWith, Opened, Renewed, SessionEnd,
    SessionOptions, lease_margin, tick_interval,
};
