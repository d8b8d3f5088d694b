//! What users said of their calls, taken down as a history of locks, guard by guard.
//!
//! Why it is right to judge by: a guard counts from when its user knew of it until it was let go or, if that is earlier, until when
//! it said that it is valid. A client that was killed or cut off had it for so long, too; what became of it then nobody knows. A
//! session that was killed ends no earlier than the last of its guards promised; what it had called for and was not answered, it may
//! have been granted until then.

use std::collections::BTreeMap;

use lock_client::{FencingToken, Mode, SessionId};

use super::diary::Said;
use crate::linearizability::locks::{Call, Guard, History, Recorder};

/// A call without an answer, or a guard that is not dropped yet.
#[derive(Debug)]
enum UnderWay {
    Called { session: u64, at: u64, call: Call },
    Held(Held),
}

#[derive(Debug)]
struct Held {
    session: u64,
    called: u64,
    returned: u64,
    /// The latest time until which it said that it is valid.
    until: u64,
    freed: Option<u64>,
    guard: Guard,
}

impl Held {
    /// Until when it was valid and in use, for certain. One that was dead when it came had died at any time since it was called for.
    fn last_valid(&self) -> u64 {
        let until = self.until.min(self.freed.unwrap_or(u64::MAX));
        if self.returned < until { until } else { self.called }
    }
}

/// All calls of a round. What is over is in the recorder only.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    recorder: Recorder,
    /// By client and op.
    under_way: BTreeMap<(u64, u64), UnderWay>,
    /// When each client was granted something last.
    granted_at: BTreeMap<u64, u64>,
    /// How many there were ...
    pub(crate) count: u64,
    /// ... and were granted.
    pub(crate) grants: u64,
}

impl Calls {
    /// Enters what a client said of its calls.
    pub(crate) fn enter(&mut self, client: u64, said: &Said) {
        match *said {
            Said::Called { op, session, at, lock, wish } => {
                self.count += 1;
                let mode = if wish.exclusive { Mode::Exclusive } else { Mode::Shared };
                let call = self.recorder.acquire_at(format!("campaign/{lock}"), SessionId(session), mode, at);
                self.under_way.insert((client, op), UnderWay::Called { session, at, call });
            }
            Said::Granted { op, at, token, until } => {
                let Some(UnderWay::Called { session, at: called, call }) = self.under_way.remove(&(client, op)) else {
                    return;
                };
                self.grants += 1;
                self.granted_at.insert(client, at);
                let guard = call.granted_at(FencingToken(token), at);
                let held = Held { session, called, returned: at, until, freed: None, guard };
                self.under_way.insert((client, op), UnderWay::Held(held));
            }
            Said::NotGranted { op, at, .. } => {
                if let Some(UnderWay::Called { call, .. }) = self.under_way.remove(&(client, op)) {
                    call.withdrawn_at(at);
                }
            }
            Said::Valid { op, until } => {
                if let Some(UnderWay::Held(held)) = self.under_way.get_mut(&(client, op)) {
                    held.until = held.until.max(until);
                }
            }
            Said::Freed { op, at } => {
                if let Some(UnderWay::Held(held)) = self.under_way.get_mut(&(client, op)) {
                    held.freed = Some(at);
                }
            }
            Said::Dropped { op, at } => {
                if let Some(UnderWay::Held(held)) = self.under_way.remove(&(client, op)) {
                    let last_valid = held.last_valid();
                    held.guard.lapsed_at(last_valid, at);
                }
            }
            Said::Opened { .. } | Said::Ask(_) | Said::Trouble(_) | Said::Ended => {}
        }
    }

    /// Whether the client was granted something after this time.
    pub(crate) fn was_granted(&self, client: u64, since: u64) -> bool {
        self.granted_at.get(&client).is_some_and(|at| *at > since)
    }

    /// Everything, once no client says anything more: what is still under way is of clients that are gone.
    pub(crate) fn end(&mut self) -> History {
        let (mut promised, mut asked) = (BTreeMap::new(), BTreeMap::new());
        for (_, under_way) in std::mem::take(&mut self.under_way) {
            match under_way {
                UnderWay::Called { session, at, call } => {
                    let first: &mut u64 = asked.entry(session).or_insert(at);
                    *first = at.min(*first);
                    drop(call);
                }
                UnderWay::Held(held) => {
                    let last: &mut u64 = promised.entry(held.session).or_default();
                    *last = held.last_valid().max(*last);
                    let last_valid = held.last_valid();
                    held.guard.lost(last_valid);
                }
            }
        }
        asked.extend(promised);
        for (session, since) in asked {
            self.recorder.end(SessionId(session), since, false);
        }
        self.recorder.history()
    }
}

