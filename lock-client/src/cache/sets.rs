//! A lock as one of several that a user wants at once.
//!
//! A set holds nothing while it waits, neither at the server nor here: each of its locks comes to the front of its own local queue, gives back what
//! it has, and says so. Only when all of them have said so does the one request for all leave (M13: nothing about any of them is unanswered
//! then). Sets join all their local queues in one step, so two sets stand in the same order everywhere, and neither waits for the other.
//!
//! The server grants all of the set in one op. A lock that comes to another end (its place or its tenure is gone) *dissolves*: the user is
//! told, lets the others go, and asks anew; it never waits for one lock while it holds another.

use lock_protocol::{Mode, RequestNumber};

use super::{CachedLock, Effect, LocalWaiter, State, Step, WaiterId};

/// A set of locks that a user of this client waits for, counted in the order in which they joined their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetId(pub u64);

impl<W> CachedLock<W> {
    /// A local user wants the lock as one of a set. It joins all its locks before anything else happens to any of them.
    pub fn join(&mut self, set: SetId, mode: Mode, waiter: W, step: &mut Step<'_, W>) -> WaiterId {
        let id = self.next_id();
        self.waiters.push_back(LocalWaiter { id, mode, set: Some(set), waiter });
        self.settle(step);
        id
    }

    /// The set as one of which this waiter waits.
    pub fn set_of(&self, waiter: WaiterId) -> Option<SetId> {
        self.waiters.iter().find(|other| other.id == waiter)?.set
    }

    /// Whether the set has its turn here, and the client has nothing of the lock and asks for nothing.
    pub fn is_gathered(&self, set: SetId) -> bool {
        self.state == State::Gathering { set }
    }

    /// The set was asked for, with this request.
    pub fn asked(&mut self, set: SetId, number: RequestNumber) {
        if let (true, Some(front)) = (self.is_gathered(set), self.waiters.front()) {
            self.remembered = None;
            self.state = State::Asking { number, mode: front.mode, queued: false };
            self.assembling = Some(set);
        }
    }

    pub(super) fn gather(&mut self, set: SetId, step: &mut Step<'_, W>) {
        self.state = State::Gathering { set };
        step.effects.push(Effect::Ready { set });
    }

    /// The mode in which the lock is to be asked for again with its release; none for a set, which asks for all at once.
    pub(super) fn wish(&self) -> Option<Mode> {
        self.waiters.front().filter(|waiter| waiter.set.is_none()).map(|waiter| waiter.mode)
    }

    pub(super) fn front_set(&self) -> Option<SetId> {
        self.waiters.front().and_then(|waiter| waiter.set)
    }

    /// Whether a tenure was asked for by a set that does not wait here any more.
    pub(super) fn is_deserted(&self) -> bool {
        self.assembling.is_some() && self.front_set() != self.assembling
    }

    /// What was asked for as part of a set and came to another end than a tenure to be used tells the set so.
    pub(super) fn end_assembly(&mut self, step: &mut Step<'_, W>) {
        let is_meant = self.assembling.is_some() && self.front_set() == self.assembling;
        match self.state {
            _ if self.assembling.is_none() => return,
            State::Asking { .. } => return,
            State::Held { .. } if is_meant => return,
            _ => self.assembling = None,
        }
        if is_meant && let Some(LocalWaiter { waiter, .. }) = self.waiters.pop_front() {
            step.effects.push(Effect::Dissolve { waiter });
        }
    }
}
