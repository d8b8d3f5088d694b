//! Cleaning up behind dead sessions, and behind tenures that were ended by force and are withheld for long enough.
//!
//! A session that dies with a hundred thousand locks must not hold up the others, so each op does a bounded number of
//! steps: the lowest dead session first, its places in queues by name, its locks by name, at last itself. The primary
//! submits sweeps one at a time while [`Machine::needs_sweep`]; which session dies is not its decision, so a sweep names none.

use lock_protocol::SessionId;

use super::op::Reply;
use super::sessions::Ending;
use super::{Machine, table::Around};

/// The most locks freed, places left and sessions forgotten by one op; all places of a set count as one.
pub const SWEEP_MAX_STEPS: usize = 1000;

impl Machine {
    /// Whether a sweep op has something to do.
    pub fn needs_sweep(&self) -> bool {
        self.sessions.first_dead().is_some() || self.has_withheld_enough() || self.has_delayed_enough()
    }

    pub(super) fn on_sweep(&mut self) -> Reply {
        let steps = self.end_due_withholdings(SWEEP_MAX_STEPS);
        let mut steps = self.end_due_delays(steps);
        while steps > 0
            && let Some(session) = self.sessions.first_dead()
        {
            steps = self.clean_up(session, steps);
        }
        Reply::Swept { more: self.needs_sweep() }
    }

    /// The close of a client that says nothing of flushing.
    pub(super) fn on_close(&mut self, session: SessionId) -> Reply {
        let entry = self.sessions.live(session);
        if entry.is_some_and(|entry| entry.is_recovery_required() && !entry.held.is_empty()) {
            return Reply::Refused(
                "a session whose death requires a recovery ends by saying that its locks were flushed".into(),
            );
        }
        self.end_now(session, Ending::Closed)
    }

    /// Ends the session, and cleans up at once as far as one op may; sweeps do the rest.
    pub(super) fn end_now(&mut self, session: SessionId, ending: Ending) -> Reply {
        if self.sessions.live(session).is_some() {
            self.statistics.closed += 1;
            self.sessions.end(self.applied, session, ending, self.time);
            self.clean_up(session, SWEEP_MAX_STEPS);
        }
        Reply::Closed
    }

    /// Takes up to `steps` steps for a dead session; returns how many are left.
    pub(super) fn clean_up(&mut self, session: SessionId, mut steps: usize) -> usize {
        while steps > 0
            && let Some(entry) = self.sessions.get(session).filter(|entry| !entry.is_swept())
        {
            steps -= 1;
            let waits = entry.waiting.first_key_value().map(|(name, _)| name.clone());
            let holds = entry.next_swept().cloned();
            let is_kept = waits.is_none() && holds.as_ref().is_some_and(|name| self.is_kept(session, name));
            let (table, mut around): (_, Around<'_>) = self.table_and_around();
            match (waits, holds) {
                (Some(name), _) => table.leave(&mut around, session, &name),
                (None, Some(name)) if is_kept => around.sessions.pass_over(around.op, session, name),
                (None, Some(name)) => {
                    table.release(&mut around, session, &name, None);
                }
                (None, None) => self.sessions.swept(self.applied, session),
            }
        }
        steps
    }
}
