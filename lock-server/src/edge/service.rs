//! The clients' requests.
//!
//! Why it is right: a handler owns nothing. It submits, waits and translates (see [`answers`]); tarpc may drop it at any point, and
//! what it submitted is executed all the same. What the rules of access refuse does not enter the log.

use std::sync::Arc;
use std::time::Instant;

use lock_protocol::{
    Activity, Answer, BackupAnswer, BackupRequest, FencingToken, ForceRelease, ForcedTenure, KeepAlive, LockName,
    LockService, MemberChange, MemberStatus, Open, OpenWith, Opened, Outcome, Query, RecoveryAnswer, RecoveryReport,
    Refusal, Renewed, SessionEnd, SessionId, Submission,
};
use rsm::{Change, ChangeError, Kind, MemberId};
use tarpc::context::Context;
use tracing::Instrument;

use super::Edge;
use crate::access::{Action, Caller};
use crate::machine::Op;
use crate::metrics::Request;
use crate::primary::answers;
use crate::status::{activity, member_status};

/// One connection's requests.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) edge: Arc<Edge>,
    pub(super) caller: Caller,
}

impl LockService for Service {
    async fn open(self, _: Context, open: Open) -> Result<Opened, Refusal> {
        let work = async { answers::opened(&self.submit_one(Op::Open(open)).await?) };
        self.count(Request::Open, work).await
    }

    async fn open_with(self, _: Context, open: OpenWith) -> Result<Opened, Refusal> {
        let work = async { answers::opened(&self.submit_one(Op::OpenWith(open)).await?) };
        self.count(Request::Open, work).await
    }

    async fn submit(self, _: Context, submission: Submission) -> Result<Vec<Outcome>, Refusal> {
        let (session, requests) = (submission.session, submission.requests.len());
        // Below the level that is logged: where no collector wants it, it costs one comparison.
        let span = tracing::debug_span!("submit", %session, requests, view = self.edge.view());
        self.execute(submission).instrument(span).await
    }

    async fn keep_alive(self, _: Context, keep_alive: KeepAlive) -> Result<Renewed, Refusal> {
        self.edge.keep_alives.hear();
        let work = async {
            match self.edge.refusal_now() {
                Some(refusal) => Err(refusal),
                None => self.edge.keep_alives.take(keep_alive).await.unwrap_or(Err(Refusal::ViewChanging)),
            }
        };
        self.count(Request::KeepAlive, work).await
    }

    async fn close(self, _: Context, session: SessionId) -> Result<(), Refusal> {
        let work = async { answers::closed(&self.submit_one(Op::Close { session }).await?) };
        self.count(Request::Close, work).await
    }

    async fn end(self, _: Context, session: SessionId, end: SessionEnd) -> Result<(), Refusal> {
        let work = async { answers::closed(&self.submit_one(Op::End { session, end }).await?) };
        self.count(Request::Close, work).await
    }

    async fn query(self, _: Context, query: Query) -> Result<Answer, Refusal> {
        let work = async {
            self.caller.may_ask(&query)?;
            // Those that wait here wait in order; everything else goes past them.
            let _place = self.edge.queries.acquire().await.map_err(|_| Refusal::ViewChanging)?;
            answers::answer(&self.submit_one(Op::Read(query)).await?)
        };
        self.count(Request::Query, work).await
    }

    async fn force_release(self, _: Context, force: ForceRelease) -> Result<Vec<ForcedTenure>, Refusal> {
        let (name, op) = (force.name.clone(), force.token.0);
        let work = async {
            self.caller.may(Action::ForceRelease, force.name.as_str())?;
            let _place = self.edge.queries.acquire().await.map_err(|_| Refusal::ViewChanging)?;
            answers::forced(&self.submit_one(Op::ForceRelease(force)).await?)
        };
        let ended = self.count(Request::ForceRelease, work).await;
        for tenure in ended.iter().flatten() {
            tracing::warn!(%name, op, session = %tenure.session, client = %self.caller, "an operator ended this tenure by force");
        }
        ended
    }

