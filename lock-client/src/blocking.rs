//! The same client for programs without async: each call blocks its thread.
//!
//! The session lives on the client's own threads as always, so this is a thin layer: a future is polled, and its
//! thread parked until it is woken. It works on any thread; on one that runs an async executor it would block that executor.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use lock_protocol::{FencingToken, ForceRelease, ForcedTenure, LockEntry, MemberStatus, Mode};

use crate::connect::Builder;
use crate::error::{AcquireError, CloseError, ConnectError, FlushError, QueryError, UpgradeError};
use crate::guard::LockGuard;
use crate::releaser::Revocation;

/// A session; see [`crate::LockClient`].
#[derive(Clone, Debug)]
pub struct LockClient {
    client: crate::LockClient,
}

impl LockClient {
    /// Where the servers are; end with [`LockClient::connect`].
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        crate::LockClient::builder(endpoints)
    }

    /// Opens a session.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(builder: Builder) -> Result<Self, ConnectError> {
        block_on(builder.connect()).map(|client| LockClient { client })
    }

    /// The same session, for async callers.
    pub fn as_async(&self) -> &crate::LockClient {
        &self.client
    }

    /// The lock of that name; see [`crate::LockClient::lock`].
    ///
    /// # Errors
    /// It is no lock name.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, AcquireError> {
        self.client.lock(name).map(|lock| Lock { lock })
    }

    /// Takes a lock, waiting as long as it takes.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub fn acquire(&self, name: impl AsRef<str>, mode: Mode) -> Result<LockGuard, AcquireError> {
        block_on(self.client.acquire(name, mode))
    }

    /// Takes a lock if nobody uses it; see [`crate::LockClient::try_acquire`].
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub fn try_acquire(&self, name: impl AsRef<str>, mode: Mode) -> Result<Option<LockGuard>, AcquireError> {
        block_on(self.client.try_acquire(name, mode))
    }

    /// Takes a lock, waiting at most so long.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub fn acquire_timeout(
        &self,
        name: impl AsRef<str>,
        mode: Mode,
        timeout: Duration,
    ) -> Result<LockGuard, AcquireError> {
        block_on(self.client.acquire_timeout(name, mode, timeout))
    }

    /// Sets the revoke hook, which may block; hooks then run one at a time. See [`crate::LockClient::on_revoke`].
    pub fn on_revoke(&self, hook: impl Fn(Revocation) -> Result<(), FlushError> + Send + Sync + 'static) {
        self.client.on_revoke(move |revocation| std::future::ready(hook(revocation)));
    }

    /// See [`crate::LockClient::on_suspend`].
    pub fn on_suspend(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.client.on_suspend(hook);
    }

    /// See [`crate::LockClient::on_resume`].
    pub fn on_resume(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.client.on_resume(hook);
    }

    /// See [`crate::LockClient::on_lost`].
    pub fn on_lost(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.client.on_lost(hook);
    }

    /// Flushes everything, then ends the session.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub fn close(&self) -> Result<(), CloseError> {
        block_on(self.client.close())
    }

    /// Ends the session like a crash; see [`crate::LockClient::abandon`].
    pub fn abandon(&self) {
        self.client.abandon();
    }

    /// See [`crate::LockClient::abandon_now`].
    ///
    /// # Errors
    /// See [`CloseError`].
    pub fn abandon_now(&self) -> Result<(), CloseError> {
        block_on(self.client.abandon_now())
    }

    /// See [`crate::LockClient::locks`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn locks(&self, prefix: &str) -> Result<Vec<LockEntry>, QueryError> {
        block_on(self.client.locks(prefix))
    }

    /// See [`crate::LockClient::inspect`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<LockEntry, QueryError> {
        block_on(self.client.inspect(name))
    }

    /// See [`crate::LockClient::force_release`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn force_release(&self, force: ForceRelease) -> Result<Vec<ForcedTenure>, QueryError> {
        block_on(self.client.force_release(force))
    }

    /// See [`crate::LockClient::force_kept`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn force_kept(&self, name: impl AsRef<str>, token: FencingToken) -> Result<Vec<ForcedTenure>, QueryError> {
        block_on(self.client.force_kept(name, token))
    }

    /// See [`crate::LockClient::member_status`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn member_status(&self, endpoint: &str) -> Result<MemberStatus, QueryError> {
        block_on(self.client.member_status(endpoint))
    }
}

/// See [`LockGuard::upgrade`].
///
/// # Errors
/// See [`UpgradeError`].
pub fn upgrade(guard: LockGuard) -> Result<LockGuard, UpgradeError> {
    block_on(guard.upgrade())
}

/// A lock by name; see [`crate::Lock`].
#[derive(Clone, Debug)]
pub struct Lock {
    lock: crate::Lock,
}

impl Lock {
    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    /// See [`AcquireError`].
    #[inline]
    pub fn acquire(&self, mode: Mode) -> Result<LockGuard, AcquireError> {
        match self.lock.acquire_cached(mode) {
            Some(guard) => Ok(guard),
            None => block_on(self.lock.acquire(mode)),
        }
    }

    /// Takes the lock, waiting at most so long.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub fn acquire_timeout(&self, mode: Mode, timeout: Duration) -> Result<LockGuard, AcquireError> {
        block_on(self.lock.acquire_timeout(mode, timeout))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    // What is cached is ready at once, and needs no waker that could wake this thread.
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return output;
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        // An unpark that comes before the park makes the park return at once.
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
