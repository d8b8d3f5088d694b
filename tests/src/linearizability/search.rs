//! The search for an order (Wing and Gong 1993, with the memo of Lowe 2017).
//!
//! Why it is right: an order is built from its beginning. What may come next is every operation that was called before
//! the first of those left returned; each is tried, so an order is found where there is one. What can follow depends on
//! two things alone: which operations are in, and the object's state. So a pair of these that was met before is not
//! tried again.
//!
//! Unknown operations may be left out, and so there are very many sets of them; four rules keep most out of the search.
//!
//! - One is tried only where it changes the state, and then what comes next has to see the change: an operation that can come
//!   just as well before it, or that makes it as if it had not been, comes before it, or without it. So unknown ones stand
//!   only where they are needed.
//! - Of several in a row that can be exchanged, the order of their calls is tried.
//! - Of those that do the same, the one called first is tried first: it can stand wherever a later one can.
//! - Where the same answers are explained with fewer of them, and the state is the same, whatever can follow with
//!   more can follow there too.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

/// Configurations that are tried for one object: some hundred megabytes for a history of thousands.
pub const CONFIGURATIONS_MAX: usize = 1 << 18;

/// Why a history does not count as linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// There is no order.
    NotLinearizable {
        /// The register or lock.
        object: String,
        /// How many answers the longest order explains.
        explained: usize,
        /// Its state after them.
        state: String,
        /// The answered operations of which one would have to follow.
        next: Vec<String>,
    },
    /// The search gave up.
    Undecided {
        /// The register or lock.
        object: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NotLinearizable { object, explained, state, next } => {
                writeln!(f, "{object}: no order gives the answers; the longest gives {explained} of them,")?;
                write!(f, "then its state is {state}, and none of these can follow:\n  {}", next.join("\n  "))
            }
            Violation::Undecided { object } => {
                write!(f, "{object}: undecided after {CONFIGURATIONS_MAX} configurations")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// An operation as the search sees it.
pub(super) trait Sought: fmt::Display {
    /// The object's.
    type State: Clone + Ord + Debug;

    /// When it was called: it takes effect no earlier.
    fn called(&self) -> u64;
    /// When it must have taken effect; none where its outcome is unknown.
    fn returned(&self) -> Option<u64>;
    /// The state afterwards, if this operation can be executed on it as it is: if the answer, where one is known, would be
    /// the same.
    fn execute(&self, state: &Self::State) -> Option<Self::State>;
    /// Whether it cannot be executed on this state, nor on any that may come of it.
    fn is_too_late(&self, _: &Self::State) -> bool {
        false
    }
    /// Whether two unknown ones are the same but for the time of their calls.
    fn does_as(&self, other: &Self) -> bool;
}

/// Whether the operations of one object can be put into an order.
pub(super) fn seek<O: Sought>(object: &str, start: O::State, operations: &[O]) -> Result<(), Violation> {
    Search::new(start, operations).run(object)
}

/// Operations, one bit each.
type Bits = Vec<u64>;

/// A state of the search, but for the unknown operations that are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration<S> {
    /// All answered operations are in that belong to words of bits before this one.
    word: usize,
    /// Those of the words from there on, up to the last that is not zero.
    explained: Bits,
    state: S,
    unseen: Option<Unseen<S>>,
}

/// The last operation's outcome is unknown: the next one has to see what it did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unseen<S> {
    operation: usize,
    state_before: S,
}

/// How the search came to where it is.
#[derive(Debug)]
struct Step<S> {
    operation: usize,
    state_before: S,
    unseen_before: Option<Unseen<S>>,
    end_before: usize,
}

#[derive(Debug)]
struct Search<'a, O: Sought> {
    /// Answered ones first, each part in the order of calls.
    operations: Vec<&'a O>,
    answered: usize,
    /// For each unknown operation, the one before it that does the same.
    twins: Vec<Option<usize>>,
    /// The answered operations that are in.
    explained: Bits,
    /// The unknown operations that are in.
    unknown: Bits,
    state: O::State,
    unseen: Option<Unseen<O::State>>,
    /// Answered operations that are in.
    count: usize,
    /// All answered operations below are in.
    low: usize,
    /// None from here on is.
    end: usize,
    /// The configuration with the most answered operations in, and how many those are.
    furthest: (usize, Configuration<O::State>),
}

impl<'a, O: Sought> Search<'a, O> {
    fn new(start: O::State, operations: &'a [O]) -> Self {
        let mut operations: Vec<_> = operations.iter().collect();
        operations.sort_by_key(|operation| (operation.returned().is_none(), operation.called()));
        let answered = operations.partition_point(|operation| operation.returned().is_some());
        let twin = |at: usize| (answered..at).rfind(|before| operations[*before].does_as(operations[at]));
        let twins: Vec<_> = (answered..operations.len()).map(twin).collect();
        let first = Configuration { word: 0, explained: Bits::new(), state: start.clone(), unseen: None };
        Search {
            answered,
            explained: vec![0; answered.div_ceil(64)],
            unknown: vec![0; twins.len().div_ceil(64)],
            twins,
            operations,
            state: start,
            unseen: None,
            count: 0,
            low: 0,
            end: 0,
            furthest: (0, first),
        }
    }

