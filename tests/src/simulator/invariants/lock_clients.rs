//! What a client owes: to others that it gives up what they wait for, and to its owner that nothing is given up unflushed.

use std::collections::BTreeMap;

use lock_client::cores::{CacheLimits, CachedLock, Clocks, Grant, LockSession, Stage, YIELD_STARTS_MAX};
use lock_protocol::{Command, FencingToken, LockName, Mode, Notice, Request, SessionId, Submission};

use super::{Check, Invariants, Violation};
use crate::simulator::workload::locks::users::{User, Waiter};
use crate::simulator::world::World;

/// A revoke that came with a keep-alive first: the callback connection has so long to show that it lives, ns.
const CALLBACK_GRACE_NS: u64 = 200_000_000;

/// What is watched of a session.
#[derive(Debug)]
pub(crate) struct Conduct {
    flushes: bool,
    limits: CacheLimits,
    /// Tenures that were used since their last flush, and whether exclusively: who only reads has nothing to flush before others read, too.
    unflushed: BTreeMap<LockName, (FencingToken, bool)>,
    /// Tenures that others want whole, and how many users were served since it was known.
    wanted: BTreeMap<(LockName, FencingToken), u32>,
    /// The callback connection counts as dead from then on, boot time.
    dead_callback_ns: Option<u64>,
}

/// How a lock must stand after some notices.
#[derive(Debug)]
pub(crate) enum Owed {
    /// It is given back, whatever it is: the client knows of no tenure.
    Return(LockName),
    /// It stays cached: a former tenure was meant.
    Nothing(LockName),
    /// It is given up, if it can be; because of a revoke, or because its tenure was ended.
    Yield { name: LockName, is_revoked: bool },
}

impl Conduct {
    pub(crate) fn new(flushes: bool, limits: CacheLimits) -> Self {
        let (unflushed, wanted) = (BTreeMap::new(), BTreeMap::new());
        Conduct { flushes, limits, unflushed, wanted, dead_callback_ns: None }
    }

    /// Whether the client may give a cached lock up for its own reasons: it has too many, or did not use this one for too long.
    fn may_evict(&self, session: &LockSession<Waiter>, news: usize, lock: &CachedLock<Waiter>, now_ns: u64) -> bool {
        let is_full = session.locks().count() + news > self.limits.locks;
        is_full || now_ns.saturating_sub(lock.last_used_ns()) > self.limits.idle_ns
    }

    /// A user has the lock. Once others want it, only some of those who waited have it before them.
    pub(crate) fn served(&mut self, name: &LockName, grant: Grant) -> Check {
        if self.flushes {
            let before = self.unflushed.get(name).is_some_and(|(token, writes)| *token == grant.token && *writes);
            self.unflushed.insert(name.clone(), (grant.token, before || grant.mode == Mode::Exclusive));
        }
        let Some(count) = self.wanted.get_mut(&(name.clone(), grant.token)) else { return Ok(()) };
        *count += 1;
        if *count > YIELD_STARTS_MAX + 1 {
            let detail = format!("{name}: {count} users were served from {:?} since it was wanted", grant.token);
            return Err(Violation::new("a lock that others want is given up soon", detail));
        }
        Ok(())
    }

    pub(crate) fn flushed(&mut self, name: &LockName, token: FencingToken) {
        if self.unflushed.get(name).is_some_and(|(used, _)| *used == token) {
            self.unflushed.remove(name);
        }
    }

    /// Requests leave: nothing is given up that was used and not flushed, unless an operator had ended it.
    pub(crate) fn submits(&mut self, session: &LockSession<Waiter>, submission: &Submission) -> Check {
        for request in &submission.requests {
            let (Command::Release { name, token, .. } | Command::Downgrade { name, token }) = &request.command else {
                continue;
            };
            let is_forced = lock_of(session, name).is_some_and(|lock| *token <= lock.forced());
            let is_release = matches!(request.command, Command::Release { .. });
            let unflushed =
                self.unflushed.get(name).is_some_and(|(used, writes)| used == token && (is_release || *writes));
            if unflushed && !is_forced {
                let detail = format!("session {}: {:?}", session.id(), request.command);
                return Err(Violation::new("what was used is flushed before it is given up", detail));
            }
            if is_release {
                self.wanted.remove(&(name.clone(), *token));
            }
            // A later tenure: an upgrade ended the earlier one, and what was only read has nothing to flush any more.
            if self.unflushed.get(name).is_some_and(|(used, writes)| used < token && !writes) {
                self.unflushed.remove(name);
            }
        }
        Ok(())
    }

    /// The connections are others now, or a notice came on the callback connection.
    pub(crate) fn callback_is_alive(&mut self) {
        self.dead_callback_ns = None;
    }

    /// Time went by, and what was due is done.
    pub(crate) fn at_time(&self, clocks: Clocks) -> Check {
        if self.dead_callback_ns.is_some_and(|dead_ns| clocks.boot_ns >= dead_ns) {
            let detail = format!("a revoke came with a keep-alive {CALLBACK_GRACE_NS} ns ago");
            return Err(Violation::new("a callback connection that stays silent is dialled anew", detail));
        }
        Ok(())
    }
}

