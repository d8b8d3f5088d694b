//! What a program holds: the client, and a lock by name.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use lock_protocol::{
    Answer, FencingToken, ForceRelease, ForcedTenure, KeptLocks, LockEntry, LockName, LockSet, MemberStatus, Mode,
    PAGE_MAX_ENTRIES, Query, SessionId,
};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use wire::Tls;

use crate::cache::WaiterId;
use crate::cell::Cell;
use crate::connect::Builder;
use crate::dial::context;
use crate::error::{AcquireError, CloseError, FlushError, QueryError};
use crate::fate::{SessionEvent, Stage};
use crate::guard::LockGuard;
use crate::members::member_status;
use crate::releaser::Revocation;
use crate::sets::{self, Cells};
use crate::shared::Shared;

/// How long [`LockClient::try_acquire`] waits: a lock that is idle in another client's cache comes within it, so "none" means
/// "in use".
pub const TRY_WAIT: Duration = Duration::from_millis(100);
/// How long a question to the primary or a member may take.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most locks that [`LockClient::locks`] collects.
pub const LOCKS_MAX: usize = 1_000_000;

/// A session with the lock service, and the cache of its locks. Cheap to clone; all clones are the same client.
///
/// Threads of its own keep the session alive and call the hooks, so its futures run under any executor. When the last
/// clone is dropped, the session is closed in the background once the last guard is dropped, as far as the process still
/// lives; [`LockClient::close`] does it in order.
#[derive(Clone)]
pub struct LockClient {
    handle: Arc<ClientHandle>,
}

struct ClientHandle {
    shared: Arc<Shared>,
    tls: Option<Tls>,
    /// Kept so that timers of waiting users stay valid to the end.
    _runtime: Arc<Background>,
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        if !self.shared.is_over() {
            self.shared.lease.set_orphaned();
            let shared = Arc::clone(&self.shared);
            drop(self.shared.handle.spawn(async move { shared.close_when_unused().await }));
        }
    }
}

/// The clerk's runtime. Its last owner may be anywhere, inside another runtime too, so it is never waited for.
#[derive(Debug)]
pub(crate) struct Background(Option<Runtime>);

impl Background {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Background(Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl LockClient {
    /// Where the servers are: `HOST:PORT` or `unix:PATH`. Any of them, in any state, leads to the primary.
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        Builder::new(endpoints.into_iter().map(Into::into).collect())
    }

    pub(crate) fn new(shared: Arc<Shared>, runtime: Arc<Background>, tls: Option<Tls>) -> Self {
        LockClient { handle: Arc::new(ClientHandle { shared, tls, _runtime: runtime }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The lock of that name, as a handle that spares the look-up at each acquire.
    ///
    /// # Errors
    /// It is no lock name.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, AcquireError> {
        Ok(Lock { cell: self.cell(name.as_ref())?, client: self.clone() })
    }

    fn cell(&self, name: &str) -> Result<Arc<Cell>, AcquireError> {
        Ok(self.shared().table.cell(name, self.shared().weak())?)
    }

    /// Takes a lock, waiting as long as it takes. Dropping the future withdraws the wish.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, name: impl AsRef<str>, mode: Mode) -> Result<LockGuard, AcquireError> {
        let cell = self.cell(name.as_ref())?;
        acquire(self.shared(), &cell, mode).await
    }

    /// Takes a lock if nobody uses it. Waits up to [`TRY_WAIT`] for one that is only cached elsewhere.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn try_acquire(&self, name: impl AsRef<str>, mode: Mode) -> Result<Option<LockGuard>, AcquireError> {
        none_in_time(self.acquire_timeout(name, mode, TRY_WAIT).await)
    }

    /// Takes a lock, waiting at most so long.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire_timeout(
        &self,
        name: impl AsRef<str>,
        mode: Mode,
        timeout: Duration,
    ) -> Result<LockGuard, AcquireError> {
        let cell = self.cell(name.as_ref())?;
        acquire_timeout(self.shared(), &cell, mode, timeout).await
    }

