//! A witness: a member that holds the log's tail and no state (S13).
//!
//! # Why it is safe
//!
//! A witness votes, acknowledges and reports like any member, never executes, and is never primary. What it acknowledged it
//! holds, until it *drops* it; so all that has to be argued is the dropping.
//!
//! - *Claim*: any q in-sync members of a view have a replica among them whose log, or snapshot, reaches to the start of
//!   each in-sync witness's log, or above it.
//! - *It drops on the primary's word*, never by itself: `Release` names a place, not below the view's barrier, up to which q
//!   in-sync replicas have acknowledged in this view, and is sent only while all voting replicas are in sync. Each of those slots holds
//!   that much from then on: the same store does, or one that was promoted later, after it held a later view's barrier
//!   (S7). q slots and any q reporters share one.
//! - *A change of n* (S12) is proposed only if f + 1 replicas of the new view hold this view's barrier, f counted by the new n:
//!   so for all that was dropped in earlier views the claim holds by slots again. For what was dropped in this view, q(n)
//!   slots hold it, n + 1 - q(n) < q(n + 1), and n - 1 - (q(n) - 1) < q(n - 1): too few are left for a quorum without one of them.
//! - *Short of room*, where q replicas do not hold enough, it keeps the primary's snapshot, as bytes whose meaning it does not know, and
//!   drops what that covers; from then on log and bytes together reach as far back as the log did. Until then it takes nothing
//!   more in, and so acknowledges nothing more.
//! - *Its own snapshots are marks*: empty, they say how far the log was dropped, and are never offered to anybody.
//! - *The start of a view*: the primary-to-be is a replica. If the witness reported the highest viewstamp, the new primary first
//!   takes the log of the best replica among the reporters, which by the claim reaches the witness's log start, and then
//!   the witness's. Below its log start a witness says nothing about what it acknowledged.

use std::sync::Arc;

use super::Replica;
use super::roles::Role;
use super::snapshots::UnderWay;
use crate::{Kind, MemberId, Message, Micros, Output, Record, SnapshotImage, Standing, StateMachine, Viewstamp};

/// A witness without room asks for a snapshot this many retransmit times apart.
const WANT_PATIENCE: u64 = 5;

impl<M: StateMachine> Replica<M> {
    pub(super) fn is_witness(&self) -> bool {
        self.kind == Kind::Witness
    }

    /// The place up to which witnesses may drop their logs; the primary tells them with each heartbeat.
    pub(super) fn releasable(&self) -> Option<Viewstamp> {
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return None };
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(crate::mutant::Mutant::WitnessDropsEarly) {
            return Some(self.commit);
        }
        let barrier = primary.barrier()?;
        let mut held = Vec::new();
        for slot in view.voters().filter(|slot| slot.kind == Kind::Replica) {
            if slot.standing != Standing::InSync {
                return None; // a store was lost: nothing is dropped until its successor is promoted
            }
            held.push(match primary.progress.get(&slot.member) {
                _ if slot.member == self.identity.member => self.held(),
                Some(progress) => progress.acked,
                None => Viewstamp::default(),
            });
        }
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(view.majority() - 1).copied().filter(|held| *held >= barrier).map(|held| held.min(self.commit))
    }

    /// Tells the witnesses what they may drop.
    pub(super) fn send_releases(&mut self, out: &mut Output) {
        let Some(view) = self.view() else { return };
        let witnesses = view.slots.iter().filter(|slot| slot.kind == Kind::Witness).map(|slot| slot.member);
        let (view, witnesses) = (view.number, witnesses.collect::<Vec<_>>());
        if witnesses.is_empty() {
            return;
        }
        let Some(upto) = self.releasable() else { return };
        for member in witnesses {
            self.send(member, Message::Release { view, upto }, out);
        }
    }

    /// The primary's word that q replicas hold everything up to here.
    pub(super) fn on_release(&mut self, from: MemberId, upto: Viewstamp, out: &mut Output) {
        let is_primary = self.view().is_some_and(|view| view.primary == from);
        if !self.is_witness() || !is_primary || !matches!(self.role, Role::Backup(_)) {
            return;
        }
        let mine = upto.min(self.verified).min(self.durable);
        let Some(place) = self.log.floor(mine).filter(|place| place.op > self.log.base().op.max(self.executed.op))
        else {
            return;
        };
        let roomy = self.log.bytes() <= self.settings.snapshot_every_bytes && !self.is_crowded();
        if roomy || self.snapshot_under_way.is_some() {
            return; // a longer tail is a shorter way for whoever needs it
        }
        let (image, release) = (Arc::new(SnapshotImage::new(place)), place.op);
        let token = self.persist(Record::Snapshot { image: Arc::clone(&image), release }, out);
        self.snapshot_under_way = Some(UnderWay::Storing { image, release, token });
        self.executed = self.executed.max(place);
        self.grown_bytes = 0;
    }

    /// Without room, and without leave to drop: the primary's snapshot is asked for.
    pub(super) fn tick_witness(&mut self, now: Micros, out: &mut Output) {
        let patience = WANT_PATIENCE * self.settings.timing.retransmit;
        let waits = !self.is_fetching_snapshot() && self.snapshot_under_way.is_none();
        if !self.is_witness() || !self.is_crowded() || !waits || now < self.asked_at + patience {
            return;
        }
        if let (Some(view), Role::Backup(_)) = (self.view(), &self.role) {
            let (view, primary, above) = (view.number, view.primary, self.log.base().op);
            self.asked_at = now;
            self.send(primary, Message::WantSnapshot { view, above }, out);
        }
    }

    /// A witness needs a snapshot: the last one, or a new one where that is not above what the witness has dropped.
    pub(super) fn on_want_snapshot(&mut self, now: Micros, from: MemberId, above: u64, out: &mut Output) {
        if !matches!(self.role, Role::Primary(_)) {
            return;
        }
        if self.snapshot.as_ref().is_none_or(|image| image.viewstamp.op <= above) {
            self.grown_bytes = usize::MAX; // due with the next entry executed; the witness asks again
            return;
        }
        self.offer_snapshot(now, from, out);
    }
}
