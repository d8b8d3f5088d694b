//! What the handles, the guards, the clerk and the releaser of one session share.
//!
//! How the session's fate reaches every lock is [`fate`]'s to decide. Order at the
//! end: the flag first, then every cell; who puts a waiter in looks at the flag under the cell's mutex, so that either it
//! sees the flag or the visit finds the waiter.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};
use lock_protocol::{
    DeadSession, LockName, LockServiceClient, Notice, Outcome, Refusal, Renewed, Request, SessionEnd, SessionId,
};
use tarpc::client::RpcError;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::cache::{CachedLock, Step};
use crate::cell::Reply;
use crate::clock::Clocks;
use crate::error::{AcquireError, CloseError, QueryError};
use crate::fate::{self, CacheLimits, Locks, SessionEvent, SessionGone, Stage};
use crate::lease::Lease;
use crate::lock_session::ending;
use crate::outbox::Outbox;
use crate::recoverer::Recoverer;
use crate::releaser::Releaser;
use crate::session::{LeaseChange, Session};
use crate::sets::Sets;
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Mutex, Notify};
use crate::table::Table;

/// Local waiters of one client at most, as the server's own limit for a session.
pub(crate) const WAITERS_MAX: usize = 65_536;
/// The pause before a call is tried again at the primary.
const CALL_PAUSE: Duration = Duration::from_millis(50);

/// One session of this process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lease: Arc<Lease>,
    pub(crate) table: Table,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) sets: Sets,
    pub(crate) session: Mutex<Session>,
    pub(crate) releaser: Releaser,
    pub(crate) recoverer: Recoverer,
    pub(crate) limits: CacheLimits,
    /// There may be something in the outbox.
    pub(crate) work: Notify,
    /// A lock may have been flushed.
    pub(crate) flushed: Arc<Notify>,
    /// A notice came on the callback connection.
    pub(crate) callback_heard: Notify,
    /// The primary's service, while there is a connection to it.
    pub(crate) service: watch::Sender<Option<LockServiceClient>>,
    pub(crate) over: watch::Sender<bool>,
    stage: AtomicU8,
    waiters: AtomicUsize,
    /// Of the clerk's runtime, whose timers work for callers without one.
    pub(crate) handle: Handle,
    me: Weak<Shared>,
}

impl Shared {
    pub(crate) fn new(
        session: Session,
        releaser: Releaser,
        recoverer: Recoverer,
        limits: CacheLimits,
        handle: Handle,
    ) -> Arc<Self> {
        let lease = Arc::new(Lease::default());
        lease.extend(session.deadline_ns(), session.lead_max_ns());
        Arc::new_cyclic(|me| Shared {
            table: Table::new(Arc::clone(&lease)),
            lease,
            outbox: Mutex::new(Outbox::new()),
            sets: Sets::default(),
            session: Mutex::new(session),
            releaser,
            recoverer,
            limits,
            work: Notify::new(),
            flushed: Arc::new(Notify::new()),
            callback_heard: Notify::new(),
            service: watch::Sender::new(None),
            over: watch::Sender::new(false),
            stage: AtomicU8::new(Stage::Open as u8),
            waiters: AtomicUsize::new(0),
            handle,
            me: Weak::clone(me),
        })
    }

    pub(crate) fn weak(&self) -> &Weak<Shared> {
        &self.me
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.session.lock().id()
    }

