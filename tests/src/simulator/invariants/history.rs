//! Executed histories are one history, at every replica equal at equal op; snapshots are states of it; and what was committed
//! stays in every log.

use rsm::{Identity, Viewstamp};

use super::{Check, Invariants, Violation};
use crate::simulator::image::Image;
use crate::simulator::machine::{Executed, Parted};

impl Invariants {
    /// Executed histories are one history, and nothing is executed before it is committed.
    pub(crate) fn executed(&self, who: Identity, executed: Executed) -> Check {
        match self.ledger.op(executed.op) {
            Some(op) if op.hash == executed.hash => Ok(()),
            found => {
                let detail = format!("member {} at op {}: {found:?} is committed", who.member, executed.op);
                Err(Violation::new("executed histories are one history", detail))
            }
        }
    }

    /// An op is executed after the one before, once in a run.
    pub(crate) fn in_order(&self, who: Identity, disorder: Option<(u64, u64)>) -> Check {
        disorder.map_or(Ok(()), |(last, then)| {
            let detail = format!("member {}: op {then} after op {last}", who.member);
            Err(Violation::new("ops are executed in order, once", detail))
        })
    }

    /// A snapshot in parts is the state at its op, whatever was executed between them.
    pub(crate) fn parted(&mut self, who: Identity, parted: Parted) -> Check {
        self.counters.add("snapshots overtaken by ops", parted.overtaken);
        parted.torn.map_or(Ok(()), |op| {
            let detail = format!("member {}: the parts of the snapshot at op {op}", who.member);
            Err(Violation::new("a snapshot in parts is the state at its op", detail))
        })
    }

    /// A snapshot is a state of the one history.
    pub(crate) fn snapshot_is_history(&self, viewstamp: Viewstamp, state: &[u8]) -> Check {
        // A witness's own snapshot is a mark, without a state (S13).
        if state.is_empty() && self.ledger.is_committed(viewstamp) {
            return Ok(());
        }
        let expected = self.ledger.op(viewstamp.op).map(|op| op.hash);
        if !self.ledger.is_committed(viewstamp) || expected.is_none() || self.ledger.hash_of(state) != expected {
            let detail = format!("a snapshot at {viewstamp} is not the state there");
            return Err(Violation::new("executed histories are one history", detail));
        }
        Ok(())
    }

    /// A truncation never takes a committed entry away.
    pub(super) fn no_committed_entry_goes(&self, before: &Image, op: u64) -> Check {
        let gone = before.entries.iter().rev().take_while(|entry| entry.viewstamp.op > op);
        match gone.map(|entry| entry.viewstamp).find(|viewstamp| self.ledger.is_committed(*viewstamp)) {
            Some(gone) => Err(Violation::new("committed entries never change", format!("{gone} is truncated"))),
            None => Ok(()),
        }
    }
}
