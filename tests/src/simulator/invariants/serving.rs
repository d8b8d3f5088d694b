//! Whoever begins to serve is its view's primary, in one run of its process, and holds everything committed: so what was
//! acknowledged is executed by every later primary.

use std::collections::BTreeSet;

use rsm::{Identity, View, Viewstamp};

use super::{Check, Invariants, Run, Violation};
use crate::simulator::image::Image;

impl Invariants {
    /// Whoever begins to serve is the view's primary, in one run of its process, and holds everything committed before.
    pub(crate) fn serves(
        &mut self,
        who: Identity,
        run: Run,
        entered: Option<&View>,
        log: &Image,
        executed: u64,
    ) -> Check {
        let wrong = |rule, what: String| Err(Violation::new(rule, format!("member {}: {what}", who.member)));
        let Some(view) = entered.filter(|view| view.primary == who.member) else {
            return wrong("only the primary of a view serves", "it is none".to_owned());
        };
        if self.served.insert(view.number, (who.member, run)).is_some_and(|server| server != (who.member, run)) {
            return wrong("a restarted primary never resumes its view", format!("view {}", view.number));
        }
        let covered = log.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        let held: BTreeSet<Viewstamp> = log.entries.iter().map(|entry| entry.viewstamp).collect();
        let missing = |viewstamp: &&Viewstamp| viewstamp.view <= view.number && !held.contains(viewstamp);
        if let Some(missing) = self.ledger.committed_above(covered).iter().find(missing) {
            return wrong("whoever serves holds everything committed", format!("{missing} is missing"));
        }
        let barrier = self.ledger.barrier(view.number);
        if barrier.is_none_or(|barrier| executed < barrier.op || !self.ledger.is_committed(barrier)) {
            return wrong("a primary serves after its barrier", format!("{barrier:?}, executed {executed}"));
        }
        if self.last_server.replace(who.member).is_some_and(|last| last != who.member) {
            self.counters.hit("fail-overs");
        }
        Ok(())
    }

    /// Whether anybody ever served.
    pub(crate) fn has_served(&self) -> bool {
        self.last_server.is_some()
    }
}
