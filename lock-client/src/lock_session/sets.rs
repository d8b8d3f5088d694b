//! Several locks at once, for a shell of one thread: see `cache/sets.rs`. Nothing comes between the steps of one event here, so a set joins
//! all its queues, and is asked for, in one step without more ado.

use lock_protocol::{Command, LockName, LockSet};

use super::held::Held;
use super::{LockSession, ending};
use crate::cache::{SetId, WaiterId};
use crate::clock::Clocks;
use crate::error::AcquireError;
use crate::fate::Locks;
use crate::shared::WAITERS_MAX;

impl<W> LockSession<W> {
    /// A local user wants several locks at once: a waiter for each, in the order of names. Each is served by an effect, all by one op.
    ///
    /// # Errors
    /// The session is over or being closed, or too many wait.
    pub fn acquire_all(
        &mut self,
        now: Clocks,
        set: &LockSet,
        mut waiter: impl FnMut(&LockName) -> W,
    ) -> Result<Vec<WaiterId>, AcquireError> {
        self.begin(now);
        if let Some(error) = ending(self.held.stage) {
            return Err(error);
        }
        if self.held.waiters + set.len() > WAITERS_MAX {
            return Err(AcquireError::Limit(format!("{WAITERS_MAX} users of this client wait already")));
        }
        self.held.waiters += set.len();
        let id = SetId(self.next_set);
        self.next_set += 1;
        self.held.sets.insert(id, set.clone());
        let mut joined = Vec::new();
        for (name, mode) in set.iter() {
            let waiter = waiter(name);
            joined.extend(self.held.step(name, true, |lock, step| lock.join(id, mode, waiter, step)));
        }
        self.finish(now);
        Ok(joined)
    }
}

impl<W> Held<W> {
    /// A set has its turn at one of its locks: when it has it at all of them, it is asked for.
    pub(super) fn on_ready(&mut self, set: SetId) {
        let Some(locks) = self.sets.get(&set) else { return };
        let is_gathered = |name| self.locks.get(name).is_some_and(|lock| lock.is_gathered(set));
        if locks.iter().all(|(name, _)| is_gathered(name))
            && let Some(locks) = self.sets.remove(&set)
        {
            let number = self.outbox.send(Command::AcquireAll { set: locks.clone() });
            for (name, _) in locks.iter() {
                self.step(name, false, |lock, _| lock.asked(set, number));
            }
        }
    }

    /// Who leaves one lock of a set does not want the others: it is not asked for any more.
    pub(super) fn forget_set_of(&mut self, name: &LockName, waiter: WaiterId) {
        if let Some(set) = self.locks.get(name).and_then(|lock| lock.set_of(waiter)) {
            self.sets.remove(&set);
        }
    }
}