    /// Takes several locks at once: all or none. While it waits it holds none of them, so programs may name them in any order and never
    /// wait for one another for ever. Gives a guard for each, by name; one that is named twice is had in the stronger mode. At most
    /// [`crate::LOCK_SET_MAX`]. Dropping the future withdraws the wish.
    ///
    /// Where all of them are cached and free, nobody is asked. Otherwise those that are cached are given back (and flushed) first, and the server
    /// grants all in one step, under one fencing token.
    ///
    /// ```no_run
    /// # async fn f(client: lock_client::LockClient) -> Result<(), lock_client::AcquireError> {
    /// use lock_client::Mode::{Exclusive, Shared};
    /// let guards = client.acquire_all([("accounts/7", Exclusive), ("accounts/3", Exclusive), ("rates", Shared)]).await?;
    /// assert_eq!(guards[0].name().as_str(), "accounts/3");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire_all(
        &self,
        locks: impl IntoIterator<Item = (impl AsRef<str>, Mode)>,
    ) -> Result<Vec<LockGuard>, AcquireError> {
        let cells = self.cells(locks)?;
        sets::acquire_all(self.shared(), cells).await
    }

    /// As [`LockClient::acquire_all`], waiting at most so long.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire_all_timeout(
        &self,
        locks: impl IntoIterator<Item = (impl AsRef<str>, Mode)>,
        timeout: Duration,
    ) -> Result<Vec<LockGuard>, AcquireError> {
        let cells = self.cells(locks)?;
        let shared = self.shared();
        let taken = shared.within(timeout, sets::acquire_all(shared, cells)).await;
        taken.unwrap_or_else(|| Err(timed_out(shared, timeout)))
    }

    fn cells(&self, locks: impl IntoIterator<Item = (impl AsRef<str>, Mode)>) -> Result<Cells, AcquireError> {
        let named = locks.into_iter().map(|(name, mode)| Ok((LockName::new(name)?, mode)));
        let set = LockSet::new(named.collect::<Result<Vec<_>, AcquireError>>()?)?;
        set.iter().map(|(name, mode)| Ok((self.cell(name.as_str())?, mode))).collect()
    }

    /// Sets the hook that flushes what a lock protects before the session gives it up or downgrades it. It runs on the
    /// releaser's thread. If it fails or takes longer than [`Builder::flush_limit`], the lock is kept and the hook called
    /// again. It must not acquire the lock that it is called for. Called for shared locks too; not for a lock that nobody
    /// used.
    pub fn on_revoke<F, Fut>(&self, hook: F)
    where
        F: Fn(Revocation) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), FlushError>> + Send + 'static,
    {
        self.shared().releaser.on_revoke(Arc::new(move |revocation| hook(revocation).boxed()));
    }

    /// Sets a hook for the moment at which the lease ran out: all guards are invalid, no new ones are given.
    pub fn on_suspend(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.shared().releaser.on_event(SessionEvent::Suspended, Arc::new(hook));
    }

    /// Sets a hook for the moment at which a suspended session is in force again, with its cached locks.
    pub fn on_resume(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.shared().releaser.on_event(SessionEvent::Resumed, Arc::new(hook));
    }

    /// Sets a hook for the loss of the session: what its locks protected and was not flushed is lost.
    pub fn on_lost(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.shared().releaser.on_event(SessionEvent::Lost, Arc::new(hook));
    }

    /// Flushes everything, then ends the session; its locks are free at once. Guards that still exist become invalid.
    ///
    /// # Errors
    /// See [`CloseError`]; after `Unflushed` the session goes on, for another try.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.shared().close().await
    }

    /// Ends the session like a crash: nothing is flushed, and the locks are free when the lease has run out.
    pub fn abandon(&self) {
        self.shared().end(Stage::Closed);
    }

    /// As [`LockClient::abandon`], and the server ends the session at once instead of waiting for its lease: what an expiry
    /// brings with it (the lock delay, recovery) begins now. Guards are invalid before it is asked; a hook that runs is not waited for.
    ///
    /// # Errors
    /// No primary confirmed it: then it is abandoned as a crash is.
    pub async fn abandon_now(&self) -> Result<(), CloseError> {
        self.shared().abandon_now().await
    }

    /// Dead sessions whose exclusive locks are not free yet, by session, from after one on; and whether there are more.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn kept_page(&self, after: Option<SessionId>) -> Result<(Vec<KeptLocks>, bool), QueryError> {
        let limit = u32::try_from(PAGE_MAX_ENTRIES).unwrap_or(u32::MAX);
        match self.query(Query::Kept { after, limit }).await? {
            Answer::Kept { entries, more } => Ok((entries, more)),
            _ => Err(QueryError::Refused("the server answered another question".into())),
        }
    }

    /// The session's id, as `lockctl inspect` shows it.
    pub fn session(&self) -> SessionId {
        self.shared().session_id()
    }

    /// The lease in force.
    pub fn lease(&self) -> Duration {
        self.shared().session.lock().lease()
    }

    /// All locks whose names begin so that are held or waited for, by name; at most [`LOCKS_MAX`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockEntry>, QueryError> {
        let mut all: Vec<LockEntry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.name.clone());
            let (page, more) = self.locks_page(prefix, after, PAGE_MAX_ENTRIES).await?;
            let goes_on = page.first().is_some_and(|first| all.last().is_none_or(|last| first.name > last.name));
            all.extend(page);
            if !more || !goes_on || all.len() >= LOCKS_MAX {
                all.truncate(LOCKS_MAX);
                return Ok(all);
            }
        }
    }

    /// One page of [`LockClient::locks`], from after a name on, and whether there is more.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn locks_page(
        &self,
        prefix: &str,
        after: Option<LockName>,
        limit: usize,
    ) -> Result<(Vec<LockEntry>, bool), QueryError> {
        let limit = u32::try_from(limit.min(PAGE_MAX_ENTRIES)).unwrap_or(u32::MAX);
        match self.query(Query::Locks { prefix: prefix.to_owned(), after, limit }).await? {
            Answer::Locks { entries, more } => Ok((entries, more)),
            Answer::Inspect(_) | Answer::Forced(_) | Answer::Kept { .. } => {
                Err(QueryError::Refused("the server answered another question".into()))
            }
        }
    }

    /// Who holds a lock, and who waits for it.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<LockEntry, QueryError> {
        match self.query(Query::Inspect { name: LockName::new(name)? }).await? {
            Answer::Inspect(entry) => Ok(entry),
            Answer::Locks { .. } | Answer::Forced(_) | Answer::Kept { .. } => {
                Err(QueryError::Refused("the server answered another question".into()))
            }
        }
    }

    /// Ends a tenure by force; gives those that it ended. See [`ForceRelease`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn force_release(&self, force: ForceRelease) -> Result<Vec<ForcedTenure>, QueryError> {
        let ask = |service: lock_protocol::LockServiceClient| {
            let force = force.clone();
            async move { service.force_release(context(), force).await }
        };
        self.shared().call(QUERY_TIMEOUT, ask).await
    }

    /// Frees a lock that a dead session keeps, without the recovery or the lock delay that it waits for: what the dead one did not flush
    /// may be lost. Gives those whose it was; none where no dead session keeps it with that token.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn force_kept(
        &self,
        name: impl AsRef<str>,
        token: FencingToken,
    ) -> Result<Vec<ForcedTenure>, QueryError> {
        let name = LockName::new(name)?;
        let ask = |service: lock_protocol::LockServiceClient| {
            let name = name.clone();
            async move { service.force_kept(context(), name, token).await }
        };
        self.shared().call(QUERY_TIMEOUT, ask).await
    }

    /// Asks the primary.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(&self, query: Query) -> Result<Answer, QueryError> {
        let ask = |service: lock_protocol::LockServiceClient| {
            let query = query.clone();
            async move { service.query(context(), query).await }
        };
        self.shared().call(QUERY_TIMEOUT, ask).await
    }

    /// One member's own account of itself, whatever its role.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn member_status(&self, endpoint: &str) -> Result<MemberStatus, QueryError> {
        let (endpoint, tls) = (endpoint.to_owned(), self.handle.tls.clone());
        let asked = self.shared().handle.spawn(async move { member_status(&endpoint, tls.as_ref()).await });
        asked.await.unwrap_or(Err(QueryError::Closed))
    }
}

