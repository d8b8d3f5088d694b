//! Which stores may be lost: the cluster promises to keep everything while at most f of n slots are lost and not yet
//! promoted again; a simulator that breaks this condition would only find what nobody promised.

use rsm::{Identity, View};

use super::member::Member;
use super::ring::Pair;

/// f: how many of so many slots may be lost at a time.
pub(crate) fn tolerated(members: usize) -> usize {
    members - (members / 2 + 1)
}

/// Whether a member's present store counts in the last view, and holds what it promised.
pub(crate) fn is_whole(member: &Member, last: Option<&View>) -> bool {
    let identity = member.store.identity;
    if member.pair.as_ref().is_some_and(Pair::is_lost) {
        return false;
    }
    last.is_none_or(|view| view.is_in_sync(identity.member, identity.incarnation))
}

/// Whether a member's store may be lost now. `wiped` says which of those that found the cluster were lost before any view was in
/// force: the first view may list what they lost.
pub(crate) fn may_lose(members: &[Member], wiped: &[bool], last: Option<&View>, victim: usize) -> bool {
    let others = || members.iter().enumerate().filter(|(index, _)| *index != victim);
    let Some(view) = last else {
        let lost_before = (0..wiped.len()).filter(|index| *index != victim && wiped[*index]).count();
        // The founder's store alone knows a first view for a while; losing it is founding a second cluster.
        return victim != 0 && lost_before < tolerated(wiped.len());
    };
    let voter = |index: usize| view.voters().any(|slot| slot.member.0 == index as u64 + 1);
    // Who is not in sync in a view may know it, but an empty store does not believe that from somebody whom the view does not list.
    let known = others().any(|(_, member)| is_whole(member, last) && member.store.durable.view() > 0);
    let lost = others().filter(|(index, member)| voter(*index) && !is_whole(member, last)).count();
    if voter(victim) {
        return known && lost < view.bearable();
    }
    // A learner may be counted in at this moment; then it is one of those lost among one more.
    let counted = view.voters().count() + 1;
    if view.slot(rsm::MemberId(victim as u64 + 1)).is_some() {
        return known && lost < tolerated(counted);
    }
    // A member that was taken off the list may hold a vote that decides so, until the others can do without it.
    let aware = |slot: &&rsm::Slot| {
        members.iter().map(|member| &member.store).any(|store| {
            let Identity { member, incarnation } = store.identity;
            slot.member == member && slot.incarnation == incarnation && store.durable.view() >= view.number
        })
    };
    let is_member = members[victim].store.asked.control.config.is_some();
    known && (!is_member || view.voters().filter(aware).count() >= view.majority())
}

/// Whether a voter may be taken off the list: those that are left bear what is lost already.
pub(crate) fn may_remove(members: &[Member], view: &View, victim: usize) -> bool {
    let left: Vec<_> = view.voters().filter(|slot| slot.member.0 != victim as u64 + 1).collect();
    let is_whole =
        |slot: &&&rsm::Slot| members.get(slot.member.0 as usize - 1).is_some_and(|member| is_whole(member, Some(view)));
    let (left, whole) = (left.len(), left.iter().filter(is_whole).count());
    left > 0 && whole > left / 2
}