#[cfg(test)]
mod tests {
    use super::super::diary::Wish;
    use super::*;
    use crate::linearizability::locks::{View, check};

    /// Client, whether exclusive, token, from when until when valid, when it was dropped.
    type Tenure = (u64, bool, u64, (u64, u64), Option<u64>);

    fn judged(tenures: &[Tenure]) -> Result<(), String> {
        let mut calls = Calls::default();
        for (op, (client, exclusive, token, (from, until), dropped)) in (0..).zip(tenures.iter().copied()) {
            let wish = Wish { exclusive, patience_ms: None };
            calls.enter(client, &Said::Called { op, session: client, at: from - 1, lock: 7, wish });
            calls.enter(client, &Said::Granted { op, at: from, token, until });
            if let Some(at) = dropped {
                calls.enter(client, &Said::Freed { op, at });
                calls.enter(client, &Said::Dropped { op, at: at + 1 });
            }
        }
        check(&calls.end(), View::Users).map_err(|violation| violation.to_string())
    }

    #[test]
    fn one_after_the_other_and_two_readers_at_once_are_right() {
        assert_eq!(judged(&[(1, true, 5, (10, 90), Some(20)), (2, true, 6, (25, 90), None)]), Ok(()));
        assert_eq!(judged(&[(1, false, 5, (10, 90), None), (2, false, 6, (20, 90), None)]), Ok(()));
        // A user of the same session has the tenure that is cached.
        assert_eq!(judged(&[(1, true, 5, (10, 90), Some(20)), (1, false, 5, (25, 90), None)]), Ok(()));
        // A guard that was no longer valid when it came.
        assert_eq!(judged(&[(2, true, 4, (20, 0), None), (1, true, 5, (20, 90), None)]), Ok(()));
    }

    #[test]
    fn a_killed_clients_lock_that_another_has_before_the_lease_is_over_is_found() {
        let told = judged(&[(1, true, 5, (10, 90), None), (2, true, 6, (89, 200), None)]).expect_err("held twice");
        assert!(told.contains("\"campaign/7\" is held twice"), "{told}");
        assert_eq!(judged(&[(1, true, 5, (10, 90), None), (2, true, 6, (91, 200), None)]), Ok(()));
        assert!(judged(&[(1, false, 5, (10, 90), None), (2, true, 6, (50, 200), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 90), None), (2, false, 6, (50, 200), None)]).is_err());
    }

    #[test]
    fn a_killed_clients_guard_promises_nothing_for_another_of_the_same_session() {
        let mut calls = Calls::default();
        let wish = Wish { exclusive: true, patience_ms: None };
        for (client, op, lock, token, at, until) in [(1, 0, 7, 5, 10, 30), (1, 1, 8, 5, 20, 90), (2, 2, 7, 6, 40, 90)] {
            calls.enter(client, &Said::Called { op, session: client, at, lock, wish });
            calls.enter(client, &Said::Granted { op, at: at + 1, token, until });
        }
        assert_eq!(check(&calls.end(), View::Users), Ok(()));
    }

    #[test]
    fn a_call_of_a_killed_client_may_have_been_granted_or_not() {
        for second in [6, 7] {
            let mut calls = Calls::default();
            let wish = Wish { exclusive: true, patience_ms: None };
            calls.enter(1, &Said::Called { op: 0, session: 1, at: 10, lock: 7, wish });
            calls.enter(2, &Said::Called { op: 0, session: 2, at: 20, lock: 7, wish });
            calls.enter(2, &Said::Granted { op: 0, at: 21, token: second, until: 90 });
            assert_eq!(check(&calls.end(), View::Users), Ok(()));
        }
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        assert!(judged(&[(1, true, 5, (10, 20), Some(15)), (2, true, 5, (30, 40), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 20), None), (2, true, 4, (30, 40), None)]).is_err());
        assert!(judged(&[(1, true, 5, (10, 20), None), (2, false, 4, (30, 40), None)]).is_err());
    }
}
