//! The requests of a session that wait for their answer: numbers, floor, window and batches.
//!
//! A request gets its number at the moment at which it is put in, and keeps it over every retransmission; so one whose
//! answer was lost is executed once. Numbering and insertion are one step: were they two, the floor could pass a
//! number that was drawn but not yet inserted, and the server would refuse it for ever.
//!
//! Why several submissions may be in flight: the server may execute two of them in either order, which is harmless
//! between different locks. Requests about one lock never travel in two submissions at once ([`Outbox::take`] leaves
//! them out), and within a submission they stand in the order of their numbers.
//!
//! Bounds: per lock at most one acquire, release or downgrade and one cancel are unanswered, so the map is never larger than
//! twice the locks that the client knows.

use std::collections::{BTreeMap, BTreeSet};

use lock_protocol::{Command, LockName, Mode, REQUEST_WINDOW, Request, RequestNumber, SUBMISSION_MAX_REQUESTS};

use crate::mutant::{self, Mutant};

/// Names a batch that was taken, so that its answer or failure can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

/// What [`Outbox::take`] hands out.
#[derive(Debug)]
pub struct Batch {
    /// To tell its answer or failure by.
    pub id: BatchId,
    /// At the time of the taking.
    pub floor: RequestNumber,
    /// In the order of execution.
    pub requests: Vec<Request>,
}

/// All requests without an answer.
#[derive(Debug)]
pub struct Outbox {
    next_number: u64,
    next_batch: u64,
    /// By number: the lowest is the floor.
    unanswered: BTreeMap<RequestNumber, Command>,
    /// The part of `unanswered` that is in no batch.
    unsent: BTreeSet<RequestNumber>,
    batches: BTreeMap<BatchId, Vec<RequestNumber>>,
    names_in_flight: BTreeSet<LockName>,
    /// Acquires that are queued at the server, to be asked for once more; their numbers may be below the floor.
    again: BTreeMap<RequestNumber, (LockName, Mode)>,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new()
    }
}

impl Outbox {
    /// Nothing to send.
    pub fn new() -> Self {
        Outbox {
            next_number: 1,
            next_batch: 1,
            unanswered: BTreeMap::new(),
            unsent: BTreeSet::new(),
            batches: BTreeMap::new(),
            names_in_flight: BTreeSet::new(),
            again: BTreeMap::new(),
        }
    }

    /// Numbers a command and puts it in.
    pub fn send(&mut self, command: Command) -> RequestNumber {
        while mutant::is(Mutant::ReusesNumbers) && self.unanswered.contains_key(&RequestNumber(self.next_number)) {
            self.next_number += 1;
        }
        let number = RequestNumber(self.next_number);
        self.next_number += 1;
        self.unanswered.insert(number, command);
        self.unsent.insert(number);
        number
    }

    /// Asks once more what became of a queued acquire. Never executed anew: answered from the lock's entry.
    pub fn ask_again(&mut self, number: RequestNumber, name: LockName, mode: Mode) {
        if !mutant::is(Mutant::NeverAsksAgain) {
            self.again.insert(number, (name, mode));
        }
    }

    /// The floor: every number below it is answered and will not be executed any more.
    pub fn floor(&self) -> RequestNumber {
        self.unanswered.first_key_value().map_or(RequestNumber(self.next_number), |(number, _)| *number)
    }

