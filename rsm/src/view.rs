//! A view: who is primary, who is a member, and who of them is in sync. Paxos instance k decides view k.
//!
//! # Why it is right
//!
//! Of a view's slots, the *voters* are those that are not learners. With n voters, q(n) = ⌊n/2⌋ + 1.
//!
//! - *Quorums meet.* A view commits on q in-sync members, and the next starts from the logs of q in-sync members. Every
//!   in-sync set holds at least q, and all quorums lie within n slots, so any two share a slot.
//! - *The shared slot is the same store* (S6): a slot whose incarnation changes leaves the in-sync set in that very view,
//!   and comes back only by a promotion in a later one, after it holds everything through the barrier of the view before
//!   (S7). So what the shared slot acknowledged it still has.
//! - *Nobody is dropped for being down* (S6). The only ways out of the in-sync set are a change of incarnation, and to be
//!   removed by an operator.
//! - *Quorums of neighbours meet although n changes* (S12). A view changes n by one at most, and then nothing else. Let k-1
//!   have n voters, and W be q(n) of them that committed something in k-1. Let R be the reporters of view k.
//!   Grown by one: R has q(n+1) members, all but one of them among the old n, and q(n) + q(n+1) - 1 = n + 1 > n.
//!   Shrunk by one: R has q(n-1) members, all among the old n, and q(n) + q(n-1) = n + 1 > n. So W and R share a slot, and by
//!   the rule above a store.
//! - *Only neighbours do.* q(5) and q(3) need not meet (4 is missing between them): so n changes only in the
//!   view after one that has *started*. The barrier of k-1 brings everything older to q(n) members of k-1, which is the W
//!   of the line before. What was decided and never started keeps its n: its R is that of the view before it. Acceptors cannot see
//!   whether a view has started; the primary can, so only the primary of k-1 proposes such a view, and stays primary in it.
//! - *A learner* is a slot outside n: it gets the log, and counts for nothing: no vote, no acknowledgement, no report, no
//!   prevote. So to add one changes no quorum, and a spare that never comes stops nobody. It becomes a voter, in sync at
//!   once, in the view that counts it in n.
//! - *Witnesses* (S13) are n - q at most, so each q members have a replica among them.
//! - [`View::may_follow`] states all of this about two neighbouring views; acceptors refuse a proposal that breaks it.

use paxos::{Decree, NodeId};
use serde::{Deserialize, Serialize};

use crate::{Change, ClusterId, Incarnation, MemberId};

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

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Replica => "replica",
            Kind::Witness => "witness",
        })
    }
}

