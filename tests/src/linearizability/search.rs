//! The search for an order (Wing and Gong 1993, with the memo of Lowe 2017).
//!
//! Why it is right: an order is built from its beginning. What may come next is every operation that was called before
//! the first of those left returned; each is tried, so an order is found where there is one. What can follow depends on
//! two things alone: which operations are in, and what the register holds. So a pair of these that was met before is not
//! tried again.
//!
//! Unknown operations may be left out, and so there are very many sets of them; three rules keep most out of the search.
//!
//! - One is tried only where it changes the register, and then something has to see the change: a write straight after it
//!   would hide it, and the order without it is as good.
//! - Of those that do the same, the one called first is tried first: it can stand wherever a later one can.
//! - Where the same answers are explained with fewer of them, and the register holds the same, whatever can follow with
//!   more can follow there too.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use super::history::{Action, History, Operation};

/// Configurations that are tried for one key: some hundred megabytes for a history of thousands.
pub const CONFIGURATIONS_MAX: usize = 1 << 18;

/// Why a history does not count as linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// There is no order.
    NotLinearizable {
        /// The register's key.
        register: String,
        /// How many answers the longest order explains.
        explained: usize,
        /// What the register holds after it.
        holds: String,
        /// The answered operations of which one would have to follow.
        next: Vec<String>,
    },
    /// The search gave up.
    Undecided {
        /// The register's key.
        register: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NotLinearizable { register, explained, holds, next } => {
                writeln!(f, "register {register}: no order gives the answers; the longest gives {explained} of them,")?;
                write!(f, "then it holds {holds}, and none of these can follow:\n  {}", next.join("\n  "))
            }
            Violation::Undecided { register } => {
                write!(f, "register {register}: undecided after {CONFIGURATIONS_MAX} configurations")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// Whether the history is linearizable.
///
/// # Errors
/// It is not, or the search gave up; of the first register, in the order of keys, where it is so.
pub fn check<K: Ord + Debug, V: Clone + Ord + Debug>(history: &History<K, V>) -> Result<(), Violation> {
    for (key, operations) in history.registers() {
        Search::new(operations).run(&format!("{key:?}"))?;
    }
    Ok(())
}

/// Operations, one bit each.
type Bits = Vec<u64>;

/// A state of the search, but for the unknown operations that are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration<V> {
    /// The answered operations that are in.
    explained: Bits,
    holds: Option<V>,
    /// The last operation's outcome is unknown: the next one has to see what it did.
    unseen: bool,
}

/// How the search came to where it is.
#[derive(Debug)]
struct Step<V> {
    operation: usize,
    held_before: Option<V>,
    unseen_before: bool,
}

#[derive(Debug)]
struct Search<'a, V> {
    /// Answered ones first, each part in the order of calls.
    operations: Vec<&'a Operation<V>>,
    answered: usize,
    /// For each unknown operation, the one before it that does the same.
    twins: Vec<Option<usize>>,
    now: Configuration<V>,
    /// The unknown operations that are in.
    unknown: Bits,
    /// Answered operations that are in.
    explained: usize,
    /// All answered operations below are in.
    low: usize,
    /// The configuration with the most answered operations in, and how many those are.
    furthest: (usize, Configuration<V>),
}

impl<'a, V: Clone + Ord + Debug> Search<'a, V> {
    fn new(operations: &'a [Operation<V>]) -> Self {
        let mut operations: Vec<_> = operations.iter().collect();
        operations.sort_by_key(|operation| (operation.returned.is_none(), operation.called));
        let answered = operations.partition_point(|operation| operation.returned.is_some());
        let twin = |at: usize| (answered..at).rfind(|before| operations[*before].action == operations[at].action);
        let twins: Vec<_> = (answered..operations.len()).map(twin).collect();
        let start = Configuration { explained: vec![0; answered.div_ceil(64)], holds: None, unseen: false };
        Search {
            answered,
            unknown: vec![0; twins.len().div_ceil(64)],
            twins,
            operations,
            furthest: (0, start.clone()),
            now: start,
            explained: 0,
            low: 0,
        }
    }

