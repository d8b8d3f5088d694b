//! A lock in use, and a lock by name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{FencingToken, LockName, Mode};

use crate::cache::Grant;
use crate::cell::Cell;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A lock that this program's user holds until it drops the guard, or until [`LockGuard::lost`].
///
/// Dropping it frees the lock for the next local user; the server is asked only if somebody else wants it. Let your
/// writes finish before you drop it.
#[must_use = "the lock is free again as soon as the guard is dropped"]
pub struct LockGuard {
    cell: Arc<Cell>,
    grant: Grant,
    /// Was once seen invalid: stays so.
    dead: AtomicBool,
}

impl LockGuard {
    pub(crate) fn new(cell: Arc<Cell>, grant: Grant) -> Self {
        LockGuard { cell, grant, dead: AtomicBool::new(false) }
    }

    /// The fencing token of the session's tenure. A later tenure, of whomever, has a greater one; successive local users of
    /// one tenure have the *same*. Send it along with what must not happen twice, and let the resource refuse smaller ones.
    pub fn token(&self) -> FencingToken {
        self.grant.token
    }

    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.grant.epoch
    }

    /// As it was asked for.
    pub fn mode(&self) -> Mode {
        self.grant.mode
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        self.cell.name()
    }

    /// False as soon as the lease could have run out, and then for good. True when computed, maybe not when you act: a
    /// thread, process or machine can stop in between. For what must not happen twice, [`LockGuard::token`].
    pub fn is_valid(&self) -> bool {
        !self.valid_for().is_zero()
    }

    /// For how long it will be valid if no more keep-alive is answered: bounds an I/O timeout. Zero once it is invalid.
    pub fn valid_for(&self) -> Duration {
        if self.dead.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let left = self.cell.valid_for(self.grant);
        if left.is_zero() {
            self.dead.store(true, Ordering::Relaxed);
        }
        left
    }

    /// Resolves when the guard is invalid: the lease ran out, the session was lost or closed, or an operator took the lock by
    /// force. Needs a task that is polled,
    /// so it may tell later than [`LockGuard::is_valid`].
    pub async fn lost(&self) {
        loop {
            let mut changed = std::pin::pin!(Arc::clone(&self.cell.lease().changed).notified_owned());
            changed.as_mut().enable();
            if !self.is_valid() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.cell.end(self.grant);
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("name", self.name())
            .field("mode", &self.grant.mode)
            .field("token", &self.grant.token)
            .finish_non_exhaustive()
    }
}
