//! A session with all its locks, for a shell of one thread: events in, effects out.
//!
//! It decides with the same functions as the shell of many threads ([`crate::LockClient`]); it only keeps the parts in one
//! place instead of one mutex each. So what a simulator finds of it holds for the client, except what lies in the
//! interleaving of threads, which has a checker of its own.
//!
//! Each event begins with a look at the clock: a lease that ran out meanwhile is suspended before anything else happens, as the
//! other shell's guards and cells do by comparing the time with the deadline themselves. Each ends with the sending of what may be sent.

mod effect;
mod held;
mod sets;

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::{
    FencingToken, LockName, Mode, Notice, Outcome, RecoveryAnswer, RecoveryReport, RecoveryToken, Refusal, Renewed,
    Request, SessionId, Submission,
};
use wire::Endpoint;

use crate::cache::{CachedLock, Grant, Upgrade, WaiterId};
use crate::clock::Clocks;
use crate::error::AcquireError;
use crate::exchange::{Departure, Exchange};
use crate::fate::{self, CacheLimits, Locks, SessionGone, Stage};
use crate::outbox::{BatchId, Outbox};
use crate::recovery::Recoveries;
use crate::route::{DIAL_TIMEOUT_MAX, Route};
use crate::session::Session;
use crate::shared::WAITERS_MAX;
pub use effect::{Acquired, LinkId, SessionEffect};
use held::Held;

#[derive(Debug)]
enum Connection {
    Dialling,
    Up(Exchange),
}

/// A session with all its locks; `W` is what the shell knows a waiter by.
#[derive(Debug)]
pub struct LockSession<W> {
    held: Held<W>,
    route: Route,
    limits: CacheLimits,
    endpoint: Endpoint,
    link: LinkId,
    connection: Connection,
    in_flight: BTreeMap<BatchId, Vec<Request>>,
    close_asked: bool,
    next_set: u64,
}

impl<W> LockSession<W> {
    /// A session that `endpoint` has just opened; its first effect dials there. `flushes` says whether the owner has a hook
    /// that flushes.
    pub fn new(session: Session, endpoint: Endpoint, route: Route, limits: CacheLimits, flushes: bool) -> Self {
        let link = LinkId(1);
        let dial = SessionEffect::Dial {
            link,
            endpoint: endpoint.clone(),
            pause: Duration::ZERO,
            timeout: route.dial_timeout(session.lease()),
        };
        let held = Held {
            now_ns: 0,
            in_force: session.is_live(),
            session,
            outbox: Outbox::new(),
            locks: BTreeMap::new(),
            sets: BTreeMap::new(),
            epoch: 0,
            stage: Stage::Open,
            flushes,
            waiters: 0,
            recoveries: Recoveries::default(),
            effects: vec![dial],
        };
        let connection = Connection::Dialling;
        let in_flight = BTreeMap::new();
        LockSession { held, route, limits, endpoint, link, connection, in_flight, close_asked: false, next_set: 0 }
    }

    /// What is to be done since the last call; to be asked after each event.
    pub fn take_effects(&mut self) -> Vec<SessionEffect<W>> {
        std::mem::take(&mut self.held.effects)
    }

    /// A local user wants a lock.
    ///
    /// # Errors
    /// The session is over or being closed, or too many wait.
    pub fn acquire(&mut self, now: Clocks, name: &LockName, mode: Mode, waiter: W) -> Result<Acquired, AcquireError> {
        self.begin(now);
        if let Some(error) = ending(self.held.stage) {
            return Err(error);
        }
        let (epoch, in_force) = (self.held.epoch, self.held.in_force);
        if in_force
            && let Some(lock) = self.held.locks.get_mut(name)
            && let Some(token) = lock.start_cached(mode, epoch, now.boot_ns)
        {
            return Ok(Acquired::Had(Grant { token, mode, epoch }));
        }
        if self.held.waiters >= WAITERS_MAX {
            return Err(AcquireError::Limit(format!("{WAITERS_MAX} users of this client wait already")));
        }
        self.held.waiters += 1;
        let waits = self.held.step(name, true, |lock, step| lock.wait(mode, waiter, step));
        self.finish(now);
        waits.map(Acquired::Waits).ok_or(AcquireError::Closed)
    }

    /// A waiter withdraws its wish; false where it was served or failed already.
    pub fn leave(&mut self, now: Clocks, name: &LockName, waiter: WaiterId) -> bool {
        self.begin(now);
        if self.held.stage.is_over() {
            return false;
        }
        self.held.forget_set_of(name, waiter);
        let left = self.held.step(name, false, |lock, step| lock.leave(waiter, step)).unwrap_or(false);
        self.held.waiters -= usize::from(left);
        self.finish(now);
        left
    }

