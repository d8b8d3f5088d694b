//! What the handles, the guards, the clerk and the releaser of one session share, and how the session's fate reaches every lock.
//!
//! Order when a lease runs out: the lease's epoch ends first, so that no guard is valid and none can be made; then every
//! cell learns of it. Order when it is in force again: the lease first, then the cells, which may serve at once. Order at the
//! end: the flag first, then every cell; who puts a waiter in looks at the flag under the cell's mutex, so that either it
//! sees the flag or the visit finds the waiter.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};
use lock_protocol::{LockServiceClient, NOTICES_MAX, Notice, Opened, Outcome, Refusal, Renewed, Request, SessionId};
use parking_lot::Mutex;
use tarpc::client::RpcError;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::clock::Clocks;
use crate::error::{AcquireError, CloseError, QueryError};
use crate::lease::Lease;
use crate::outbox::Outbox;
use crate::releaser::{Releaser, SessionEvent};
use crate::session::{LeaseChange, Session};
use crate::table::{CacheLimits, Table};

/// Local waiters of one client at most, as the server's own limit for a session.
pub(crate) const WAITERS_MAX: usize = 65_536;
/// The pause before a call is tried again at the primary.
const CALL_PAUSE: Duration = Duration::from_millis(50);

/// How far the session's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Open = 0,
    /// Being closed: nothing new, but the lease is kept for the flushes.
    Closing = 1,
    /// Everything is flushed, and the server is asked to end the session.
    Leaving = 2,
    Closed = 3,
    Lost = 4,
}

