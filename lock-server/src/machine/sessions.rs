//! Sessions and their leases.
//!
//! A session lives until a tick brings service time to its deadline, or it is closed. Then it is dead: [`Sessions::live`]
//! does not find it any more, so nothing can be asked or granted in its name, and nothing brings it back. It stays in the
//! table until sweeps have cleaned up behind it, in the order of session ids.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use lock_protocol::{
    ClientIdentity, GroupName, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, LockName, Open, RequestNumber, SessionId,
    SessionOptions,
};

use super::force::Forced;
use super::kept::{Kept, Swept};
use super::recovery::Recoveries;
use super::statistics::Statistics;
use super::time::ServiceTime;
use super::versioned::Versioned;
use super::window::Window;
use crate::mutant::{Mutant, Mutation};

/// A name of client or host is cut to so many bytes.
const IDENTITY_MAX_BYTES: usize = 255;

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) nonce: u128,
    pub(super) lease: Duration,
    /// Service time at which it dies, µs.
    pub(super) deadline_us: u64,
    pub(super) dead: bool,
    pub(super) identity: ClientIdentity,
    pub(super) options: SessionOptions,
    /// Of a dead one: what keeps its exclusive locks; none where nothing does.
    pub(super) kept: Option<Kept>,
    pub(super) window: Window,
    /// The op that last changed this session; grants and renewals count.
    pub(super) changed: u64,
    /// What it holds.
    pub(super) held: BTreeSet<LockName>,
    /// Where it waits, and its place there.
    pub(super) waiting: BTreeMap<LockName, u64>,
    /// Tenures that were ended by force, until it confirms.
    pub(super) forced: BTreeMap<LockName, Forced>,
}

/// All sessions, with the orders in which they are looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    by_id: Versioned<SessionId, Session>,
    nonces: BTreeMap<u128, SessionId>,
    /// Of the living.
    deadlines: BTreeSet<(u64, SessionId)>,
    /// To be swept.
    dead: BTreeSet<SessionId>,
    /// Dead ones that keep locks.
    kept: BTreeSet<SessionId>,
    /// Those of them that wait for the end of their lock delay only, service time, µs.
    delayed: BTreeSet<(u64, SessionId)>,
    recoveries: Recoveries,
    /// Tenures that were ended by force and are still in the way of others, with the service time until which they are, µs.
    withheld: BTreeSet<(u64, SessionId, LockName)>,
    /// How many have this lease, the dead included.
    leases: BTreeMap<Duration, usize>,
    mutation: Mutation,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order: it leaves nothing.
    Closed,
    /// By a tick.
    Expired,
    /// Like an expiry, between two ticks.
    Abandoned,
}

impl Session {
    pub(super) fn lock_delay(&self) -> Duration {
        Duration::from_millis(self.options.lock_delay_ms)
    }

    pub(super) fn is_recovery_required(&self) -> bool {
        self.options.recovery.as_ref().is_some_and(|group| group.required)
    }

    /// Whether it is dead and there is nothing to sweep behind it for now.
    pub(super) fn is_swept(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.swept == Swept::All)
    }
}

impl Sessions {
    /// The sessions as objects of a snapshot.
    pub(super) fn versioned(&mut self) -> &mut Versioned<SessionId, Session> {
        &mut self.by_id
    }

    pub(super) fn set_mutation(&mut self, mutation: Mutation) {
        (self.mutation, self.by_id.mutation) = (mutation, mutation);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn shortest_lease(&self) -> Option<Duration> {
        self.leases.first_key_value().map(|(&lease, _)| lease)
    }

    /// The living session of this id.
    pub(super) fn live(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id).filter(|session| !session.dead)
    }

