//! How what befalls a session reaches its locks: a core without clock or IO, over whatever a shell keeps its locks in.
//!
//! Order when a lease runs out: the epoch ends first, so that no guard is valid and none can be made; then every
//! lock learns of it. Order when it is in force again: the lease first, then the locks, which may serve at once.

use lock_protocol::{DeadSession, LockName, NOTICES_MAX, Notice, Outcome, Request};

use crate::cache::{CachedLock, Step};
use crate::mutant::{self, Mutant};
use crate::outbox::Outbox;
use crate::session::LeaseChange;

/// How far a session's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// In use.
    Open = 0,
    /// Being closed: nothing new, but the lease is kept for the flushes.
    Closing = 1,
    /// Everything is flushed, and the server is asked to end the session.
    Leaving = 2,
    /// It was closed or abandoned.
    Closed = 3,
    /// The server ended it.
    Lost = 4,
}

impl Stage {
    /// As what it ends here. An answer that overtakes that to the close, or comes after it: the session is gone because it
    /// was closed.
    pub fn ended_as(self, stage: Stage) -> Stage {
        if self == Stage::Leaving && stage == Stage::Lost { Stage::Closed } else { stage }
    }

    /// Whether the session has ended, one way or the other.
    pub fn is_over(self) -> bool {
        self >= Stage::Closed
    }
}

/// What the session's owner may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The lease ran out: all guards are invalid, no new ones are given.
    Suspended,
    /// It is in force again, with the cached locks.
    Resumed,
    /// The server ended it: what was not flushed is lost.
    Lost,
}

/// The locks of a session, and what their guards look at, as a shell keeps them.
pub trait Locks {
    /// What a local waiter is known by.
    type Waiter;

    /// Lets the lock of that name decide something, and carries it out. A lock that the client does not know is made where
    /// `make` is set; none where there is none.
    fn step<R>(
        &mut self,
        name: &LockName,
        make: bool,
        decide: impl FnOnce(&mut CachedLock<Self::Waiter>, &mut Step<'_, Self::Waiter>) -> R,
    ) -> Option<R>;

    /// The same for every lock that the client knows.
    fn step_all(&mut self, decide: impl FnMut(&mut CachedLock<Self::Waiter>, &mut Step<'_, Self::Waiter>));

    /// Every guard becomes invalid, for good, and none can be made; returns the new epoch.
    fn end_epoch(&mut self) -> u64;

    /// Every guard becomes invalid, while the lease stays in force for the flushes of a close; returns the new epoch.
    fn end_guards(&mut self) -> u64;

    /// While the session is live, guards of this epoch are valid until its deadline.
    fn extend(&mut self);

    /// Tells the owner; called after the locks know.
    fn tell(&mut self, event: SessionEvent);

    /// The session is to recover a dead one.
    fn recover(&mut self, dead: DeadSession);
}

/// What an event did to the lease reaches guards and locks.
pub fn on_lease_change(locks: &mut impl Locks, change: LeaseChange) {
    if change.suspended && !mutant::is(Mutant::ResumeRevivesGuards) {
        let epoch = locks.end_epoch();
        locks.step_all(|lock, _| lock.suspend(epoch));
        locks.tell(SessionEvent::Suspended);
    }
    locks.extend();
    if change.resumed {
        locks.step_all(CachedLock::settle);
        locks.tell(SessionEvent::Resumed);
    }
}

/// The session is being closed: guards die, waiters are told, and what was used is flushed where the owner `flushes`.
pub fn begin_close(locks: &mut impl Locks, flushes: bool) {
    let epoch = locks.end_guards();
    locks.step_all(|lock, step| lock.close(epoch, flushes, step));
}

/// The session ends on this side: guards die, waiters are told, and what is not flushed stays so.
pub fn end(locks: &mut impl Locks, stage: Stage) {
    let epoch = locks.end_epoch();
    locks.step_all(|lock, step| lock.close(epoch, false, step));
    if stage == Stage::Lost {
        locks.tell(SessionEvent::Lost);
    }
}

/// Takes notices in; true where a revoke was news.
pub fn on_notices(locks: &mut impl Locks, notices: Vec<Notice>) -> bool {
    let mut news = false;
    for notice in notices.into_iter().take(NOTICES_MAX) {
        match notice {
            // Made, because a tenure that the client does not know has to be given back (M12).
            Notice::Revoke { name, token, target } => {
                let revoked = locks.step(&name, true, |lock, step| lock.on_revoke(token, target, step));
                news |= revoked.unwrap_or(false);
            }
            // Made, because it has to be confirmed in any case. It travels with keep-alives only, so it says nothing of the
            // callback connection.
            Notice::Forced { name, token } => {
                locks.step(&name, true, |lock, step| lock.on_forced(token, step));
            }
            Notice::Recover(dead) => locks.recover(dead),
            Notice::Granted { name, acquire, token, others_waiting } => {
                locks.step(&name, false, |lock, step| lock.on_granted(acquire, token, others_waiting, step));
            }
        }
    }
    news
}

/// The session has ended at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionGone;

/// The outcomes of a submission, in its order.
///
/// # Errors
/// One of them says that the session has ended; the rest is not looked at.
pub fn on_outcomes(locks: &mut impl Locks, requests: Vec<Request>, outcomes: Vec<Outcome>) -> Result<(), SessionGone> {
    for (request, outcome) in requests.into_iter().zip(outcomes) {
        if outcome == Outcome::SessionGone {
            return Err(SessionGone);
        }
        let number = request.number;
        for name in request.command.names() {
            locks.step(name, false, |lock, step| lock.on_outcome(number, outcome.clone(), step));
        }
    }
    Ok(())
}

/// Puts a lock's queued acquire, where it has one, up for being asked again.
pub fn ask_again<W>(lock: &CachedLock<W>, outbox: &mut Outbox) {
    if let Some((number, mode)) = lock.queued() {
        outbox.ask_again(number, lock.name().clone(), mode);
    }
}

/// What a cache may hold.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Locks cached at most.
    pub locks: usize,
    /// Idle for longer than this, ns: given up.
    pub idle_ns: u64,
}

impl CacheLimits {
    /// Which of the idle locks (each with the time of its last use, boot time, ns) should be given up: those idle for too
    /// long, and as many of those idle the longest as `count` locks are over the limit (and a twentieth more, so that the
    /// next new lock does not start the search again).
    pub fn overdue<T>(self, mut idle: Vec<(u64, T)>, count: usize, now_ns: u64) -> Vec<T> {
        let over = if count > self.locks { count - self.locks + self.locks / 20 } else { 0 };
        idle.sort_by_key(|(used_ns, _)| *used_ns);
        let too_long = idle.partition_point(|(used_ns, _)| now_ns.saturating_sub(*used_ns) > self.idle_ns);
        idle.truncate(over.max(too_long));
        idle.into_iter().map(|(_, lock)| lock).collect()
    }
}