    /// Whether [`Outbox::take`] may find something.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || !self.again.is_empty()
    }

    /// The next batch: all that waits, up to the limits, but nothing about a lock that an unanswered batch is about,
    /// and nothing beyond the window.
    pub fn take(&mut self) -> Option<Batch> {
        let floor = self.floor();
        let mut requests = Vec::new();
        while requests.len() < SUBMISSION_MAX_REQUESTS
            && let Some((number, (name, mode))) = self.again.pop_first()
        {
            requests.push(Request { number, command: Command::Acquire { name, mode } });
        }
        let mut numbers = Vec::new();
        let mut names = BTreeSet::new();
        for number in &self.unsent {
            if requests.len() >= SUBMISSION_MAX_REQUESTS || number.0 >= floor.0 + REQUEST_WINDOW {
                break;
            }
            let Some(command) = self.unanswered.get(number) else { continue };
            let is_in_flight = command.names().any(|name| self.names_in_flight.contains(name));
            if is_in_flight && !mutant::is(Mutant::AcquireDuringRelease) {
                continue;
            }
            names.extend(command.names().cloned());
            numbers.push(*number);
            requests.push(Request { number: *number, command: command.clone() });
        }
        if requests.is_empty() {
            return None;
        }
        for number in &numbers {
            self.unsent.remove(number);
        }
        self.names_in_flight.append(&mut names);
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.batches.insert(id, numbers);
        Some(Batch { id, floor, requests })
    }

    /// The batch was answered, each of its requests.
    pub fn on_answered(&mut self, id: BatchId) {
        for number in self.batches.remove(&id).unwrap_or_default() {
            if let Some(command) = self.unanswered.remove(&number) {
                for name in command.names() {
                    self.names_in_flight.remove(name);
                }
            }
        }
    }

    /// The batch may or may not have been executed: its requests will be sent again, under the same numbers.
    pub fn on_unanswered(&mut self, id: BatchId) {
        for number in self.batches.remove(&id).unwrap_or_default() {
            if let Some(command) = self.unanswered.get(&number) {
                for name in command.names() {
                    self.names_in_flight.remove(name);
                }
                self.unsent.insert(number);
            }
        }
    }

    /// The connection is gone and every batch with it.
    pub fn on_disconnected(&mut self) {
        let ids: Vec<BatchId> = self.batches.keys().copied().collect();
        for id in ids {
            self.on_unanswered(id);
        }
        if mutant::is(Mutant::ReusesNumbers) {
            self.next_number = self.next_number.saturating_sub(8).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(name: &str) -> Command {
        Command::Acquire { name: LockName::new(name).expect("a name"), mode: Mode::Shared }
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.requests.iter().map(|request| request.number.0).collect()
    }

    #[test]
    fn a_batch_whose_answer_was_lost_is_sent_again_under_the_same_numbers() {
        let mut outbox = Outbox::new();
        outbox.send(acquire("a"));
        outbox.send(acquire("b"));
        let first = outbox.take().expect("there is something to send");
        assert_eq!(numbers(&first), [1, 2]);
        assert!(outbox.take().is_none());
        outbox.send(acquire("c"));
        outbox.on_disconnected();
        assert_eq!(numbers(&outbox.take().expect("there is something to send")), [1, 2, 3]);
        assert_eq!(outbox.floor(), RequestNumber(1));
    }

    #[test]
    fn two_requests_about_one_lock_never_travel_in_two_submissions_at_once() {
        let mut outbox = Outbox::new();
        outbox.send(acquire("a"));
        let first = outbox.take().expect("there is something to send");
        outbox.send(Command::Cancel { name: LockName::new("a").expect("a name"), acquire: RequestNumber(1) });
        outbox.send(acquire("b"));
        let second = outbox.take().expect("there is something to send");
        assert_eq!(numbers(&second), [3]);
        outbox.on_answered(first.id);
        assert_eq!(numbers(&outbox.take().expect("there is something to send")), [2]);
        assert_eq!(outbox.floor(), RequestNumber(2));
        outbox.on_answered(second.id);
        assert_eq!(outbox.floor(), RequestNumber(2));
    }

    #[test]
    fn nothing_is_sent_beyond_the_window_until_the_floor_moves_on() {
        let mut outbox = Outbox::new();
        for i in 0..REQUEST_WINDOW + 10 {
            outbox.send(acquire(&format!("lock-{i}")));
        }
        let mut taken = Vec::new();
        while let Some(batch) = outbox.take() {
            assert!(batch.requests.len() <= SUBMISSION_MAX_REQUESTS);
            taken.push(batch);
        }
        let greatest = taken.iter().flat_map(numbers).max().expect("some were taken");
        assert_eq!(greatest, REQUEST_WINDOW);
        outbox.on_answered(taken[0].id);
        assert_eq!(numbers(&outbox.take().expect("there is something to send")).len(), 10);
    }

    #[test]
    fn asking_again_uses_the_old_number_and_does_not_hold_the_floor() {
        let mut outbox = Outbox::new();
        outbox.send(acquire("a"));
        let first = outbox.take().expect("there is something to send");
        outbox.on_answered(first.id);
        assert_eq!(outbox.floor(), RequestNumber(2));
        outbox.ask_again(RequestNumber(1), LockName::new("a").expect("a name"), Mode::Shared);
        let again = outbox.take().expect("there is something to send");
        assert_eq!((numbers(&again), again.floor), (vec![1], RequestNumber(2)));
        outbox.on_unanswered(again.id);
        assert!(outbox.take().is_none());
    }
}