    pub(super) fn live_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id).filter(|session| !session.dead)
    }

    /// Dead or alive.
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    /// The living session that this nonce opened.
    pub(super) fn by_nonce(&self, nonce: u128) -> Option<(SessionId, &Session)> {
        let id = *self.nonces.get(&nonce)?;
        self.live(id).map(|session| (id, session))
    }

    /// Whether the dead of this group wait for the first that joins it.
    pub(super) fn is_awaited(&self, group: &GroupName) -> bool {
        self.recoveries.awaits(group)
    }

    /// By id, dead or alive.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.by_id.iter().map(|(&id, session)| (id, session))
    }

    /// Opens a session; its id is the op's number.
    pub(super) fn open(&mut self, op: u64, now: ServiceTime, open: Open, mut options: SessionOptions) -> &Session {
        options.lock_delay_ms = options.lock_delay_ms.min(LOCK_DELAY_MAX.as_millis() as u64);
        let lease = Duration::from_millis(open.lease_ms).clamp(LEASE_MIN, LEASE_MAX);
        let mut window = Window::default();
        window.raise_floor(RequestNumber(1));
        let session = Session {
            nonce: open.nonce,
            lease,
            deadline_us: now.opened_until(lease),
            dead: false,
            identity: ClientIdentity {
                client: cut(open.identity.client),
                host: cut(open.identity.host),
                pid: open.identity.pid,
            },
            options,
            kept: None,
            window,
            changed: op,
            held: BTreeSet::new(),
            waiting: BTreeMap::new(),
            forced: BTreeMap::new(),
        };
        self.insert(SessionId(op), session)
    }

    /// Puts a session into every order. A nonce whose session is dead opens a new one, and belongs to it from then on.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) -> &Session {
        if session.dead {
            if !session.is_swept() {
                self.dead.insert(id);
            }
            if let Some(kept) = &session.kept {
                self.kept.insert(id);
                self.delayed.extend(kept.free_at_us().map(|free_us| (free_us, id)));
            }
            if let Some((group, recovery)) = session.recovery() {
                self.recoveries.enter(group, id, recovery);
            }
        } else {
            if let Some(group) = session.group() {
                self.recoveries.joined(group, id);
            }
            self.deadlines.insert((session.deadline_us, id));
            self.nonces.insert(session.nonce, id);
        }
        *self.leases.entry(session.lease).or_default() += 1;
        self.by_id.entry(id).or_insert(session)
    }

    /// Renews a lease, unless the session is dead: true where it was renewed.
    pub(super) fn renew(&mut self, op: u64, id: SessionId, floor: RequestNumber, now: ServiceTime) -> bool {
        let revives = self.mutation.is(Mutant::Revives);
        let Some(session) = self.by_id.get_mut(&id).filter(|session| revives || !session.dead) else { return false };
        if std::mem::take(&mut session.dead) {
            self.dead.remove(&id);
            session.deadline_us = 0;
        }
        session.window.raise_floor(floor);
        session.changed = op;
        let until_us = match self.mutation.is(Mutant::ExpiresEarly) {
            true => now.renewed_until(session.lease * 3 / 4),
            false => now.renewed_until(session.lease),
        };
        if until_us > session.deadline_us {
            self.deadlines.remove(&(session.deadline_us, id));
            self.deadlines.insert((until_us, id));
            session.deadline_us = until_us;
        }
        true
    }

    /// Ends every session whose deadline has come; returns how many.
    pub(super) fn expire(&mut self, op: u64, now: ServiceTime, statistics: &mut Statistics) -> u64 {
        let mut expired = 0;
        while let Some(&(_, id)) = self.deadlines.first().filter(|(deadline_us, _)| *deadline_us <= now.0) {
            statistics.lost += self.get(id).map_or(0, |session| session.held.len() as u64);
            self.end(op, id, Ending::Expired, now);
            expired += 1;
        }
        statistics.expired += expired;
        expired
    }

    /// Ends a session; does nothing where it is dead or unknown.
    pub(super) fn end(&mut self, op: u64, id: SessionId, ending: Ending, now: ServiceTime) {
        let Some(session) = self.by_id.get_mut(&id).filter(|session| !session.dead) else { return };
        session.dead = true;
        session.changed = op;
        session.window = Window::default();
        session.kept = session.keeps(ending, now).filter(|_| !self.mutation.is(Mutant::FreesUnrecovered));
        if self.mutation.is(Mutant::IgnoresDelay) {
            session.kept = session.kept.take().filter(|kept| kept.recovery.is_some());
        }
        if let Some(group) = session.group() {
            self.recoveries.left(group, id);
        }
        if let Some(kept) = &session.kept {
            self.kept.insert(id);
            self.delayed.extend(kept.free_at_us().map(|free_us| (free_us, id)));
        }
        if session.recovery().is_some() {
            self.recoveries.died(id);
        }
        for (name, forced) in std::mem::take(&mut session.forced) {
            if let Some(until_us) = forced.withheld_until_us {
                self.withheld.remove(&(until_us, id, name));
            }
        }
        self.deadlines.remove(&(session.deadline_us, id));
        self.dead.insert(id);
    }

    /// Remembers that a tenure of a living session was ended by force.
    pub(super) fn force(&mut self, op: u64, id: SessionId, name: LockName, forced: Forced) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.changed = op;
        session.forced.insert(name.clone(), forced);
        self.withheld.extend(forced.withheld_until_us.map(|until_us| (until_us, id, name)));
    }

    /// True where the tenure was withheld; from now on it is not.
    pub(super) fn end_withholding(&mut self, op: u64, id: SessionId, name: &LockName) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else { return false };
        session.changed = op;
        let until_us = session.forced.get_mut(name).and_then(|forced| forced.withheld_until_us.take());
        until_us.is_some_and(|until_us| self.withheld.remove(&(until_us, id, name.clone())))
    }

    /// The session knows that the tenure was ended; gives what was to be known.
    pub(super) fn confirm(&mut self, id: SessionId, name: &LockName) -> Option<Forced> {
        let forced = self.by_id.get_mut(&id)?.forced.remove(name)?;
        if let Some(until_us) = forced.withheld_until_us {
            self.withheld.remove(&(until_us, id, name.clone()));
        }
        Some(forced)
    }

    /// The tenure that is withheld for the shortest time.
    pub(super) fn first_withheld(&self) -> Option<&(u64, SessionId, LockName)> {
        self.withheld.first()
    }

    /// The dead session that is swept next.
    pub(super) fn first_dead(&self) -> Option<SessionId> {
        self.dead.first().copied()
    }

    /// The lock delay that ends first.
    pub(super) fn first_delayed(&self) -> Option<(u64, SessionId)> {
        self.delayed.first().copied()
    }

    /// Dead sessions that keep locks, by id.
    pub(super) fn kept_after(&self, after: Option<SessionId>) -> impl Iterator<Item = (SessionId, &Session, &Kept)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let kept = self.kept.range((start, Bound::Unbounded));
        kept.filter_map(|&id| self.get(id).and_then(|session| Some((id, session, session.kept.as_ref()?))))
    }

    /// Its locks are free where its lock delay has ended too.
    pub(super) fn is_recovered(&mut self, op: u64, id: SessionId, now: ServiceTime) {
        let free_us = self.get(id).and_then(|session| session.kept.as_ref()?.free_at_us());
        match free_us {
            Some(free_us) if free_us > now.0 => {
                self.delayed.insert((free_us, id));
            }
            Some(_) => self.free(op, id),
            None => {}
        }
    }

    /// The sessions came from a snapshot: their recoveries are assigned as they should be.
    pub(super) fn is_assigned(&mut self) {
        self.recoveries.clear_pending();
    }

    pub(super) fn recoveries_seen(&self) -> &Recoveries {
        &self.recoveries
    }

    pub(super) fn recoveries(&mut self) -> &mut Recoveries {
        &mut self.recoveries
    }

    pub(super) fn with_recoveries(&mut self) -> (&mut Versioned<SessionId, Session>, &mut Recoveries) {
        (&mut self.by_id, &mut self.recoveries)
    }

    /// Nothing keeps the locks of a dead session any longer: it is swept anew.
    pub(super) fn free(&mut self, op: u64, id: SessionId) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        if let Some((group, recovery)) = session.recovery() {
            self.recoveries.remove(group, id, recovery);
        }
        let Some(kept) = session.kept.take() else { return };
        session.changed = op;
        self.delayed.remove(&(kept.until_us, id));
        self.kept.remove(&id);
        self.dead.insert(id);
    }

    /// The sweep leaves this lock of a dead session as it is.
    pub(super) fn pass_over(&mut self, op: u64, id: SessionId, name: LockName) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.changed = op;
        if let Some(kept) = &mut session.kept {
            kept.swept = Swept::UpTo(name);
        }
    }

    /// The sweep has come to the end of what a dead session has. Without locks nothing has to be recovered, and it is forgotten.
    pub(super) fn swept(&mut self, op: u64, id: SessionId) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.changed = op;
        if session.held.is_empty() {
            self.free(op, id);
            return self.forget(id);
        }
        if let Some(kept) = &mut session.kept {
            kept.swept = Swept::All;
        }
        self.dead.remove(&id);
    }

    /// Forgets a dead session that holds nothing and waits nowhere.
    fn forget(&mut self, id: SessionId) {
        let Entry::Occupied(entry) = self.by_id.entry(id) else { return };
        let session = entry.remove();
        assert!(
            session.dead && session.held.is_empty() && session.waiting.is_empty() && session.kept.is_none(),
            "session {id} is forgotten while it lives or has locks"
        );
        self.dead.remove(&id);
        if self.nonces.get(&session.nonce) == Some(&id) {
            self.nonces.remove(&session.nonce);
        }
        if let Some(count) = self.leases.get_mut(&session.lease) {
            *count -= 1;
            if *count == 0 {
                self.leases.remove(&session.lease);
            }
        }
    }
}

/// Cuts a text at a character's boundary.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(IDENTITY_MAX_BYTES));
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_identity_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(200)).len(), 254);
        assert_eq!(cut("short".into()), "short");
    }
}
