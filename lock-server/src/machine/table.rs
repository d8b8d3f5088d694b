//! The lock table: who holds what, who waits for it, and how it passes on.
//!
//! Everything that frees a lock, or part of it, ends in [`Table::pass_on`], in the same op: it grants from the head of the
//! queue as long as the head is compatible with the holders, and stops at the first that is not. So the queue is first come
//! first served, nobody overtakes a waiting exclusive, and shared ones at the head are granted together. A head whose
//! session is dead leaves instead of being granted. Sets of locks wait in the same queues: see `sets.rs`.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use lock_protocol::{FencingToken, LockName, Mode, RequestNumber, SessionId};

use super::effects::{Effects, Revoke};
use super::lock::{Demand, Lock, Many, Tenure};
use super::queue::{Queue, Waiter};
use super::sessions::Sessions;
use super::sets::Sets;
use super::statistics::Statistics;
use super::versioned::Versioned;
use crate::mutant::{Mutant, Mutation};

/// The locks that are held.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) locks: Versioned<LockName, Lock>,
    pub(super) sets: Sets,
}

/// The rest of the machine, as far as a change of the table needs it.
pub(super) struct Around<'a> {
    pub(super) sessions: &'a mut Sessions,
    pub(super) effects: &'a mut Effects,
    pub(super) statistics: &'a mut Statistics,
    /// The op that is being executed.
    pub(super) op: u64,
    /// Service time, µs.
    pub(super) now_us: u64,
    pub(super) mutation: Mutation,
    /// The acquire that is being executed: what it is granted its session hears by the reply.
    pub(super) own: Option<(SessionId, RequestNumber)>,
    /// Places of sets that may be free to go.
    pub(super) sets: BTreeSet<u64>,
    /// Tenures that began and whose owners have not been told.
    pub(super) granted: Vec<(LockName, Tenure)>,
}

/// What became of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquired {
    Granted { token: FencingToken, others_waiting: bool },
    Queued,
}

