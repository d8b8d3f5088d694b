//! Which stores may be lost: the cluster promises to keep everything while at most f of n slots are lost and not yet
//! promoted again; a simulator that breaks this condition would only find what nobody promised.

use rsm::View;

use super::member::Member;

/// f: how many of so many slots may be lost at a time.
pub(crate) fn tolerated(members: usize) -> usize {
    members - (members / 2 + 1)
}

/// Whether a member's present store counts in the last view.
pub(crate) fn is_whole(member: &Member, last: Option<&View>) -> bool {
    let identity = member.store.identity;
    last.is_none_or(|view| view.is_in_sync(identity.member, identity.incarnation))
}

/// Whether a member's store may be lost now. `wiped` says which were lost before any view was in force.
pub(crate) fn may_lose(members: &[Member], wiped: &[bool], last: Option<&View>, victim: usize) -> bool {
    let others = || members.iter().enumerate().filter(|(index, _)| *index != victim);
    let lost = others().filter(|(_, member)| !is_whole(member, last)).count();
    let lost_before = others().filter(|(index, _)| wiped[*index]).count();
    // The founder's store alone knows a first view for a while; losing it is founding a second cluster.
    let known = match last {
        None => victim != 0,
        Some(_) => others().any(|(_, member)| member.store.durable.view() > 0),
    };
    known && lost.max(if last.is_none() { lost_before } else { 0 }) < tolerated(members.len())
}
