//! What is known to be committed, and what executing it gives: the truth that members and clients are held against.
//!
//! Why it is right: it is fed by the first member that claims a commit, and never forgets. All later claims, executions
//! and answers must agree with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rsm::{Entry, Incarnation, StateMachine, Viewstamp};

use super::invariants::{Check, Violation};
use super::machine::Replicated;
use super::mutation::Mutation;
use super::plan::{Plan, Workload};
use super::workload::register::{CommandId, Register, decode_command};

/// An op of the committed history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    /// The state's hash after it.
    pub(crate) hash: u64,
    /// Whose command it is; none for a barrier.
    pub(crate) command: Option<CommandId>,
}

#[derive(Debug)]
struct Known {
    entry: Arc<Entry>,
    /// Incarnations that ever held it durably in their logs.
    holders: Vec<Incarnation>,
}

/// Entries by viewstamp, and the committed history.
#[derive(Debug)]
pub(crate) struct Ledger {
    plan: Plan,
    entries: BTreeMap<Viewstamp, Known>,
    /// The last op of each incarnation's installed snapshots: it holds all below.
    installed: BTreeMap<Incarnation, u64>,
    /// The committed entries, ascending.
    committed: Vec<Viewstamp>,
    /// What they did, from op 1.
    ops: Vec<Op>,
    /// The machine beside the cluster; away only while an entry is executed.
    reference: Option<Replicated>,
    /// The empty machine's.
    first_hash: u64,
    done: BTreeMap<CommandId, u64>,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan, mutation: Mutation) -> Self {
        let mut reference = Replicated::new(plan, 0, usize::MAX, mutation);
        // Its effects are the grants that the checks look at.
        if let Some(machine) = reference.locks_mut() {
            machine.set_serving(true);
        }
        Ledger {
            plan: plan.clone(),
            entries: BTreeMap::new(),
            installed: BTreeMap::new(),
            committed: Vec::new(),
            ops: Vec::new(),
            first_hash: reference.hash(),
            reference: Some(reference),
            done: BTreeMap::new(),
        }
    }

    /// The state of everything committed.
    pub(crate) fn reference(&self) -> &Replicated {
        self.reference.as_ref().expect("it is away only while an entry is executed")
    }

    /// The hash of the state in a snapshot; none if it is none.
    pub(crate) fn hash_of(&self, snapshot: &[u8]) -> Option<u64> {
        if self.plan.workload == Workload::Register {
            return Register::peek(snapshot).map(|peek| peek.hash);
        }
        let mut machine = Replicated::new(&self.plan, 0, usize::MAX, Mutation::default());
        machine.restore(snapshot).ok().map(|()| machine.hash())
    }

    /// Someone has, or sends, an entry.
    ///
    /// # Errors
    /// Another entry with that viewstamp was seen.
    pub(crate) fn see(&mut self, entry: &Arc<Entry>) -> Check {
        let known = self
            .entries
            .entry(entry.viewstamp)
            .or_insert_with(|| Known { entry: Arc::clone(entry), holders: Vec::new() });
        if !Arc::ptr_eq(&known.entry, entry) && known.entry != *entry {
            return Err(Violation::new(
                "equal viewstamps, equal bytes",
                format!(
                    "{} exists twice: after {} and after {}",
                    entry.viewstamp, known.entry.previous, entry.previous
                ),
            ));
        }
        Ok(())
    }

    /// A store holds an entry durably now.
    pub(crate) fn hold(&mut self, holder: Incarnation, viewstamp: Viewstamp) {
        if let Some(known) = self.entries.get_mut(&viewstamp)
            && !known.holders.contains(&holder)
        {
            known.holders.push(holder);
        }
    }

    /// A store holds another's snapshot durably now.
    pub(crate) fn install(&mut self, holder: Incarnation, op: u64) {
        let last = self.installed.entry(holder).or_default();
        *last = op.max(*last);
    }

    /// Whether a store ever held everything up to this viewstamp durably.
    pub(crate) fn held(&self, holder: Incarnation, viewstamp: Viewstamp) -> bool {
        viewstamp == Viewstamp::default()
            || self.entries.get(&viewstamp).is_some_and(|known| known.holders.contains(&holder))
            || self.installed.get(&holder).is_some_and(|op| *op >= viewstamp.op && self.is_committed(viewstamp))
    }

    /// Whether an entry is committed.
    pub(crate) fn is_committed(&self, viewstamp: Viewstamp) -> bool {
        viewstamp == Viewstamp::default() || self.committed.binary_search(&viewstamp).is_ok()
    }

    /// The last committed entry.
    pub(crate) fn top(&self) -> Viewstamp {
        self.committed.last().copied().unwrap_or_default()
    }

    /// Committed entries above an op, ascending.
    pub(crate) fn committed_above(&self, op: u64) -> &[Viewstamp] {
        &self.committed[self.committed.partition_point(|viewstamp| viewstamp.op <= op)..]
    }

    /// An op of the history; op 0 is the empty state.
    pub(crate) fn op(&self, op: u64) -> Option<Op> {
        match op.checked_sub(1) {
            None => Some(Op { hash: self.first_hash, command: None }),
            Some(at) => self.ops.get(usize::try_from(at).ok()?).copied(),
        }
    }

    /// The first entry of a view, where one was seen.
    pub(crate) fn barrier(&self, view: u64) -> Option<Viewstamp> {
        let from = Viewstamp { view, op: 0 };
        self.entries.range(from..).next().map(|(viewstamp, _)| *viewstamp).filter(|first| first.view == view)
    }

    /// Whether one entry is the other, or comes before it in its log.
    pub(crate) fn is_below(&self, viewstamp: Viewstamp, top: Viewstamp) -> bool {
        let mut at = top;
        while at.op > viewstamp.op {
            match self.entries.get(&at) {
                Some(known) => at = known.entry.previous,
                None => return false,
            }
        }
        at == viewstamp
    }

    /// A primary says that all up to this viewstamp is committed. Returns what is to be executed, in order.
    ///
    /// # Errors
    /// It is not a continuation of what was committed before.
    pub(crate) fn commit(&self, viewstamp: Viewstamp) -> Result<Vec<Arc<Entry>>, Violation> {
        let top = self.top();
        let mut fresh = Vec::new();
        let mut at = viewstamp;
        while at.op > top.op {
            let Some(known) = self.entries.get(&at) else {
                return Err(Violation::new("committed entries never change", format!("{at} was never in a log")));
            };
            fresh.push(Arc::clone(&known.entry));
            at = known.entry.previous;
        }
        if !self.is_committed(at) {
            let detail = format!("{viewstamp} is said to be committed; below it is {at}, but {top} was committed");
            return Err(Violation::new("committed entries never change", detail));
        }
        fresh.reverse();
        Ok(fresh)
    }

    /// An entry is executed now, by the caller, on the machine that it is given.
    pub(crate) fn begin(&mut self, entry: &Entry) -> Replicated {
        self.committed.push(entry.viewstamp);
        self.reference.take().expect("one entry is executed at a time")
    }

    /// The entry was executed.
    pub(crate) fn end(&mut self, reference: Replicated) {
        self.reference = Some(reference);
    }

    /// An op was executed; `command` is none for a barrier.
    ///
    /// # Errors
    /// The command was executed before.
    pub(crate) fn executed(&mut self, op: u64, hash: u64, command: Option<&[u8]>) -> Check {
        let id = command.filter(|_| self.plan.workload == Workload::Register).and_then(decode_command);
        self.ops.push(Op { hash, command: id });
        match id.and_then(|id| self.done.insert(id, op)) {
            None => Ok(()),
            Some(before) => {
                let detail = format!("command {id:?} is op {before} and op {op}");
                Err(Violation::new("a command is executed at most once", detail))
            }
        }
    }

    /// Where a command was executed.
    pub(crate) fn op_of(&self, command: CommandId) -> Option<u64> {
        self.done.get(&command).copied()
    }
}
