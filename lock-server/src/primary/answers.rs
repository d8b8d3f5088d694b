//! What clients are answered: replies and rejections of the replica, translated.
//!
//! Why it is right: an answer that says "not executed" is given only where that holds for every command of the request.

use lock_protocol::{
    Answer, ForcedTenure, Opened, Outcome, RecoveryAnswer, Refusal, SUBMISSION_MAX_REQUESTS, Submission,
};
use rsm::{MemberId, Rejection, View, limits::COMMAND_MAX_BYTES};

use crate::machine::{Op, Reply};

/// Whether a submission is small enough to be looked at.
///
/// # Errors
/// It has too many requests.
pub fn bounded(submission: &Submission) -> Result<(), Refusal> {
    match submission.requests.len() <= SUBMISSION_MAX_REQUESTS {
        true => Ok(()),
        false => Err(Refusal::Invalid(format!("a submission has at most {SUBMISSION_MAX_REQUESTS} requests"))),
    }
}

/// The commands of a submission, in its order.
///
/// # Errors
/// It has too many requests.
pub fn commands(submission: Submission) -> Result<Vec<Vec<u8>>, Refusal> {
    bounded(&submission)?;
    let Submission { session, floor, requests } = submission;
    Ok(requests.into_iter().map(|request| Op::Request { session, floor, request }.encode()).collect())
}

/// The command of an op.
///
/// # Errors
/// It is too large.
pub fn command(op: &Op) -> Result<Vec<u8>, Refusal> {
    let command = op.encode();
    match command.len() <= COMMAND_MAX_BYTES {
        true => Ok(command),
        false => Err(Refusal::Invalid(format!("a request has at most {COMMAND_MAX_BYTES} bytes"))),
    }
}

/// The outcomes of a submission, or why there are none: all or nothing, because a repetition finds what was executed.
///
/// # Errors
/// See [`Refusal`].
pub fn outcomes(answers: Vec<Result<Vec<u8>, Rejection>>) -> Result<Vec<Outcome>, Refusal> {
    let executed = answers.iter().any(Result::is_ok);
    let unknown = answers.iter().any(|answer| matches!(answer, Err(Rejection::Unknown)));
    let outcome = |answer: Result<Vec<u8>, Rejection>| match answer {
        Err(_) if executed || unknown => Err(Refusal::Unknown),
        Err(rejection) => Err(refusal_of(rejection)),
        Ok(bytes) => match reply(&bytes)? {
            Reply::Outcome(outcome) => Ok(outcome),
            other => Err(not_an_answer(&other)),
        },
    };
    answers.into_iter().map(outcome).collect()
}

/// All outcomes of a submission in its order: at each place either what was denied there, or the next of what was executed.
pub fn in_place(denied: Vec<Option<Outcome>>, executed: Vec<Outcome>) -> Vec<Outcome> {
    let mut executed = executed.into_iter();
    denied.into_iter().filter_map(|denied| denied.or_else(|| executed.next())).collect()
}

/// The answer to an open.
///
/// # Errors
/// The reply's limit, or a reply of another op.
pub fn opened(bytes: &[u8]) -> Result<Opened, Refusal> {
    match reply(bytes)? {
        Reply::Opened(opened) => Ok(opened),
        Reply::Busy(limit) => Err(Refusal::Busy(limit)),
        other => Err(not_an_answer(&other)),
    }
}

/// The answer to a close.
///
/// # Errors
/// The reply's refusal, or a reply of another op.
pub fn closed(bytes: &[u8]) -> Result<(), Refusal> {
    match reply(bytes)? {
        Reply::Closed => Ok(()),
        Reply::Refused(why) => Err(Refusal::Invalid(why)),
        other => Err(not_an_answer(&other)),
    }
}

/// The answer to a query.
///
/// # Errors
/// A reply of another op.
pub fn answer(bytes: &[u8]) -> Result<Answer, Refusal> {
    match reply(bytes)? {
        Reply::Answer(answer) => Ok(answer),
        other => Err(not_an_answer(&other)),
    }
}

/// The answer to a forced release.
///
/// # Errors
/// The reply's limit, or a reply of another op.
pub fn forced(bytes: &[u8]) -> Result<Vec<ForcedTenure>, Refusal> {
    match reply(bytes)? {
        Reply::Forced(tenures) => Ok(tenures),
        Reply::Refused(why) => Err(Refusal::Invalid(why)),
        Reply::Busy(limit) => Err(Refusal::Busy(limit)),
        other => Err(not_an_answer(&other)),
    }
}

/// The answer to a report on a recovery.
///
/// # Errors
/// The session is gone, or a reply of another op.
pub fn recovery(bytes: &[u8]) -> Result<RecoveryAnswer, Refusal> {
    match reply(bytes)? {
        Reply::Recovery(answer) => Ok(answer),
        Reply::SessionGone => Err(Refusal::SessionGone),
        other => Err(not_an_answer(&other)),
    }
}

/// A rejection, as clients are told.
pub fn refusal_of(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::NotPrimary { hint } => Refusal::NotPrimary { hint },
        Rejection::ViewChanging => Refusal::ViewChanging,
        Rejection::Busy => Refusal::Busy(rejection.to_string()),
        Rejection::Unknown => Refusal::Unknown,
    }
}

/// What a keep-alive, or a callback connection, is answered by a member that does not serve.
pub fn not_serving(member: MemberId, view: Option<&View>) -> Refusal {
    let primary = view.and_then(|view| view.slots.iter().find(|slot| slot.member == view.primary));
    match primary {
        Some(slot) if slot.member != member => Refusal::NotPrimary { hint: Some(slot.address.clone()) },
        _ => Refusal::ViewChanging,
    }
}

fn reply(bytes: &[u8]) -> Result<Reply, Refusal> {
    Reply::decode(bytes).map_err(|error| {
        tracing::error!(%error, "an op has an answer that does not decode: this is a bug");
        Refusal::Unknown
    })
}

fn not_an_answer(reply: &Reply) -> Refusal {
    tracing::error!(?reply, "an op has an answer of another op: this is a bug");
    Refusal::Unknown
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
    fn what_was_denied_keeps_its_place_among_what_was_executed() {
        let denied = || Outcome::Denied { reason: "no".into() };
        let all = in_place(vec![None, Some(denied()), None], vec![Outcome::Queued, Outcome::Gone]);
        assert_eq!(all, [Outcome::Queued, denied(), Outcome::Gone]);
        assert_eq!(in_place(vec![Some(denied())], vec![]), [denied()]);
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
