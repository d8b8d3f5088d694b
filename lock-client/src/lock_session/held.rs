//! The locks of a session, with what they act on.

use std::collections::BTreeMap;

use lock_protocol::{DeadSession, LockName, LockSet};

use super::{SessionEffect, ending};
use crate::cache::{CachedLock, Effect, SetId, Step};
use crate::error::AcquireError;
use crate::fate::{self, CacheLimits, Locks, SessionEvent, Stage};
use crate::outbox::Outbox;
use crate::recovery::Recoveries;
use crate::session::Session;

/// The part that the locks act on.
#[derive(Debug)]
pub(super) struct Held<W> {
    pub(super) now_ns: u64,
    pub(super) session: Session,
    pub(super) outbox: Outbox,
    pub(super) locks: BTreeMap<LockName, CachedLock<W>>,
    /// Sets that were not asked for yet.
    pub(super) sets: BTreeMap<SetId, LockSet>,
    pub(super) epoch: u64,
    /// Whether guards of this epoch are valid until the session's deadline.
    pub(super) in_force: bool,
    pub(super) stage: Stage,
    pub(super) flushes: bool,
    pub(super) waiters: usize,
    pub(super) recoveries: Recoveries,
    pub(super) effects: Vec<SessionEffect<W>>,
}

impl<W> Held<W> {
    pub(super) fn ask_again(&mut self) {
        for lock in self.locks.values() {
            fate::ask_again(lock, &mut self.outbox);
        }
    }

    pub(super) fn sweep(&mut self, limits: CacheLimits) {
        // One of which a tenure was ended by force is remembered: a dead guard may be about.
        self.locks.retain(|_, lock| !lock.is_unknown() || lock.forced().0 > 0);
        let idle = self.locks.values().filter(|lock| lock.is_idle());
        let idle = idle.map(|lock| (lock.last_used_ns(), lock.name().clone())).collect();
        for name in limits.overdue(idle, self.locks.len(), self.now_ns) {
            self.step(&name, false, |lock, step| lock.evict(step));
        }
    }

    fn carry_out(&mut self, name: &LockName, effect: Effect<W>) {
        let name = name.clone();
        let effect = match effect {
            Effect::Ready { set } => return self.on_ready(set),
            Effect::Dissolve { waiter } => {
                self.waiters -= 1;
                SessionEffect::Dissolve { name, waiter }
            }
            Effect::Flush { token, .. } if !self.flushes => {
                self.step(&name, false, |lock, step| lock.on_flushed(token, step));
                return;
            }
            Effect::Flush { from, to, token } => SessionEffect::Flush { name, from, to, token },
            Effect::Serve { waiter, grant } => {
                self.waiters -= 1;
                SessionEffect::Serve { name, waiter, grant }
            }
            Effect::Refuse { waiter, error } => {
                self.waiters -= 1;
                SessionEffect::Fail { name, waiter, error }
            }
            Effect::End { waiter } => {
                self.waiters -= 1;
                let error = ending(self.stage).unwrap_or(AcquireError::Closed);
                SessionEffect::Fail { name, waiter, error }
            }
        };
        self.effects.push(effect);
    }
}

impl<W> Locks for Held<W> {
    type Waiter = W;

    fn step<R>(
        &mut self,
        name: &LockName,
        make: bool,
        decide: impl FnOnce(&mut CachedLock<W>, &mut Step<'_, W>) -> R,
    ) -> Option<R> {
        if make && !self.locks.contains_key(name) {
            self.locks.insert(name.clone(), CachedLock::new(name.clone(), self.epoch));
        }
        let lock = self.locks.get_mut(name)?;
        let mut effects = Vec::new();
        let live = self.in_force && lock.epoch() == self.epoch;
        let outbox = &mut self.outbox;
        let result = decide(lock, &mut Step { now_ns: self.now_ns, live, outbox, effects: &mut effects });
        for effect in effects {
            self.carry_out(name, effect);
        }
        Some(result)
    }

    fn step_all(&mut self, mut decide: impl FnMut(&mut CachedLock<W>, &mut Step<'_, W>)) {
        let names: Vec<LockName> = self.locks.keys().cloned().collect();
        for name in names {
            self.step(&name, false, &mut decide);
        }
    }

    fn end_epoch(&mut self) -> u64 {
        self.in_force = false;
        self.end_guards()
    }

    fn end_guards(&mut self) -> u64 {
        self.epoch += 1;
        self.effects.push(SessionEffect::GuardsDie { epoch: self.epoch });
        self.epoch
    }

    fn extend(&mut self) {
        self.in_force = self.session.is_live();
    }

    fn tell(&mut self, event: SessionEvent) {
        self.effects.push(SessionEffect::Tell(event));
    }

    fn recover(&mut self, dead: DeadSession) {
        self.recoveries.on_notice(self.now_ns, dead);
    }
}