    /// An exclusive guard's mode is lowered; its grant from now on.
    pub fn downgrade(&mut self, now: Clocks, name: &LockName, grant: Grant) -> Grant {
        self.begin(now);
        let lowered = self.held.step(name, false, |lock, step| lock.downgrade(grant, step));
        self.finish(now);
        lowered.unwrap_or(Grant { mode: Mode::Shared, ..grant })
    }

    /// A shared guard wants to be exclusive.
    pub fn upgrade(&mut self, now: Clocks, name: &LockName, grant: Grant, waiter: W) -> Upgrade {
        self.begin(now);
        let is_over = ending(self.held.stage).is_some();
        let upgrade = self.held.step(name, false, |lock, step| match is_over {
            true => Upgrade::Refused,
            false => lock.upgrade(grant, waiter, step),
        });
        let upgrade = upgrade.unwrap_or(Upgrade::Refused);
        self.held.waiters += usize::from(matches!(upgrade, Upgrade::Waits(_)));
        self.finish(now);
        upgrade
    }

    /// A guard's end, dead or alive.
    pub fn end_guard(&mut self, now: Clocks, name: &LockName, grant: Grant) {
        self.begin(now);
        let over = self.held.stage.is_over();
        let done = self.held.locks.get_mut(name).is_none_or(|lock| lock.end_cached(grant.epoch, grant.token));
        if !done && !over {
            self.held.step(name, false, CachedLock::settle);
        }
        self.finish(now);
    }

    /// The owner's hook succeeded.
    pub fn on_flushed(&mut self, now: Clocks, name: &LockName, token: FencingToken) {
        self.begin(now);
        if !self.held.stage.is_over() {
            self.held.step(name, false, |lock, step| lock.on_flushed(token, step));
        }
        self.finish(now);
    }

    /// Both connections stand.
    pub fn on_connected(&mut self, now: Clocks, link: LinkId) {
        self.begin(now);
        if link != self.link {
            return;
        }
        let exchange = Exchange::new(now.boot_ns, &mut self.held.session, &mut self.held.outbox);
        self.connection = Connection::Up(exchange);
        self.in_flight.clear();
        self.close_asked = false;
        self.held.recoveries.on_connected();
        self.held.ask_again();
        self.finish(now);
    }

    /// A connection could not be made, or has ended.
    pub fn on_disconnected(&mut self, now: Clocks, link: LinkId, answer: impl Into<String>) {
        self.begin(now);
        if link == self.link {
            self.depart(Departure::elsewhere(answer));
        }
        self.finish(now);
    }

    /// The server did not take the callback connection; `refusal` is how it then refused a keep-alive, where it did.
    pub fn on_callback_refused(
        &mut self,
        now: Clocks,
        link: LinkId,
        refusal: Option<Refusal>,
        answer: impl Into<String>,
    ) {
        self.begin(now);
        if link == self.link {
            self.depart(Departure::callback_refused(refusal, answer.into()));
        }
        self.finish(now);
    }

    /// Notices came on the callback connection.
    pub fn on_notices(&mut self, now: Clocks, notices: Vec<Notice>) {
        self.begin(now);
        if self.held.stage.is_over() {
            return;
        }
        if let Connection::Up(exchange) = &mut self.connection {
            exchange.on_callback_heard();
        }
        fate::on_notices(&mut self.held, notices);
        self.finish(now);
    }

    /// The answer to a submission.
    pub fn on_submitted(&mut self, now: Clocks, link: LinkId, batch: BatchId, answer: Result<Vec<Outcome>, Refusal>) {
        self.begin(now);
        if link == self.link
            && let Connection::Up(exchange) = &mut self.connection
            && let Some(requests) = self.in_flight.remove(&batch)
        {
            let asked = (batch, requests.len());
            let outbox = &mut self.held.outbox;
            match exchange.on_submitted(asked, answer, now.boot_ns, outbox, &mut self.route) {
                Ok(outcomes) => {
                    if fate::on_outcomes(&mut self.held, requests, outcomes) == Err(SessionGone) {
                        self.end(Stage::Lost);
                    }
                }
                Err(departure) => self.depart(departure),
            }
        }
        self.finish(now);
    }

