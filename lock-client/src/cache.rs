//! One lock as the client knows it: a core that decides, for its shell to act on.
//!
//! ```text
//!                 a user waits                    Granted (answer, notice, or asked again)
//!    Unknown ───────────────────▶ Asking ─────────────────────────────────────────▶ Held
//!      ▲  ▲                       │   ▲                                            │   ▲
//!      │  │   nobody waits any    │   │ Released{Queued}                    revoke,│   │ Downgraded
//!      │  │   longer              ▼   │                             hint, upgrade, │   │
//!      │  └─────────────── Cancelling │                             idle too long: │   │
//!      │    both answered             │                                  *yielding*│   │
//!      │                              │                                            ▼   │
//!      └──────────────────────── Releasing ◀──── flushed, to nothing ────────── Flushing
//!             Released, NotHeld       ▲                                            │
//!                                     │                      flushed, to shared    ▼
//!                                     └── nobody's users ◀─────────────────── Downgrading
//! ```
//! Several locks that a user wants at once go from Unknown to *Gathering*, each for itself, and then to Asking together.
//! *Held* is free (cached) or has local users: one exclusive, or any number of shared ones; while it *yields* it still
//! serves the local users that it owes a turn. Its only shared user may have it *Upgrading*, and Held again by the answer.
//!
//! # Why it is right
//!
//! - **One at a time (M13).** A request about the lock leaves only from a state in which none is unanswered, except `Cancel`,
//!   which leaves only from Asking. An answer counts only if its number is the one that the state waits for, so late,
//!   repeated and swapped answers change nothing.
//! - **A tenure is used only while Held**, which is entered by a grant of the current acquire and left before the release
//!   or the downgrade is sent; so no answer or notice can bring a tenure back that was given up.
//! - **A revoke names a tenure (M12).** For the one that is held it starts the yielding. One for another is remembered while a
//!   grant may be under way (the notice or the answer may come later), and is answered with a release where none can be.
//! - **A tenure that an operator ended by force is dead at once (M23)**: it is neither used nor flushed any more, its guards are
//!   invalid, and a release confirms it. Tokens of one name grow, so one number says which tenures that concerns.
//! - **Shared users may stay through a downgrade.** The flush before it is for what an exclusive one wrote, and none is there; whoever reads
//!   then reads beside the readers elsewhere for whom the downgrade is made.
//! - **Nobody starves (M14).** Waiters are served in their order, a waiting exclusive stops later shared ones. Once yielding,
//!   only waiters who were there at that moment are served, at most [`YIELD_STARTS_MAX`] within [`YIELD_STARTS_NS`]; the first
//!   after a grant in any case, so a hot lock is used at each hand-over. The rest waits for the requeue that the release
//!   carries.

mod answers;
mod mode_change;
mod notices;
mod sets;

use std::collections::VecDeque;

use lock_protocol::{Command, FencingToken, LockName, Mode, RequestNumber};

use crate::error::AcquireError;
use crate::mutant::{self, Mutant};
use crate::outbox::Outbox;
pub use sets::SetId;

/// The most local users that a lock serves once others wait for it: amortises the hand-over, and bounds the wait.
pub const YIELD_STARTS_MAX: u32 = 16;
/// For how long it starts them, ns.
pub const YIELD_STARTS_NS: u64 = 5_000_000;

/// A local waiter, counted within the lock in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(u64);

/// What a served user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Of the session's tenure.
    pub token: FencingToken,
    /// As the user asked; the session's tenure may be more.
    pub mode: Mode,
    /// In which the guard lives; see [`CachedLock::suspend`].
    pub epoch: u64,
}

/// What became of a wish to upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The user has it exclusively.
    Had(Grant),
    /// Others have the lock or wait for it, or the lease is not in force: the user has what it had.
    Refused,
    /// The server is asked. The waiter takes the user's place, and is served in any case: with an exclusive grant, or with the one it had.
    Waits(WaiterId),
}

/// What the shell has to do, in this order. Requests go into the [`Outbox`] directly.
#[derive(Debug)]
pub enum Effect<W> {
    /// Tell the waiter that it has the lock.
    Serve {
        /// Whom.
        waiter: W,
        /// What it has.
        grant: Grant,
    },
    /// Tell the waiter that the server refuses.
    Refuse {
        /// Whom.
        waiter: W,
        /// Why: a limit, or the rules of access.
        error: AcquireError,
    },
    /// The set has its turn at this lock. When it has it at all of its locks ([`CachedLock::is_gathered`]): ask for all of them in one
    /// request, and tell each by [`CachedLock::asked`], all in one step.
    Ready {
        /// Which.
        set: SetId,
    },
    /// Tell the waiter that its set is of no use any more: it leaves its other locks, and begins anew.
    Dissolve {
        /// Whom.
        waiter: W,
    },
    /// Tell the waiter that the session has ended, or is being closed.
    End {
        /// Whom.
        waiter: W,
    },
    /// Run the owner's hook, then call [`CachedLock::on_flushed`].
    Flush {
        /// As the session holds it.
        from: Mode,
        /// What it keeps: nothing, or shared.
        to: Option<Mode>,
        /// Of the tenure.
        token: FencingToken,
    },
}

