//! One lock's core under its mutex, and the carrying out of what it decides.
//!
//! The fast path is one mutex, one clock and no allocation: [`Cell::start`] and [`Cell::end`] of a lock that is cached and
//! free. Everything else is a *step*: the core decides under the mutex, with the outbox at hand; its effects are carried out
//! after the mutex was left, so that no waker and no hook ever runs inside it. Order of mutexes: cells by name, then outbox.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_protocol::{FencingToken, LockName, Mode};
use tokio::sync::oneshot;

use crate::cache::{CachedLock, Effect, Grant, Step, Upgrade, WaiterId};
use crate::error::AcquireError;
use crate::guard::LockGuard;
use crate::lease::Lease;
use crate::outbox::Outbox;
use crate::releaser::Flush;
use crate::sets;
use crate::shared::Shared;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A waiter's end: the guard travels inside, so that one that is not received frees the lock by being dropped.
pub(crate) type Reply = oneshot::Sender<Result<LockGuard, AcquireError>>;

/// What came of a step, to be carried out once the mutexes are left.
pub(crate) struct Decided {
    effects: Vec<Effect<Reply>>,
    forced: bool,
    unsent: bool,
    flushing: bool,
    wanted: bool,
}

/// A lock that the client knows.
pub(crate) struct Cell {
    name: LockName,
    lease: Arc<Lease>,
    /// Weak, because the client owns its cells.
    shared: Weak<Shared>,
    /// As [`CachedLock::forced`], for guards to look at.
    forced: AtomicU64,
    cache: Mutex<CachedLock<Reply>>,
}

impl Cell {
    pub(crate) fn new(name: LockName, lease: Arc<Lease>, shared: Weak<Shared>) -> Self {
        let cache = Mutex::new(CachedLock::new(name.clone(), lease.epoch()));
        Cell { name, lease, shared, forced: AtomicU64::new(0), cache }
    }

