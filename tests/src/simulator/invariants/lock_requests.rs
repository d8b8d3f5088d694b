//! Each request is executed at most once, and a cancelled one is never granted.

use super::lock_truth::Granted;
use super::{Check, Invariants, Violation};

impl Invariants {
    /// A request is granted once, by one op: a second grant for it would be a second execution.
    pub(super) fn grant_is_the_first_for_its_request(&mut self, grant: &Granted) -> Check {
        match self.locks.granted.insert((grant.session, grant.acquire), grant.token) {
            None => Ok(()),
            Some(before) if before == grant.token => Ok(()),
            Some(before) => {
                let detail = format!("{grant:?}, and before with token {before:?}");
                Err(Violation::new("a request is executed at most once", detail))
            }
        }
    }

    /// Who has left the queue is granted nothing.
    pub(super) fn grant_was_not_cancelled(&self, grant: &Granted) -> Check {
        if self.locks.cancelled.contains(&(grant.session, grant.acquire)) {
            return Err(Violation::new("a cancelled waiter is never granted", format!("{grant:?}")));
        }
        Ok(())
    }
}