    fn run(mut self, object: &str) -> Result<(), Violation> {
        let mut tried: BTreeMap<Configuration<O::State>, Vec<Bits>> = BTreeMap::new();
        let mut tries = 0;
        let mut path = Vec::new();
        let mut from = 0;
        while self.count < self.answered {
            if let Some((operation, state)) = self.next(from) {
                let step = self.take(operation, state);
                let with = tried.entry(self.configuration()).or_default();
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
                return Err(self.violation(object));
            }
            if tries > CONFIGURATIONS_MAX {
                return Err(Violation::Undecided { object: object.to_owned() });
            }
        }
        Ok(())
    }

    fn configuration(&self) -> Configuration<O::State> {
        let word = self.low / 64;
        let explained = self.explained[word..self.end.div_ceil(64).max(word)].to_vec();
        Configuration { word, explained, state: self.state.clone(), unseen: self.unseen.clone() }
    }

    fn is_taken(&self, operation: usize) -> bool {
        let (bits, place) = match operation.checked_sub(self.answered) {
            None => (&self.explained, operation),
            Some(place) => (&self.unknown, place),
        };
        bits[place / 64] & (1 << (place % 64)) != 0
    }

    /// Puts an operation in, or takes it out.
    fn flip(&mut self, operation: usize) {
        let (bits, place) = match operation.checked_sub(self.answered) {
            None => (&mut self.explained, operation),
            Some(place) => (&mut self.unknown, place),
        };
        bits[place / 64] ^= 1 << (place % 64);
    }

    /// The answered operations, not yet in, of which none had returned when another was called; and when the first returned.
    fn overlapping(&self) -> (Vec<usize>, u64) {
        let mut first_return = u64::MAX;
        let mut overlapping = Vec::new();
        for operation in self.low..self.answered {
            if self.operations[operation].called() > first_return {
                break;
            }
            if !self.is_taken(operation) {
                first_return = first_return.min(self.operations[operation].returned().unwrap_or(u64::MAX));
                overlapping.push(operation);
            }
        }
        overlapping.retain(|operation| self.operations[*operation].called() <= first_return);
        (overlapping, first_return)
    }

    /// The first operation at or after `from` that can come next, and the state afterwards.
    fn next(&self, from: usize) -> Option<(usize, O::State)> {
        let (overlapping, first_return) = self.overlapping();
        if overlapping.iter().any(|operation| self.operations[*operation].is_too_late(&self.state)) {
            return None;
        }
        let unknown = (self.answered..self.operations.len())
            .take_while(|operation| self.operations[*operation].called() <= first_return)
            .filter(|operation| !self.is_taken(*operation))
            .filter(|operation| self.twins[*operation - self.answered].is_none_or(|twin| self.is_taken(twin)));
        overlapping.into_iter().chain(unknown).filter(|operation| *operation >= from).find_map(|operation| {
            let state = self.operations[operation].execute(&self.state)?;
            let pointless = operation >= self.answered && state == self.state;
            (!pointless && self.sees(operation, &state)).then_some((operation, state))
        })
    }

    /// Whether the operation, which gives this state, has to come after the unknown one before it, if that is one.
    fn sees(&self, operation: usize, state: &O::State) -> bool {
        let Some(Unseen { operation: unknown, state_before }) = &self.unseen else { return true };
        let Some(without) = self.operations[operation].execute(state_before) else { return true };
        let exchanged = operation < self.answered || operation < *unknown;
        without != *state && !(exchanged && self.operations[*unknown].execute(&without).as_ref() == Some(state))
    }

    fn take(&mut self, operation: usize, state: O::State) -> Step<O::State> {
        self.flip(operation);
        let state_before = std::mem::replace(&mut self.state, state);
        let is_unknown = operation >= self.answered;
        let unseen = is_unknown.then(|| Unseen { operation, state_before: state_before.clone() });
        let unseen_before = std::mem::replace(&mut self.unseen, unseen);
        let step = Step { operation, state_before, unseen_before, end_before: self.end };
        if !is_unknown {
            self.count += 1;
            self.end = self.end.max(operation + 1);
        }
        while self.low < self.answered && self.is_taken(self.low) {
            self.low += 1;
        }
        if self.count > self.furthest.0 {
            self.furthest = (self.count, self.configuration());
        }
        step
    }

    fn take_back(&mut self, step: Step<O::State>) {
        self.flip(step.operation);
        self.state = step.state_before;
        self.unseen = step.unseen_before;
        self.end = step.end_before;
        if step.operation < self.answered {
            self.count -= 1;
            self.low = self.low.min(step.operation);
        }
    }

    fn violation(mut self, object: &str) -> Violation {
        let (explained, furthest) = self.furthest.clone();
        self.explained.fill(0);
        self.explained[..furthest.word].fill(u64::MAX);
        self.explained[furthest.word..][..furthest.explained.len()].copy_from_slice(&furthest.explained);
        self.low = 0;
        let (next, _) = self.overlapping();
        Violation::NotLinearizable {
            object: object.to_owned(),
            explained,
            state: format!("{:?}", furthest.state),
            next: next.into_iter().map(|operation| self.operations[operation].to_string()).collect(),
        }
    }
}

fn is_subset(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one & !other == 0)
}
