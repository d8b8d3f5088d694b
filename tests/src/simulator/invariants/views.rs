//! A view number is decided once, each view is the child of the one before, and every in-sync set is a majority.

use std::collections::BTreeSet;

use paxos::Decree;
use rsm::{MemberId, Standing, View};

use super::{Check, Invariants, Violation};
use crate::simulator::trace::brief_view;

impl Invariants {
    /// A view number is decided once. Every in-sync set is a majority.
    pub(crate) fn decided(&mut self, view: &View) -> Check {
        if let Some(known) = self.views.get(&view.number) {
            if known != view {
                let detail = format!("{} and {}", brief_view(known), brief_view(view));
                return Err(Violation::new("a view number is decided once", detail));
            }
            return Ok(());
        }
        let in_sync: BTreeSet<MemberId> = view.in_sync().map(|slot| slot.member).collect();
        if in_sync.len() < view.majority() || !in_sync.contains(&view.primary) {
            return Err(Violation::new("every in-sync set is a majority", brief_view(view)));
        }
        if let Some(parent) = view.number.checked_sub(1).and_then(|number| self.views.get(&number)) {
            if view.parent != Decree::hash(parent) {
                return Err(Violation::new("a view number is decided once", format!("{} has no parent", view.number)));
            }
            let parent = parent.clone();
            self.list_changes_in_steps(&parent, view)?;
            self.list_changes_when_served(&parent, view)?;
            self.decided_by_votes(&parent, view)?;
            self.count_change(&parent, view);
        } else if view.number == 1 {
            self.counters.hit("founded");
        }
        self.views.insert(view.number, view.clone());
        Ok(())
    }

    fn count_change(&mut self, parent: &View, view: &View) {
        self.counters.hit("view changes");
        if !self.served.contains_key(&parent.number) {
            self.counters.hit("views decided and never served");
        }
        let mut promoted = 0;
        for new in &view.slots {
            match parent.slot(new.member) {
                None => self.counters.hit("members added"),
                Some(old) if old.incarnation != new.incarnation => self.counters.hit("members replaced"),
                Some(old) if old.standing != new.standing && new.standing == Standing::InSync => {
                    promoted += 1;
                    if old.standing == Standing::Learner {
                        self.counters.hit("learners promoted");
                    }
                }
                Some(_) => {}
            }
        }
        let removed = parent.slots.iter().filter(|old| view.slot(old.member).is_none()).count();
        self.counters.add("members removed", removed as u64);
        self.counters.add("promotions", promoted);
        if promoted > 0 && parent.primary != view.primary {
            self.counters.hit("fail-overs that promote");
        }
    }
}
