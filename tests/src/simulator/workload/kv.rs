//! Clients of the key-value example: get, put, delete and compare-and-set on few keys, and what they were told.
//!
//! The machine is the example's own. What its clients saw is judged by the checker of linearizability at the end of the
//! run. An operation whose client gave up waiting, or was told that nobody knows, has an unknown outcome.

use crate::linearizability::{Action, Answer, History, Operation, Violation as NotLinearizable, check, key_value};

use super::super::dice::Dice;
use super::super::invariants::{Check, Violation};

#[path = "../../../../rsm/examples/kv/machine.rs"]
mod machine;
pub(crate) use machine::Kv;

/// What clients did, and the values they have seen.
#[derive(Debug, Default)]
pub(crate) struct Book {
    history: History<u64, String>,
    /// The value a key was seen to hold last, by whoever it was: what a compare-and-set expects.
    seen: std::collections::BTreeMap<u64, Option<String>>,
    written: u64,
    clock: u64,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    key: u64,
    action: Action<String>,
    called: u64,
}

impl Book {
    /// An operation begins.
    pub(crate) fn call(&mut self, dice: &mut Dice, keys: u64) -> Call {
        let key = dice.below(keys);
        self.written += 1;
        let value = Some(format!("v{}", self.written));
        let action = match dice.below(8) {
            0 | 1 => Action::Put(value),
            2 => Action::Put(None),
            3 | 4 => Action::Cas { expected: self.seen.get(&key).cloned().flatten(), value },
            _ => Action::Get,
        };
        Call { key, action, called: self.tick() }
    }

    /// It returned.
    ///
    /// # Errors
    /// The answer is none to such an operation.
    pub(crate) fn returned(&mut self, call: Call, answer: &[u8]) -> Check {
        let text = String::from_utf8_lossy(answer);
        let told = key_value::answer(&call.action, &text).ok_or_else(|| {
            let detail = format!("{:?} was answered by {text}", call.action);
            Violation::new("an answer fits its request", detail)
        })?;
        if let Answer::Holds(value) = &told {
            self.seen.insert(call.key, value.clone());
        }
        let returned = Some((self.tick(), told));
        self.history.add(call.key, Operation { action: call.action, called: call.called, returned });
        Ok(())
    }

    /// Nobody will ever say what became of it.
    pub(crate) fn unknown(&mut self, call: Call) {
        self.history.add(call.key, Operation { action: call.action, called: call.called, returned: None });
    }

    /// What clients were told has one order that explains it. True where the search came to an end.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn judge(&self) -> Result<bool, Violation> {
        match check(&self.history) {
            Ok(()) => Ok(true),
            Err(NotLinearizable::Undecided { .. }) => Ok(false),
            Err(wrong) => Err(Violation::new("what clients are told is linearizable", wrong.to_string())),
        }
    }

    /// Only the order of calls and returns counts.
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Call {
    /// The request's line.
    pub(crate) fn command(&self) -> Vec<u8> {
        key_value::request(self.key, &self.action).into_bytes()
    }
}
