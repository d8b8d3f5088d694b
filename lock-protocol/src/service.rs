//! The two services: the server's, and the one that a client serves on its callback connection.
//!
//! A handler owns nothing: it submits to the replica, waits and translates, because tarpc drops it at the deadline or when
//! the caller goes away. What it submitted is executed all the same; the repetition is answered from the session table.

use serde::{Deserialize, Serialize};

use crate::{
    Activity, Answer, BackupAnswer, BackupRequest, FencingToken, ForceRelease, ForcedTenure, KeepAlive, LockName,
    MemberChange, MemberStatus, Notice, Open, OpenWith, Opened, Outcome, Query, RecoveryAnswer, RecoveryReport,
    Renewed, SessionEnd, SessionId, Submission,
};

/// Nothing was executed for certain only where the variant says so; otherwise send again, under the same numbers. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Ask the primary; nothing was executed.
    #[error("not the primary{}", hint.as_ref().map(|at| format!(" (ask {at})")).unwrap_or_default())]
    NotPrimary {
        /// Its endpoint, where known.
        hint: Option<String>,
    },
    /// No primary serves at this moment; nothing was executed.
    #[error("a view change is under way")]
    ViewChanging,
    /// A queue is full; nothing was executed. Wait, then try again.
    #[error("busy: {0}")]
    Busy(String),
    /// The primary stepped down while the request was under way: it may or may not have been executed.
    #[error("the primary changed while the request was under way")]
    Unknown,
    /// The session has ended.
    #[error("the session has ended")]
    SessionGone,
    /// The request makes no sense; one line says why.
    #[error("{0}")]
    Invalid(String),
    /// The rules of access do not let this client do it; one line says who may not do what. Nothing was executed.
    #[error("{0}")]
    Denied(String),
}

/// What a server answers.
#[tarpc::service]
pub trait LockService {
    /// Opens a session.
    async fn open(open: Open) -> Result<Opened, Refusal>;
    /// Executes requests; outcomes stand in the order of the requests.
    async fn submit(submission: Submission) -> Result<Vec<Outcome>, Refusal>;
    /// Renews a lease; answered by the next tick.
    async fn keep_alive(keep_alive: KeepAlive) -> Result<Renewed, Refusal>;
    /// Ends a session; its locks are free and its waiters gone at once. A session that is gone is no error. Refused while one whose
    /// death requires a recovery holds locks: by `end` it says whether they were flushed.
    async fn close(session: SessionId) -> Result<(), Refusal>;
    /// Reads.
    async fn query(query: Query) -> Result<Answer, Refusal>;
    /// Tells of this member, whatever its role.
    async fn status() -> MemberStatus;
    /// Ends a tenure by force; gives those that it ended, none where nobody holds the lock with that token. At most
    /// [`crate::PAGE_MAX_ENTRIES`] are named.
    async fn force_release(force: ForceRelease) -> Result<Vec<ForcedTenure>, Refusal>;
    /// Changes the list of members; the number of the view that made the change. After `Unknown` the list tells whether it
    /// was made.
    async fn change_members(change: MemberChange) -> Result<u64, Refusal>;
    /// Tells what this member's tables hold; none where it has no state, or too much to do to say.
    async fn activity() -> Option<Activity>;
    /// Opens a session with options.
    async fn open_with(open: OpenWith) -> Result<Opened, Refusal>;
    /// Ends a session, and says how. A session that is gone is no error.
    async fn end(session: SessionId, end: SessionEnd) -> Result<(), Refusal>;
    /// Takes in what a session says about a recovery.
    async fn report_recovery(report: RecoveryReport) -> Result<RecoveryAnswer, Refusal>;
    /// Frees a lock that a dead session keeps, without the recovery or the delay that it waits for; gives those whose it was, as
    /// `force_release`.
    async fn force_kept(name: LockName, token: FencingToken) -> Result<Vec<ForcedTenure>, Refusal>;
    /// Gives this member's state to be saved, part by part.
    async fn backup(request: BackupRequest) -> Result<BackupAnswer, Refusal>;
}

/// What a client answers on its callback connection.
#[tarpc::service]
pub trait LockCallback {
    /// Takes notices; the return is the acknowledgement that they have been taken in, not that they were acted on.
    async fn notify(notices: Vec<Notice>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_outcomes_keep_their_numbers() {
        let bytes = |refusal: Refusal| postcard::to_stdvec(&refusal).expect("it is small");
        assert_eq!(bytes(Refusal::NotPrimary { hint: None }), [0, 0]);
        assert_eq!(bytes(Refusal::Invalid("no".into())), [5, 2, b'n', b'o']);
        assert_eq!(bytes(Refusal::Denied("no".into())), [6, 2, b'n', b'o']);
        let bytes = |outcome: Outcome| postcard::to_stdvec(&outcome).expect("it is small");
        assert_eq!(bytes(Outcome::Queued), [1]);
        assert_eq!(bytes(Outcome::LimitReached { limit: "no".into() }), [10, 2, b'n', b'o']);
        assert_eq!(bytes(Outcome::NotUpgraded), [12]);
        assert_eq!(bytes(Outcome::Denied { reason: "no".into() }), [13, 2, b'n', b'o']);
    }
}
