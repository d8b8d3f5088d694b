//! No expired session is granted a lock, and none of it is left when the sweeps are done, but what the dead keep rightly.

use lock_protocol::{Answer, Query};

use super::lock_truth::{Granted, Seen};
use super::{Check, Invariants, Violation};

impl Invariants {
    pub(super) fn grant_is_to_the_living(&self, grant: &Granted) -> Check {
        if self.locks.sessions.contains_key(&grant.session) {
            return Ok(());
        }
        Err(Violation::new("no expired session is granted a lock", format!("{grant:?}")))
    }

    /// The last sweep is done.
    pub(super) fn nothing_of_the_dead(&self, seen: &Seen<'_>) -> Check {
        let time_us = seen.machine.service_time_us();
        for name in self.locks.last_token.keys() {
            let Answer::Inspect(entry) = seen.machine.on_read(&Query::Inspect { name: name.clone() }) else { continue };
            let is_kept = |session| self.locks.kept.keeps(session, name, time_us);
            let mut sessions = entry
                .holders
                .iter()
                .map(|holder| holder.session)
                .filter(|session| !is_kept(*session))
                .chain(entry.waiters.iter().map(|waiter| waiter.session));
            if let Some(dead) = sessions.find(|session| !self.locks.sessions.contains_key(session)) {
                let detail = format!("{name} by session {dead}, after the sweep of op {}", seen.op);
                return Err(Violation::new("no lock is held by an expired session", detail));
            }
        }
        Ok(())
    }
}
