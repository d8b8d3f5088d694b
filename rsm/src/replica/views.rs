//! Deciding views by Paxos, entering them, and the changes that a working primary proposes: new stores, promotions,
//! hand-over.
//!
//! # Why it is safe
//!
//! - *S1*: instance k decides view k, and its acceptors are the slots of view k-1. [`paxos::Node`] takes part only in the
//!   instance after its last view, and only under a listed incarnation. What it promises and votes lies in the control
//!   record, which is durable before the answer leaves.
//! - *S2*: learning a view and entering it are one control record; so from the moment that anything of view k leaves this
//!   member it is durable that nothing lower will be acknowledged, reported or assigned. The number only rises.
//! - *S5, S6, S7*: a proposal is made by [`View::successor`] and checked by [`paxos::Decree::may_follow`], here and by each
//!   acceptor. A store is listed as new only if the listed one has been silent; a syncing member is promoted only on the
//!   word that it durably holds everything through the last view's barrier.
//! - *S12*: changes of the list of members come one to a view, from a serving primary: `membership.rs`.
//! - *S11*: a primary that proposed goes on in its view until it enters the next; it never takes a proposal back.

use std::collections::BTreeSet;

use super::roles::{Backup, Candidacy, Primary, Role};
use super::{Identity, Replica};
use crate::{Incarnation, Kind, MemberId, Message, Micros, Output, Slot, Standing, StateMachine, View};

/// A listed store that was heard within this many suspect times is alive: its double is refused.
const ALIVE_WITHIN: u64 = 4;
/// A store is listed once it has asked so often: a message that comes late from a store that is gone stays alone.
pub(super) const JOINS_NEEDED: u32 = 2;
/// A syncing member is promoted when it lags by no more than this, ops. Safety needs only the barrier; a promotion that
/// comes too early would make commits wait for it.
const PROMOTION_LAG_OPS: u64 = 4096;

impl<M: StateMachine> Replica<M> {
    pub(super) fn on_paxos(&mut self, now: Micros, from: Identity, message: paxos::Message<View>, out: &mut Output) {
        let told = match &message {
            paxos::Message::Decided { value } if !self.is_plausible(from, value) => return,
            paxos::Message::Decided { value } => Some(value.number),
            _ => None,
        };
        let Some(node) = &mut self.paxos else {
            if let paxos::Message::Decided { value } = message {
                self.learn_first_view(now, value, out);
            }
            return;
        };
        let sender = paxos::Sender { node: from.member.0, incarnation: from.incarnation.0 };
        let effects = node.on_message(sender, message);
        self.carry_out(now, effects, out);
        if let Some(number) = told {
            self.note_aware(from, number, out);
        }
    }

    /// Whether what somebody calls a decided view can be one of this cluster. A decree is believed on one member's word; what
    /// cannot be is not, so that a confused or hostile process does not end the cluster with a single message. A view
    /// changes one slot at most (S12), so between two views no more members come and go than there are steps. A store without
    /// a view only knows the cluster's name: who is a member is told by the view, and not by the configuration. The one that
    /// tells is listed there, or in the own view: a member may be the first to know of its own removal.
    fn is_plausible(&self, from: Identity, value: &View) -> bool {
        let of_this_cluster = match self.view() {
            Some(own) => {
                let members = |view: &View| view.slots.iter().map(|slot| slot.member).collect::<BTreeSet<_>>();
                let changed = members(own).symmetric_difference(&members(value)).count() as u64;
                #[cfg(any(test, feature = "mutants"))]
                let changed = if crate::mutant::is_lenient() { 0 } else { changed };
                own.cluster == value.cluster && changed <= value.number.abs_diff(own.number)
            }
            None => value.cluster.may_be_named(&self.settings.founding.name),
        };
        let is_member =
            [self.view(), Some(value)].into_iter().flatten().any(|view| view.lists(from.member, from.incarnation));
        of_this_cluster && is_member && value.is_well_formed()
    }

    /// Persist, then send, then act on what was decided. What promises nothing leaves when it is durable that the last view
    /// was entered: a leaving member rests on what it is told.
    pub(super) fn carry_out(&mut self, now: Micros, effects: paxos::Effects<View>, out: &mut Output) {
        let paxos::Effects { persist, send, decided } = effects;
        let token = if persist { self.persist_control(out) } else { self.entered_token };
        for (to, message) in send {
            self.send_after(token, MemberId(to), Message::Paxos(message), out);
        }
        if !decided.is_empty() {
            let was_listed_in = self.listed_in.take();
            self.enter_last_view(now, was_listed_in, out);
        }
    }

