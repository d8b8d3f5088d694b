//! A view adds, removes or counts in at most one member, and any majority of it meets any majority of the view before. A member
//! that is removed stops only when its vote is not needed.

use std::collections::BTreeSet;

use rsm::{Identity, Incarnation, MemberId, View};

use super::{Check, Invariants, Violation};
use crate::simulator::trace::brief_view;

impl Invariants {
    pub(super) fn list_changes_in_steps(&self, parent: &View, view: &View) -> Check {
        let listed = |view: &View| view.slots.iter().map(|slot| slot.member).collect::<BTreeSet<MemberId>>();
        let voters = |view: &View| view.voters().map(|slot| slot.member).collect::<BTreeSet<MemberId>>();
        let changed = listed(parent).symmetric_difference(&listed(view)).count();
        if changed > 1 {
            let detail = format!("{} after {}", brief_view(view), brief_view(parent));
            return Err(Violation::new("a view changes at most one slot of the list", detail));
        }
        let all = voters(parent).union(&voters(view)).count();
        if parent.majority() + view.majority() <= all {
            let detail = format!("{} after {}", brief_view(view), brief_view(parent));
            return Err(Violation::new("majorities of neighbouring views meet", detail));
        }
        Ok(())
    }

    /// Whether any view listed this store.
    pub(crate) fn was_ever_listed(&self, who: Identity) -> bool {
        self.views.values().any(|view| view.lists(who.member, who.incarnation))
    }

    /// A store holds this view durably.
    pub(super) fn knows_view(&mut self, holder: Incarnation, number: u64) {
        let known = self.known.entry(holder).or_default();
        *known = number.max(*known);
    }

    /// A store that was listed, and whose own last view is this, stops for good: it had no vote in the instance that took it off
    /// the list, or a majority of that list knows the outcome.
    pub(crate) fn is_not_needed(&self, who: Identity, knows: u64) -> Check {
        let listed = |view: &View| view.lists(who.member, who.incarnation);
        let until = self.views.values().filter(|view| listed(view)).map(|view| view.number).max();
        let first = until.and_then(|number| self.views.values().find(|view| view.number > number));
        let knowing = |view: &View| {
            let aware = |incarnation| self.known.get(&incarnation).is_some_and(|known| *known >= view.number);
            view.voters().filter(|slot| aware(slot.incarnation)).count()
        };
        match first {
            Some(view) if knows + 1 >= view.number && knowing(view) < view.majority() => {
                let detail = format!("member {}: {} know {}", who.member, knowing(view), brief_view(view));
                Err(Violation::new("a removed member stops when its vote is not needed", detail))
            }
            _ => Ok(()),
        }
    }
}