    fn run(mut self, register: &str) -> Result<(), Violation> {
        let mut tried: BTreeMap<Configuration<V>, Vec<Bits>> = BTreeMap::new();
        let mut tries = 0;
        let mut path = Vec::new();
        let mut from = 0;
        while self.explained < self.answered {
            if let Some((operation, holds)) = self.next(from) {
                let step = self.take(operation, holds);
                let with = tried.entry(self.now.clone()).or_default();
                if !with.iter().any(|fewer| is_subset(fewer, &self.unknown)) {
                    with.push(self.unknown.clone());
                    tries += 1;
                    path.push(step);
                    from = 0;
                } else {
                    from = operation + 1;
                    self.take_back(step);
                }
            } else if let Some(step) = path.pop() {
                from = step.operation + 1;
                self.take_back(step);
            } else {
                return Err(self.violation(register));
            }
            if tries > CONFIGURATIONS_MAX {
                return Err(Violation::Undecided { register: register.to_owned() });
            }
        }
        Ok(())
    }

    fn is_taken(&self, operation: usize) -> bool {
        let (bits, place) = match operation.checked_sub(self.answered) {
            None => (&self.now.explained, operation),
            Some(place) => (&self.unknown, place),
        };
        bits[place / 64] & (1 << (place % 64)) != 0
    }

    /// Puts an operation in, or takes it out.
    fn flip(&mut self, operation: usize) {
        let (bits, place) = match operation.checked_sub(self.answered) {
            None => (&mut self.now.explained, operation),
            Some(place) => (&mut self.unknown, place),
        };
        bits[place / 64] ^= 1 << (place % 64);
    }

    /// The answered operations, not yet in, of which none had returned when another was called; and when the first returned.
    fn overlapping(&self) -> (Vec<usize>, u64) {
        let mut first_return = u64::MAX;
        let mut overlapping = Vec::new();
        for operation in self.low..self.answered {
            if self.operations[operation].called > first_return {
                break;
            }
            if !self.is_taken(operation) {
                first_return = first_return.min(self.operations[operation].deadline());
                overlapping.push(operation);
            }
        }
        overlapping.retain(|operation| self.operations[*operation].called <= first_return);
        (overlapping, first_return)
    }

    /// The first operation at or after `from` that can come next, and what the register then holds.
    fn next(&self, from: usize) -> Option<(usize, Option<V>)> {
        let (overlapping, first_return) = self.overlapping();
        let unknown = (self.answered..self.operations.len())
            .take_while(|operation| self.operations[*operation].called <= first_return)
            .filter(|operation| !self.is_taken(*operation))
            .filter(|operation| self.twins[*operation - self.answered].is_none_or(|twin| self.is_taken(twin)));
        overlapping.into_iter().chain(unknown).filter(|operation| *operation >= from).find_map(|operation| {
            let next = self.operations[operation];
            if self.now.unseen && matches!(next.action, Action::Put(_)) {
                return None;
            }
            let holds = next.execute(&self.now.holds)?;
            let pointless = operation >= self.answered && holds == self.now.holds;
            (!pointless).then_some((operation, holds))
        })
    }

    fn take(&mut self, operation: usize, holds: Option<V>) -> Step<V> {
        let unseen = operation >= self.answered;
        self.flip(operation);
        let step = Step {
            operation,
            held_before: std::mem::replace(&mut self.now.holds, holds),
            unseen_before: std::mem::replace(&mut self.now.unseen, unseen),
        };
        self.explained += usize::from(!unseen);
        while self.low < self.answered && self.is_taken(self.low) {
            self.low += 1;
        }
        if self.explained > self.furthest.0 {
            self.furthest = (self.explained, self.now.clone());
        }
        step
    }

    fn take_back(&mut self, step: Step<V>) {
        self.flip(step.operation);
        self.now.holds = step.held_before;
        self.now.unseen = step.unseen_before;
        if step.operation < self.answered {
            self.explained -= 1;
            self.low = self.low.min(step.operation);
        }
    }

    fn violation(mut self, register: &str) -> Violation {
        (self.explained, self.now) = self.furthest.clone();
        self.low = 0;
        let (next, _) = self.overlapping();
        Violation::NotLinearizable {
            register: register.to_owned(),
            explained: self.explained,
            holds: format!("{:?}", self.now.holds),
            next: next.into_iter().map(|operation| self.operations[operation].to_string()).collect(),
        }
    }
}

fn is_subset(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one & !other == 0)
}
