//! The releaser: the thread on which the owner's hooks run.
//!
//! A revoke arrives on the clerk's thread, which must go on renewing the lease whatever a hook does. So hooks run on a thread of
//! their own (the labs' releaser): one that blocks delays other hooks, and nothing else. A hook that fails, panics or takes
//! too long keeps its lock, and is called again after a pause that grows (M17); while the lease is not in force no hook
//! is called (M10).
//!
//! The queue needs no bound of its own: a lock is at most once in it, since it stays in its flushing state until the hook
//! has succeeded.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lock_protocol::{FencingToken, LockName, Mode};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, mpsc};

use crate::cache::CachedLock;
use crate::cell::Cell;
use crate::error::FlushError;
use crate::fate::SessionEvent;
use crate::shared::Shared;

/// Hooks that run at the same time at most: enough to overlap their waiting, few enough not to drown a store.
const FLUSHES_AT_ONCE: usize = 32;
/// The pause after a hook's first failure; twice as long after each further one.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a flush that waits for the lease looks by itself.
const SUSPENDED_LOOK: Duration = Duration::from_millis(500);

/// What a revoke hook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The lock.
    pub name: LockName,
    /// As the session holds it.
    pub from: Mode,
    /// What it keeps: nothing, or shared.
    pub to: Option<Mode>,
    /// Of the tenure.
    pub token: FencingToken,
}

type RevokeHook = Arc<dyn Fn(Revocation) -> BoxFuture<'static, Result<(), FlushError>> + Send + Sync>;
type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Hooks {
    revoke: Option<RevokeHook>,
    suspend: Option<Hook>,
    resume: Option<Hook>,
    lost: Option<Hook>,
}

/// A lock that waits for its hook.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) cell: Arc<Cell>,
    pub(crate) from: Mode,
    pub(crate) to: Option<Mode>,
    pub(crate) token: FencingToken,
}

impl Flush {
    /// The tenure was ended by force: nothing may be done in its name any more.
    pub(crate) fn is_moot(&self) -> bool {
        self.token <= self.cell.look(CachedLock::forced)
    }
}

/// What the releaser's thread is given.
pub(crate) enum Job {
    Flush(Flush),
    Tell(SessionEvent),
}

/// The clerk's end of the releaser.
pub(crate) struct Releaser {
    hooks: Arc<RwLock<Hooks>>,
    jobs: mpsc::UnboundedSender<Job>,
}

impl Releaser {
    /// The releaser, and its thread's work: to be given to [`Work::start`] once the client exists.
    pub(crate) fn new(flush_limit: Duration) -> (Self, Work) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let hooks = Arc::new(RwLock::new(Hooks::default()));
        (Releaser { hooks: Arc::clone(&hooks), jobs }, Work { hooks, queue, flush_limit })
    }

    pub(crate) fn on_revoke(&self, hook: RevokeHook) {
        self.hooks.write().revoke = Some(hook);
    }

    pub(crate) fn on_event(&self, event: SessionEvent, hook: Hook) {
        let mut hooks = self.hooks.write();
        *match event {
            SessionEvent::Suspended => &mut hooks.suspend,
            SessionEvent::Resumed => &mut hooks.resume,
            SessionEvent::Lost => &mut hooks.lost,
        } = Some(hook);
    }

    pub(crate) fn has_revoke_hook(&self) -> bool {
        self.hooks.read().revoke.is_some()
    }

    /// Flushes on the releaser's thread; gives the job back where there is no hook.
    pub(crate) fn flush(&self, flush: Flush) -> Result<(), Flush> {
        if !self.has_revoke_hook() {
            return Err(flush);
        }
        self.jobs.send(Job::Flush(flush)).map_err(|returned| match returned.0 {
            Job::Flush(flush) => flush,
            Job::Tell(_) => unreachable!("a channel returns what was sent"),
        })
    }

    pub(crate) fn tell(&self, event: SessionEvent) {
        // A releaser that has ended has nobody to tell.
        drop(self.jobs.send(Job::Tell(event)));
    }
}

impl std::fmt::Debug for Releaser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Releaser").finish_non_exhaustive()
    }
}

/// What the releaser's thread does.
pub(crate) struct Work {
    hooks: Arc<RwLock<Hooks>>,
    queue: mpsc::UnboundedReceiver<Job>,
    flush_limit: Duration,
}

impl Work {
    /// Starts the thread; it ends with the client.
    pub(crate) fn start(self, shared: Weak<Shared>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let name = "plumeria-releaser".to_owned();
        std::thread::Builder::new().name(name).spawn(move || runtime.block_on(self.run(shared))).map(drop)
    }

    #[cfg(test)]
    pub(crate) fn into_queue(self) -> mpsc::UnboundedReceiver<Job> {
        self.queue
    }

    async fn run(mut self, shared: Weak<Shared>) {
        let permits = Arc::new(Semaphore::new(FLUSHES_AT_ONCE));
        while let Some(job) = self.queue.recv().await {
            match job {
                Job::Tell(event) => self.call(event),
                Job::Flush(flush) => {
                    let hooks = Arc::clone(&self.hooks);
                    let (permits, shared) = (Arc::clone(&permits), Weak::clone(&shared));
                    drop(tokio::spawn(flush_until_done(flush, hooks, permits, shared, self.flush_limit)));
                }
            }
        }
    }

    fn call(&self, event: SessionEvent) {
        let hook = {
            let hooks = self.hooks.read();
            match event {
                SessionEvent::Suspended => hooks.suspend.clone(),
                SessionEvent::Resumed => hooks.resume.clone(),
                SessionEvent::Lost => hooks.lost.clone(),
            }
        };
        if let Some(hook) = hook
            && std::panic::catch_unwind(AssertUnwindSafe(|| hook())).is_err()
        {
            tracing::error!(?event, "a session hook panicked");
        }
    }
}

async fn flush_until_done(
    flush: Flush,
    hooks: Arc<RwLock<Hooks>>,
    permits: Arc<Semaphore>,
    shared: Weak<Shared>,
    limit: Duration,
) {
    let mut pause = RETRY_MIN;
    loop {
        {
            let Some(shared) = shared.upgrade() else { return };
            if shared.is_over() || flush.is_moot() {
                return;
            }
        }
        let mut changed = std::pin::pin!(Arc::clone(&flush.cell.lease().changed).notified_owned());
        changed.as_mut().enable();
        if flush.cell.lease().live_epoch().is_none() {
            drop(tokio::time::timeout(SUSPENDED_LOOK, changed).await);
            continue;
        }
        let attempt = {
            let _permit = permits.acquire().await;
            attempt(&flush, &hooks, limit).await
        };
        match attempt {
            Ok(()) => {
                let Some(shared) = shared.upgrade() else { return };
                return flush.cell.on_flushed(&shared, flush.token);
            }
            Err(error) => {
                let name = flush.cell.name();
                tracing::warn!(%name, token = %flush.token, %error, ?pause, "revoke overdue: the hook failed, the lock is kept");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn attempt(flush: &Flush, hooks: &RwLock<Hooks>, limit: Duration) -> Result<(), FlushError> {
    let Some(hook) = hooks.read().revoke.clone() else { return Ok(()) };
    let revocation = Revocation { name: flush.cell.name().clone(), from: flush.from, to: flush.to, token: flush.token };
    let call = AssertUnwindSafe(async move { hook(revocation).await }).catch_unwind();
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(FlushError::new("the hook panicked")),
        Err(_) => Err(FlushError(format!("the hook took longer than {limit:?}"))),
    }
}