    async fn force_kept(self, _: Context, name: LockName, token: FencingToken) -> Result<Vec<ForcedTenure>, Refusal> {
        let op = Op::ForceKept { name: name.clone(), token };
        let work = async {
            self.caller.may(Action::ForceRelease, name.as_str())?;
            answers::forced(&self.submit_one(op).await?)
        };
        let ended = self.count(Request::ForceRelease, work).await;
        for tenure in ended.iter().flatten() {
            tracing::warn!(%name, op = token.0, session = %tenure.session, client = %self.caller, "an operator freed this lock of a dead session without its recovery");
        }
        ended
    }

    async fn report_recovery(self, _: Context, report: RecoveryReport) -> Result<RecoveryAnswer, Refusal> {
        let work = async { answers::recovery(&self.submit_one(Op::Recovery(report)).await?) };
        self.count(Request::Recovery, work).await
    }

    async fn status(self, _: Context) -> MemberStatus {
        self.edge.counters.request(Request::Status);
        member_status(&self.edge.handle, &self.edge.mode)
    }

    async fn activity(self, _: Context) -> Option<Activity> {
        activity(&self.edge.handle).await
    }

    async fn backup(self, _: Context, request: BackupRequest) -> Result<BackupAnswer, Refusal> {
        let work = async {
            self.caller.may(Action::Backup, "")?;
            self.edge.backups.answer(request).await
        };
        self.count(Request::Backup, work).await
    }

    async fn change_members(self, _: Context, change: MemberChange) -> Result<u64, Refusal> {
        let asked = format!("{change:?}");
        let kind = |witness| if witness { Kind::Witness } else { Kind::Replica };
        let refusal = |error| match error {
            ChangeError::NotPrimary { hint } => Refusal::NotPrimary { hint },
            ChangeError::ViewChanging => Refusal::ViewChanging,
            ChangeError::Refused(reason) => Refusal::Invalid(reason),
            ChangeError::Unknown => Refusal::Unknown,
        };
        let handle = &self.edge.handle;
        let work = async {
            self.caller.may_change(&change)?;
            let change = match change {
                MemberChange::Add { member, address, witness } => {
                    Change::Add { member: MemberId(member), address, kind: kind(witness) }
                }
                MemberChange::Remove { member } => Change::Remove { member: MemberId(member) },
                MemberChange::Replace { member, address } => Change::Replace { member: MemberId(member), address },
                MemberChange::Promote { member } => return handle.promote(MemberId(member)).await.map_err(refusal),
            };
            handle.change(change).await.map_err(refusal)
        };
        let view = self.count(Request::ChangeMembers, work).await;
        match &view {
            Ok(view) => tracing::warn!(view, asked, client = %self.caller, "an operator changed the members"),
            Err(refusal) => {
                tracing::warn!(%refusal, asked, client = %self.caller, "an operator's change of the members was not made")
            }
        }
        view
    }
}

impl Service {
    async fn execute(&self, mut submission: Submission) -> Result<Vec<Outcome>, Refusal> {
        let (began, counters) = (Instant::now(), &self.edge.counters);
        self.edge.keep_alives.hear();
        let acquires = counters.commands(submission.requests.iter().map(|request| &request.command));
        counters.answer(answers::bounded(&submission))?;
        let denied = self.caller.denied(&submission.requests);
        let mut places = denied.iter();
        submission.requests.retain(|_| places.next().is_some_and(Option::is_none));
        let commands = counters.answer(answers::commands(submission))?;
        let executed = counters.answer(answers::outcomes(self.edge.handle.submit_all(commands).await))?;
        let outcomes = answers::in_place(denied, executed);
        counters.outcomes(&outcomes);
        counters.acquired(acquires, began.elapsed());
        Ok(outcomes)
    }

    /// Counts the request and, where it comes to that, its refusal.
    async fn count<T>(&self, request: Request, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.edge.counters.request(request);
        self.edge.counters.answer(work.await)
    }

    async fn submit_one(&self, op: Op) -> Result<Vec<u8>, Refusal> {
        self.edge.keep_alives.hear();
        let command = answers::command(&op)?;
        self.edge.handle.submit(command, false).await.map_err(answers::refusal_of)
    }
}
