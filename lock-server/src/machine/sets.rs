//! Sets of locks that are taken at once.
//!
//! A set stands in the queue of each of its locks, at one place: the number of its op. It holds nothing while it waits, and blocks whoever
//! comes after it and conflicts. It is granted in the op in which, in every queue, no holder and nobody before it conflicts.
//!
//! Why nobody waits for ever: of all that wait, in all queues, the one with the lowest place is blocked by holders alone. They are asked to
//! leave, and hold whatever they wait for no longer than their users do. So it goes, and then the next. Two sets cannot wait for one
//! another, since one of them has the lower place in every queue that they share; this is why the place is one for all queues.
//!
//! Why a set is not forgotten: it becomes free by the last change of one of its queues, which ends in [`super::table::pass_on`]; that
//! notes down every set that nobody in this queue blocks any more, and [`Table::settle_sets`] looks at each of them before the op ends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use lock_protocol::{FencingToken, LockName, LockSet, Mode, RequestNumber, SessionId};

use super::effects::Effect;
use super::lock::{Lock, Many, Tenure};
use super::queue::{Queue, Waiter};
use super::table::{Acquired, Around, Table, pass_on};
use crate::mutant::Mutant;

/// The sets that wait, by place.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets(BTreeMap<u64, LockSet>);

impl Sets {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, place: u64) -> Option<LockSet> {
        self.0.remove(&place)
    }
}

impl Table {
    /// Takes all these locks, or joins all their queues. The session neither holds nor waits for any of them.
    pub(super) fn acquire_all(
        &mut self,
        around: &mut Around<'_>,
        session: SessionId,
        acquire: RequestNumber,
        set: &LockSet,
    ) -> Acquired {
        let (place, since_us) = (around.op, around.now_us);
        self.sets.0.insert(place, set.clone());
        around.own = Some((session, acquire));
        for (name, mode) in set.iter() {
            let mut entry = match self.locks.entry(name.clone()) {
                Entry::Occupied(entry) => entry,
                Entry::Vacant(entry) => entry.insert_entry(Lock::Many(Box::new(Many::unheld(place)))),
            };
            let shared_name = entry.key().clone();
            let before = entry.get().demand();
            let many = entry.get_mut().many(around.op);
            many.queue.join(place, Waiter { session, acquire, mode, since_us, is_set: true });
            around.waiter_came(session, shared_name);
            pass_on(many, name, around, before, Vec::new());
        }
        self.settle_sets(around);
        match self.sets.0.contains_key(&place) {
            true => Acquired::Queued,
            false => Acquired::Granted { token: FencingToken(place), others_waiting: false },
        }
    }

    /// Grants every set that has become free to go in this op; one of a dead session leaves instead. Then tells everybody who was granted
    /// something, now that it is known who waits behind.
    pub(super) fn settle_sets(&mut self, around: &mut Around<'_>) {
        while let Some(place) = around.sets.pop_first() {
            let Some(set) = self.sets.0.get(&place) else { continue };
            let session = self.session_at(set.first(), place);
            if around.sessions.live(session).is_none() {
                let set = self.sets.take(place);
                set.iter().flat_map(LockSet::iter).for_each(|(name, _)| self.leave_one(around, session, name));
            } else if set.iter().all(|(name, mode)| self.is_free(name, place, mode, around)) {
                self.grant_set(around, place);
            }
        }
        for (name, tenure) in std::mem::take(&mut around.granted) {
            if around.own != Some((tenure.session, tenure.acquire)) {
                let others_waiting = self.get(&name).is_some_and(|lock| lock.others_waiting(tenure.mode()));
                let (session, acquire, token) = (tenure.session, tenure.acquire, tenure.token());
                around.effects.tell(|| Effect::Granted { session, name, acquire, token, others_waiting });
            }
        }
    }

    fn session_at(&self, name: &LockName, place: u64) -> SessionId {
        let waiter = self.get(name).and_then(Lock::queue).and_then(|queue| queue.at(place));
        waiter.unwrap_or_else(|| panic!("the set at {place} does not wait for '{name}'")).session
    }

    fn is_free(&self, name: &LockName, place: u64, mode: Mode, around: &Around<'_>) -> bool {
        let Some(Lock::Many(many)) = self.get(name) else { return false };
        many.admits(mode) && (!many.queue.is_blocked(place, mode) || around.mutation.is(Mutant::SetsOvertake))
    }

    fn grant_set(&mut self, around: &mut Around<'_>, place: u64) {
        let Some(set) = self.sets.take(place) else { return };
        for (name, mode) in set.iter() {
            let lock = self.locks.get_mut(name);
            let lock = lock.unwrap_or_else(|| panic!("the set at {place} waits for '{name}', which has no queue"));
            let before = lock.demand();
            let many = lock.many(around.op);
            let waiter = many.queue.leave(place);
            let waiter = waiter.unwrap_or_else(|| panic!("the set at {place} does not wait for '{name}'"));
            let shared_name = around.waiter_went(waiter.session, name);
            let token = FencingToken(around.op);
            let tenure = Tenure::new(waiter.session, waiter.acquire, around.now_us, token, mode);
            many.holders.insert(waiter.session, tenure);
            around.holder_came(waiter.session, shared_name);
            around.waited(&waiter);
            pass_on(many, name, around, before, vec![tenure]);
            self.tidy(name);
        }
    }

    /// Finds the sets again in the queues of a snapshot, and checks that they can be none but those that wait.
    pub(super) fn derive_sets(&mut self) -> Result<(), &'static str> {
        let mut found: BTreeMap<u64, (Waiter, Vec<(LockName, Mode)>)> = BTreeMap::new();
        for (name, lock) in self.locks.iter() {
            let queue = lock.queue().into_iter().flat_map(Queue::iter);
            for (place, waiter) in queue.filter(|(_, waiter)| waiter.is_set) {
                let (first, locks) = found.entry(place).or_insert_with(|| (*waiter, Vec::new()));
                if (first.session, first.acquire) != (waiter.session, waiter.acquire) {
                    return Err("one place in two queues is two sessions'");
                }
                locks.push((name.clone(), waiter.mode));
            }
        }
        for (place, (_, locks)) in found {
            let set = LockSet::try_from(locks).map_err(|_| "a set has too many locks")?;
            self.sets.0.insert(place, set);
        }
        Ok(())
    }
}
