//! The model of the queues: who is granted what after each change, and sets of locks in them.

use std::collections::BTreeSet;

use lock_protocol::{FencingToken, LockName, LockSet, Mode, Outcome};

use super::LIMITS;
use super::model::{Model, ModelEntry, limit};

impl Model {
    /// After a change of one lock: first its queue, then all sets.
    pub(super) fn pass_on(&mut self, name: &LockName) {
        self.pass_on_singles(name);
        while let Some(set) = self.next_set() {
            let members: Vec<ModelEntry> = self.queue.iter().filter(|entry| entry.set == Some(set)).cloned().collect();
            let lives = self.alive(members[0].session);
            for member in members {
                self.queue.retain(|entry| entry.set != Some(set) || entry.name != member.name);
                if lives {
                    self.grant(member.clone());
                }
                self.pass_on_singles(&member.name);
            }
        }
    }

    fn grant(&mut self, entry: ModelEntry) {
        let entry = ModelEntry { token: self.op, ..entry };
        self.granted.push(entry.clone());
        self.held.push(entry);
    }

    fn fits(&self, wish: &ModelEntry) -> bool {
        self.held.iter().all(|held| held.name != wish.name || held.mode.is_compatible_with(wish.mode))
    }

    /// In a lock's queue, the sets before the first that stops there, and then that one.
    fn reached(&self, name: &LockName) -> (Vec<u64>, Option<usize>) {
        let mut sets = Vec::new();
        for (at, entry) in self.queue.iter().enumerate().filter(|(_, entry)| entry.name == *name) {
            match entry.set {
                None if sets.is_empty() || entry.mode == Mode::Shared => return (sets, Some(at)),
                None => break,
                Some(set) => sets.push(set),
            }
            if entry.mode == Mode::Exclusive {
                break;
            }
        }
        (sets, None)
    }

    fn pass_on_singles(&mut self, name: &LockName) {
        self.touched.insert(name.clone());
        while let (_, Some(at)) = self.reached(name) {
            let head = self.queue[at].clone();
            if self.alive(head.session) && !self.fits(&head) {
                return;
            }
            self.queue.remove(at);
            if self.alive(head.session) {
                self.grant(head);
            }
        }
    }

    /// A set that is free to go, or dead and in the way of a queue that was gone through.
    fn next_set(&self) -> Option<u64> {
        let reached: BTreeSet<u64> = self.touched.iter().flat_map(|name| self.reached(name).0).collect();
        let sets: BTreeSet<u64> = self.queue.iter().filter_map(|entry| entry.set).collect();
        sets.into_iter().find(|set| {
            let places = self.queue.iter().enumerate().filter(|(_, entry)| entry.set == Some(*set));
            let mut places = places.peekable();
            let lives = places.peek().is_some_and(|(_, entry)| self.alive(entry.session));
            let is_free = |(at, wish): (usize, &ModelEntry)| {
                let before = self.queue[..at].iter().filter(|other| other.name == wish.name);
                self.fits(wish) && before.into_iter().all(|other| other.mode.is_compatible_with(wish.mode))
            };
            if lives { places.all(is_free) } else { reached.contains(set) }
        })
    }

    pub(super) fn drop_held(&mut self, session: u64, name: &LockName) {
        self.held.retain(|held| held.session != session || held.name != *name);
        self.pass_on(name);
    }

    pub(super) fn drop_waiting(&mut self, session: u64, name: &LockName) {
        let leaves = self.queue.iter().find(|waiter| waiter.session == session && waiter.name == *name).cloned();
        let Some(leaves) = leaves else { return };
        let is_it = |waiter: &ModelEntry| match leaves.set {
            Some(set) => waiter.set == Some(set),
            None => waiter == &leaves,
        };
        let names: Vec<LockName> = self.queue.iter().filter(|entry| is_it(entry)).map(|e| e.name.clone()).collect();
        self.queue.retain(|waiter| !is_it(waiter));
        names.iter().for_each(|name| self.pass_on_singles(name));
        self.pass_on(name);
    }

    pub(super) fn acquire_all(&mut self, id: u64, number: u64, set: &LockSet) -> Outcome {
        let outside = |entries: &[ModelEntry]| {
            let is_outside =
                |entry: &&ModelEntry| entry.session == id && set.iter().all(|(name, _)| *name != entry.name);
            entries.iter().filter(is_outside).count() + set.len()
        };
        if outside(&[self.held.clone(), self.queue.clone()].concat()) as u64 > LIMITS.locks_per_session {
            return limit("locks of a session", LIMITS.locks_per_session);
        }
        if outside(&self.queue) as u64 > LIMITS.waiters_per_session {
            return limit("queues in which a session waits", LIMITS.waiters_per_session);
        }
        for (name, _) in set.iter() {
            self.confirm(id, name);
            if self.held.iter().any(|held| held.session == id && held.name == *name) {
                self.drop_held(id, name);
            }
            self.drop_waiting(id, name);
        }
        for (name, mode) in set.iter() {
            let (name, set) = (name.clone(), Some(self.op));
            self.queue.push(ModelEntry { name, session: id, mode, acquire: number, token: 0, set });
        }
        set.iter().for_each(|(name, _)| self.pass_on_singles(name));
        self.pass_on(set.first());
        if self.queue.iter().any(|entry| entry.set == Some(self.op)) {
            return Outcome::Queued;
        }
        let op = self.op;
        self.granted.retain(|granted| granted.set != Some(op));
        Outcome::Granted { token: FencingToken(op), others_waiting: false }
    }
}
