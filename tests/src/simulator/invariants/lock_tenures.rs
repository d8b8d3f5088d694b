//! A lock alone, as a table of who has it: what ends a tenure, and what does not.
//!
//! The notes know nothing of the machine's own table. They follow what was asked for and what was answered, and say what must
//! have been answered: so a machine that is wrong on all members alike is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lock_protocol::{
    Command, FencingToken, ForceRelease, ForcedTenure, LockName, Mode, Notice, Outcome, RequestNumber, SessionId,
    tick_interval,
};
use lock_server::machine::{Effect, Reply};

use super::lock_truth::{Granted, Seen};
use super::{Check, Invariants, Violation};

/// A session that has a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenure {
    pub(super) token: FencingToken,
    pub(super) mode: Mode,
    pub(super) acquire: RequestNumber,
    /// It was ended by force, and is in the way of others until service time reaches this, µs.
    pub(super) withheld_until_us: Option<u64>,
}

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct Tenures {
    /// Of sessions that live.
    pub(super) held: BTreeMap<LockName, BTreeMap<SessionId, Tenure>>,
    /// Ended by force, and not confirmed.
    unconfirmed: BTreeMap<(SessionId, LockName), (FencingToken, RequestNumber)>,
    /// Ended by force without waiting for the holder, whose guards may look valid for a while.
    voided: BTreeSet<(SessionId, LockName, FencingToken)>,
    /// Requests that gave something back: once each.
    done: BTreeSet<(SessionId, RequestNumber)>,
}

impl Tenures {
    pub(super) fn of(&self, session: SessionId, name: &LockName) -> Option<&Tenure> {
        self.held.get(name)?.get(&session)
    }

    /// What a session holds exclusively; none where it holds nothing at all.
    pub(super) fn exclusive_of(&self, session: SessionId) -> Option<BTreeMap<LockName, FencingToken>> {
        let held = self.held.iter().filter_map(|(name, holders)| Some((name, holders.get(&session)?)));
        let mut held = held.peekable();
        held.peek()?;
        let exclusive = held.filter(|(_, tenure)| tenure.mode == Mode::Exclusive);
        Some(exclusive.map(|(name, tenure)| (name.clone(), tenure.token)).collect())
    }

    fn remove(&mut self, session: SessionId, name: &LockName) {
        if let Some(holders) = self.held.get_mut(name) {
            holders.remove(&session);
            if holders.is_empty() {
                self.held.remove(name);
            }
        }
    }

    /// The session says that it has none of it.
    pub(super) fn is_let_go(&mut self, session: SessionId, name: &LockName) {
        self.remove(session, name);
        self.unconfirmed.remove(&(session, name.clone()));
    }

    /// What a session had is over with it.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        self.held.values_mut().for_each(|holders| holders.retain(|of, _| *of != session));
        self.held.retain(|_, holders| !holders.is_empty());
        self.unconfirmed.retain(|(of, _), _| *of != session);
    }

    /// What was withheld for long enough is so no longer; at a sweep.
    fn end_withholding(&mut self, time_us: u64) {
        for holders in self.held.values_mut() {
            holders.retain(|_, tenure| tenure.withheld_until_us.is_none_or(|until_us| until_us > time_us));
        }
        self.held.retain(|_, holders| !holders.is_empty());
    }

    /// Whether an operator ended something of it that it has not confirmed.
    fn is_to_confirm(&self, session: SessionId) -> bool {
        self.unconfirmed.keys().any(|(of, _)| *of == session)
    }

    /// Whether an operator ended the tenure without waiting for its holder.
    pub(crate) fn is_voided(&self, session: SessionId, name: &LockName, token: FencingToken) -> bool {
        self.voided.contains(&(session, name.clone(), token))
    }
}