impl fmt::Debug for LockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockClient").field("session", &self.session()).finish_non_exhaustive()
    }
}

/// A lock by name: what a program that takes the same lock often keeps.
#[derive(Clone)]
pub struct Lock {
    cell: Arc<Cell>,
    client: LockClient,
}

impl Lock {
    /// As [`LockClient::acquire`]. A cached and free lock is had without leaving this thread.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, mode: Mode) -> Result<LockGuard, AcquireError> {
        acquire(self.client.shared(), &self.cell, mode).await
    }

    /// As [`LockClient::try_acquire`].
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn try_acquire(&self, mode: Mode) -> Result<Option<LockGuard>, AcquireError> {
        none_in_time(self.acquire_timeout(mode, TRY_WAIT).await)
    }

    /// As [`LockClient::acquire_timeout`].
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire_timeout(&self, mode: Mode, timeout: Duration) -> Result<LockGuard, AcquireError> {
        acquire_timeout(self.client.shared(), &self.cell, mode, timeout).await
    }

    /// A guard if this client has the lock cached and free; never asks the server, never waits.
    #[inline]
    pub fn acquire_cached(&self, mode: Mode) -> Option<LockGuard> {
        self.cell.start(mode)
    }

    /// Its name.
    pub fn name(&self) -> &LockName {
        self.cell.name()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", self.name()).finish_non_exhaustive()
    }
}

