//! The queue of one lock: who waits, first come first served.
//!
//! A place is the number of the op that joined the queue. An op joins a queue at most once, so places are unique, and their
//! order is the order of arrival. Leaving by place costs O(log n), so that a mass expiry of waiters stays cheap.

use std::collections::BTreeMap;

use lock_protocol::{Mode, RequestNumber, SessionId};

/// One who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    /// Whose.
    pub(super) session: SessionId,
    /// The acquire, or the release that requeued.
    pub(super) acquire: RequestNumber,
    /// What it wants.
    pub(super) mode: Mode,
    /// Service time at which it joined, µs.
    pub(super) since_us: u64,
    /// It waits in other queues too, at the same place, and is granted in all at once.
    pub(super) is_set: bool,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    waiters: BTreeMap<u64, Waiter>,
    /// How many of them want it exclusively.
    exclusive: usize,
}

impl Queue {
    /// Joins at the end: `place` is greater than any before.
    pub(super) fn join(&mut self, place: u64, waiter: Waiter) {
        assert!(self.waiters.last_key_value().is_none_or(|(&last, _)| last < place), "a place in the middle");
        self.exclusive += usize::from(waiter.mode == Mode::Exclusive);
        self.waiters.insert(place, waiter);
    }

    /// Leaves, from wherever it stands.
    pub(super) fn leave(&mut self, place: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&place)?;
        self.exclusive -= usize::from(waiter.mode == Mode::Exclusive);
        Some(waiter)
    }

    /// Who stands there.
    pub(super) fn at(&self, place: u64) -> Option<&Waiter> {
        self.waiters.get(&place)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Whether somebody wants it exclusively.
    pub(super) fn wants_exclusive(&self) -> bool {
        self.exclusive > 0
    }

    /// Whether somebody's wish conflicts with a tenure in this mode.
    pub(super) fn conflicts_with(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => !self.is_empty(),
            Mode::Shared => self.wants_exclusive(),
        }
    }

    /// Whether somebody before a place conflicts with this mode.
    pub(super) fn is_blocked(&self, place: u64, mode: Mode) -> bool {
        self.waiters.range(..place).any(|(_, waiter)| !waiter.mode.is_compatible_with(mode))
    }

    /// From head to end.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.waiters.iter().map(|(&place, waiter)| (place, waiter))
    }
}