    pub(crate) fn name(&self) -> &LockName {
        &self.name
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How long a guard is valid from now on; zero once it is not.
    pub(crate) fn valid_for(&self, grant: Grant) -> Duration {
        if grant.token.0 <= self.forced.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.lease.valid_for(grant.epoch)
    }

    /// A guard at once, where the lock is cached and free.
    #[inline]
    pub(crate) fn start(self: &Arc<Self>, mode: Mode) -> Option<LockGuard> {
        let (epoch, now_ns) = self.lease.live_epoch()?;
        let token = self.cache.lock().start_cached(mode, epoch, now_ns)?;
        Some(LockGuard::new(Arc::clone(self), Grant { token, mode, epoch }))
    }

    /// A guard's end.
    #[inline]
    pub(crate) fn end(self: &Arc<Self>, grant: Grant) {
        let done = self.cache.lock().end_cached(grant.epoch, grant.token);
        if !done && let Some(shared) = self.shared.upgrade() {
            self.step(&shared, CachedLock::settle);
        }
        if self.lease.is_orphaned() {
            self.lease.changed.notify_waiters();
        }
    }

    /// An exclusive guard's mode is lowered; its grant from now on.
    pub(crate) fn downgrade(self: &Arc<Self>, grant: Grant) -> Grant {
        match self.shared.upgrade() {
            Some(shared) => self.step(&shared, |cache, step| cache.downgrade(grant, step)),
            None => Grant { mode: Mode::Shared, ..grant },
        }
    }

    /// A shared guard wants to be exclusive; where it has to wait it is answered through `reply`.
    pub(crate) fn upgrade(self: &Arc<Self>, grant: Grant, reply: Reply) -> Upgrade {
        let Some(shared) = self.shared.upgrade() else { return Upgrade::Refused };
        self.step(&shared, |cache, step| match shared.ending() {
            Some(_) => Upgrade::Refused,
            None => cache.upgrade(grant, reply, step),
        })
    }

    /// Puts a waiter in; it is answered through `reply`.
    pub(crate) fn wait(self: &Arc<Self>, mode: Mode, reply: Reply) -> Result<WaiterId, AcquireError> {
        let Some(shared) = self.shared.upgrade() else { return Err(AcquireError::Closed) };
        // Asked under the cell's mutex: who ends the session sets the flag first and then visits every cell.
        self.step(&shared, |cache, step| match shared.ending() {
            Some(error) => Err(error),
            None => Ok(cache.wait(mode, reply, step)),
        })
    }

    /// Takes a waiter out that is not interested any longer.
    pub(crate) fn leave(self: &Arc<Self>, waiter: WaiterId) {
        if let Some(shared) = self.shared.upgrade() {
            self.step(&shared, |cache, step| cache.leave(waiter, step));
        }
    }

    pub(crate) fn on_flushed(self: &Arc<Self>, shared: &Shared, token: FencingToken) {
        self.step(shared, |cache, step| cache.on_flushed(token, step));
    }

    /// Looks at the core.
    pub(crate) fn look<R>(&self, at: impl FnOnce(&CachedLock<Reply>) -> R) -> R {
        at(&self.cache.lock())
    }

    /// Lets the core decide something, and carries it out.
    pub(crate) fn step<R>(
        self: &Arc<Self>,
        shared: &Shared,
        decide: impl FnOnce(&mut CachedLock<Reply>, &mut Step<'_, Reply>) -> R,
    ) -> R {
        let (result, done) = {
            let mut cache = self.cache.lock();
            self.decide(&mut cache, &mut shared.outbox.lock(), decide)
        };
        self.after(shared, done);
        result
    }

    /// Under the cell's mutex and the outbox's.
    pub(crate) fn decide<R>(
        &self,
        cache: &mut CachedLock<Reply>,
        outbox: &mut Outbox,
        decide: impl FnOnce(&mut CachedLock<Reply>, &mut Step<'_, Reply>) -> R,
    ) -> (R, Decided) {
        let mut effects = Vec::new();
        let live = self.lease.live_epoch().is_some_and(|(epoch, _)| epoch == cache.epoch());
        let now_ns = crate::clock::boot_ns();
        let result = decide(cache, &mut Step { now_ns, live, outbox, effects: &mut effects });
        // Before the release that confirms it can leave the outbox.
        let forced = cache.forced().0 > self.forced.load(Ordering::Relaxed);
        if forced {
            self.forced.store(cache.forced().0, Ordering::Release);
        }
        let (unsent, flushing, wanted) = (outbox.has_unsent(), cache.is_flushing(), cache.is_wanted());
        (result, Decided { effects, forced, unsent, flushing, wanted })
    }

    /// Under no mutex any more.
    pub(crate) fn after(self: &Arc<Self>, shared: &Shared, done: Decided) {
        if done.unsent {
            shared.work.notify_one();
        }
        if done.forced {
            self.lease.changed.notify_waiters();
        }
        if !done.flushing {
            shared.flushed.notify_waiters();
        }
        if !done.wanted && self.lease.is_orphaned() {
            self.lease.changed.notify_waiters();
        }
        for effect in done.effects {
            self.carry_out(shared, effect);
        }
    }

    /// Locks the core, for a step of several locks: by name, so that nobody waits for another who does the same.
    pub(crate) fn lock(&self) -> MutexGuard<'_, CachedLock<Reply>> {
        self.cache.lock()
    }

    fn carry_out(self: &Arc<Self>, shared: &Shared, effect: Effect<Reply>) {
        match effect {
            // Where the waiter is gone the guard comes back, and frees the lock by being dropped.
            Effect::Serve { waiter, grant } => drop(waiter.send(Ok(LockGuard::new(Arc::clone(self), grant)))),
            Effect::Refuse { waiter, error } => drop(waiter.send(Err(error))),
            Effect::Ready { set } => sets::on_ready(shared, set),
            // Who waits for it sees that the other end is gone.
            Effect::Dissolve { waiter } => drop(waiter),
            Effect::End { waiter } => drop(waiter.send(Err(shared.ending().unwrap_or(AcquireError::Closed)))),
            Effect::Flush { from, to, token } => {
                let flush = Flush { cell: Arc::clone(self), from, to, token };
                if let Err(flush) = shared.releaser.flush(flush) {
                    // Nobody has registered a hook: there is nothing to flush.
                    self.on_flushed(shared, flush.token);
                }
            }
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").field("name", &self.name).finish_non_exhaustive()
    }
}
