//! What users had, when, and whether any two could have had it at once.
//!
//! Why it is right: a tenure counts from when its user knew of it until it was let go or, if that is earlier, until when its guard
//! said that it is valid. A client that was killed or cut off had it for so long, too. Within that span nobody else may have a
//! lock that excludes it; and of two such tenures the later one must have the greater token.

use std::collections::BTreeMap;

use lock_client::Mode;
use serde::Serialize;

use super::diary::{Said, Wish};
use crate::linearizability::locks::{Action, Answer, History, Operation};

/// A call for a lock, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) client: u64,
    pub(crate) op: u64,
    /// At the server.
    pub(crate) session: u64,
    pub(crate) lock: u64,
    pub(crate) wish: Wish,
    pub(crate) called: u64,
    /// When it returned; none if it never did.
    pub(crate) returned: Option<u64>,
    /// The tenure's, where it was granted.
    pub(crate) token: Option<u64>,
    /// Why not.
    pub(crate) why_not: Option<String>,
    /// The latest time until which the guard said that it is valid.
    pub(crate) until: u64,
    pub(crate) freed: Option<u64>,
    pub(crate) dropped: Option<u64>,
}

impl Call {
    /// From when until when its guard was valid and in use, for certain.
    fn span(&self) -> (u64, u64) {
        let from = self.returned.unwrap_or(u64::MAX);
        (from, self.until.min(self.freed.unwrap_or(u64::MAX)))
    }

    fn told(&self) -> String {
        let (from, to) = self.span();
        let mode = if self.wish.exclusive { "exclusive" } else { "shared" };
        format!("client {} op {} {mode}, token {}, {from} to {to} ns", self.client, self.op, self.token.unwrap_or(0))
    }
}

/// All calls of a round.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    by_client: BTreeMap<(u64, u64), Call>,
}

impl Calls {
    /// Enters what a client said of its calls.
    pub(crate) fn enter(&mut self, client: u64, said: &Said) {
        if let Said::Called { op, session, at, lock, wish } = *said {
            let call = Call {
                client,
                op,
                session,
                lock,
                wish,
                called: at,
                returned: None,
                token: None,
                why_not: None,
                until: 0,
                freed: None,
                dropped: None,
            };
            self.by_client.insert((client, op), call);
            return;
        }
        let (Said::Granted { op, .. }
        | Said::NotGranted { op, .. }
        | Said::Valid { op, .. }
        | Said::Freed { op, .. }
        | Said::Dropped { op, .. }) = said
        else {
            return;
        };
        let Some(call) = self.by_client.get_mut(&(client, *op)) else { return };
        match said {
            Said::Granted { at, token, until, .. } => {
                (call.returned, call.token, call.until) = (Some(*at), Some(*token), *until);
            }
            Said::NotGranted { at, why, .. } => (call.returned, call.why_not) = (Some(*at), Some(why.clone())),
            Said::Valid { until, .. } => call.until = call.until.max(*until),
            Said::Freed { at, .. } => call.freed = Some(*at),
            Said::Dropped { at, .. } => call.dropped = Some(*at),
            _ => {}
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Call> {
        self.by_client.values()
    }

    /// Calls that were granted.
    pub(crate) fn grants(&self) -> u64 {
        self.iter().filter(|call| call.token.is_some()).count() as u64
    }

    /// The same as a history, guard by guard. A session that was killed ends no earlier than the last guard promised; what it
    /// was called for and not answered, it may have been granted until then.
    pub(crate) fn history(&self) -> History {
        let mut history = History::default();
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        for call in self.iter() {
            let add = |history: &mut History, action, called, returned| {
                history.add(
                    format!("campaign/{}", call.lock),
                    Operation { session: call.session, action, called, returned },
                );
            };
            let mode = if call.wish.exclusive { Mode::Exclusive } else { Mode::Shared };
            let answer = call.token.map_or(Answer::Withdrawn, |token| Answer::Granted { token });
            add(&mut history, Action::Acquire { mode }, call.called, call.returned.map(|at| (at, answer)));
            let (from, to) = call.span();
            match (call.token, call.dropped) {
                (Some(token), Some(dropped)) => {
                    // A guard that was dead when it came had died at any time since it was called for.
                    let last_valid = if from < to { to } else { call.called };
                    let done = Some((dropped, Answer::Done));
                    add(&mut history, Action::Release { token }, last_valid, done);
                }
                (Some(_), None) => {
                    let end = ends.entry(call.session).or_insert(call.called);
                    *end = call.until.max(*end);
                }
                (None, _) if call.returned.is_none() => {
                    ends.entry(call.session).or_insert(call.called);
                }
                (None, _) => {}
            }
        }
        for (session, since) in ends {
            history.add_end(session, since, None);
        }
        history
    }

    /// No two tenures that exclude each other overlap, and tokens grow.
    ///
    /// # Errors
    /// The first two of which that is not true.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let mut by_lock: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
        for call in self.iter().filter(|call| call.span().0 < call.span().1) {
            by_lock.entry(call.lock).or_default().push(call);
        }
        for (lock, mut calls) in by_lock {
            calls.sort_by_key(|call| call.span());
            judge_lock(&calls).map_err(|why| format!("campaign/{lock} {why}"))?;
        }
        Ok(())
    }
}

/// What is known of those before, by what a later tenure must not be: the latest end, and the greatest token.
#[derive(Default)]
struct Before<'a> {
    latest: Option<&'a Call>,
    greatest: Option<&'a Call>,
}