/// What a member counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Counts for commits and for the start of a view, and may be primary.
    InSync,
    /// A new incarnation that catches up: votes for views, counts for nothing else (S7).
    Syncing,
    /// Added by an operator, and not counted among the n voters before it is promoted: has no vote, counts for nothing (S12).
    Learner,
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

    /// The n slots that count: all but learners, ascending by id.
    pub fn voters(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.standing != Standing::Learner)
    }

    /// Whether each member is there once, a majority is in sync, the primary a replica among them, and the witnesses are few.
    pub fn is_well_formed(&self) -> bool {
        self.check_form().is_ok()
    }

    fn check_form(&self) -> Result<(), String> {
        if self.slots.len() > MEMBERS_MAX || !self.slots.is_sorted_by_key(|slot| slot.member) {
            return Err(format!("its {} members are too many, or out of order", self.slots.len()));
        }
        if self.slots.windows(2).any(|pair| pair[0].member == pair[1].member) {
            return Err("a member is listed twice".into());
        }
        if self.in_sync().count() < self.majority() {
            return Err("fewer than a majority would be in sync".into());
        }
        if self.in_sync().any(|slot| slot.incarnation == Incarnation::NOBODY) {
            return Err("a slot without a store would be in sync".into());
        }
        let witnesses = self.voters().filter(|slot| slot.kind == Kind::Witness).count();
        if witnesses > self.bearable() {
            let (bearable, voters) = (self.bearable(), self.voters().count());
            return Err(format!("{witnesses} of {voters} members would be witnesses, {bearable} may be"));
        }
        match self.slot(self.primary) {
            Some(slot) if slot.standing == Standing::InSync && slot.kind == Kind::Replica => Ok(()),
            _ => Err(format!("its primary {} is no replica in sync", self.primary)),
        }
    }

    /// q(n) = ⌊n/2⌋ + 1: how many in-sync members commit an entry, start a view, and how many voters decide the next view.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// f = n - q(n): how many voters may be down.
    pub fn bearable(&self) -> usize {
        self.voters().count().saturating_sub(self.majority())
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
                let counts = slot.standing != Standing::Learner;
                slot = Slot { standing: if counts { Standing::Syncing } else { Standing::Learner }, ..new.clone() };
            }
            slot
        });
        self.child(primary, slots.collect())
    }

    /// The view after this one with these slots.
    fn child(&self, primary: MemberId, slots: Vec<Slot>) -> View {
        View { number: self.number + 1, parent: Decree::hash(self), cluster: self.cluster, primary, slots }
    }

    /// The view after this one in which n grows by a learner that has caught up (S12).
    pub fn with_learner_promoted(&self, member: MemberId) -> View {
        let mut slots = self.slots.clone();
        for slot in slots.iter_mut().filter(|slot| slot.member == member && slot.standing == Standing::Learner) {
            slot.standing = Standing::InSync;
        }
        self.child(self.primary, slots)
    }

    /// The view after this one with an operator's change made, whoever is up.
    ///
    /// # Errors
    /// The change makes no sense in this view; one line for the operator.
    pub fn changed(&self, change: &Change) -> Result<View, String> {
        change.check()?;
        let member = change.member();
        let mut slots = self.slots.clone();
        let place = slots.binary_search_by_key(&member, |slot| slot.member);
        match (change, place) {
            (Change::Add { .. }, Ok(_)) => return Err(format!("the cluster has a member {member} already")),
            (Change::Remove { .. } | Change::Replace { .. }, Err(_)) => {
                return Err(format!("the cluster has no member {member}"));
            }
            (Change::Add { address, kind, .. }, Err(place)) => {
                if let Some(other) = slots.iter().find(|slot| slot.address == *address) {
                    return Err(format!("member {} has the address {address}", other.member));
                }
                // All learners counted in, and the witnesses still few.
                let witnesses = slots.iter().filter(|slot| slot.kind == Kind::Witness).count();
                let voters = slots.len() + 1;
                if *kind == Kind::Witness && 2 * (witnesses + 1) >= voters {
                    return Err(format!(
                        "{} of {voters} members would be witnesses: fewer than half may be",
                        witnesses + 1
                    ));
                }
                let (address, kind) = (address.clone(), *kind);
                let nobody = Incarnation::NOBODY;
                slots.insert(place, Slot { member, incarnation: nobody, address, kind, standing: Standing::Learner });
            }
            (Change::Remove { .. }, Ok(place)) => drop(slots.remove(place)),
            (Change::Replace { address, .. }, Ok(place)) => {
                let slot = &mut slots[place];
                if slot.incarnation == Incarnation::NOBODY && slot.address == *address {
                    return Err(format!("member {member} is awaited there with an empty store already"));
                }
                (slot.incarnation, slot.address) = (Incarnation::NOBODY, address.clone());
                if slot.standing == Standing::InSync {
                    slot.standing = Standing::Syncing;
                }
            }
        }
        let next = self.child(self.primary, slots);
        next.check_follows(self)?;
        Ok(next)
    }

    /// Everything that must hold between neighbours, beside the chain.
    fn check_follows(&self, previous: &Self) -> Result<(), String> {
        let mut list_changes = 0;
        let mut other_changes = false;
        for new in &self.slots {
            match previous.slot(new.member) {
                Some(old) => {
                    check_slot(old, new)?;
                    let promoted = (old.standing, new.standing) == (Standing::Learner, Standing::InSync);
                    list_changes += usize::from(promoted);
                    other_changes |= !promoted && old != new;
                }
                None if new.standing == Standing::Learner => list_changes += 1,
                None => return Err(format!("member {} is added with a vote", new.member)),
            }
        }
        list_changes += previous.slots.iter().filter(|old| self.slot(old.member).is_none()).count();
        #[cfg(any(test, feature = "mutants"))]
        let list_changes = if crate::mutant::is_lenient() { list_changes.min(1) } else { list_changes };
        if list_changes > 1 {
            return Err("more than one slot is added, removed or counted in".into());
        }
        if list_changes == 1 && (other_changes || self.primary != previous.primary) {
            return Err("the list of members changes together with something else".into());
        }
        self.check_form()
    }
}

