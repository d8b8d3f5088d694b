//! A view is decided by the durable votes of a majority of those that the view before lists, under the incarnations that it lists; and
//! its list changes only after the view before has served.

use std::collections::{BTreeMap, BTreeSet};

use paxos::Decree;
use rsm::{Control, Incarnation, MemberId, View};

use super::{Check, Invariants, Violation};
use crate::simulator::trace::brief_view;

/// Who voted for what, durably: by the number and the hash of a view.
pub(super) type Votes = BTreeMap<(u64, u64), BTreeSet<Incarnation>>;

impl Invariants {
    pub(super) fn note_vote(&mut self, holder: Incarnation, control: &Control) {
        if let Some(vote) = control.config.as_ref().and_then(|config| config.vote.as_ref()) {
            let key = (vote.value.number, Decree::hash(&vote.value));
            self.votes.entry(key).or_default().insert(holder);
        }
    }

    /// One that counts alone votes and decides in one record.
    pub(super) fn decided_by_votes(&self, parent: &View, view: &View) -> Check {
        let votes = self.votes.get(&(view.number, Decree::hash(view)));
        let has_voted = |incarnation: Incarnation| votes.is_some_and(|votes| votes.contains(&incarnation));
        let count = parent.voters().filter(|slot| has_voted(slot.incarnation)).count();
        if parent.majority() > 1 && count < parent.majority() {
            let detail = format!("{count} votes of {} for {}", brief_view(parent), brief_view(view));
            return Err(Violation::new("a view is decided by a majority of those listed", detail));
        }
        Ok(())
    }

    pub(super) fn list_changes_when_served(&self, parent: &View, view: &View) -> Check {
        let listed = |view: &View| view.slots.iter().map(|slot| slot.member).collect::<BTreeSet<MemberId>>();
        if listed(parent) == listed(view) || self.served.contains_key(&parent.number) {
            return Ok(());
        }
        let detail = format!("{} after {}, which never served", brief_view(view), brief_view(parent));
        Err(Violation::new("a list changes after the view before has served", detail))
    }
}
