//! The Plumeria clerk: takes locks for a program, caches them, and keeps the session that they hang on.
//!
//! # Chapter
//!
//! A [`LockClient`] is one **session** with the lock service. Its locks are **sticky**: what was acquired stays with the session
//! when its user is done, and the next local user has it again for some tens of nanoseconds, without a word to the
//! server (after the clerk of Frangipani: Thekkath, Mann, Lee, SOSP 1997, section 6). Only when another session wants a lock
//! does the server send a **revoke**; the clerk then lets the users who are waiting have it once more, calls the owner's
//! flush hook, and gives it back, standing in the queue again if local users still want it.
//!
//! ```text
//!   your tasks and threads             clerk's thread                         releaser's thread
//!   acquire ─▶ cell (one mutex) ─▶ outbox ─▶ submissions ─▶ primary
//!      ▲          ▲    │                     keep-alives ─▶                     on_revoke hook
//!      └── guard ─┘    └──── flush ───────────────────────────────────────────▶ on_suspend ...
//!                 ▲ outcomes, grants, revokes ◀── callback connection ◀──────
//! ```
//!
//! **Cores decide, shells act.** `cache` (one lock), `session` (the lease), `outbox` (requests without an answer), `exchange` (one
//! connection), `route` (which server next), `opening`, and `fate` (how what befalls the session reaches every lock) are
//! without IO or clock; `lock_session` puts them together for a shell of one thread ([`cores`]). In this crate's own shell `cell` puts a lock's core under its mutex, `shared` carries the
//! session's fate to every lock, `clerk` is the loop that talks to the primary, `releaser` runs the hooks.
//!
//! **Time.** The session's lease counts from the sending of what the server answered, and is taken as over a margin early. At
//! that moment all guards become invalid, for good, and the session is *suspended*. A later answer resumes it, with its cached
//! locks; a lock that was in use is flushed, given up, and asked for anew. If the server says that the session has
//! ended, everything is *lost*, and the program connects again.
//!
//! **Recovery.** A session may belong to a group whose members recover each other ([`Builder::recovery_group`]): if it dies, its exclusive
//! locks pass on when a live one's hook has made good what it left. `recovery` decides, `recoverer` runs the hook.
//!
//! **Threads.** The client has two of its own: one keeps the session alive and one runs the hooks. No task of the program can keep
//! the lease from being renewed, the futures run under any executor, and [`blocking::LockClient`] needs none. The
//! price is a thread switch for what is not cached.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lock_client::{LockClient, Mode};
//!
//! let client = LockClient::builder(["127.0.0.1:7101", "127.0.0.1:7102"]).name("indexer-7").connect().await?;
//! let guard = client.acquire("orders/42", Mode::Exclusive).await?;
//! // ... write, sending guard.token() along ...
//! drop(guard);
//! client.close().await?;
//! # Ok(()) }
//! ```
//!
//! # Limits of this implementation
//!
//! - A guard that is valid when asked may not be when you act on it; for what must not happen twice send
//!   [`LockGuard::token`] along, and let the resource refuse smaller ones ([`FencedStore`]).
//! - The comparison of real time with boot time, which notices a machine that stood still, is made by
//!   [`LockGuard::is_valid`] and by the clerk, not by the acquiring of a cached lock.
//! - A lost session is not replaced by itself: its owner has to decide what the loss means.
//! - Locks are taken one at a time; a program that holds one and waits for another can deadlock with its like.
//! - A shared lock that a local user acquires exclusively is given up first; [`LockGuard::upgrade`] keeps it, and never waits.
#![forbid(unsafe_code)]

mod backup;
pub mod blocking;
mod cache;
mod cell;
mod clerk;
mod client;
mod clock;
mod connect;
pub mod cores;
mod dial;
mod error;
mod exchange;
mod fate;
mod fenced;
mod guard;
mod lease;
mod lock_session;
mod members;
pub mod mutant;
mod opening;
mod outbox;
mod recoverer;
mod recovery;
mod releaser;
mod route;
mod session;
mod sets;
mod shared;
mod sync;
mod table;
#[cfg(test)]
mod threads;

pub use backup::{BackupFailure, fetch_backup};
pub use client::{LOCKS_MAX, Lock, LockClient, TRY_WAIT};
pub use connect::Builder;
pub use error::{AcquireError, CloseError, ConnectError, FlushError, QueryError, RecoveryError, Tried, UpgradeError};
pub use fenced::{FencedStore, StaleToken};
pub use guard::LockGuard;
pub use lock_protocol::{
    Activity, Answer, BackupError, BackupHeader, ClientIdentity, DeadSession, FencingToken, ForceRelease, ForcedTenure,
    GroupName, Holder, KeptLocks, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, LOCK_SET_MAX, LockEntry, LockName,
    LockSetError, MemberChange, MemberStatus, Mode, NameError, Query, Recoverer, Recovering, RecoveryToken, Refusal,
    Role, SessionId, ViewMember, ViewSummary, Waiter, lease_margin,
};
pub use members::{change_members, member_activity, member_kept, member_status};
pub use releaser::Revocation;
pub use wire::{Endpoint, EndpointError, Tls, TlsError, TlsFiles};
