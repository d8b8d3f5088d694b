//! Whoever waits for a lock is served in the order in which it came: first in the log, first granted.

use super::lock_truth::Granted;
use super::{Check, Invariants, Violation};

impl Invariants {
    /// Nobody is granted a lock while one who came before, and lives, still waits for it. Several shared ones may be granted
    /// together.
    pub(super) fn in_order_of_arrival(&mut self, granted: &[Granted]) -> Check {
        for grant in granted {
            let Some(queue) = self.locks.queues.get(&grant.name) else { continue };
            let own = (grant.session, grant.acquire);
            let before = queue.iter().take_while(|waiter| **waiter != own);
            let overtaken = before.filter(|(session, acquire)| {
                !granted.iter().any(|other| (other.session, other.acquire) == (*session, *acquire))
            });
            if let Some((session, acquire)) = overtaken.last() {
                let detail = format!("{grant:?} overtakes request {acquire:?} of session {session}");
                return Err(Violation::new("waiters are served in their order", detail));
            }
        }
        for grant in granted {
            if let Some(queue) = self.locks.queues.get_mut(&grant.name) {
                queue.retain(|waiter| *waiter != (grant.session, grant.acquire));
            }
        }
        Ok(())
    }
}
