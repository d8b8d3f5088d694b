//! A view: who is primary, who is a member, and who of them is in sync. Paxos instance k decides view k.
//!
//! # Why it is right
//!
//! - *Quorums meet.* A view of n slots commits on q = ⌊n/2⌋ + 1 in-sync members, and the next starts from the logs of q
//!   in-sync members. Every in-sync set holds at least q, and all quorums lie within n slots, so any two share a slot.
//! - *The shared slot is the same store* (S6): a slot whose incarnation changes leaves the in-sync set in that very view,
//!   and comes back only by a promotion in a later one, after it holds everything through the barrier of the view before
//!   (S7). So what the shared slot acknowledged it still has.
//! - *Nobody is dropped for being down* (S6). The only way out of the in-sync set is a change of incarnation.
//! - [`View::may_follow`] states all of this about two neighbouring views; acceptors refuse a proposal that breaks it.

use paxos::{Decree, NodeId};
use serde::{Deserialize, Serialize};

use crate::{ClusterId, Incarnation, MemberId};

/// The most slots of a cluster: more members cost each commit a message and buy nothing that seven do not.
pub const MEMBERS_MAX: usize = 9;

/// What a member stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Log and state.
    Replica,
    /// The log's tail, no state; never primary.
    Witness,
}

/// What a member counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Counts for commits and for the start of a view, and may be primary.
    InSync,
    /// A new incarnation that catches up: votes for views, counts for nothing else (S7).
    Syncing,
}

/// One member of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its number.
    pub member: MemberId,
    /// The life of its store that is meant.
    pub incarnation: Incarnation,
    /// Where it listens, for people and clients.
    pub address: String,
    /// What it stores.
    pub kind: Kind,
    /// What it counts for.
    pub standing: Standing,
}

/// A view, as decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// From 1.
    pub number: u64,
    /// Hash of the view before it; 0 in view 1.
    pub parent: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who orders ops; in sync.
    pub primary: MemberId,
    /// All members, ascending by id.
    pub slots: Vec<Slot>,
}

impl View {
    /// Which slots a member has.
    pub fn slot(&self, member: MemberId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.member == member)
    }

    /// Whether this very store of the member is listed.
    pub fn lists(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.slot(member).is_some_and(|slot| slot.incarnation == incarnation)
    }

    /// Whether this very store of the member is listed and in sync.
    pub fn is_in_sync(&self, member: MemberId, incarnation: Incarnation) -> bool {
        self.slot(member).is_some_and(|slot| slot.incarnation == incarnation && slot.standing == Standing::InSync)
    }

    /// The in-sync slots, ascending by id.
    pub fn in_sync(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.standing == Standing::InSync)
    }

    /// Whether a majority is in sync, and the primary a replica among them.
    pub fn is_well_formed(&self) -> bool {
        let primary = self.slot(self.primary);
        self.in_sync().count() >= self.majority()
            && primary.is_some_and(|slot| slot.standing == Standing::InSync && slot.kind == Kind::Replica)
    }

    /// q(n) = ⌊n/2⌋ + 1: how many in-sync members commit an entry, start a view, and how many slots decide the next view.
    pub fn majority(&self) -> usize {
        self.slots.len() / 2 + 1
    }

    /// The view after this one with the given primary: `promoted` slots become in sync, `replaced` ones (slot with its new
    /// incarnation) syncing. The result still has to pass [`View::may_follow`].
    pub fn successor(&self, primary: MemberId, promoted: &[MemberId], replaced: &[Slot]) -> View {
        let slots = self.slots.iter().map(|slot| {
            let mut slot = slot.clone();
            if promoted.contains(&slot.member) {
                slot.standing = Standing::InSync;
            }
            if let Some(new) = replaced.iter().find(|new| new.member == slot.member) {
                slot = Slot { standing: Standing::Syncing, ..new.clone() };
            }
            slot
        });
        View {
            number: self.number + 1,
            parent: Decree::hash(self),
            cluster: self.cluster,
            primary,
            slots: slots.collect(),
        }
    }
}

impl Decree for View {
    fn number(&self) -> u64 {
        self.number
    }

    /// FNV-1a over the canonical bytes. Guards against mixing up chains, not against malice.
    fn hash(&self) -> u64 {
        let mut hash = Fnv::new();
        hash.bytes(&self.number.to_le_bytes());
        hash.bytes(&self.parent.to_le_bytes());
        hash.bytes(&self.cluster.0.to_le_bytes());
        hash.bytes(&self.primary.0.to_le_bytes());
        for slot in &self.slots {
            hash.bytes(&slot.member.0.to_le_bytes());
            hash.bytes(&slot.incarnation.0.to_le_bytes());
            hash.bytes(&(slot.address.len() as u64).to_le_bytes());
            hash.bytes(slot.address.as_bytes());
            hash.bytes(&[slot.kind as u8, slot.standing as u8]);
        }
        hash.finish()
    }

    fn parent_hash(&self) -> u64 {
        self.parent
    }

