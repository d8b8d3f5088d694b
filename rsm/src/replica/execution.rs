//! Executing what is committed, answering for it, and comparing states.
//!
//! # Why it is safe (S9)
//!
//! Only committed entries are executed, in order, each once in a run of the process; so cutting a suffix of the log never
//! has to undo state. A client's answer comes out of the execution by the primary, after the commit. After a restart the
//! state is the snapshot's, and entries are replayed only up to what the entered view's primary says is committed.
//!
//! The machine's hash is compared at equal ops. Equal ops must give equal states; a member whose state differs from a
//! majority's stops, the primary too, and where there is no majority all do: wrong answers are worse than none.

use super::Replica;
use super::roles::Role;
use crate::limits::HASHES_KEPT;
use crate::{MemberId, Message, Micros, Output, Payload, StateMachine, View};

/// After this many stall times without a majority for either state, everybody stops.
const JUDGEMENT_PATIENCE: u64 = 2;

impl<M: StateMachine> Replica<M> {
    /// Executes what is known committed, and starts to serve when that includes the barrier.
    pub(super) fn execute(&mut self, out: &mut Output) {
        if self.is_witness() {
            return; // it holds entries for others, and has no state (S13)
        }
        while self.executed < self.commit {
            let Some(entry) = self.log.next(self.executed).cloned() else { break };
            if entry.viewstamp > self.commit {
                break;
            }
            self.execute_entry(&entry, out);
        }
        self.serve_if_barrier_is_executed(out);
    }

    fn execute_entry(&mut self, entry: &crate::Entry, out: &mut Output) {
        assert_eq!(entry.previous, self.executed, "entries are executed in order, without gaps");
        #[cfg(any(test, feature = "mutants"))]
        let idles =
            self.is_mutant(crate::mutant::Mutant::BackupsNeverExecute) && !matches!(self.role, Role::Primary(_));
        #[cfg(not(any(test, feature = "mutants")))]
        let idles = false;
        if let Payload::Batch(commands) = &entry.payload
            && !idles
        {
            for (op, command) in (entry.first_op()..).zip(commands) {
                let answer = self.machine.apply(op, command);
                if let Role::Primary(primary) = &mut self.role
                    && let Some(tag) = primary.tags.remove(&op)
                {
                    out.answers.push((tag, Ok(answer)));
                }
            }
            out.executed_ops += commands.len() as u64;
        }
        self.executed = entry.viewstamp;
        self.is_part_due |= self.is_crowded();
        self.hashes.push_back((self.executed.op, self.machine.hash()));
        if self.hashes.len() > HASHES_KEPT {
            self.hashes.pop_front();
        }
    }

    fn serve_if_barrier_is_executed(&mut self, out: &mut Output) {
        let executed = self.executed;
        if let Role::Primary(primary) = &mut self.role
            && !primary.is_serving
            && primary.barrier().is_some_and(|barrier| executed >= barrier)
        {
            primary.is_serving = true;
            self.barren_views = 0;
            out.serving = Some(true);
        }
    }

    fn hash_at(&self, op: u64) -> Option<u64> {
        self.hashes.binary_search_by_key(&op, |(op, _)| *op).ok().map(|at| self.hashes[at].1)
    }

    /// The primary keeps who agrees with its state and who differs.
    pub(super) fn compare_with_backup(&mut self, now: Micros, from: MemberId, (op, hash): (u64, u64)) {
        let Some(own) = self.hash_at(op) else { return }; // a witness executes nothing, and says op 0
        let Role::Primary(primary) = &mut self.role else { return };
        if own == hash {
            primary.agreeing.insert(from);
        } else {
            primary.agreeing.remove(&from);
            let differing = primary.differing.entry(from).or_insert((op, hash, now));
            (differing.0, differing.1) = (op, hash);
        }
    }

    /// The minority stops: a differing backup is told, or this primary stops itself.
    pub(super) fn judge_differences(&mut self, now: Micros, out: &mut Output) {
        let Some(quorum) = self.view().map(View::majority) else { return };
        let Role::Primary(primary) = &self.role else { return };
        if primary.differing.is_empty() {
            return;
        }
        let view = self.view_number();
        let patience = JUDGEMENT_PATIENCE * self.settings.timing.stall;
        let overdue = primary.differing.values().any(|(.., since)| now > since + patience);
        if primary.agreeing.len() + 1 >= quorum || overdue {
            for (member, (op, _)) in primary.differing.iter().map(|(member, (op, hash, _))| (member, (*op, *hash))) {
                let hash = self.hash_at(op).unwrap_or_default();
                out.send.push(crate::Send {
                    to: *member,
                    after: self.entered_token,
                    message: Message::Diverged { view, op, hash },
                });
            }
        }
        if primary.differing.len() >= quorum || (overdue && primary.agreeing.len() + 1 < quorum) {
            let who: Vec<String> = primary.differing.keys().map(MemberId::to_string).collect();
            self.fail(format!("its state differs from that of members {}: it stops", who.join(", ")), out);
        }
    }

    /// The majority's state at an op differs from mine.
    pub(super) fn on_diverged(&mut self, from: MemberId, op: u64, hash: u64, out: &mut Output) {
        let is_primary = self.view().is_some_and(|view| view.primary == from);
        let own = if op == self.executed.op { Some(self.machine.hash()) } else { self.hash_at(op) };
        if is_primary && own.is_some_and(|own| own != hash) {
            self.fail(format!("its state at op {op} differs from the majority's: it stops"), out);
        }
    }
}
