//! A lock in use, and a lock by name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_protocol::{FencingToken, LockName, Mode};
use tokio::sync::oneshot;

use crate::cache::{Grant, Upgrade, WaiterId};
use crate::cell::Cell;
use crate::error::{AcquireError, UpgradeError};
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
    /// Its user is counted in the lock; false once the count has passed on to an upgrade.
    counts: bool,
}

impl LockGuard {
    pub(crate) fn new(cell: Arc<Cell>, grant: Grant) -> Self {
        LockGuard { cell, grant, dead: AtomicBool::new(false), counts: true }
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

    /// Makes an exclusive guard a shared one, under the same token: shared users may come in beside it, in this program at once, elsewhere
    /// as soon as they ask. If others are waiting for it, the hook given to [`crate::LockClient::on_revoke`] runs first, while this guard lives.
    pub fn downgrade(&mut self) {
        self.grant = self.cell.downgrade(self.grant);
    }

    /// Makes a shared guard an exclusive one, under a new token where the session had the lock shared. At once or not at all: where another
    /// guard of this lock lives, here or in any other session, or somebody waits for it, the guard comes back
    /// as it was. Drop it then, acquire exclusively, and look again at what you had read. Two holders that waited for each other to leave
    /// would wait for ever.
    ///
    /// A future that is dropped before it is done gives the lock up.
    ///
    /// # Errors
    /// See [`UpgradeError`].
    pub async fn upgrade(mut self) -> Result<LockGuard, UpgradeError> {
        if self.mode() == Mode::Exclusive {
            return Ok(self);
        }
        let (reply, answer) = oneshot::channel();
        let waiter = match self.cell.upgrade(self.grant, reply) {
            Upgrade::Had(grant) => {
                self.grant = grant;
                return Ok(self);
            }
            Upgrade::Refused => return Err(UpgradeError::NotAlone(self)),
            Upgrade::Waits(waiter) => waiter,
        };
        self.counts = false;
        let mut upgrading = Upgrading { cell: Arc::clone(&self.cell), waiter: Some(waiter) };
        let answer = answer.await;
        upgrading.waiter = None;
        match answer.unwrap_or(Err(AcquireError::Closed)) {
            Ok(guard) if guard.mode() == Mode::Exclusive => Ok(guard),
            Ok(guard) => Err(UpgradeError::NotAlone(guard)),
            Err(error) => Err(UpgradeError::Ended(error)),
        }
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

/// Gives the lock up when the future of an upgrade is dropped. If it was answered in the same moment, the guard is inside the channel
/// and frees it by being dropped.
struct Upgrading {
    cell: Arc<Cell>,
    waiter: Option<WaiterId>,
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.cell.leave(waiter);
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.counts {
            self.cell.end(self.grant);
        }
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
