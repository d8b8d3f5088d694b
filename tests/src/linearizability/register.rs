//! What clients did, and what they were told.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use super::search::{Sought, Violation, seek};

/// What an operation does to a register. A register holds a value or none; it begins with none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<V> {
    /// Reads it.
    Get,
    /// Writes it; `None` deletes.
    Put(Option<V>),
    /// Writes `value` if it holds `expected`, else nothing.
    Cas {
        /// What it has to hold.
        expected: Option<V>,
        /// What it then holds.
        value: Option<V>,
    },
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<V> {
    /// To a get: what the register holds.
    Holds(Option<V>),
    /// It is written.
    Done,
    /// To a cas: nothing is written, for the register holds something else.
    Differs,
}

/// One operation of one client. Times are of any one clock that all clients share; a counter will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<V> {
    /// What was asked for.
    pub action: Action<V>,
    /// When it was called.
    pub called: u64,
    /// When it returned, and with what; `None` if its outcome is unknown. What returns at the very time at which another is
    /// called counts as concurrent with it.
    pub returned: Option<(u64, Answer<V>)>,
}

/// Operations by the register that they are on, in no order.
#[derive(Clone, Debug)]
pub struct History<K, V> {
    registers: BTreeMap<K, Vec<Operation<V>>>,
}

impl<K, V> Default for History<K, V> {
    fn default() -> Self {
        History { registers: BTreeMap::new() }
    }
}

impl<K: Ord, V> History<K, V> {
    /// Adds an operation.
    ///
    /// # Panics
    /// It returned before it was called: the one who keeps the history is wrong.
    pub fn add(&mut self, key: K, operation: Operation<V>) {
        let returned = operation.returned.as_ref().map_or(u64::MAX, |(returned, _)| *returned);
        assert!(operation.called <= returned, "called at {}, returned at {returned}", operation.called);
        self.registers.entry(key).or_default().push(operation);
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.registers.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// Each register with its operations.
    pub fn registers(&self) -> impl Iterator<Item = (&K, &[Operation<V>])> {
        self.registers.iter().map(|(key, operations)| (key, operations.as_slice()))
    }
}

impl<V: Clone + Ord + Debug> Sought for Operation<V> {
    type State = Option<V>;

    fn called(&self) -> u64 {
        self.called
    }

    fn returned(&self) -> Option<u64> {
        self.returned.as_ref().map(|(returned, _)| *returned)
    }

    fn execute(&self, state: &Option<V>) -> Option<Option<V>> {
        let (after, answer) = match &self.action {
            Action::Get => (state.clone(), Answer::Holds(state.clone())),
            Action::Put(value) => (value.clone(), Answer::Done),
            Action::Cas { expected, value } if expected == state => (value.clone(), Answer::Done),
            Action::Cas { .. } => (state.clone(), Answer::Differs),
        };
        let fits = self.returned.as_ref().is_none_or(|(_, told)| *told == answer);
        fits.then_some(after)
    }

    fn does_as(&self, other: &Self) -> bool {
        self.action == other.action
    }
}

/// Whether the history is linearizable.
///
/// # Errors
/// It is not, or the search gave up; of the first register, in the order of keys, where it is so.
pub fn check<K: Ord + Debug, V: Clone + Ord + Debug>(history: &History<K, V>) -> Result<(), Violation> {
    for (key, operations) in history.registers() {
        seek(&format!("register {key:?}"), None, operations)?;
    }
    Ok(())
}

impl<V: Debug> fmt::Display for Operation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.returned {
            Some((returned, answer)) => write!(f, "{}..{returned} {:?} = {answer:?}", self.called, self.action),
            None => write!(f, "{}.. {:?} = unknown", self.called, self.action),
        }
    }
}