    fn stage(&self) -> Stage {
        // Written by this file only, from the enum.
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Open,
            1 => Stage::Closing,
            2 => Stage::Leaving,
            3 => Stage::Closed,
            _ => Stage::Lost,
        }
    }

    /// Why nothing can be acquired any more, where that is so.
    pub(crate) fn ending(&self) -> Option<AcquireError> {
        ending(self.stage())
    }

    /// Whether the session has ended, one way or the other.
    pub(crate) fn is_over(&self) -> bool {
        self.stage().is_over()
    }

    /// Counts a waiter in.
    pub(crate) fn enter(&self) -> Result<(), AcquireError> {
        if self.waiters.fetch_add(1, Ordering::Relaxed) < WAITERS_MAX {
            return Ok(());
        }
        self.leave();
        Err(AcquireError::Limit(format!("{WAITERS_MAX} users of this client wait already")))
    }

    /// Counts a waiter out.
    pub(crate) fn leave(&self) {
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Looks at the clock.
    pub(crate) fn on_time(&self) {
        let change = self.session.lock().on_time(Clocks::now());
        self.act_on(change);
    }

    /// A keep-alive was answered; true where it told of a revoke that was news.
    pub(crate) fn on_renewed(&self, renewed: Renewed) -> bool {
        let change = self.session.lock().on_renewed(renewed.stamp, Clocks::now());
        self.act_on(change);
        self.on_notices(renewed.notices)
    }

    fn act_on(&self, change: LeaseChange) {
        if change.suspended {
            tracing::warn!("the lease ran out before it was renewed: guards are invalid");
        }
        fate::on_lease_change(&mut { self }, change);
    }

    /// Takes notices in; true where a revoke was news.
    pub(crate) fn on_notices(&self, notices: Vec<Notice>) -> bool {
        fate::on_notices(&mut { self }, notices)
    }

    /// The outcomes of a submission, in its order.
    pub(crate) fn on_outcomes(&self, requests: Vec<Request>, outcomes: Vec<Outcome>) {
        if fate::on_outcomes(&mut { self }, requests, outcomes) == Err(SessionGone) {
            self.end(Stage::Lost);
        }
    }

    /// Puts all queued acquires up for being asked again.
    pub(crate) fn ask_queued_again(&self) {
        for cell in self.table.cells() {
            cell.look(|cache| fate::ask_again(cache, &mut self.outbox.lock()));
        }
    }

    /// Gives up what is cached for too long, or too much.
    pub(crate) fn sweep(&self) {
        self.table.forget_unknown();
        for cell in self.table.overdue(crate::clock::boot_ns(), self.limits) {
            cell.step(self, |cache, step| cache.evict(step));
        }
    }

    /// Ends the session on this side: guards die, waiters are told, the clerk stops.
    pub(crate) fn end(&self, stage: Stage) {
        let stage = self.stage().ended_as(stage);
        let before = self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        if before >= Stage::Closed as u8 {
            return;
        }
        if stage == Stage::Lost {
            tracing::error!("the session is lost, and its locks with it");
        }
        fate::end(&mut { self }, stage);
        self.recoverer.core.lock().on_over();
        self.recoverer.carry_out(&self.me);
        self.over.send_replace(true);
    }

    /// Flushes everything, then ends the session at the server.
    pub(crate) async fn close(&self) -> Result<(), CloseError> {
        if let Stage::Closed = self.flush_all().await? {
            return Ok(());
        }
        let session = self.session_id();
        let must_say_flushed = self.recoverer.is_required();
        let close = move |service: LockServiceClient| async move {
            match must_say_flushed {
                true => service.end(crate::dial::context(), session, SessionEnd::Flushed).await,
                false => service.close(crate::dial::context(), session).await,
            }
        };
        self.leave_server(close).await
    }

    /// Ends guards and waiters, flushes nothing, and ends the session at the server as an expiry would.
    pub(crate) async fn abandon_now(&self) -> Result<(), CloseError> {
        self.stage.fetch_max(Stage::Closing as u8, Ordering::SeqCst);
        match self.stage() {
            Stage::Closed => return Ok(()),
            Stage::Lost => return Err(CloseError::SessionLost),
            Stage::Open | Stage::Closing | Stage::Leaving => {}
        }
        fate::begin_close(&mut { self }, false);
        let session = self.session_id();
        let abandon = move |service: LockServiceClient| async move {
            service.end(crate::dial::context(), session, SessionEnd::Abandoned).await
        };
        self.leave_server(abandon).await
    }

    /// Asks the primary to end the session, then ends it on this side.
    async fn leave_server<Fut>(&self, ask: impl Fn(LockServiceClient) -> Fut) -> Result<(), CloseError>
    where
        Fut: Future<Output = Result<Result<(), Refusal>, RpcError>>,
    {
        self.stage.fetch_max(Stage::Leaving as u8, Ordering::SeqCst);
        let lease = self.session.lock().lease();
        let closed = self.call(lease, ask).await;
        let lost = self.ending() == Some(AcquireError::SessionLost);
        self.end(Stage::Closed);
        match closed {
            _ if lost => Err(CloseError::SessionLost),
            // Closed by the call, or known as gone while it was under way.
            Ok(()) | Err(QueryError::Closed) => Ok(()),
            Err(error) => Err(CloseError::Unconfirmed(error)),
        }
    }

    /// Begins the end: guards die, nothing new begins, everything is flushed. Closed where the session has been closed already.
    pub(crate) async fn flush_all(&self) -> Result<Stage, CloseError> {
        self.stage.fetch_max(Stage::Closing as u8, Ordering::SeqCst);
        match self.stage() {
            Stage::Closed => return Ok(Stage::Closed),
            Stage::Lost => return Err(CloseError::SessionLost),
            Stage::Open | Stage::Closing | Stage::Leaving => {}
        }
        fate::begin_close(&mut { self }, self.releaser.has_revoke_hook());
        let lease = self.session.lock().lease();
        if self.within(lease, self.all_flushed()).await.is_none() {
            let unflushed = self.unflushed();
            if let Some(first) = unflushed.first().cloned() {
                return Err(CloseError::Unflushed { count: unflushed.len(), first });
            }
        }
        Ok(self.stage())
    }

    async fn all_flushed(&self) {
        loop {
            let mut flushed = std::pin::pin!(Arc::clone(&self.flushed).notified_owned());
            flushed.as_mut().enable();
            if self.is_over() || self.unflushed().is_empty() {
                return;
            }
            flushed.await;
        }
    }

    fn unflushed(&self) -> Vec<String> {
        let flushing = self.table.cells().into_iter().filter(|cell| cell.look(|cache| cache.is_flushing()));
        flushing.map(|cell| cell.name().to_string()).collect()
    }

    /// Once every handle is gone: waits for the last guard, then closes.
    pub(crate) async fn close_when_unused(&self) {
        self.unused().await;
        if let Err(error) = self.close().await {
            tracing::warn!(%error, "the session of a dropped client was not closed in order");
            self.end(Stage::Closed);
        }
    }

    /// Waits until nobody has a lock or waits for one.
    pub(crate) async fn unused(&self) {
        let look = self.session.lock().lease() / 10;
        loop {
            let mut changed = std::pin::pin!(Arc::clone(&self.lease.changed).notified_owned());
            changed.as_mut().enable();
            if self.is_over() || !self.table.cells().iter().any(|cell| cell.look(|cache| cache.is_wanted())) {
                return;
            }
            let look = std::pin::pin!(self.sleep(look));
            select(changed, look).await;
        }
    }

    /// Asks the primary, whoever that is by then, until it answers or the time is up.
    pub(crate) async fn call<R, Fut>(
        &self,
        limit: Duration,
        ask: impl Fn(LockServiceClient) -> Fut,
    ) -> Result<R, QueryError>
    where
        Fut: Future<Output = Result<Result<R, Refusal>, RpcError>>,
    {
        let last = Mutex::new(None);
        let asking = async {
            let mut service = self.service.subscribe();
            loop {
                let Ok(current) = service.wait_for(Option::is_some).await.map(|current| current.clone()) else {
                    return Err(QueryError::Closed);
                };
                let Some(current) = current else { continue };
                let said = match ask(current).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Refusal::Invalid(reason))) => return Err(QueryError::Refused(reason)),
                    Ok(Err(Refusal::Denied(reason))) => return Err(QueryError::Denied(reason)),
                    Ok(Err(Refusal::SessionGone)) => return Err(QueryError::Closed),
                    Ok(Err(refusal)) => refusal.to_string(),
                    Err(error) => error.to_string(),
                };
                *last.lock() = Some(said);
                self.sleep(CALL_PAUSE).await;
            }
        };
        let mut over = self.over.subscribe();
        let over = async { drop(over.wait_for(|over| *over).await.map(|over| *over)) };
        let asking = std::pin::pin!(asking);
        let over = std::pin::pin!(over);
        match self.within(limit, select(asking, over)).await {
            Some(Either::Left((answer, _))) => answer,
            Some(Either::Right(_)) => Err(QueryError::Closed),
            None => Err(QueryError::NoPrimary { waited: limit, last: last.lock().clone() }),
        }
    }

    /// A timer of the clerk's runtime: works under any executor.
    pub(crate) fn sleep(&self, duration: Duration) -> tokio::time::Sleep {
        let _context = self.handle.enter();
        tokio::time::sleep(duration)
    }

    /// The future's result, or none after `limit`.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let future = std::pin::pin!(future);
        let sleep = std::pin::pin!(self.sleep(limit));
        match select(future, sleep).await {
            Either::Left((result, _)) => Some(result),
            Either::Right(_) => None,
        }
    }
}

