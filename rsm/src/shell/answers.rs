//! Who waits for the answer to which command.
//!
//! Why it is right: a tag is given out once, to one waiter, and goes with its answer. A waiter whose sender is dropped
//! unanswered (the member ended) learns "unknown", never "not executed".

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::inbox::{Answered, Changed};
use crate::{Rejection, Tag};

/// The low bits of a tag are the command's place in its batch.
const PLACE_BITS: u32 = 12;
/// The most commands submitted as one.
pub(super) const SUBMIT_ALL_MAX_COMMANDS: usize = 1 << PLACE_BITS;

/// All waiters.
#[derive(Default)]
pub(super) struct Waiters {
    waiters: BTreeMap<u64, Waiter>,
    changes: BTreeMap<Tag, oneshot::Sender<Changed>>,
    last: u64,
}

enum Waiter {
    One(oneshot::Sender<Answered>),
    All { missing: usize, answers: Vec<Answered>, reply: oneshot::Sender<Vec<Answered>> },
}

impl Waiters {
    /// The tag for a single command.
    pub(super) fn one(&mut self, reply: oneshot::Sender<Answered>) -> Tag {
        self.add(Waiter::One(reply))
    }

    /// The tag of the first of `count` commands; the others' follow it.
    pub(super) fn all(&mut self, count: usize, reply: oneshot::Sender<Vec<Answered>>) -> Tag {
        assert!((1..=SUBMIT_ALL_MAX_COMMANDS).contains(&count), "the handle splits nothing and refuses more");
        self.add(Waiter::All { missing: count, answers: vec![Err(Rejection::Unknown); count], reply })
    }

    /// The tag for a change of the members.
    pub(super) fn change(&mut self, reply: oneshot::Sender<Changed>) -> Tag {
        self.last += 1;
        let tag = self.last << PLACE_BITS;
        self.changes.insert(tag, reply);
        tag
    }

    /// Passes on what became of a change.
    pub(super) fn answer_change(&mut self, tag: Tag, answer: Changed) {
        if let Some(reply) = self.changes.remove(&tag) {
            drop(reply.send(answer));
        }
    }

    /// Passes the answer on. A waiter that has given up is no error.
    pub(super) fn answer(&mut self, tag: Tag, answer: Answered) {
        let number = tag >> PLACE_BITS;
        let place = (tag & (SUBMIT_ALL_MAX_COMMANDS as u64 - 1)) as usize;
        let finished = match self.waiters.get_mut(&number) {
            None => return,
            Some(Waiter::One(_)) => true,
            Some(Waiter::All { missing, answers, .. }) => {
                answers[place] = answer.clone();
                *missing -= 1;
                *missing == 0
            }
        };
        if finished {
            match self.waiters.remove(&number) {
                Some(Waiter::One(reply)) => drop(reply.send(answer)),
                Some(Waiter::All { answers, reply, .. }) => drop(reply.send(answers)),
                None => {}
            }
        }
    }

    fn add(&mut self, waiter: Waiter) -> Tag {
        self.last += 1;
        self.waiters.insert(self.last, waiter);
        self.last << PLACE_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_gets_its_own_answer_and_a_batch_gets_all_at_once() {
        let mut waiters = Waiters::default();
        let (one, mut one_answer) = oneshot::channel();
        let (all, mut all_answers) = oneshot::channel();
        let first = waiters.one(one);
        let second = waiters.all(2, all);
        waiters.answer(second + 1, Ok(vec![2]));
        assert!(all_answers.try_recv().is_err());
        waiters.answer(first, Err(Rejection::ViewChanging));
        assert_eq!(one_answer.try_recv(), Ok(Err(Rejection::ViewChanging)));
        waiters.answer(second, Ok(vec![1]));
        assert_eq!(all_answers.try_recv(), Ok(vec![Ok(vec![1]), Ok(vec![2])]));
        waiters.answer(first, Ok(vec![]));
        assert!(waiters.waiters.is_empty());
    }
}
