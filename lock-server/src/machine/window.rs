//! The duplicate window of one session: each request number is executed at most once.
//!
//! The client numbers its requests, and repeats one until it has an answer. Its floor says below which number it has all
//! answers; what is kept lies between the floor and the floor plus the window, so it is bounded. A number below the floor is
//! refused, not executed: its outcome is forgotten, so whether it was executed is no longer known.
//!
//! For an acquire only the fact is kept. Its outcome would grow stale: "queued" turns into "granted" by somebody else's op.
//! The lock's entry bears the acquire's number and is asked instead.

use std::collections::BTreeMap;

use lock_protocol::{Outcome, RequestNumber};
use serde::{Deserialize, Serialize};

/// What is remembered of a number. Append-only: it stands in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Done {
    /// An acquire that was granted or queued; the lock's entry says what became of it.
    Acquire,
    /// A release whose requeue was granted or queued; likewise.
    Requeue,
    /// Anything else, for good.
    Outcome(Outcome),
    /// Not executed yet, but a cancel of it was: its acquire or requeue must not be.
    CancelledAhead,
}

/// What to do with a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Execute it, then record it.
    New,
    /// Answer from this.
    Repeated(Done),
    /// Refuse.
    BelowFloor,
    /// Refuse.
    BeyondWindow,
}

/// The window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    floor: RequestNumber,
    done: BTreeMap<RequestNumber, Done>,
}

impl Window {
    pub(super) fn floor(&self) -> RequestNumber {
        self.floor
    }

    /// Forgets what is answered. A floor from a late message may be lower: it never sinks.
    pub(super) fn raise_floor(&mut self, floor: RequestNumber) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while let Some(entry) = self.done.first_entry().filter(|entry| *entry.key() < floor) {
            entry.remove();
        }
    }

    pub(super) fn admit(&self, number: RequestNumber, window: u64) -> Admission {
        if number < self.floor {
            Admission::BelowFloor
        } else if number.0 - self.floor.0 >= window {
            Admission::BeyondWindow
        } else {
            self.done.get(&number).map_or(Admission::New, |done| Admission::Repeated(done.clone()))
        }
    }

    /// Remembers an admitted number.
    pub(super) fn record(&mut self, number: RequestNumber, done: Done) {
        self.done.insert(number, done);
    }

    /// By number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestNumber, &Done)> {
        self.done.iter().map(|(&number, done)| (number, done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_raised_floor_is_forgotten_and_refused() {
        let mut window = Window::default();
        for number in 0..10 {
            window.record(RequestNumber(number), Done::Acquire);
        }
        window.raise_floor(RequestNumber(7));
        window.raise_floor(RequestNumber(3));
        assert_eq!(window.floor(), RequestNumber(7));
        assert_eq!(window.iter().count(), 3);
        assert_eq!(window.admit(RequestNumber(6), 4), Admission::BelowFloor);
        assert_eq!(window.admit(RequestNumber(7), 4), Admission::Repeated(Done::Acquire));
        assert_eq!(window.admit(RequestNumber(10), 4), Admission::New);
        assert_eq!(window.admit(RequestNumber(11), 4), Admission::BeyondWindow);
        assert_eq!(window.admit(RequestNumber(u64::MAX), 4), Admission::BeyondWindow);
    }
}