impl Invariants {
    /// Who asks for a set says by that that it has none of it, but what this very request may have brought already.
    pub(crate) fn sets_are_of_what_was_given_back(
        &self,
        session: &LockSession<Waiter>,
        conduct: &Conduct,
        submission: &Submission,
    ) -> Check {
        for Request { number, command } in &submission.requests {
            let Command::AcquireAll { set } = command else { continue };
            let has_used = |name: &LockName| {
                let own = self.locks.tenures.of(session.id(), name).filter(|own| own.acquire != *number);
                let used = conduct.unflushed.get(name).map(|(used, _)| *used);
                let forced = lock_of(session, name).map_or(FencingToken(0), CachedLock::forced);
                own.is_some_and(|own| Some(own.token) == used && own.token > forced)
            };
            if let Some((name, _)) = set.iter().find(|(name, _)| has_used(name)) {
                let detail = format!("session {}: {command:?}, and {name} is used and not flushed", session.id());
                return Err(Violation::new("what was used is flushed before it is given up", detail));
            }
        }
        Ok(())
    }

    /// Notices are about to be taken in.
    pub(crate) fn owed(
        &self,
        session: &LockSession<Waiter>,
        conduct: &mut Conduct,
        notices: &[Notice],
        now_ns: u64,
    ) -> Vec<Owed> {
        if session.stage() != Stage::Open {
            return Vec::new();
        }
        let mut owed = Vec::new();
        for notice in notices {
            let Notice::Revoke { name, token, target } = notice else { continue };
            if target.is_none() && self.locks.tenures.of(session.id(), name).is_some_and(|own| own.token == *token) {
                conduct.wanted.entry((name.clone(), *token)).or_default();
            }
            let about = notices.iter().filter(|other| other.name() == Some(name));
            owed.extend(match lock_of(session, name) {
                Some(lock) if lock.is_idle() => {
                    let is_revoked = about.clone().all(|other| matches!(other, Notice::Revoke { .. }));
                    let is_wanted = about.into_iter().any(|other| self.is_about(session.id(), other));
                    let may_evict = conduct.may_evict(session, notices.len(), lock, now_ns);
                    let name = name.clone();
                    match is_wanted {
                        true => Some(Owed::Yield { name, is_revoked }),
                        false => (!may_evict).then_some(Owed::Nothing(name)),
                    }
                }
                None => Some(Owed::Return(name.clone())),
                Some(lock) if lock.is_unknown() => Some(Owed::Return(name.clone())),
                Some(_) => None,
            });
        }
        owed
    }

    /// Whether it may be about the tenure that the client knows. One that an operator has ended it may still know.
    fn is_about(&self, session: SessionId, notice: &Notice) -> bool {
        let own = notice.name().and_then(|name| self.locks.tenures.of(session, name));
        match notice {
            Notice::Revoke { token, .. } => own.is_none_or(|own| own.token == *token),
            _ => true,
        }
    }
}

/// They were taken in; with a keep-alive's answer at this boot time, or on the callback connection.
pub(crate) fn is_paid(
    session: &LockSession<Waiter>,
    conduct: &mut Conduct,
    owed: Vec<Owed>,
    kept_alive_ns: Option<u64>,
) -> Check {
    if session.stage() != Stage::Open {
        return Ok(());
    }
    for owed in owed {
        let lock = |name| lock_of(session, name);
        match &owed {
            Owed::Return(name) if lock(name).is_none_or(CachedLock::is_unknown) => {
                let detail = format!("session {}: {name}", session.id());
                return Err(Violation::new("what a client has without knowing is given back", detail));
            }
            Owed::Nothing(name) if !lock(name).is_some_and(CachedLock::is_idle) => {
                let detail = format!("session {}: {name}", session.id());
                return Err(Violation::new("a revoke ends the tenure that it names, and no other", detail));
            }
            Owed::Yield { name, is_revoked } if !lock(name).is_some_and(CachedLock::is_idle) => {
                if let Some(now_ns) = kept_alive_ns.filter(|_| *is_revoked) {
                    conduct.dead_callback_ns.get_or_insert(now_ns + CALLBACK_GRACE_NS);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn lock_of<'a>(session: &'a LockSession<Waiter>, name: &LockName) -> Option<&'a CachedLock<Waiter>> {
    session.locks().find(|lock| lock.name() == name)
}

impl World {
    /// A guard that was dead is never valid again. To be asked before and after the client looks at its clock.
    pub(crate) fn check_dead_guards(&mut self, client: usize) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let (users, state) = (&mut it.users, &it.state);
        let Some(opened) = state.opened() else { return Ok(()) };
        for (name, grant, is_dead) in users.iter_mut().flat_map(User::guards_mut) {
            let is_valid = !opened.session.valid_for(name, grant, clocks).is_zero();
            if *is_dead && is_valid {
                let detail = format!("client {client}: {grant:?} of {name}");
                return Err(Violation::new("a guard that died stays dead", detail));
            }
            *is_dead |= !is_valid;
        }
        Ok(())
    }
}