/// What a session is to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Holds(Tenure),
    Waits { place: u64, acquire: RequestNumber },
    Neither,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    pub(super) fn get(&self, name: &LockName) -> Option<&Lock> {
        self.locks.get(name)
    }

    /// By name, from `start` on.
    pub(super) fn from(&self, start: Bound<LockName>) -> impl Iterator<Item = (&LockName, &Lock)> {
        self.locks.range((start, Bound::Unbounded))
    }

    /// The locks as objects of a snapshot.
    pub(super) fn versioned(&mut self) -> &mut Versioned<LockName, Lock> {
        &mut self.locks
    }

    /// Puts back a lock from a snapshot.
    pub(super) fn insert(&mut self, name: LockName, lock: Lock) {
        self.locks.entry(name).insert_entry(lock);
    }

    /// What the session is to the lock. `place` is where the session's own index says that it waits.
    pub(super) fn standing(&self, session: SessionId, name: &LockName, place: Option<u64>) -> Standing {
        let Some(lock) = self.locks.get(name) else { return Standing::Neither };
        if let Some(tenure) = lock.holder(session) {
            return Standing::Holds(*tenure);
        }
        match place.and_then(|place| lock.queue()?.at(place).map(|waiter| (place, waiter.acquire))) {
            Some((place, acquire)) => Standing::Waits { place, acquire },
            None => Standing::Neither,
        }
    }

    /// Takes the lock, or joins its queue. The session neither holds it nor waits for it.
    pub(super) fn acquire(
        &mut self,
        around: &mut Around<'_>,
        session: SessionId,
        name: LockName,
        acquire: RequestNumber,
        mode: Mode,
    ) -> Acquired {
        let token = FencingToken(around.op);
        match self.locks.entry(name) {
            Entry::Vacant(entry) => {
                let token = if around.mutation.is(Mutant::TokenRestarts) { FencingToken(1) } else { token };
                let shared_name = entry.key().clone();
                entry.insert(Lock::Single(Tenure::new(session, acquire, around.now_us, token, mode)));
                around.holder_came(session, shared_name);
                around.statistics.granted_at_once += 1;
                Acquired::Granted { token, others_waiting: false }
            }
            Entry::Occupied(mut entry) => {
                // The key's own allocation, so that a name is stored once however many indexes it is in.
                let name = entry.key().clone();
                let before = entry.get().demand();
                let many = entry.get_mut().many(around.op);
                let since_us = around.now_us;
                many.queue.join(around.op, Waiter { session, acquire, mode, since_us, is_set: false });
                around.waiter_came(session, name.clone());
                around.own = Some((session, acquire));
                pass_on(many, &name, around, before, Vec::new());
                entry.get_mut().compact();
                self.settle_sets(around);
                self.acquired(session, &name, mode)
            }
        }
    }

    /// Ends a tenure, joins the end of the queue again where that is asked for, and passes the lock on. In this order, so
    /// that a grant to the next one says whether the requeue waits behind it. The session holds the lock.
    pub(super) fn release(
        &mut self,
        around: &mut Around<'_>,
        session: SessionId,
        name: &LockName,
        requeue: Option<(RequestNumber, Mode)>,
    ) -> Option<Acquired> {
        let Entry::Occupied(mut entry) = self.locks.entry(name.clone()) else {
            panic!("session {session} releases '{name}', which nobody holds")
        };
        let shared_name = entry.key().clone();
        around.holder_left(session, name);
        let many = match entry.get_mut() {
            Lock::Single(tenure) => {
                around.tenure_ended(tenure);
                entry.remove();
                let (acquire, mode) = requeue?;
                return Some(self.acquire(around, session, shared_name, acquire, mode));
            }
            Lock::Many(many) => many,
        };
        let before = many.demand();
        many.changed = around.op;
        let tenure = many.holders.remove(&session);
        let tenure = tenure.unwrap_or_else(|| panic!("session {session} releases '{name}' without holding it"));
        around.tenure_ended(&tenure);
        around.effects.withdraw(session, name, tenure.token());
        if let Some((acquire, mode)) = requeue {
            let since_us = around.now_us;
            many.queue.join(around.op, Waiter { session, acquire, mode, since_us, is_set: false });
            around.waiter_came(session, shared_name);
            around.own = Some((session, acquire));
        }
        pass_on(many, name, around, before, Vec::new());
        self.tidy(name);
        self.settle_sets(around);
        requeue.map(|(_, mode)| self.acquired(session, name, mode))
    }

    /// Leaves the queue, or all those of its set; shared ones behind an exclusive may be free to go now.
    pub(super) fn leave(&mut self, around: &mut Around<'_>, session: SessionId, name: &LockName) {
        let place = around.place_of(session, name);
        match self.sets.take(place) {
            Some(set) => set.iter().for_each(|(name, _)| self.leave_one(around, session, name)),
            None => self.leave_one(around, session, name),
        }
        self.settle_sets(around);
    }

    pub(super) fn leave_one(&mut self, around: &mut Around<'_>, session: SessionId, name: &LockName) {
        let place = around.waiter_left(session, name);
        let lock = self.locks.get_mut(name);
        let lock = lock.unwrap_or_else(|| panic!("session {session} waits for '{name}', which has no queue"));
        let before = lock.demand();
        let many = lock.many(around.op);
        let left = many.queue.leave(place);
        assert!(left.is_some_and(|waiter| waiter.session == session), "place {place} of '{name}' is another's");
        pass_on(many, name, around, before, Vec::new());
        self.tidy(name);
    }

    /// A lock without holders and waiters is no entry; one that is only held is a short one.
    pub(super) fn tidy(&mut self, name: &LockName) {
        if let Entry::Occupied(mut entry) = self.locks.entry(name.clone()) {
            match entry.get_mut() {
                Lock::Many(many) if many.holders.is_empty() && many.queue.is_empty() => drop(entry.remove()),
                lock => lock.compact(),
            }
        }
    }

    /// What has become of the session's acquire in this op.
    fn acquired(&self, session: SessionId, name: &LockName, mode: Mode) -> Acquired {
        let lock = self.locks.get(name).filter(|lock| lock.holder(session).is_some());
        match lock.and_then(|lock| Some((lock.holder(session)?.token(), lock.others_waiting(mode)))) {
            Some((token, others_waiting)) => Acquired::Granted { token, others_waiting },
            None => Acquired::Queued,
        }
    }

    /// Turns the session's tenure into a shared one; shared ones at the head of the queue come in.
    pub(super) fn downgrade(&mut self, around: &mut Around<'_>, session: SessionId, name: &LockName) {
        let lock = self.locks.get_mut(name);
        let lock = lock.unwrap_or_else(|| panic!("session {session} downgrades '{name}', which nobody holds"));
        let before = lock.demand();
        let many = lock.many(around.op);
        let tenure = many.holders.get_mut(&session);
        let tenure = tenure.unwrap_or_else(|| panic!("session {session} downgrades '{name}' without holding it"));
        *tenure = tenure.downgraded();
        let token = tenure.token();
        pass_on(many, name, around, before, Vec::new());
        // Where a set waits on for another lock the demand is what it was, and this tenure is not in its way any more.
        if many.demand().target(Mode::Shared).is_none() {
            around.effects.withdraw(session, name, token);
        }
        lock.compact();
        self.settle_sets(around);
    }

    /// Ends the session's tenure and begins an exclusive one, by the request `acquire`; none, and nothing is changed, where anybody
    /// else holds the lock or waits for it, dead or alive.
    pub(super) fn upgrade(
        &mut self,
        around: &mut Around<'_>,
        session: SessionId,
        name: &LockName,
        acquire: RequestNumber,
    ) -> Option<FencingToken> {
        let lock = self.locks.get_mut(name);
        let lock = lock.unwrap_or_else(|| panic!("session {session} upgrades '{name}', which nobody holds"));
        let tenure = lock.holder(session).copied();
        let tenure = tenure.unwrap_or_else(|| panic!("session {session} upgrades '{name}' without holding it"));
        let is_alone = lock.holders().nth(1).is_none() || around.mutation.is(Mutant::UpgradesBesideOthers);
        let is_alone = is_alone && lock.queue().is_none_or(Queue::is_empty);
        is_alone.then(|| {
            around.tenure_ended(&tenure);
            around.statistics.granted_at_once += 1;
            let token = FencingToken(around.op);
            *lock = Lock::Single(Tenure::new(session, acquire, around.now_us, token, Mode::Exclusive));
            token
        })
    }

    /// Derives the index of revokes anew, from the locks alone.
    pub(super) fn derive_revokes(&self, effects: &mut Effects) {
        for (name, lock) in self.locks.iter() {
            for tenure in lock.holders() {
                if let Some(target) = lock.demand().target(tenure.mode()) {
                    let revoke = Revoke { session: tenure.session, name: name.clone(), token: tenure.token(), target };
                    effects.revoke(revoke, false);
                }
            }
        }
    }
}