/// One session of this process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lease: Arc<Lease>,
    pub(crate) table: Table,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) session: Mutex<Session>,
    pub(crate) releaser: Releaser,
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
    pub(crate) fn new(session: Session, releaser: Releaser, limits: CacheLimits, handle: Handle) -> Arc<Self> {
        let lease = Arc::new(Lease::default());
        lease.extend(session.deadline_ns(), session.lead_max_ns());
        Arc::new_cyclic(|me| Shared {
            table: Table::new(Arc::clone(&lease)),
            lease,
            outbox: Mutex::new(Outbox::new()),
            session: Mutex::new(session),
            releaser,
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

    /// Why nothing can be acquired any more, where that is so.
    pub(crate) fn ending(&self) -> Option<AcquireError> {
        match self.stage.load(Ordering::SeqCst) {
            stage if stage == Stage::Open as u8 => None,
            stage if stage == Stage::Lost as u8 => Some(AcquireError::SessionLost),
            _ => Some(AcquireError::Closed),
        }
    }

    /// Whether the session has ended, one way or the other.
    pub(crate) fn is_over(&self) -> bool {
        self.stage.load(Ordering::SeqCst) >= Stage::Closed as u8
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
            let epoch = self.lease.end_epoch();
            for cell in self.table.cells() {
                cell.suspend(epoch);
            }
            self.releaser.tell(SessionEvent::Suspended);
        }
        {
            let session = self.session.lock();
            if session.is_live() {
                self.lease.extend(session.deadline_ns(), session.lead_max_ns());
            }
        }
        if change.resumed {
            self.lease.changed.notify_waiters();
            for cell in self.table.cells() {
                cell.resume(self);
            }
            self.releaser.tell(SessionEvent::Resumed);
        }
    }

    /// Takes notices in; true where a revoke was news.
    pub(crate) fn on_notices(&self, notices: Vec<Notice>) -> bool {
        let mut news = false;
        for notice in notices.into_iter().take(NOTICES_MAX) {
            match notice {
                Notice::Revoke { name, token, target } => {
                    // The name was checked when it was decoded, so a cell can be had.
                    if let Ok(cell) = self.table.cell(name.as_str(), &self.me) {
                        news |= cell.step(self, |cache, step| cache.on_revoke(token, target, step));
                    }
                }
                // As a revoke: the release that it leads to is the confirmation.
                Notice::Forced { name, token } => {
                    if let Ok(cell) = self.table.cell(name.as_str(), &self.me) {
                        news |= cell.step(self, |cache, step| cache.on_revoke(token, None, step));
                    }
                }
                Notice::Granted { name, acquire, token, others_waiting } => {
                    if let Some(cell) = self.table.find(name.as_str()) {
                        cell.step(self, |cache, step| cache.on_granted(acquire, token, others_waiting, step));
                    }
                }
            }
        }
        news
    }

    /// The outcomes of a submission, in its order.
    pub(crate) fn on_outcomes(&self, requests: Vec<Request>, outcomes: Vec<Outcome>) {
        for (request, outcome) in requests.into_iter().zip(outcomes) {
            if outcome == Outcome::SessionGone {
                return self.end(Stage::Lost);
            }
            if let Some(cell) = self.table.find(request.command.name().as_str()) {
                cell.on_outcome(self, request.number, outcome);
            }
        }
    }

    /// Puts all queued acquires up for being asked again.
    pub(crate) fn ask_queued_again(&self) {
        for cell in self.table.cells() {
            if let Some((number, mode)) = cell.look(|cache| cache.queued()) {
                self.outbox.lock().ask_again(number, cell.name().clone(), mode);
            }
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
        // An answer that overtakes that to the close, or comes after it: the session is gone because it was closed.
        let leaving = self.stage.load(Ordering::SeqCst) == Stage::Leaving as u8;
        let stage = if leaving && stage == Stage::Lost { Stage::Closed } else { stage };
        let before = self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        if before >= Stage::Closed as u8 {
            return;
        }
        let epoch = self.lease.end_epoch();
        let error = self.ending().unwrap_or(AcquireError::Closed);
        for cell in self.table.cells() {
            cell.close(self, epoch, false, &error);
        }
        if stage == Stage::Lost {
            tracing::error!("the session is lost, and its locks with it");
            self.releaser.tell(SessionEvent::Lost);
        }
        self.over.send_replace(true);
    }

    /// Flushes everything, then ends the session at the server.
    pub(crate) async fn close(&self) -> Result<(), CloseError> {
        self.stage.fetch_max(Stage::Closing as u8, Ordering::SeqCst);
        match self.stage.load(Ordering::SeqCst) {
            stage if stage == Stage::Closed as u8 => return Ok(()),
            stage if stage == Stage::Lost as u8 => return Err(CloseError::SessionLost),
            _ => {}
        }
        let epoch = self.lease.end_guards();
        let flushes = self.releaser.has_revoke_hook();
        for cell in self.table.cells() {
            cell.close(self, epoch, flushes, &AcquireError::Closed);
        }
        let lease = self.session.lock().lease();
        if self.within(lease, self.all_flushed()).await.is_none() {
            let unflushed = self.unflushed();
            if let Some(first) = unflushed.first().cloned() {
                return Err(CloseError::Unflushed { count: unflushed.len(), first });
            }
        }
        self.stage.fetch_max(Stage::Leaving as u8, Ordering::SeqCst);
        let session = self.session_id();
        let closed = self
            .call(lease, move |service: LockServiceClient| async move {
                service.close(crate::dial::context(), session).await
            })
            .await;
        let lost = self.ending() == Some(AcquireError::SessionLost);
        self.end(Stage::Closed);
        match closed {
            _ if lost => Err(CloseError::SessionLost),
            // Closed by the call, or known as gone while it was under way.
            Ok(()) | Err(QueryError::Closed) => Ok(()),
            Err(error) => Err(CloseError::Unconfirmed(error)),
        }
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
        let look = self.session.lock().lease() / 10;
        loop {
            let mut changed = std::pin::pin!(Arc::clone(&self.lease.changed).notified_owned());
            changed.as_mut().enable();
            if self.is_over() || !self.table.cells().iter().any(|cell| cell.look(|cache| cache.is_wanted())) {
                break;
            }
            let look = std::pin::pin!(self.sleep(look));
            select(changed, look).await;
        }
        if let Err(error) = self.close().await {
            tracing::warn!(%error, "the session of a dropped client was not closed in order");
            self.end(Stage::Closed);
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

/// The session of an answer to an open, where it makes sense and is still in force.
pub(crate) fn session_of(opened: Opened, first_sent: Clocks) -> Result<Session, String> {
    let Some(session) = Session::opened(opened, first_sent) else {
        return Err(format!("it opened a session with a lease of {} ms", opened.lease_ms));
    };
    if session.deadline_ns() <= Clocks::now().boot_ns {
        return Err("it opened the session after its lease had run out".to_owned());
    }
    Ok(session)
}
