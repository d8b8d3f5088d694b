//! An answered command is executed once, with this answer, after everything that was answered before it was sent.

use super::{Check, Invariants, Violation};
use crate::simulator::workload::register::{CommandId, Register};

impl Invariants {
    /// The highest op that clients know of at this moment: what is asked for from now on comes after it.
    pub(crate) fn horizon(&self) -> u64 {
        self.answered
    }

    /// An answered command is executed once, with this result, after everything that was answered before it was sent.
    pub(crate) fn answered(&self, command: CommandId, horizon: u64, answer: &[u8]) -> Check {
        let wrong = |what: String| {
            Err(Violation::new(
                "an answered command is executed once, in real-time order",
                format!("{command:?}: {what}"),
            ))
        };
        let Some(told) = Register::peek(answer) else { return wrong("the answer is none".to_owned()) };
        if self.ledger.op_of(command) != Some(told.op) {
            return wrong(format!("answered as op {}, executed as {:?}", told.op, self.ledger.op_of(command)));
        }
        if self.ledger.op(told.op).is_none_or(|op| op.hash != told.hash || op.command != Some(command)) {
            return wrong(format!("the answer at op {} is not the history's", told.op));
        }
        if told.op <= horizon {
            return wrong(format!("op {} was ordered before op {horizon}, answered before it was asked", told.op));
        }
        Ok(())
    }

    /// A client has an answer.
    pub(crate) fn heard(&mut self, answer: &[u8]) {
        self.answered = self.answered.max(Register::peek(answer).map_or(0, |told| told.op));
    }
}