/// Grants from the head of the queue as far as the holders admit, and brings the revokes up to date; `granted` are tenures that this op has
/// just begun. Sets are not granted here, but noted down where nobody before them is in their way.
pub(super) fn pass_on(
    many: &mut Many,
    name: &LockName,
    around: &mut Around<'_>,
    before: Demand,
    mut granted: Vec<Tenure>,
) {
    let token = FencingToken(around.op);
    while let Some((place, head)) = next_single(many, around) {
        let lives = around.sessions.live(head.session).is_some() || around.mutation.is(Mutant::GrantsDead);
        if lives && !many.admits(head.mode) {
            break;
        }
        many.queue.leave(place);
        let shared_name = around.waiter_went(head.session, name);
        if lives {
            let tenure = Tenure::new(head.session, head.acquire, around.now_us, token, head.mode);
            many.holders.insert(head.session, tenure);
            around.holder_came(head.session, shared_name);
            around.waited(&head);
            granted.push(tenure);
        }
    }
    around.granted.extend(granted.iter().map(|tenure| (name.clone(), *tenure)));
    let newest = around.mutation.is(Mutant::RevokesNewest);
    update_revokes(many, name, around.effects, before, &granted, newest);
}

/// Who is next: the first that is not of a set. Nobody before it may be in its way; a set in shared mode is in nobody's but an
/// exclusive one's.
fn next_single(many: &Many, around: &mut Around<'_>) -> Option<(u64, Waiter)> {
    let waiters = || many.queue.iter().map(|(place, waiter)| (place, *waiter)).filter(|(_, waiter)| !waiter.is_set);
    if around.mutation.is(Mutant::LastComeFirst) {
        return waiters().last();
    }
    if around.mutation.is(Mutant::SharedOvertakes)
        && let Some(next) = waiters().find(|(_, waiter)| many.admits(waiter.mode))
    {
        return Some(next);
    }
    let mut passed = false;
    for (place, waiter) in many.queue.iter() {
        if !waiter.is_set {
            return (!passed || waiter.mode == Mode::Shared).then_some((place, *waiter));
        }
        around.sets.insert(place);
        if waiter.mode == Mode::Exclusive {
            return None;
        }
        passed = true;
    }
    None
}