impl Invariants {
    /// A release ends the tenure that it names and no other, an upgrade likewise, and a cancelled acquire holds nothing.
    pub(super) fn gives_back(
        &mut self,
        seen: &Seen<'_>,
        session: SessionId,
        number: RequestNumber,
        command: &Command,
        outcome: &Outcome,
    ) -> Check {
        let tenures = &mut self.locks.tenures;
        let name = command.name();
        let own = tenures.of(session, name).copied();
        let wrong = |rule| Err(Violation::new(rule, format!("{command:?} of {session}: {outcome:?}, it has {own:?}")));
        let is_executed = *outcome != Outcome::SessionGone && tenures.done.insert((session, number));
        match (command, outcome) {
            (Command::Release { token, .. }, Outcome::Released { .. }) if is_executed => {
                let key = (session, name.clone());
                let confirms = tenures.unconfirmed.get(&key).is_some_and(|(ended, _)| ended == token);
                if confirms {
                    tenures.unconfirmed.remove(&key);
                }
                match own {
                    Some(own) if own.token == *token => tenures.remove(session, name),
                    _ if confirms => {}
                    _ => return wrong("a release ends the tenure that it names, and no other"),
                }
            }
            (Command::Release { token, .. }, Outcome::NotHeld)
                if is_executed && own.is_some_and(|own| own.token == *token) =>
            {
                return wrong("what a session has it can give back");
            }
            (Command::Downgrade { token, .. }, Outcome::Downgraded) if is_executed => {
                let held = tenures.held.get_mut(name).and_then(|holders| holders.get_mut(&session));
                match held.filter(|held| held.token == *token && held.withheld_until_us.is_none()) {
                    Some(held) => held.mode = Mode::Shared,
                    None => return wrong("a release ends the tenure that it names, and no other"),
                }
            }
            // A shared tenure ends with it, and an exclusive one begins; to what was exclusive before nothing happens.
            (Command::Upgrade { token, .. }, Outcome::Upgraded { token: new }) if is_executed => {
                let fits = |own: &Tenure| match own.mode {
                    Mode::Shared => new.0 == seen.op,
                    Mode::Exclusive => new == token,
                };
                let own = own.filter(|own| own.token == *token && own.withheld_until_us.is_none());
                if !own.is_some_and(|own| fits(&own)) {
                    return wrong("an upgrade turns the shared tenure that it names into a new exclusive one");
                }
            }
            (Command::Cancel { acquire, .. }, Outcome::Cancelled) if is_executed => {
                if own.is_some_and(|own| own.acquire == *acquire) {
                    if seen.machine.holders_of(name).contains(&session) {
                        return wrong("a cancelled acquire holds nothing");
                    }
                    tenures.remove(session, name);
                }
                let key = (session, name.clone());
                if tenures.unconfirmed.get(&key).is_some_and(|(_, granted)| granted == acquire) {
                    tenures.unconfirmed.remove(&key);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Nobody else has a lock in a way that excludes a grant, not even one that an operator ended and whose holder may not know.
    pub(super) fn grant_fits(&mut self, grant: &Granted) -> Check {
        let holders = self.locks.tenures.held.entry(grant.name.clone()).or_default();
        let in_the_way = holders.iter().find(|(session, tenure)| {
            **session != grant.session && !(grant.mode == Mode::Shared && tenure.mode == Mode::Shared)
        });
        if let Some((session, tenure)) = in_the_way {
            let rule = match tenure.withheld_until_us {
                Some(_) => "what was ended by force is withheld until its holder knows, or its lease is over",
                None => "a lock has at most one exclusive holder",
            };
            return Err(Violation::new(rule, format!("{grant:?}, and session {session} has {tenure:?}")));
        }
        let Granted { token, mode, acquire, .. } = *grant;
        holders.insert(grant.session, Tenure { token, mode, acquire, withheld_until_us: None });
        Ok(())
    }

    /// Force ends the tenures that it names, all of them and no others.
    pub(super) fn forced(&mut self, seen: &Seen<'_>, force: &ForceRelease, ended: &[ForcedTenure]) -> Check {
        let ForceRelease { name, token, now } = force;
        let time_us = seen.machine.service_time_us();
        let holders = self.locks.tenures.held.get(name).into_iter().flatten();
        let meant: Vec<SessionId> =
            holders.filter(|(_, tenure)| tenure.token == *token).map(|(session, _)| *session).collect();
        let told: Vec<SessionId> = ended.iter().map(|tenure| tenure.session).collect();
        if meant != told {
            let detail = format!("{force:?} of {meant:?} is answered {ended:?}");
            return Err(Violation::new("force ends the tenures that it names, and no others", detail));
        }
        for tenure in ended {
            let session = tenure.session;
            self.counters.hit(if *now { "tenures ended by force at once" } else { "tenures ended by force" });
            let lease_us = self.locks.leases.lease_us(session);
            if let Some(own) = self.locks.tenures.of(session, name).copied() {
                self.locks.tenures.unconfirmed.insert((session, name.clone()), (*token, own.acquire));
            }
            if *now {
                self.locks.tenures.voided.insert((session, name.clone(), *token));
                self.locks.tenures.remove(session, name);
            } else if let Some(own) = self.locks.tenures.held.get_mut(name).and_then(|held| held.get_mut(&session)) {
                own.withheld_until_us.get_or_insert(time_us + lease_us + cap_us(lease_us));
            }
        }
        Ok(())
    }

    /// Who is renewed hears of each tenure of its own that was ended by force, until it confirms.
    pub(super) fn told_of_force(&self, keep_alives: &[(SessionId, RequestNumber)], told: &[SessionId]) -> Check {
        let tenures = &self.locks.tenures;
        let renewed = keep_alives.iter().map(|(session, _)| *session);
        let mut unconfirmed = renewed.filter(|session| tenures.is_to_confirm(*session));
        match unconfirmed.find(|session| self.locks.sessions.contains_key(session) && !told.contains(session)) {
            Some(session) => {
                let detail = format!("session {session} is not among {told:?}");
                Err(Violation::new("a session hears of force until it confirms", detail))
            }
            None => Ok(()),
        }
    }

    /// The answers to the keep-alives of a tick say what was ended by force, where it is not confirmed meanwhile.
    pub(crate) fn answers_tell_of_force(&self, reply: &[u8], sessions: &[SessionId], told: &[Vec<Notice>]) -> Check {
        let Ok(Reply::TickedForced { forced, .. }) = Reply::decode(reply) else { return Ok(()) };
        let is_force = |notice: &Notice| matches!(notice, Notice::Forced { .. });
        for (session, notices) in sessions.iter().zip(told) {
            let owes = forced.contains(session) && self.locks.tenures.is_to_confirm(*session);
            if owes && !notices.iter().any(is_force) {
                let detail = format!("session {session} is told {notices:?}");
                return Err(Violation::new("a session hears of force until it confirms", detail));
            }
        }
        Ok(())
    }

    pub(super) fn swept(&mut self, seen: &Seen<'_>) {
        let time_us = seen.machine.service_time_us();
        self.locks.tenures.end_withholding(time_us);
    }

    /// A revoke names a tenure that its session has.
    pub(super) fn revokes_name_tenures(&self, seen: &Seen<'_>) -> Check {
        for effect in &seen.effects {
            let Effect::Revoke { revoke, .. } = effect else { continue };
            let lives = self.locks.sessions.contains_key(&revoke.session);
            let own = self.locks.tenures.of(revoke.session, &revoke.name);
            if lives && own.is_none_or(|own| own.token != revoke.token) {
                return Err(Violation::new(
                    "a revoke names a tenure of its session",
                    format!("{revoke:?}, not {own:?}"),
                ));
            }
        }
        Ok(())
    }
}

/// The most that a tick adds to service time while this is the shortest lease, µs.
pub(super) fn cap_us(lease_us: u64) -> u64 {
    2 * tick_interval(Duration::from_micros(lease_us)).as_micros() as u64
}