    /// The answer to a keep-alive.
    pub fn on_kept_alive(&mut self, now: Clocks, link: LinkId, answer: Result<Renewed, Refusal>) {
        self.begin(now);
        if link == self.link
            && let Connection::Up(exchange) = &mut self.connection
        {
            match answer {
                Ok(renewed) => {
                    exchange.on_kept_alive(&mut self.route);
                    let change = self.held.session.on_renewed(renewed.stamp, now);
                    fate::on_lease_change(&mut self.held, change);
                    if fate::on_notices(&mut self.held, renewed.notices) {
                        exchange.on_revoke_news(now.boot_ns);
                    }
                }
                Err(refusal) => {
                    if let Err(departure) = exchange.on_keep_alive_refused(refusal, now.boot_ns) {
                        self.depart(departure);
                    }
                }
            }
        }
        self.finish(now);
    }

    /// The owner's hook for a dead session has ended.
    pub fn on_hook_ended(&mut self, now: Clocks, dead: SessionId, token: RecoveryToken, is_recovered: bool) {
        self.begin(now);
        self.held.recoveries.on_hook_ended(dead, token, is_recovered);
        self.finish(now);
    }

    /// The answer to a report on a recovery.
    pub fn on_reported(
        &mut self,
        now: Clocks,
        link: LinkId,
        report: &RecoveryReport,
        answer: Result<RecoveryAnswer, Refusal>,
    ) {
        self.begin(now);
        if link == self.link
            && let Connection::Up(exchange) = &mut self.connection
        {
            self.held.recoveries.on_answer(report, answer.as_ref().ok().copied());
            if let Err(refusal) = answer
                && let Err(departure) = exchange.on_report_refused(refusal, now.boot_ns)
            {
                self.depart(departure);
            }
        }
        self.finish(now);
    }

    /// Time went by.
    pub fn on_time(&mut self, now: Clocks) {
        self.begin(now);
        self.finish(now);
    }

    /// When [`LockSession::on_time`] is to be called at the latest, boot time, ns; may have passed already.
    pub fn next_ns(&self) -> Option<u64> {
        if self.held.stage.is_over() {
            return None;
        }
        let deadline = self.held.session.is_live().then(|| self.held.session.deadline_ns());
        let exchange = match &self.connection {
            Connection::Up(exchange) => Some(exchange.next_ns(self.held.now_ns, &self.held.session)),
            Connection::Dialling => None,
        };
        let report = exchange.and_then(|_| self.held.recoveries.next_ns());
        deadline.into_iter().chain(exchange).chain(report).min()
    }

    /// Guards die, waiters fail, everything is flushed, and then the session is ended at the server. The shell gives up waiting
    /// with [`LockSession::abandon`].
    pub fn close(&mut self, now: Clocks) {
        self.begin(now);
        if self.held.stage == Stage::Open {
            self.held.stage = Stage::Closing;
            let flushes = self.held.flushes;
            fate::begin_close(&mut self.held, flushes);
        }
        self.finish(now);
    }

    /// The server's answer to a close.
    pub fn on_closed(&mut self, now: Clocks, link: LinkId, answer: Result<(), Refusal>) {
        self.begin(now);
        if link == self.link && self.held.stage == Stage::Leaving {
            match answer {
                Ok(()) | Err(Refusal::SessionGone) => self.end(Stage::Closed),
                Err(Refusal::NotPrimary { hint }) => {
                    self.depart(Departure::Elsewhere { answer: "not the primary".into(), hint });
                }
                Err(refusal) => self.depart(Departure::elsewhere(refusal.to_string())),
            }
        }
        self.finish(now);
    }

    /// Ends the session like a crash: nothing is flushed, and the locks are free when the lease has run out.
    pub fn abandon(&mut self, now: Clocks) {
        self.begin(now);
        self.end(Stage::Closed);
    }

    /// For how long a guard is valid from now on; zero once it is not, and then for good. To be asked with the
    /// clock of the moment at which it is used, without an event before.
    pub fn valid_for(&self, name: &LockName, grant: Grant, now: Clocks) -> Duration {
        if self.held.locks.get(name).is_some_and(|lock| grant.token <= lock.forced()) {
            return Duration::ZERO;
        }
        if grant.epoch == self.held.epoch { self.lease_left(now) } else { Duration::ZERO }
    }

    /// For how long the lease is in force from now on, as a guard counts it that is made now.
    pub fn lease_left(&self, now: Clocks) -> Duration {
        let (session, epoch) = (&self.held.session, self.held.epoch);
        let deadline_ns = if self.held.in_force { session.deadline_ns() } else { 0 };
        crate::lease::valid_for(epoch, epoch, deadline_ns, session.lead_max_ns(), now)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.held.session.id()
    }