    /// The last decided view is new: it is in the control record, so it has been entered.
    pub(super) fn enter_last_view(&mut self, now: Micros, was_listed_in: Option<u64>, out: &mut Output) {
        self.settle_change(was_listed_in.unwrap_or(0), out);
        self.stop_being_primary(out);
        self.verified = self.executed;
        self.candidacy = None;
        let Some(view) = self.view().cloned() else { return };
        // A store that was listed just now has not been heard yet, and is alive all the same: a late message of the store
        // that it replaced must not replace it in turn.
        for slot in &view.slots {
            let is_new = self.listed.insert(slot.member, slot.incarnation) != Some(slot.incarnation);
            if slot.incarnation == Incarnation::NOBODY {
                self.heard.remove(&slot.member); // whoever comes is awaited
            } else if is_new {
                self.heard.insert(slot.member, now);
            }
        }
        self.listed.retain(|member, _| view.slot(*member).is_some());
        self.heard.retain(|member, _| view.slot(*member).is_some());
        let me = self.identity.member;
        if !self.is_listed() {
            return match (was_listed_in, &self.role) {
                (Some(former), _) => self.begin_leaving(now, former, out),
                (None, Role::Leaving(_)) => self.leave(out),
                (None, _) => self.role = Role::Outsider { asked_at: None, refused: None },
            };
        }
        self.listed_in = Some(view.number);
        self.entered_token = self.last_token; // the control record was the last thing asked for
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(crate::mutant::Mutant::SpeaksBeforeEntered) {
            self.entered_token = 0;
        }
        if view.primary == me {
            self.role = Role::Primary(Box::new(Primary::new(now)));
            self.begin_collecting(now, out);
        } else {
            self.role = Role::Backup(Backup::new(now));
            self.report(now, out);
        }
    }

    /// Tries to get a view decided: the next one, with this primary and the promotions and new stores given. Says whether
    /// the attempt is under way.
    pub(super) fn propose(
        &mut self,
        now: Micros,
        primary: MemberId,
        promoted: &[MemberId],
        replaced: &[Slot],
        out: &mut Output,
    ) -> bool {
        let Some(view) = self.view() else { return false };
        #[cfg_attr(not(any(test, feature = "mutants")), allow(unused_mut))]
        let mut value = view.successor(primary, promoted, replaced);
        #[cfg(any(test, feature = "mutants"))]
        if self.mutant == Some(crate::mutant::Mutant::NewcomerInSync) {
            value.slots.iter_mut().for_each(|slot| slot.standing = Standing::InSync);
        }
        self.propose_view(now, value, out)
    }

    /// Tries to get this view decided, if it may follow the last one.
    pub(super) fn propose_view(&mut self, now: Micros, value: View, out: &mut Output) -> bool {
        let Some(node) = &mut self.paxos else { return false };
        let primary = value.primary;
        let number = value.number;
        let Ok(effects) = node.propose(value) else { return false };
        let failures = self.candidacy.as_ref().map_or(0, |candidacy| candidacy.failures);
        self.candidacy = Some(Candidacy {
            view: number - 1,
            not_before: now,
            asked_at: None,
            answers: Default::default(),
            proposed_at: Some(now),
            retry_at: None,
            sent_at: now,
            failures,
            hands_over: primary != self.identity.member,
        });
        self.carry_out(now, effects, out);
        true
    }

    /// A store that the view does not list asks to be.
    pub(super) fn on_join(&mut self, now: Micros, from: Identity, address: String, kind: Kind, out: &mut Output) {
        let Some(view) = self.view() else { return };
        let slot = view.slot(from.member).cloned();
        let refuse = |reason: String| Message::JoinRefused { reason };
        let Some(slot) = slot else {
            let message = refuse(format!("the cluster has no member {}: an operator has to add it first", from.member));
            return self.send(from.member, message, out);
        };
        if slot.incarnation == from.incarnation {
            let value = view.clone();
            return self.send(from.member, Message::Paxos(paxos::Message::Decided { value }), out);
        }
        let grace = ALIVE_WITHIN * self.settings.timing.suspect;
        let awaited = slot.incarnation == Incarnation::NOBODY;
        let alive = !awaited
            && (self.heard.get(&from.member).is_some_and(|at| now < at + grace) || now < self.started_at + grace)
            || from.member == self.identity.member;
        let Role::Primary(primary) = &mut self.role else { return };
        if alive {
            primary.joins.remove(&from.member);
            let message = refuse(format!(
                "member {} is listed with another store, which was heard just now; if that is no other process with the \
                 same --id, it will be replaced within seconds",
                from.member
            ));
            return self.send(from.member, message, out);
        }
        let new = Slot {
            member: from.member,
            incarnation: from.incarnation,
            address,
            kind: slot.kind,
            standing: slot.standing, // what becomes of it [`View::successor`] says
        };
        if kind == slot.kind {
            let join = primary.joins.entry(from.member).or_insert_with(|| (new.clone(), 0));
            if join.0.incarnation != new.incarnation {
                *join = (new, 0);
            }
            join.1 += 1;
        } else {
            let message = refuse(format!("member {} is listed as another kind of member", from.member));
            self.send(from.member, message, out);
        }
    }