/// What an event may read and write apart from the lock itself.
#[derive(Debug)]
pub struct Step<'a, W> {
    /// Boot time, ns.
    pub now_ns: u64,
    /// Whether the lease is in force: without it nobody is served and nothing is flushed.
    pub live: bool,
    /// Takes the requests.
    pub outbox: &'a mut Outbox,
    /// Takes the effects.
    pub effects: &'a mut Vec<Effect<W>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenure {
    token: FencingToken,
    mode: Mode,
    /// Whether anybody has used it: an unused one has nothing to flush.
    used: bool,
}

/// Whom a lock still serves that is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Yielding {
    /// What may be kept.
    to: Option<Mode>,
    /// Later waiters wait for the requeue.
    last_waiter: WaiterId,
    starts_left: u32,
    starts_until_ns: u64,
    /// The waiter for whom the lock was asked has its turn, however late it is.
    owes_first: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Gathering { set: SetId },
    Asking { number: RequestNumber, mode: Mode, queued: bool },
    Cancelling { acquire: Option<RequestNumber>, cancel: Option<RequestNumber> },
    Held { tenure: Tenure, yielding: Option<Yielding> },
    Flushing { tenure: Tenure, to: Option<Mode>, revoked: bool },
    Releasing { number: RequestNumber, token: FencingToken, requeue: Option<Mode> },
    Downgrading { number: RequestNumber, tenure: Tenure, revoked: bool },
    Upgrading { number: RequestNumber, tenure: Tenure, revoked: bool },
}

#[derive(Debug)]
struct Upgrader<W> {
    id: WaiterId,
    /// As it was before.
    grant: Grant,
    waiter: W,
}

#[derive(Debug)]
struct LocalWaiter<W> {
    id: WaiterId,
    mode: Mode,
    /// It wants other locks with it.
    set: Option<SetId>,
    waiter: W,
}

/// A lock in the client's cache; `W` is what the shell knows a waiter by.
#[derive(Debug)]
pub struct CachedLock<W> {
    name: LockName,
    state: State,
    users: u32,
    exclusive: bool,
    /// The users counted above were served in this epoch; users of earlier ones are not counted any longer.
    epoch: u64,
    waiters: VecDeque<LocalWaiter<W>>,
    next_waiter: u64,
    /// The set that asked for the tenure that is asked for or held, until its user is served.
    assembling: Option<SetId>,
    /// The user who waits for the answer to the upgrade; it is counted among the users.
    upgrader: Option<Upgrader<W>>,
    /// A revoke for a tenure that may be granted to us: its notice or answer may be under way.
    remembered: Option<(FencingToken, Option<Mode>)>,
    /// Tenures up to this one have been ended by force, if they had not ended before: nobody may use them.
    forced: FencingToken,
    last_used_ns: u64,
}

impl<W> CachedLock<W> {
    /// A lock of which nothing is known, in the client's present epoch.
    pub fn new(name: LockName, epoch: u64) -> Self {
        CachedLock {
            name,
            state: State::Unknown,
            users: 0,
            exclusive: false,
            epoch,
            waiters: VecDeque::new(),
            next_waiter: 0,
            assembling: None,
            upgrader: None,
            remembered: None,
            forced: FencingToken(0),
            last_used_ns: 0,
        }
    }

    /// The fast path: starts a user of a free, cached lock; none where anything else would have to happen first.
    #[inline]
    pub fn start_cached(&mut self, mode: Mode, epoch: u64, now_ns: u64) -> Option<FencingToken> {
        let State::Held { tenure, yielding: None } = &mut self.state else { return None };
        let free = self.users == 0 || (mode == Mode::Shared && !self.exclusive);
        if !free || !self.waiters.is_empty() || epoch != self.epoch || !tenure.mode.covers(mode) {
            return None;
        }
        tenure.used = true;
        self.users += 1;
        self.exclusive = mode == Mode::Exclusive;
        self.last_used_ns = now_ns;
        Some(tenure.token)
    }

    /// The fast path of a guard's end: true where nothing else is to be done.
    #[inline]
    pub fn end_cached(&mut self, epoch: u64, token: FencingToken) -> bool {
        if epoch == self.epoch && token > self.forced {
            self.users -= 1;
            self.exclusive = false;
        }
        self.waiters.is_empty() && matches!(self.state, State::Held { yielding: None, .. })
    }

