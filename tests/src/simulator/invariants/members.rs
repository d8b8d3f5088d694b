//! A view adds, removes or counts in at most one member, and any majority of it meets any majority of the view before.

use std::collections::BTreeSet;

use rsm::{Identity, MemberId, View};

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
}