    /// How far its end has come.
    pub fn stage(&self) -> Stage {
        self.held.stage
    }

    /// Local waiters without an answer.
    pub fn waiters(&self) -> usize {
        self.held.waiters
    }

    /// The locks that it knows, by name.
    pub fn locks(&self) -> impl Iterator<Item = &CachedLock<W>> {
        self.held.locks.values()
    }

    fn begin(&mut self, now: Clocks) {
        self.held.now_ns = now.boot_ns;
        if !self.held.stage.is_over() {
            let change = self.held.session.on_time(now);
            fate::on_lease_change(&mut self.held, change);
        }
    }

    fn finish(&mut self, now: Clocks) {
        if self.held.stage.is_over() {
            return;
        }
        if self.held.stage == Stage::Closing && !self.held.locks.values().any(CachedLock::is_flushing) {
            self.held.stage = Stage::Leaving;
        }
        let full = self.held.locks.len() > self.limits.locks;
        let Connection::Up(exchange) = &mut self.connection else { return };
        match exchange.due(now, &mut self.held.session, full) {
            Err(departure) => return self.depart(departure),
            Ok(due) => {
                if due.ask_again {
                    self.held.ask_again();
                }
                if due.sweep {
                    self.held.sweep(self.limits);
                }
                if due.callback {
                    let effect = SessionEffect::DialCallback {
                        link: self.link,
                        endpoint: self.endpoint.clone(),
                        timeout: DIAL_TIMEOUT_MAX,
                    };
                    self.held.effects.push(effect);
                }
            }
        }
        self.send(now);
        self.held.effects.extend(self.held.recoveries.take_effects().into_iter().map(SessionEffect::Recover));
    }

    fn send(&mut self, now: Clocks) {
        let (link, session) = (self.link, self.held.session.id());
        let Connection::Up(exchange) = &mut self.connection else { return };
        while let Some(batch) = exchange.submission(now.boot_ns, &mut self.held.outbox) {
            let submission = Submission { session, floor: batch.floor, requests: batch.requests.clone() };
            self.held.effects.push(SessionEffect::Submit { link, batch: batch.id, submission });
            self.in_flight.insert(batch.id, batch.requests);
        }
        let floor = self.held.outbox.floor();
        if let Some(keep_alive) = exchange.keep_alive(now, &mut self.held.session, floor) {
            self.held.effects.push(SessionEffect::KeepAlive { link, keep_alive });
        }
        while let Some(report) = self.held.recoveries.report(now.boot_ns, session) {
            self.held.effects.push(SessionEffect::Report { link, report });
        }
        if self.held.stage == Stage::Leaving && !self.close_asked {
            self.close_asked = true;
            self.held.effects.push(SessionEffect::Close { link });
        }
    }

    fn depart(&mut self, departure: Departure) {
        let Departure::Elsewhere { answer, hint } = departure else { return self.end(Stage::Lost) };
        self.held.effects.push(SessionEffect::Disconnect { link: self.link });
        self.route.on_failure(&self.endpoint, answer, hint.as_deref());
        let (endpoint, pause) = self.route.next_server();
        self.link.0 += 1;
        self.connection = Connection::Dialling;
        let timeout = self.route.dial_timeout(self.held.session.lease());
        self.held.effects.push(SessionEffect::Dial { link: self.link, endpoint: endpoint.clone(), pause, timeout });
        self.endpoint = endpoint;
    }

    fn end(&mut self, stage: Stage) {
        if self.held.stage.is_over() {
            return;
        }
        self.held.stage = self.held.stage.ended_as(stage);
        let stage = self.held.stage;
        fate::end(&mut self.held, stage);
        self.held.recoveries.on_over();
        self.held.effects.extend(self.held.recoveries.take_effects().into_iter().map(SessionEffect::Recover));
        self.held.effects.push(SessionEffect::Disconnect { link: self.link });
        // So that no event of the connection counts any longer.
        self.link.0 += 1;
        self.held.effects.push(SessionEffect::Over(stage));
    }
}

/// Why nothing can be acquired any more, where that is so.
pub(crate) fn ending(stage: Stage) -> Option<AcquireError> {
    match stage {
        Stage::Open => None,
        Stage::Lost => Some(AcquireError::SessionLost),
        Stage::Closing | Stage::Leaving | Stage::Closed => Some(AcquireError::Closed),
    }
}

#[cfg(test)]
pub(crate) mod scenarios;