impl Locks for &Shared {
    type Waiter = Reply;

    fn step<R>(
        &mut self,
        name: &LockName,
        make: bool,
        decide: impl FnOnce(&mut CachedLock<Reply>, &mut Step<'_, Reply>) -> R,
    ) -> Option<R> {
        // A lock name was checked when it was made, so a cell can be had.
        let made = || self.table.cell(name.as_str(), &self.me).ok();
        let cell = self.table.find(name.as_str()).or_else(|| make.then(made).flatten())?;
        Some(cell.step(self, decide))
    }

    fn step_all(&mut self, mut decide: impl FnMut(&mut CachedLock<Reply>, &mut Step<'_, Reply>)) {
        for cell in self.table.cells() {
            cell.step(self, &mut decide);
        }
    }

    fn end_epoch(&mut self) -> u64 {
        self.lease.end_epoch()
    }

    fn end_guards(&mut self) -> u64 {
        self.lease.end_guards()
    }

    fn extend(&mut self) {
        let session = self.session.lock();
        if session.is_live() {
            self.lease.extend(session.deadline_ns(), session.lead_max_ns());
        }
    }

    fn tell(&mut self, event: SessionEvent) {
        self.releaser.tell(event);
    }

    fn recover(&mut self, dead: DeadSession) {
        self.recoverer.core.lock().on_notice(crate::clock::boot_ns(), dead);
        self.recoverer.carry_out(&self.me);
        // The clerk has to know when it reports.
        self.work.notify_one();
    }
}
