//! Whoever waits for a lock is served in the order in which it came: first in the log, first granted.

use lock_protocol::Mode;

use super::lock_truth::Granted;
use super::{Check, Invariants, Violation};

impl Invariants {
    /// Nobody is granted a lock while one who came before, and lives, still waits for it. Several shared ones may be granted
    /// together. A set in shared mode that waits for other locks, too, is in the way of
    /// exclusive ones only.
    pub(super) fn in_order_of_arrival(&mut self, granted: &[Granted]) -> Check {
        for grant in granted {
            let Some(queue) = self.locks.queues.get(&grant.name) else { continue };
            let before = queue.iter().take_while(|waiter| !waiter.is_of(grant));
            let overtaken = before.filter(|waiter| {
                let is_passed = waiter.is_set && (waiter.mode, grant.mode) == (Mode::Shared, Mode::Shared);
                !is_passed && !granted.iter().any(|other| waiter.is_of(other))
            });
            if let Some(waiter) = overtaken.last() {
                let detail = format!("{grant:?} overtakes {waiter:?}");
                return Err(Violation::new("waiters are served in their order", detail));
            }
        }
        for grant in granted {
            if let Some(queue) = self.locks.queues.get_mut(&grant.name) {
                queue.retain(|waiter| !waiter.is_of(grant));
            }
        }
        Ok(())
    }
}
