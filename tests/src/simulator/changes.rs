//! Operators: they add machines, take members off the list, and say that a store is lost.
//!
//! Why no run asks for more than is promised: while a change is under way no store is lost, and none is asked for that would
//! leave too few whole stores. What a primary refuses is refused. Where nobody knows, a vote may be left that has the change made
//! much later: so it counts as under way until the next view, whatever that one is.

use rsm::{Change, ChangeError, Input, MemberId, Standing, Tag};

use super::atlas;
use super::plan::Fault;
use super::workload::asking::address_of;
use super::world::World;

/// A change that nobody answered is given up after this long, µs: well above the core's own patience.
const PATIENCE_US: u64 = 15_000_000;

/// What was asked for and not answered.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The last view whose list was looked at.
    looked_at: u64,
    /// What was asked for, and until when it is waited for.
    under_way: Option<(Tag, u64)>,
    /// Nobody answered, and this was the last view then.
    unknown_in: Option<u64>,
}

impl World {
    /// Whether a change may be decided yet.
    pub(crate) fn is_changing(&self) -> bool {
        self.changes.under_way.is_some()
    }

    /// A change, where one makes sense.
    pub(crate) fn change_members(&mut self, fault: Fault, index: usize) {
        if self.is_changing() {
            return;
        }
        let (Some(view), Some(primary)) = (self.invariants.last_view().cloned(), self.serving()) else { return };
        let member = MemberId(index as u64 + 1);
        let listed = view.slot(member);
        let change = match fault {
            Fault::Add if listed.is_none() && self.members[index].process.is_none() => {
                Change::Add { member, address: address_of(index), kind: self.plan.kind_of(index) }
            }
            Fault::Remove if listed.is_some() && atlas::may_remove(&self.members, &view, index) => {
                Change::Remove { member }
            }
            Fault::Replace if listed.is_some_and(|slot| slot.standing != Standing::InSync) => {
                Change::Replace { member, address: address_of(index) }
            }
            _ => return,
        };
        let tag = self.asking.attempts.next_tag();
        self.trace
            .note(self.now, [30, index as u64, tag], || format!("an operator asks member {}: {change:?}", primary + 1));
        self.changes.under_way = Some((tag, self.now + PATIENCE_US));
        self.invariants.counters.hit("changes of members asked for");
        self.deliver(primary, Input::Change { tag, change });
    }

    /// The primary answers.
    pub(crate) fn on_change_answered(&mut self, tag: Tag, answer: &Result<u64, ChangeError>) {
        self.invariants.counters.hit(match answer {
            Ok(_) => "changes of members made",
            Err(ChangeError::Unknown) => "changes of members unknown",
            Err(ChangeError::Refused(_)) => "changes of members refused",
            Err(_) => "changes of members not taken",
        });
        // A view that was decided counts for what may be lost only when the first store holds it.
        let last = self.invariants.last_view().map_or(0, |view| view.number);
        let is_known = match answer {
            Ok(number) => *number <= last,
            Err(error) => *error != ChangeError::Unknown,
        };
        if is_known && self.changes.under_way.is_some_and(|(asked, _)| asked == tag) {
            (self.changes.under_way, self.changes.unknown_in) = (None, None);
        }
        self.start_listed();
    }

    /// Looks at the list whenever there is a new one: a change may be made though nobody heard so.
    pub(crate) fn look_at_list(&mut self) {
        let number = self.invariants.last_view().map_or(0, |view| view.number);
        if self.changes.under_way.is_some_and(|(_, until)| self.now >= until)
            && number > *self.changes.unknown_in.get_or_insert(number)
        {
            (self.changes.under_way, self.changes.unknown_in) = (None, None);
        }
        if self.plan.spares > 0 && std::mem::replace(&mut self.changes.looked_at, number) != number {
            self.start_listed();
        }
    }

    /// Starts the processes of members that do not run; an operator does so when the list says it.
    pub(crate) fn start_listed(&mut self) {
        let Some(view) = self.invariants.last_view().cloned() else { return };
        for index in 0..self.members.len() {
            let listed = view.slot(MemberId(index as u64 + 1)).is_some();
            if listed && self.members[index].process.is_none() {
                self.start_later(index);
            }
        }
    }

    /// Whether a store's member was taken off the list, or its place given to another store: then its core says so and stops.
    pub(crate) fn is_dismissed(&self, index: usize) -> bool {
        let identity = self.members[index].store.identity;
        let listed = |view: &rsm::View| view.lists(identity.member, identity.incarnation);
        self.invariants.was_ever_listed(identity) && !self.invariants.last_view().is_some_and(listed)
    }

    /// A dismissed process ends, and its operator empties the store.
    pub(crate) fn dismiss(&mut self, index: usize) -> super::invariants::Check {
        let member = &self.members[index];
        let knows = member.known_view().map_or(0, |view| view.number);
        self.invariants.is_not_needed(member.store.identity, knows)?;
        self.invariants.counters.hit("members that learned of their removal");
        self.members[index].process = None;
        self.count_and_tell(index);
        self.empty_store(index);
        self.start_later(index);
        Ok(())
    }
}