    /// A local user wants the lock and is served by an [`Effect`], now or later.
    pub fn wait(&mut self, mode: Mode, waiter: W, step: &mut Step<'_, W>) -> WaiterId {
        let id = self.next_id();
        self.waiters.push_back(LocalWaiter { id, mode, set: None, waiter });
        self.settle(step);
        id
    }

    fn next_id(&mut self) -> WaiterId {
        self.next_waiter += 1;
        WaiterId(self.next_waiter - 1)
    }

    /// The local user does not want it any longer; false where it was served or refused meanwhile.
    pub fn leave(&mut self, id: WaiterId, step: &mut Step<'_, W>) -> bool {
        if let Some(upgrader) = self.upgrader.take_if(|upgrader| upgrader.id == id) {
            self.end_cached(upgrader.grant.epoch, upgrader.grant.token);
            self.settle(step);
            return true;
        }
        let Some(at) = self.waiters.iter().position(|waiter| waiter.id == id) else { return false };
        self.waiters.remove(at);
        self.settle(step);
        true
    }

    /// After [`CachedLock::end_cached`] said that there is more to do.
    pub fn settle(&mut self, step: &mut Step<'_, W>) {
        self.end_assembly(step);
        self.serve(step);
        match &self.state {
            State::Unknown => self.ask(step),
            State::Gathering { set } if self.front_set() != Some(*set) => {
                self.state = State::Unknown;
                self.ask(step);
            }
            State::Releasing { .. } if mutant::is(Mutant::AcquireDuringRelease) => self.ask(step),
            State::Asking { number, queued, .. } if self.waiters.is_empty() || self.is_deserted() => {
                let (acquire, queued) = (*number, *queued);
                let cancel = step.outbox.send(Command::Cancel { name: self.name.clone(), acquire });
                self.state = State::Cancelling { acquire: (!queued).then_some(acquire), cancel: Some(cancel) };
            }
            State::Held { tenure, yielding: Some(Yielding { to: Some(Mode::Shared), .. }) }
                if self.users > 0 && !self.exclusive && self.waiters.is_empty() && step.live =>
            {
                self.flush(*tenure, Some(Mode::Shared), step);
            }
            State::Held { tenure, yielding } if self.users == 0 && step.live => {
                let (tenure, yielding) = (*tenure, *yielding);
                let unserved = self.waiters.front().map(|waiter| waiter.mode);
                match yielding {
                    Some(yielding) if yielding.to == Some(Mode::Shared) && unserved != Some(Mode::Exclusive) => {
                        self.flush(tenure, Some(Mode::Shared), step);
                    }
                    Some(_) => self.flush(tenure, None, step),
                    // Served above if it could be: it wants exclusive, the tenure is shared. Never waits holding shared (M15).
                    None if unserved.is_some() => self.flush(tenure, None, step),
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, step: &mut Step<'_, W>) {
        self.remembered = None;
        if let Some(set) = self.front_set() {
            return self.gather(set, step);
        }
        let Some(mode) = self.wish() else { return };
        let number = step.outbox.send(Command::Acquire { name: self.name.clone(), mode });
        self.state = State::Asking { number, mode, queued: false };
    }

    fn serve(&mut self, step: &mut Step<'_, W>) {
        let State::Held { tenure, yielding } = &mut self.state else { return };
        while step.live
            && let Some(front) = self.waiters.front()
        {
            let free = self.users == 0 || (front.mode == Mode::Shared && !self.exclusive);
            let is_meant = front.set.is_none() || front.set == self.assembling;
            if !free || !tenure.mode.covers(front.mode) || !is_meant {
                return;
            }
            if let Some(yielding) = yielding
                && !mutant::is(Mutant::AdmitsForEver)
            {
                let in_time = yielding.starts_left > 0 && step.now_ns < yielding.starts_until_ns;
                if front.id > yielding.last_waiter || !(in_time || yielding.owes_first) {
                    return;
                }
                yielding.starts_left = yielding.starts_left.saturating_sub(1);
                yielding.owes_first = false;
            }
            let Some(LocalWaiter { mode, waiter, .. }) = self.waiters.pop_front() else { return };
            self.assembling = None;
            tenure.used = true;
            self.users += 1;
            self.exclusive = mode == Mode::Exclusive;
            self.last_used_ns = step.now_ns;
            let grant = Grant { token: tenure.token, mode, epoch: self.epoch };
            step.effects.push(Effect::Serve { waiter, grant });
        }
    }

    fn flush(&mut self, tenure: Tenure, to: Option<Mode>, step: &mut Step<'_, W>) {
        self.state = State::Flushing { tenure, to, revoked: to.is_none() };
        if tenure.used && !mutant::is(Mutant::ReleasesUnflushed) {
            step.effects.push(Effect::Flush { from: tenure.mode, to, token: tenure.token });
        } else {
            self.on_flushed(tenure.token, step);
        }
    }

    /// The hook is done: what the tenure protects is safe, the lock can be given up.
    pub fn on_flushed(&mut self, token: FencingToken, step: &mut Step<'_, W>) {
        let State::Flushing { tenure, to, revoked } = self.state else { return };
        if tenure.token != token {
            return;
        }
        match to {
            None => self.release(token, self.wish(), step),
            Some(_) => {
                let number = step.outbox.send(Command::Downgrade { name: self.name.clone(), token });
                self.state = State::Downgrading { number, tenure, revoked };
            }
        }
    }

    fn release(&mut self, token: FencingToken, requeue: Option<Mode>, step: &mut Step<'_, W>) {
        let number = step.outbox.send(Command::Release { name: self.name.clone(), token, requeue });
        self.state = State::Releasing { number, token, requeue };
    }

    fn yielding(&self, to: Option<Mode>, now_ns: u64, owes_first: bool) -> Yielding {
        // Before the first waiter ever there is no last one; then nobody waits, and the value does not matter.
        let last_waiter = WaiterId(self.next_waiter.saturating_sub(1));
        Yielding {
            to,
            last_waiter,
            starts_left: YIELD_STARTS_MAX,
            starts_until_ns: now_ns.saturating_add(YIELD_STARTS_NS),
            owes_first,
        }
    }

    /// What to ask again on a new connection and from time to time: the number and mode of a queued acquire.
    pub fn queued(&self) -> Option<(RequestNumber, Mode)> {
        match self.state {
            State::Asking { number, mode, queued: true } => Some((number, mode)),
            _ => None,
        }
    }

    /// The lease ran out. Guards of earlier epochs are dead and count no longer; a tenure that had one will be given up
    /// at the first step with a lease (M10), since its users did not know when they lost it.
    pub fn suspend(&mut self, epoch: u64) {
        let given_up = self.yielding(None, 0, false);
        if self.users > 0 {
            match &mut self.state {
                State::Held { yielding, .. } => *yielding = Some(Yielding { starts_left: 0, ..given_up }),
                State::Flushing { revoked, .. }
                | State::Downgrading { revoked, .. }
                | State::Upgrading { revoked, .. } => *revoked = true,
                _ => {}
            }
        }
        self.users = 0;
        self.exclusive = false;
        self.epoch = epoch;
    }

    /// Gives a cached lock up that nobody uses; false where it is in use, nothing is cached, or the lease is not in force.
    pub fn evict(&mut self, step: &mut Step<'_, W>) -> bool {
        let idle = step.live && self.is_idle();
        if idle && let State::Held { tenure, .. } = self.state {
            self.flush(tenure, None, step);
        }
        idle
    }

    /// The session ends: its waiters are told, and starts the flush of a tenure that was used. What was not used, or needs
    /// no flush (`flushes` is false), is forgotten: the end of the session frees it.
    pub fn close(&mut self, epoch: u64, flushes: bool, step: &mut Step<'_, W>) {
        self.suspend(epoch);
        let waiters = self.waiters.drain(..).map(|waiter| waiter.waiter);
        let all = waiters.chain(self.upgrader.take().map(|upgrader| upgrader.waiter));
        step.effects.extend(all.map(|waiter| Effect::End { waiter }));
        match &self.state {
            State::Held { tenure, .. } if tenure.used && flushes => self.flush(*tenure, None, step),
            State::Flushing { .. } if flushes => {}
            // Forgotten, a revoke would find it unknown, and be answered with a second release beside the first.
            State::Releasing { .. } | State::Downgrading { .. } | State::Upgrading { .. } => {}
            _ => self.state = State::Unknown,
        }
        self.assembling = None;
    }

    /// Its name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The epoch that served users now belong to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a flush is under way or has failed so far.
    pub fn is_flushing(&self) -> bool {
        matches!(self.state, State::Flushing { .. })
    }

    /// Whether it is cached and nobody uses it or waits for it.
    pub fn is_idle(&self) -> bool {
        self.users == 0 && self.waiters.is_empty() && matches!(self.state, State::Held { yielding: None, .. })
    }

    /// Whether there is nothing that would be lost with this entry.
    pub fn is_unknown(&self) -> bool {
        self.users == 0 && self.waiters.is_empty() && self.state == State::Unknown
    }

    /// Whether any local user has it or waits for it.
    pub fn is_wanted(&self) -> bool {
        self.users > 0 || !self.waiters.is_empty()
    }

    /// When a user was last started, boot time, ns.
    pub fn last_used_ns(&self) -> u64 {
        self.last_used_ns
    }
}

#[cfg(test)]
pub(crate) mod interleavings;
#[cfg(test)]
pub(crate) mod scenarios;
