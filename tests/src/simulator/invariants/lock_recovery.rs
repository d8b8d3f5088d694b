//! A dead session is recovered by a live one of its group, which has the right to it alone; it is recovered when that one's hook has done it.

use std::collections::BTreeSet;

use lock_protocol::{DeadSession, RecoveryAnswer, RecoveryReport, RecoveryStep, RecoveryToken, SessionId};
use lock_server::machine::Op;

use super::lock_truth::Seen;
use super::{Check, Invariants, Violation};

/// Hooks that have recovered somebody: by whom, whom, by which right.
pub(crate) type HooksEnded = BTreeSet<(SessionId, SessionId, RecoveryToken)>;

impl Invariants {
    /// A client's hook has recovered a dead session.
    pub(crate) fn hook_ended(&mut self, by: SessionId, dead: SessionId, token: RecoveryToken) {
        self.locks.hooks_ended.insert((by, dead, token));
    }

    /// The right is given to a live session of the group, while there is something to recover.
    pub(super) fn recovery_assigned(&mut self, seen: &Seen<'_>, op: &Op, to: SessionId, told: &DeadSession) -> Check {
        let DeadSession { session, token, group, .. } = told;
        let options = self.locks.kept.options.get(&to);
        let is_of_group = options.and_then(|it| it.recovery.as_ref()).is_some_and(|own| own.name == *group);
        let dead = self.locks.kept.dead.get_mut(session).filter(|dead| dead.group.as_ref() == Some(group));
        let Some(dead) = dead.filter(|dead| is_of_group && token.0 == seen.op && dead.last < Some(*token)) else {
            let detail = format!("op {}: {told:?} to session {to} with {options:?}", seen.op);
            return Err(Violation::new("a dead session is recovered by a live one of its group", detail));
        };
        self.counters.hit(match (op, dead.last) {
            (Op::OpenWith(_), _) => "recoveries told to the next that joined",
            (_, Some(_)) => "recoveries passed on to another",
            (_, None) => "recoveries assigned",
        });
        (dead.turn, dead.last) = (Some((to, *token)), Some(*token));
        Ok(())
    }

    /// Whose turn it is is believed, and nobody else.
    pub(super) fn recovery_reported(
        &mut self,
        seen: &Seen<'_>,
        report: &RecoveryReport,
        answer: RecoveryAnswer,
    ) -> Check {
        let RecoveryReport { session, dead, token, step } = *report;
        let time_us = seen.machine.service_time_us();
        let noted = self.locks.kept.dead.get_mut(&dead).filter(|noted| noted.turn == Some((session, token)));
        let has_locks = noted.as_ref().is_some_and(|noted| !noted.locks.is_empty());
        let wrong = |rule| Err(Violation::new(rule, format!("op {}: {report:?} is answered {answer:?}", seen.op)));
        let noted = match (answer, noted) {
            (RecoveryAnswer::Accepted, Some(noted)) => noted,
            (RecoveryAnswer::Accepted, None) => {
                return wrong("whose turn it is to recover is believed, and nobody else");
            }
            (RecoveryAnswer::NotAssigned, _) if has_locks => return wrong("whose turn it is to recover is heard"),
            (RecoveryAnswer::NotAssigned, _) => {
                self.counters.hit("reports of those whose turn it was not");
                return Ok(());
            }
        };
        self.counters.hit(match step {
            RecoveryStep::Progress => "recoveries in progress",
            RecoveryStep::Recovered => "recoveries ended",
            RecoveryStep::Declined => "recoveries declined",
        });
        if step != RecoveryStep::Progress {
            noted.turn = None;
        }
        if step == RecoveryStep::Recovered {
            noted.group = None;
            if !self.locks.hooks_ended.contains(&(session, dead, token)) {
                return wrong("a dead session is recovered when a hook has done it");
            }
            self.locks.kept.forget_if_due(dead, time_us);
        }
        Ok(())
    }

    /// Who died recovers nobody any more.
    pub(super) fn turns_end_with(&mut self, session: SessionId) {
        for dead in self.locks.kept.dead.values_mut() {
            dead.turn = dead.turn.filter(|(to, _)| *to != session);
        }
    }
}
