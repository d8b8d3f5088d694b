//! What people and tools ask: which locks, who holds this one, how is the cluster.

use serde::{Deserialize, Serialize};

use crate::{FencingToken, ForcedTenure, LockName, Mode, Recovering, SessionId};

/// The most entries in one answer; the next page starts after the last.
pub const PAGE_MAX_ENTRIES: usize = 1000;

/// A read, ordered in the log like every op, so never stale. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Locks that are held or waited for, by name.
    Locks {
        /// Only names that begin so.
        prefix: String,
        /// Only names above it.
        after: Option<LockName>,
        /// At most so many, capped at [`PAGE_MAX_ENTRIES`].
        limit: u32,
    },
    /// One lock.
    Inspect {
        /// Its name.
        name: LockName,
    },
    /// The tenures of a lock that were ended by force, and for which it is withheld.
    Forced {
        /// Its name.
        name: LockName,
    },
    /// Dead sessions whose exclusive locks are not free yet, by session.
    Kept {
        /// Only sessions above it.
        after: Option<SessionId>,
        /// At most so many, capped at [`PAGE_MAX_ENTRIES`].
        limit: u32,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A page, and whether there are more.
    Locks {
        /// By name, ascending.
        entries: Vec<LockEntry>,
        /// Ask again after the last.
        more: bool,
    },
    /// One lock; without holders and waiters where it is free.
    Inspect(LockEntry),
    /// By session, at most [`PAGE_MAX_ENTRIES`].
    Forced(Vec<ForcedTenure>),
    /// A page, and whether there are more.
    Kept {
        /// By session, ascending.
        entries: Vec<KeptLocks>,
        /// Ask again after the last.
        more: bool,
    },
}

/// The exclusive locks of a dead session, and why they are not free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLocks {
    /// Whose they were.
    pub session: SessionId,
    /// Its name for people.
    pub client: String,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// How many it still holds.
    pub locks: u64,
    /// What is left of its lock delay, in service time, ms.
    pub delay_left_ms: u64,
    /// The recovery that they wait for; none where they wait for none, or it is done.
    pub recovery: Option<Recovering>,
}

/// A lock as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEntry {
    /// Its name.
    pub name: LockName,
    /// Who holds it, by token.
    pub holders: Vec<Holder>,
    /// Who waits, first come first; at most [`PAGE_MAX_ENTRIES`].
    pub waiters: Vec<Waiter>,
}

/// A holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its session.
    pub session: SessionId,
    /// Its name for people.
    pub client: String,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// How it holds.
    pub mode: Mode,
    /// Its tenure.
    pub token: FencingToken,
    /// For how long, in service time (outages do not count), ms.
    pub since_ms: u64,
}

/// A waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Its session.
    pub session: SessionId,
    /// Its name for people.
    pub client: String,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// What it wants.
    pub mode: Mode,
    /// For how long, in service time, ms.
    pub since_ms: u64,
}

/// What a member does in its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Orders ops.
    Primary,
    /// Holds log and state, in sync.
    Backup,
    /// A new incarnation that still catches up.
    Syncing,
    /// Holds the log's tail only.
    Witness,
    /// Did not answer (only in a summary over members).
    Unreachable,
    /// Was added, catches up, and counts for nothing before it has; the same for a witness.
    Learner,
    /// The view that it knows does not list its store: it waits to be listed.
    Unlisted,
    /// Its store was listed and is not any more: it stops as soon as the others know.
    Leaving,
}

/// What a member's tables hold, and what the ops executed by its process have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Sessions that have not ended.
    pub sessions: u64,
    /// Locks that are held or waited for.
    pub locks: u64,
    /// Who waits, over all locks.
    pub waiters: u64,
    /// Tenures granted since the process started.
    pub grants: u64,
    /// Sessions whose lease ran out since then.
    pub expired: u64,
}

/// A view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewSummary {
    /// Its number.
    pub id: u64,
    /// Its primary's member id.
    pub primary: u64,
    /// The in-sync members' ids, ascending.
    pub in_sync: Vec<u64>,
    /// All listed members.
    pub members: Vec<ViewMember>,
}

/// A member that a view lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewMember {
    /// Its id.
    pub id: u64,
    /// Its endpoint.
    pub address: String,
    /// In sync or syncing.
    pub role: Role,
}

/// One member's own account of itself; answered by every member, in any state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// The cluster's id; 0 before it was founded.
    pub cluster: u128,
    /// Its role in its view.
    pub role: Role,
    /// Whether it serves: a primary whose barrier is committed, or a backup that hears from one.
    pub serving: bool,
    /// What it waits for, where it does not serve, for a person.
    pub waits_for: Option<String>,
    /// The view it has entered; none before the cluster was founded.
    pub view: Option<ViewSummary>,
    /// The last op executed.
    pub applied_op: u64,
    /// The last op known committed.
    pub commit_op: u64,
    /// The last op in its log.
    pub last_op: u64,
    /// The running hash of its replicated state at `applied_op`, 16 hexadecimal digits.
    pub state_hash: String,
    /// The durability mode and the medium's guarantee ("nvm: file, durable").
    pub durability: String,
    /// Its process.
    pub pid: u32,
}