/// Withdraws the wish when the future is dropped. If the lock was granted in the same moment, the guard is inside the
/// channel and frees it by being dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    cell: &'a Arc<Cell>,
    waiter: Option<WaiterId>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.cell.leave(waiter);
        }
        self.shared.leave();
    }
}

pub(crate) async fn acquire(shared: &Shared, cell: &Arc<Cell>, mode: Mode) -> Result<LockGuard, AcquireError> {
    match cell.start(mode) {
        Some(guard) => Ok(guard),
        None => wait(shared, cell, mode).await,
    }
}

async fn wait(shared: &Shared, cell: &Arc<Cell>, mode: Mode) -> Result<LockGuard, AcquireError> {
    let (reply, answer) = oneshot::channel();
    shared.enter()?;
    let mut waiting = Waiting { shared, cell, waiter: None };
    waiting.waiter = Some(cell.wait(mode, reply)?);
    let answer = answer.await;
    waiting.waiter = None;
    answer.unwrap_or(Err(AcquireError::Closed))
}

async fn acquire_timeout(
    shared: &Shared,
    cell: &Arc<Cell>,
    mode: Mode,
    timeout: Duration,
) -> Result<LockGuard, AcquireError> {
    if let Some(guard) = cell.start(mode) {
        return Ok(guard);
    }
    if let Some(result) = shared.within(timeout, wait(shared, cell, mode)).await {
        return result;
    }
    Err(timed_out(shared, timeout))
}

/// What was in the way, as far as the client knows.
fn timed_out(shared: &Shared, waited: Duration) -> AcquireError {
    let suspended = shared.lease.live_epoch().is_none();
    let reason = match (suspended, shared.service.borrow().is_some()) {
        (true, _) => "the session is suspended, no primary answers its keep-alives",
        (false, false) => "there is no connection to a primary",
        (false, true) => "others hold it or were first in its queue",
    };
    AcquireError::Timeout { waited, reason }
}

fn none_in_time(result: Result<LockGuard, AcquireError>) -> Result<Option<LockGuard>, AcquireError> {
    match result {
        Ok(guard) => Ok(Some(guard)),
        Err(AcquireError::Timeout { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
