//! An entry is committed only while a majority of the view's in-sync members hold it durably, and the barrier; at most one
//! run of one member commits in a view; committed entries never change.

use rsm::{Entry, Identity, Payload, StateMachine, View, Viewstamp};

use super::{Check, Invariants, Run, Seen, Violation};
use crate::simulator::trace::brief_view;

impl Invariants {
    /// A member's commit number moved.
    ///
    /// An entry is committed only while a majority of the view's in-sync members hold it durably, and the barrier; at
    /// most one member commits in a view; committed entries never change.
    pub(crate) fn committed(&mut self, who: Identity, run: Run, entered: Option<&View>, commit: Viewstamp) -> Check {
        if commit.op <= self.ledger.top().op {
            if self.ledger.is_committed(commit) {
                return Ok(());
            }
            let detail = format!("{} says {commit}, but {} was committed", who.member, self.ledger.top());
            return Err(Violation::new("committed entries never change", detail));
        }
        let wrong = |rule, what: &str| Err(Violation::new(rule, format!("{commit} by {}: {what}", who.member)));
        let Some(view) = entered.filter(|view| view.primary == who.member) else {
            return wrong("only the primary of a view commits in it", "no primary said so before");
        };
        match self.served.get(&view.number) {
            Some(server) if *server != (who.member, run) => {
                return wrong("at most one run of one member commits in a view", "another one served in it");
            }
            _ => {}
        }
        if commit.view != view.number {
            return wrong("the barrier commits what is below it", "it is of an older view");
        }
        let holders = view.in_sync().filter(|slot| self.ledger.held(slot.incarnation, commit)).count();
        if holders < view.majority() {
            let what = format!("{holders} in-sync members of {} hold it durably", brief_view(view));
            return wrong("a majority holds what is committed", &what);
        }
        self.ledger.commit(commit)?.iter().try_for_each(|entry| self.execute(entry))
    }

    /// Executes a committed entry on the machine beside the cluster. Each op is seen with the state after it.
    fn execute(&mut self, entry: &Entry) -> Check {
        let mut reference = self.ledger.begin(entry);
        match &entry.payload {
            Payload::Barrier => self.ledger.executed(entry.viewstamp.op, reference.hash(), None)?,
            Payload::Batch(commands) => {
                for (command, op) in commands.iter().zip(entry.first_op()..) {
                    let reply = reference.apply(op, command);
                    self.ledger.executed(op, reference.hash(), Some(command))?;
                    if let Some(machine) = reference.locks_mut() {
                        let effects = machine.take_effects();
                        let view = entry.viewstamp.view;
                        self.seen(&Seen { view, op, command, reply: &reply, machine, effects })?;
                    }
                }
            }
        }
        reference.take_fresh();
        self.ledger.end(reference);
        Ok(())
    }
}
