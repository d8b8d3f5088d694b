//! The clients' requests.
//!
//! Why it is right: a handler owns nothing. It submits, waits and translates; tarpc may drop it at any point, and what it submitted is
//! executed all the same. An answer that says "not executed" is given only where that holds for every command of the request.

use std::sync::Arc;

use lock_protocol::{
    Answer, KeepAlive, LockService, MemberStatus, Open, Opened, Outcome, Query, Refusal, Renewed,
    SUBMISSION_MAX_REQUESTS, SessionId, Submission,
};
use rsm::{Rejection, limits::COMMAND_MAX_BYTES};
use tarpc::context::Context;

use super::{Edge, was_not_executed};
use crate::machine::{Op, Reply};
use crate::status::member_status;

/// One connection's requests.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Edge>);

impl LockService for Service {
    async fn open(self, _: Context, open: Open) -> Result<Opened, Refusal> {
        match self.submit_one(Op::Open(open)).await? {
            Reply::Opened(opened) => Ok(opened),
            Reply::Busy(limit) => Err(Refusal::Busy(limit)),
            other => Err(not_an_answer(&other)),
        }
    }

    async fn submit(self, _: Context, submission: Submission) -> Result<Vec<Outcome>, Refusal> {
        self.0.keep_alives.hear();
        let Submission { session, floor, requests } = submission;
        if requests.len() > SUBMISSION_MAX_REQUESTS {
            return Err(Refusal::Invalid(format!("a submission has at most {SUBMISSION_MAX_REQUESTS} requests")));
        }
        let ops = requests.into_iter().map(|request| Op::Request { session, floor, request }.encode()).collect();
        outcomes(self.0.handle.submit_all(ops).await)
    }

    async fn keep_alive(self, _: Context, keep_alive: KeepAlive) -> Result<Renewed, Refusal> {
        self.0.keep_alives.hear();
        if let Some(refusal) = self.0.refusal_now() {
            return Err(refusal);
        }
        self.0.keep_alives.take(keep_alive).await.unwrap_or(Err(Refusal::ViewChanging))
    }

    async fn close(self, _: Context, session: SessionId) -> Result<(), Refusal> {
        match self.submit_one(Op::Close { session }).await? {
            Reply::Closed => Ok(()),
            other => Err(not_an_answer(&other)),
        }
    }

    async fn query(self, _: Context, query: Query) -> Result<Answer, Refusal> {
        // Those that wait here wait in order; everything else goes past them.
        let _place = self.0.queries.acquire().await.map_err(|_| Refusal::ViewChanging)?;
        match self.submit_one(Op::Read(query)).await? {
            Reply::Answer(answer) => Ok(answer),
            other => Err(not_an_answer(&other)),
        }
    }

    async fn status(self, _: Context) -> MemberStatus {
        member_status(&self.0.handle, &self.0.mode)
    }
}

impl Service {
    async fn submit_one(&self, op: Op) -> Result<Reply, Refusal> {
        self.0.keep_alives.hear();
        let op = op.encode();
        if op.len() > COMMAND_MAX_BYTES {
            return Err(Refusal::Invalid(format!("a request has at most {COMMAND_MAX_BYTES} bytes")));
        }
        let reply = self.0.handle.submit(op, false).await.map_err(refusal_of)?;
        Reply::decode(&reply).map_err(|error| {
            tracing::error!(%error, "an op has an answer that does not decode: this is a bug");
            Refusal::Unknown
        })
    }
}

/// The outcomes, or why there are none: all or nothing, because a repetition finds what was executed.
fn outcomes(answers: Vec<Result<Vec<u8>, Rejection>>) -> Result<Vec<Outcome>, Refusal> {
    let executed = answers.iter().any(Result::is_ok);
    let unknown = answers.iter().flat_map(|answer| answer.as_ref().err()).any(|rejection| !was_not_executed(rejection));
    let outcome = |answer: Result<Vec<u8>, Rejection>| match answer {
        Err(_) if executed || unknown => Err(Refusal::Unknown),
        Err(rejection) => Err(refusal_of(rejection)),
        Ok(reply) => match Reply::decode(&reply) {
            Ok(Reply::Outcome(outcome)) => Ok(outcome),
            Ok(other) => Err(not_an_answer(&other)),
            Err(error) => {
                tracing::error!(%error, "an op has an answer that does not decode: this is a bug");
                Err(Refusal::Unknown)
            }
        },
    };
    answers.into_iter().map(outcome).collect()
}

fn not_an_answer(reply: &Reply) -> Refusal {
    tracing::error!(?reply, "an op has an answer of another op: this is a bug");
    Refusal::Unknown
}

/// A rejection, as clients are told.
pub(crate) fn refusal_of(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::NotPrimary { hint } => Refusal::NotPrimary { hint },
        Rejection::ViewChanging => Refusal::ViewChanging,
        Rejection::Busy => Refusal::Busy(rejection.to_string()),
        Rejection::Unknown => Refusal::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> Result<Vec<u8>, Rejection> {
        Ok(Reply::Outcome(Outcome::Queued).encode())
    }

    #[test]
    fn outcomes_stand_in_the_order_of_the_requests() {
        let gone = Ok(Reply::Outcome(Outcome::Gone).encode());
        assert_eq!(outcomes(vec![queued(), gone]), Ok(vec![Outcome::Queued, Outcome::Gone]));
        assert_eq!(outcomes(vec![]), Ok(vec![]));
    }

    #[test]
    fn not_executed_is_said_only_where_it_holds_for_every_request() {
        let changing = || Err(Rejection::ViewChanging);
        assert_eq!(outcomes(vec![changing(), changing()]), Err(Refusal::ViewChanging));
        assert_eq!(outcomes(vec![queued(), changing()]), Err(Refusal::Unknown));
        assert_eq!(outcomes(vec![changing(), Err(Rejection::Unknown)]), Err(Refusal::Unknown));
        let busy = outcomes(vec![Err(Rejection::Busy)]);
        assert_eq!(busy, Err(Refusal::Busy("too many commands wait".into())));
    }

    #[test]
    fn an_answer_of_another_op_is_unknown_and_no_panic() {
        assert_eq!(outcomes(vec![Ok(Reply::Closed.encode())]), Err(Refusal::Unknown));
        assert_eq!(outcomes(vec![Ok(vec![250])]), Err(Refusal::Unknown));
    }
}