    /// What a serving primary changes: it lists new stores and promotes those that have caught up; then, one to a view,
    /// come an operator's change and learners that have caught up (S12).
    pub(super) fn propose_planned_changes(&mut self, now: Micros, out: &mut Output) {
        if self.candidacy.is_some() || out.fault.is_some() {
            return;
        }
        let me = self.identity.member;
        let Some(view) = self.view().cloned() else { return };
        let promotable = self.promotable(now, Standing::Syncing);
        let Role::Primary(primary) = &mut self.role else { return };
        if !primary.is_serving {
            #[cfg(any(test, feature = "mutants"))]
            if self.is_mutant(crate::mutant::Mutant::ChangesBeforeBarrier) {
                self.propose_change(now, out);
            }
            return;
        }
        // One slot at a time, and never below a majority: whoever does not fit now fits after the next promotion.
        let replaced: Vec<Slot> = primary
            .joins
            .values()
            .filter(|(_, asked)| *asked >= JOINS_NEEDED)
            .map(|(new, _)| new)
            .find(|new| {
                use paxos::Decree;
                let next = view.successor(me, &promotable, std::slice::from_ref(*new));
                !promotable.contains(&new.member) && next.may_follow(&view).is_ok()
            })
            .cloned()
            .into_iter()
            .collect();
        for slot in &replaced {
            primary.joins.remove(&slot.member);
        }
        if !promotable.is_empty() || !replaced.is_empty() {
            self.propose(now, me, &promotable, &replaced, out);
        } else if !self.propose_change(now, out)
            && self.candidacy.is_none()
            && let Some(next) = self.promoted_learner(now)
        {
            self.propose_view(now, next, out);
        }
    }

    /// S7: the members of this standing that durably hold everything through this view's barrier, and are close behind.
    pub(super) fn promotable(&self, now: Micros, standing: Standing) -> Vec<MemberId> {
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return Vec::new() };
        let Some(barrier) = primary.barrier() else { return Vec::new() };
        let recent = self.settings.timing.suspect;
        let waiting = view.slots.iter().filter(|slot| slot.standing == standing);
        waiting
            .map(|slot| slot.member)
            .filter(|member| {
                primary.progress.get(member).is_some_and(|progress| {
                    progress.acked >= barrier
                        && progress.acked.op + PROMOTION_LAG_OPS >= self.log.last().op
                        && now < progress.heard_at + recent
                })
            })
            .collect()
    }

    /// A planned change of primary skips detection: the next view names the member that is furthest.
    pub(super) fn on_hand_over(&mut self, now: Micros, to: Option<MemberId>, out: &mut Output) {
        let Some(view) = self.view().cloned() else { return };
        if self.candidacy.as_ref().is_some_and(|candidacy| candidacy.hands_over) {
            return; // under way: asking again would only outbid it
        }
        let promotable = self.promotable(now, Standing::Syncing);
        let Role::Primary(primary) = &self.role else { return };
        let recent = self.settings.timing.suspect;
        let able = |slot: &&Slot| slot.kind == Kind::Replica && to.is_none_or(|to| to == slot.member);
        let successor = view
            .in_sync()
            .filter(able)
            .filter_map(|slot| primary.progress.get(&slot.member).map(|progress| (progress, slot.member)))
            .filter(|(progress, _)| now < progress.heard_at + recent)
            .max_by_key(|(progress, member)| (progress.acked, std::cmp::Reverse(*member)));
        if let Some((_, member)) = successor {
            self.propose(now, member, &promotable, &[], out);
        }
    }
}
