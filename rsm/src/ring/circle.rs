//! A ring of members: who stands before whom, and which of two rings counts.
//!
//! Why it is right: of any two different rings exactly one is newer, and all members judge alike; so wherever rings meet, one of
//! them is left. The view has the last word: a ring counts in one view only, has none but members that this view lists, and its primary
//! always, so that whoever is cut off from the primary can make no ring that the others would have to follow.

use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use crate::MemberId;

/// The members that keep copies for others, in one direction: each for those that come after it, up to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The view in which it counts.
    pub view: u64,
    /// Higher with each change.
    pub number: u64,
    /// Who changed it.
    pub initiator: MemberId,
    /// Ascending.
    pub members: Vec<MemberId>,
}

impl Ring {
    /// Whether it replaces another: of a later view, or changed more often; of two changed at once, the one whose initiator is lower.
    pub(super) fn is_newer_than(&self, other: &Ring) -> bool {
        let key = |ring: &Ring| (ring.view, ring.number, Reverse(ring.initiator));
        // A member that has restarted may have used its number before: then the members decide, the same way everywhere.
        key(self).cmp(&key(other)).then_with(|| self.members.cmp(&other.members)) == Ordering::Greater
    }

    /// Whether it can be a ring of a view with this primary, in which these members may keep copies.
    pub(super) fn is_of(&self, primary: MemberId, able: &[MemberId]) -> bool {
        self.members.is_sorted_by(|a, b| a < b)
            && self.members.contains(&primary)
            && self.members.iter().all(|member| able.contains(member))
    }

    pub(super) fn contains(&self, member: MemberId) -> bool {
        self.members.contains(&member)
    }

    /// The predecessor of a member, whether that is in the ring itself or not; none if there is no other.
    pub(super) fn before(&self, member: MemberId) -> Option<MemberId> {
        let lower = self.members.iter().rev().find(|other| **other < member);
        lower.or_else(|| self.members.iter().rev().find(|other| **other != member)).copied()
    }

    /// The next member of the ring; none if there is no other.
    pub(super) fn after(&self, member: MemberId) -> Option<MemberId> {
        let higher = self.members.iter().find(|other| **other > member);
        higher.or_else(|| self.members.iter().find(|other| **other != member)).copied()
    }

    /// The ring without a member, as this initiator makes it.
    pub(super) fn without(&self, member: MemberId, initiator: MemberId) -> Ring {
        let members = self.members.iter().copied().filter(|other| *other != member).collect();
        Ring { number: self.number.saturating_add(1), initiator, members, ..*self }
    }

    /// The ring with one member more, as this initiator makes it.
    pub(super) fn with(&self, member: MemberId, initiator: MemberId) -> Ring {
        let mut members = self.members.clone();
        members.push(member);
        members.sort_unstable();
        Ring { number: self.number.saturating_add(1), initiator, members, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(view: u64, number: u64, initiator: u64, members: &[u64]) -> Ring {
        let members = members.iter().copied().map(MemberId).collect();
        Ring { view, number, initiator: MemberId(initiator), members }
    }

    #[test]
    fn each_stands_behind_the_nearest_lower_member_of_the_ring_or_the_highest() {
        let ring = ring(1, 0, 1, &[1, 3, 4]);
        let before = [1, 2, 3, 4, 5].map(|member| ring.before(MemberId(member)).map(|before| before.0));
        assert_eq!(before, [Some(4), Some(1), Some(1), Some(3), Some(4)]);
        let after = [1, 2, 3, 4, 5].map(|member| ring.after(MemberId(member)).map(|after| after.0));
        assert_eq!(after, [Some(3), Some(3), Some(4), Some(1), Some(1)]);
    }

    #[test]
    fn nobody_stands_behind_himself() {
        let ring = ring(1, 0, 1, &[2]);
        assert_eq!((ring.before(MemberId(2)), ring.after(MemberId(2))), (None, None));
        assert_eq!((ring.before(MemberId(1)), ring.before(MemberId(3))), (Some(MemberId(2)), Some(MemberId(2))));
    }

    #[test]
    fn of_two_rings_exactly_one_is_newer() {
        let rings = [
            ring(1, 7, 1, &[1, 2]),
            ring(2, 0, 3, &[1]),
            ring(2, 0, 1, &[1]),
            ring(2, 1, 3, &[1, 2]),
            ring(2, 1, 2, &[1, 2]),
            ring(2, 1, 2, &[1, 3]),
        ];
        for (at, older) in rings.iter().enumerate() {
            for newer in &rings[at + 1..] {
                assert!(newer.is_newer_than(older) && !older.is_newer_than(newer), "{older:?} {newer:?}");
            }
            assert!(!older.is_newer_than(older));
        }
    }

    #[test]
    fn a_ring_without_the_primary_or_with_a_stranger_is_none_of_the_view() {
        let able = [MemberId(1), MemberId(2), MemberId(3)];
        assert!(ring(1, 0, 1, &[1, 3]).is_of(MemberId(1), &able));
        for members in [&[2, 3][..], &[1, 4], &[3, 1], &[1, 1], &[]] {
            assert!(!ring(1, 0, 1, members).is_of(MemberId(1), &able), "{members:?}");
        }
    }
}