    fn acceptors(&self) -> Vec<(NodeId, u128)> {
        self.slots.iter().map(|slot| (slot.member.0, slot.incarnation.0)).collect()
    }

    fn quorum(&self) -> usize {
        self.majority()
    }

    fn may_follow(&self, previous: &Self) -> Result<(), String> {
        let refuse =
            |what: String| Err(format!("view {} may not follow view {}: {what}", self.number, previous.number));
        if self.number != previous.number + 1
            || self.parent != Decree::hash(previous)
            || self.cluster != previous.cluster
        {
            return refuse("it is of another chain".into());
        }
        if self.slots.len() != previous.slots.len() {
            return refuse("the number of members changes".into());
        }
        for (new, old) in self.slots.iter().zip(&previous.slots) {
            if new.member != old.member || new.kind != old.kind {
                return refuse(format!("slot {} turns into {}", old.member, new.member));
            }
            let same_store = new.incarnation == old.incarnation;
            if !same_store && new.standing == Standing::InSync {
                return refuse(format!("the new incarnation of {} is in sync at once", new.member));
            }
            if same_store && old.standing == Standing::InSync && new.standing == Standing::Syncing {
                return refuse(format!("{} leaves the in-sync set though its store is the same", new.member));
            }
        }
        if self.in_sync().count() < self.majority() {
            return refuse("fewer than a majority would be in sync".into());
        }
        match self.slot(self.primary) {
            Some(slot) if slot.standing == Standing::InSync && slot.kind == Kind::Replica => Ok(()),
            _ => refuse(format!("its primary {} is no replica in sync", self.primary)),
        }
    }
}

/// FNV-1a, 64 bits: a fixed function (the standard library's hashers may change between versions).
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(member: u64, incarnation: u128, standing: Standing) -> Slot {
        Slot {
            member: MemberId(member),
            incarnation: Incarnation(incarnation),
            address: format!("127.0.0.1:{}", 7100 + member),
            kind: Kind::Replica,
            standing,
        }
    }

    fn view_of(standings: &[Standing]) -> View {
        let slots = standings.iter().zip(1..).map(|(standing, id)| slot(id, u128::from(id), *standing)).collect();
        View { number: 1, parent: 0, cluster: ClusterId(9), primary: MemberId(1), slots }
    }

    use Standing::{InSync, Syncing};

    #[test]
    fn a_fail_over_keeps_everybody_in_sync() {
        let old = view_of(&[InSync, InSync, InSync]);
        let new = old.successor(MemberId(2), &[], &[]);
        assert_eq!(new.may_follow(&old), Ok(()));
        assert_eq!(new.in_sync().count(), 3);
    }

    #[test]
    fn a_new_incarnation_enters_as_syncing_and_the_old_one_is_gone() {
        let old = view_of(&[InSync, InSync, InSync]);
        let new = old.successor(MemberId(1), &[], &[slot(3, 33, InSync)]);
        assert_eq!(new.may_follow(&old), Ok(()));
        assert!(!new.lists(MemberId(3), Incarnation(3)));
        assert!(new.lists(MemberId(3), Incarnation(33)) && !new.is_in_sync(MemberId(3), Incarnation(33)));
    }

    #[test]
    fn s6_a_second_loss_before_the_first_is_made_good_is_refused() {
        let old = view_of(&[InSync, InSync, Syncing]);
        let new = old.successor(MemberId(1), &[], &[slot(2, 22, Syncing)]);
        assert!(new.may_follow(&old).expect_err("refused").contains("majority"));
        let swap = old.successor(MemberId(1), &[MemberId(3)], &[slot(2, 22, Syncing)]);
        assert_eq!(swap.may_follow(&old), Ok(()), "lost and promoted may go into one view");
    }

    #[test]
    fn s6_nobody_is_dropped_for_being_down() {
        let old = view_of(&[InSync, InSync, InSync]);
        let mut new = old.successor(MemberId(1), &[], &[]);
        new.slots[2].standing = Syncing;
        assert!(new.may_follow(&old).expect_err("refused").contains("store is the same"));
    }

    #[test]
    fn s5_a_syncing_member_is_primary_only_in_the_view_that_promotes_it() {
        let old = view_of(&[InSync, InSync, Syncing]);
        assert!(old.successor(MemberId(3), &[], &[]).may_follow(&old).is_err());
        assert_eq!(old.successor(MemberId(3), &[MemberId(3)], &[]).may_follow(&old), Ok(()));
    }

    #[test]
    fn s7_a_new_incarnation_is_never_promoted_in_the_view_that_lists_it() {
        let old = view_of(&[InSync, InSync, InSync]);
        let mut new = old.successor(MemberId(1), &[], &[slot(3, 33, Syncing)]);
        new.slots[2].standing = InSync;
        assert!(new.may_follow(&old).expect_err("refused").contains("at once"));
    }

    #[test]
    fn a_view_of_another_chain_is_refused() {
        let old = view_of(&[InSync, InSync, InSync]);
        let mut new = old.successor(MemberId(2), &[], &[]);
        new.parent ^= 1;
        assert!(new.may_follow(&old).is_err());
    }
}