/// What may become of a slot from one view to the next.
fn check_slot(old: &Slot, new: &Slot) -> Result<(), String> {
    let member = old.member;
    let same_store = new.incarnation == old.incarnation;
    if new.kind != old.kind {
        return Err(format!("slot {member} becomes another kind of member"));
    }
    match (old.standing, new.standing) {
        (_, Standing::InSync) if !same_store => Err(format!("the new incarnation of {member} is in sync at once")),
        (Standing::InSync, Standing::Syncing) if same_store => {
            Err(format!("{member} leaves the in-sync set though its store is the same"))
        }
        (Standing::Learner, Standing::Syncing) => Err(format!("learner {member} has a vote before it is in sync")),
        (Standing::InSync | Standing::Syncing, Standing::Learner) => Err(format!("{member} loses its vote")),
        _ => Ok(()),
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
        self.voters().map(|slot| (slot.member.0, slot.incarnation.0)).collect()
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
        self.check_follows(previous).or_else(refuse)
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

    use Standing::Learner;

    fn add(member: u64, kind: Kind) -> Change {
        Change::Add { member: MemberId(member), address: format!("127.0.0.1:{}", 7100 + member), kind }
    }

    #[test]
    fn s12_a_learner_changes_no_quorum_and_its_promotion_changes_nothing_else() {
        let old = view_of(&[InSync, InSync, InSync]);
        let added = old.changed(&add(4, Kind::Replica)).expect("it may be added");
        assert_eq!((added.majority(), added.acceptors().len()), (2, 3));
        let mut learner = added.clone();
        learner.slots[3].incarnation = Incarnation(4);
        learner.number += 1;
        learner.parent = Decree::hash(&added);
        assert_eq!(learner.may_follow(&added), Ok(()), "its store is listed");
        let grown = learner.with_learner_promoted(MemberId(4));
        assert_eq!((grown.may_follow(&learner), grown.majority(), grown.bearable()), (Ok(()), 3, 1));
        let nobody = added.with_learner_promoted(MemberId(4));
        assert!(nobody.may_follow(&added).expect_err("refused").contains("without a store"));
        let mut elsewhere = learner.with_learner_promoted(MemberId(4));
        elsewhere.primary = MemberId(2);
        assert!(elsewhere.may_follow(&learner).expect_err("refused").contains("something else"));
        elsewhere.primary = MemberId(1);
        elsewhere.slots[2] = slot(3, 33, Syncing);
        assert!(elsewhere.may_follow(&learner).expect_err("refused").contains("something else"));
    }

    #[test]
    fn s12_a_view_changes_the_list_by_one_slot() {
        let old = view_of(&[InSync, InSync, InSync, InSync, InSync]);
        let mut two_gone = old.changed(&Change::Remove { member: MemberId(5) }).expect("one may go");
        assert_eq!(two_gone.may_follow(&old), Ok(()));
        two_gone.slots.pop();
        assert!(two_gone.may_follow(&old).expect_err("refused").contains("more than one slot"));
        let mut swapped = old.changed(&Change::Remove { member: MemberId(5) }).expect("one may go");
        swapped.slots.push(slot(6, 6, Learner));
        assert!(swapped.may_follow(&old).expect_err("refused").contains("more than one slot"));
        let mut voter = old.changed(&add(6, Kind::Replica)).expect("it may be added");
        voter.slots[5].standing = Syncing;
        assert!(voter.may_follow(&old).expect_err("refused").contains("added with a vote"));
    }

    #[test]
    fn s12_standings_go_one_way() {
        let old = view_of(&[InSync, InSync, InSync, Learner]);
        for (place, standing, words) in [(3, Syncing, "before it is in sync"), (2, Learner, "loses its vote")] {
            let mut new = old.successor(MemberId(1), &[], &[]);
            new.slots[place].standing = standing;
            assert!(new.may_follow(&old).expect_err("refused").contains(words));
        }
        let replaced = old.successor(MemberId(1), &[], &[slot(4, 44, Learner)]);
        assert_eq!((replaced.may_follow(&old), replaced.slots[3].standing), (Ok(()), Learner));
    }

    #[test]
    fn s13_witnesses_are_fewer_than_half_and_never_primary() {
        let mut old = view_of(&[InSync, InSync, InSync]);
        old.slots[2].kind = Kind::Witness;
        assert!(old.is_well_formed());
        assert!(old.successor(MemberId(3), &[], &[]).may_follow(&old).expect_err("refused").contains("no replica"));
        assert!(old.changed(&add(4, Kind::Witness)).expect_err("refused").contains("witnesses"));
        let two = old.changed(&Change::Remove { member: MemberId(2) });
        assert!(two.expect_err("refused").contains("1 of 2 members would be witnesses, 0 may be"));
        old.slots[1].kind = Kind::Witness;
        assert!(!old.is_well_formed());
    }
}