impl<'a> Before<'a> {
    fn enter(&mut self, call: &'a Call) {
        if self.latest.is_none_or(|other| other.span().1 < call.span().1) {
            self.latest = Some(call);
        }
        if self.greatest.is_none_or(|other| other.token < call.token) {
            self.greatest = Some(call);
        }
    }

    fn excludes(&self, call: &Call) -> Result<(), String> {
        if let Some(other) = self.latest
            && other.span().1 > call.span().0
        {
            return Err(format!("is held twice: {}; and {}", other.told(), call.told()));
        }
        if let Some(other) = self.greatest {
            let same_session = (other.client, other.session) == (call.client, call.session);
            if other.token > call.token || (other.token == call.token && !same_session) {
                return Err(format!("has tokens that do not grow: {}; and later {}", other.told(), call.told()));
            }
        }
        Ok(())
    }
}

/// Tenures by their beginning.
fn judge_lock(calls: &[&Call]) -> Result<(), String> {
    let (mut shared, mut exclusive) = (Before::default(), Before::default());
    for call in calls {
        exclusive.excludes(call)?;
        if call.wish.exclusive {
            shared.excludes(call)?;
            exclusive.enter(call);
        } else {
            shared.enter(call);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(
        calls: &mut Calls,
        client: u64,
        exclusive: bool,
        token: u64,
        (from, until): (u64, u64),
        freed: Option<u64>,
    ) {
        let op = calls.by_client.len() as u64;
        let wish = Wish { exclusive, patience_ms: None };
        calls.enter(client, &Said::Called { op, session: client, at: from - 1, lock: 7, wish });
        calls.enter(client, &Said::Granted { op, at: from, token, until });
        if let Some(at) = freed {
            calls.enter(client, &Said::Freed { op, at });
        }
    }

    /// Client, whether exclusive, token, span, when it was freed.
    type Tenure = (u64, bool, u64, (u64, u64), Option<u64>);

    fn judged(tenures: &[Tenure]) -> Result<(), String> {
        let mut calls = Calls::default();
        for (client, exclusive, token, span, freed) in tenures {
            tenure(&mut calls, *client, *exclusive, *token, *span, *freed);
        }
        calls.judge()
    }

    #[test]
    fn one_after_the_other_and_two_readers_at_once_are_right() {
        assert_eq!(judged(&[(1, true, 5, (10, 90), Some(20)), (2, true, 6, (20, 90), None)]), Ok(()));
        assert_eq!(judged(&[(1, false, 5, (10, 90), None), (2, false, 6, (20, 90), None)]), Ok(()));
        // A user of the same session has the tenure that is cached.
        assert_eq!(judged(&[(1, true, 5, (10, 90), Some(20)), (1, false, 5, (21, 90), None)]), Ok(()));
        // A guard that was no longer valid when it came.
        assert_eq!(judged(&[(1, true, 5, (10, 90), None), (2, true, 4, (20, 0), None)]), Ok(()));
    }

    #[test]
    fn a_killed_clients_lock_that_another_has_before_the_lease_is_over_is_found() {
        let told = judged(&[(1, true, 5, (10, 90), None), (2, true, 6, (89, 200), None)]).expect_err("held twice");
        assert!(told.contains("campaign/7 is held twice: client 1"), "{told}");
        assert_eq!(judged(&[(1, true, 5, (10, 90), None), (2, true, 6, (90, 200), None)]), Ok(()));
        assert!(judged(&[(1, false, 5, (10, 90), None), (2, true, 6, (50, 200), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 90), None), (2, false, 6, (50, 200), None)]).is_err());
    }

    #[test]
    fn a_long_tenure_is_not_forgotten_behind_a_short_one() {
        let readers = [(1, false, 5, (10, 90), None), (2, false, 6, (20, 30), None)];
        let told = judged(&[readers[0], readers[1], (3, true, 7, (40, 60), None)]).expect_err("held twice");
        assert!(told.contains("client 1 op 0 shared"), "{told}");
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        assert!(judged(&[(1, true, 5, (10, 20), None), (2, true, 5, (30, 40), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 20), None), (2, true, 4, (30, 40), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 20), None), (2, false, 4, (30, 40), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 20), None), (1, true, 4, (30, 40), None)]).is_err());
    }
}