/// The demand is the same for all holders of a lock: where it did not change, only new holders have to be looked at.
/// `newest` is a mutant's.
fn update_revokes(
    many: &Many,
    name: &LockName,
    effects: &mut Effects,
    before: Demand,
    granted: &[Tenure],
    newest: bool,
) {
    let demand = many.demand();
    let mut update = |tenure: &Tenure| match demand.target(tenure.mode()) {
        Some(target) => {
            let told_by_grant = granted.iter().any(|new| new.session == tenure.session);
            let token = if newest { many.holders.values().map(Tenure::token).max() } else { None };
            let token = token.unwrap_or(tenure.token());
            effects.revoke(Revoke { session: tenure.session, name: name.clone(), token, target }, told_by_grant);
        }
        None => effects.withdraw(tenure.session, name, tenure.token()),
    };
    if demand == before {
        granted.iter().for_each(&mut update);
    } else {
        many.holders.values().for_each(&mut update);
    }
}

/// The sessions' own index of what they hold and wait for.
impl Around<'_> {
    fn tenure_ended(&mut self, tenure: &Tenure) {
        self.statistics.holds.record(self.now_us.saturating_sub(tenure.since_us));
    }

    /// A waiter is granted what it waited for.
    pub(super) fn waited(&mut self, waiter: &Waiter) {
        match self.own == Some((waiter.session, waiter.acquire)) {
            true => self.statistics.granted_at_once += 1,
            false => self.statistics.waits.record(self.now_us.saturating_sub(waiter.since_us)),
        }
    }

    pub(super) fn holder_came(&mut self, session: SessionId, name: LockName) {
        let session = self.known(session);
        assert!(session.held.insert(name), "a session holds a lock twice");
    }

    fn holder_left(&mut self, session: SessionId, name: &LockName) {
        assert!(self.known(session).held.remove(name), "'{name}' is released by a session that does not hold it");
    }

    pub(super) fn waiter_came(&mut self, session: SessionId, name: LockName) {
        let op = self.op;
        self.statistics.waiters += 1;
        assert!(self.known(session).waiting.insert(name, op).is_none(), "a session waits twice for a lock");
    }

    fn waiter_left(&mut self, session: SessionId, name: &LockName) -> u64 {
        self.statistics.waiters -= 1;
        let place = self.known(session).waiting.remove(name);
        place.unwrap_or_else(|| panic!("session {session} leaves the queue of '{name}' without standing there"))
    }

    /// Where the session stands in the lock's queue.
    fn place_of(&mut self, session: SessionId, name: &LockName) -> u64 {
        let place = self.known(session).waiting.get(name).copied();
        place.unwrap_or_else(|| panic!("session {session} leaves the queue of '{name}' without standing there"))
    }

    /// As [`Around::waiter_left`], and gives back the name in its shared allocation.
    pub(super) fn waiter_went(&mut self, session: SessionId, name: &LockName) -> LockName {
        self.statistics.waiters -= 1;
        let place = self.known(session).waiting.remove_entry(name);
        place.unwrap_or_else(|| panic!("session {session} waits for '{name}' without knowing it")).0
    }

    fn known(&mut self, session: SessionId) -> &mut super::sessions::Session {
        let op = self.op;
        let known = self.sessions.get_mut(session);
        let known = known.unwrap_or_else(|| panic!("session {session} has locks or waits, but is not in the table"));
        known.changed = op;
        known
    }
}
