//! Changes of the list of members, as the primary carries them out (S12).
//!
//! # Why it is safe
//!
//! - What may follow what is argued in [`View`]'s module, and checked by each acceptor. What acceptors cannot see is
//!   seen to here: a view in which n changes is proposed only by a primary that *serves*, so its own view's barrier is committed.
//!   (If it dies, another may put the same view forward: it was fit to follow when it was proposed, and still is.)
//! - *A removed member cannot vote* (S1): the instance in which it had a vote is finished once the view without it is decided, and
//!   the next one's acceptors do not know it. It learns of that view from anybody that it talks to, and stops once they do:
//!   `leaving.rs`.
//! - *At most once.* A change is a function of the view that it follows; the same change asked for again finds itself made,
//!   and is refused. It is answered when the next view is entered: made, or certainly not, or unknown where views were
//!   jumped over or this member stepped down with its proposal under way (S11: it may still be decided).
//! - *Witnesses* (S13). Where witnesses drop what a majority's worth of replicas hold, a change of n must leave f + 1 replicas
//!   that hold this view's barrier, counted in the new n: see `witness.rs`.
//!
//! # Why it is live
//!
//! A learner is outside n, so it stops nobody, whether it comes or not. n changes only if enough members for the *new*
//! majority were heard just now; a change that would stop the service is refused, and says why. A primary that is to go
//! hands over first, and its successor is asked again.

use paxos::Decree;

use super::Replica;
use super::roles::{PendingChange, Role};
#[cfg(any(test, feature = "mutants"))]
use crate::mutant::Mutant;
use crate::{Change, ChangeError, Kind, Micros, Output, Rejection, Slot, Standing, StateMachine, Tag, View};

/// A change that is not settled within this many stall times is answered as unknown (or refused, if never proposed).
const CHANGE_PATIENCE: u64 = 5;

impl<M: StateMachine> Replica<M> {
    pub(super) fn on_change(&mut self, now: Micros, tag: Tag, change: Change, out: &mut Output) {
        let Some(view) = self.serving_view() else {
            let error = match self.refusal() {
                Rejection::NotPrimary { hint } => ChangeError::NotPrimary { hint },
                _ => ChangeError::ViewChanging,
            };
            return out.changes.push((tag, Err(error)));
        };
        if self.change.is_some() {
            let reason = "another change of the members is under way".into();
            return out.changes.push((tag, Err(ChangeError::Refused(reason))));
        }
        let takes_me_away = self.takes_me_away(&change);
        let checked = match takes_me_away {
            true => self.check_going(now, &view),
            false => self.admissible(now, &view, &change).map(drop),
        };
        if let Err(reason) = checked {
            return out.changes.push((tag, Err(ChangeError::Refused(reason))));
        }
        self.change = Some(PendingChange { tag, change, asked_at: now, proposed_in: None });
        if takes_me_away {
            self.on_hand_over(now, None, out);
            if !self.candidacy.as_ref().is_some_and(|candidacy| candidacy.hands_over) {
                let me = self.identity.member;
                self.answer_change(
                    Err(ChangeError::Refused(format!("no replica can take over from primary {me}"))),
                    out,
                );
            }
        } else {
            self.propose_planned_changes(now, out);
        }
    }

    /// The view, if this member is its primary and serves.
    fn serving_view(&self) -> Option<View> {
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(Mutant::ChangesBeforeBarrier) && matches!(self.role, Role::Primary(_)) {
            return self.view().cloned();
        }
        match &self.role {
            Role::Primary(primary) if primary.is_serving => self.view().cloned(),
            _ => None,
        }
    }

    fn takes_me_away(&self, change: &Change) -> bool {
        change.member() == self.identity.member && !matches!(change, Change::Add { .. })
    }

    /// Whether the others could go on without this primary.
    fn check_going(&self, now: Micros, view: &View) -> Result<(), String> {
        let left = view.voters().count() - 1;
        let alive =
            view.in_sync().filter(|slot| slot.member != self.identity.member && self.was_heard(now, slot)).count();
        if alive < left / 2 + 1 {
            return Err(format!("without it {alive} of {left} members would be up and in sync: that is no majority"));
        }
        Ok(())
    }

    /// The view that would make the change now.
    fn admissible(&self, now: Micros, view: &View, change: &Change) -> Result<View, String> {
        let next = view.changed(change)?;
        self.check_alive(now, view, &next)?;
        self.check_held(view, &next)?;
        Ok(next)
    }

    /// A change of who counts must leave a majority that is up.
    fn check_alive(&self, now: Micros, view: &View, next: &View) -> Result<(), String> {
        if view.voters().eq(next.voters()) {
            return Ok(());
        }
        let alive = next.in_sync().filter(|slot| self.was_heard(now, slot)).count();
        if alive < next.majority() {
            let counted = next.voters().count();
            return Err(format!("then {alive} of {counted} members would be up and in sync: that is no majority"));
        }
        Ok(())
    }

    /// S13: replicas of the next view that hold this view's barrier; f + 1 must, where witnesses may have dropped what it covers.
    fn check_held(&self, view: &View, next: &View) -> Result<(), String> {
        let same_n = view.voters().count() == next.voters().count();
        if same_n || !next.voters().any(|slot| slot.kind == Kind::Witness) {
            return Ok(());
        }
        let Role::Primary(primary) = &self.role else { return Err("it is not the primary".into()) };
        let barrier = primary.barrier();
        let holders = next.in_sync().filter(|slot| slot.kind == Kind::Replica).filter(|slot| {
            match primary.progress.get(&slot.member) {
                _ if slot.member == self.identity.member => barrier.is_some_and(|barrier| self.held() >= barrier),
                Some(progress) => barrier.is_some_and(|barrier| progress.acked >= barrier),
                None => false,
            }
        });
        let (held, needed) = (holders.count(), next.bearable() + 1);
        if held < needed {
            return Err(format!(
                "{held} replicas that stay hold the log of this view, and {needed} must, since witnesses hold its tail \
                 only: try again when they have caught up"
            ));
        }
        Ok(())
    }

    fn was_heard(&self, now: Micros, slot: &Slot) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let recent = self.settings.timing.suspect;
        slot.member == self.identity.member
            || match primary.progress.get(&slot.member) {
                Some(progress) => now < progress.heard_at + recent,
                None => self.heard.get(&slot.member).is_some_and(|at| now < at + recent),
            }
    }

    /// Proposes the change that waits, if the view still allows it; says whether something was done.
    pub(super) fn propose_change(&mut self, now: Micros, out: &mut Output) -> bool {
        let Some(view) = self.serving_view() else { return false };
        let Some(pending) = self.change.clone() else { return false };
        if self.takes_me_away(&pending.change) {
            self.on_hand_over(now, None, out); // its successor is asked again
            return self.candidacy.is_some();
        }
        match self.admissible(now, &view, &pending.change) {
            Ok(next) => {
                #[cfg(any(test, feature = "mutants"))]
                let next = self.with_second_slot(&view, next);
                if let Some(pending) = &mut self.change {
                    pending.proposed_in = Some(view.number);
                }
                self.propose_view(now, next, out)
            }
            Err(_) if pending.proposed_in == Some(view.number) => false, // that proposal may still be decided
            Err(reason) => {
                self.answer_change(Err(ChangeError::Refused(reason)), out);
                false
            }
        }
    }

    /// The learner that may be counted in now, as the view that does so.
    pub(super) fn promoted_learner(&self, now: Micros) -> Option<View> {
        let view = self.serving_view()?;
        let ready = self.promotable(now, Standing::Learner);
        ready.into_iter().map(|member| view.with_learner_promoted(member)).find(|next| {
            next.may_follow(&view).is_ok()
                && self.check_alive(now, &view, next).is_ok()
                && self.check_held(&view, next).is_ok()
        })
    }

    /// A view is about to be entered, in place of `before`: what has become of the change?
    pub(super) fn settle_change(&mut self, before: u64, out: &mut Output) {
        let Some(view) = self.paxos.as_ref().map(paxos::Node::last) else { return };
        let Some(pending) = &mut self.change else { return };
        let answer = match pending.proposed_in.take() {
            Some(_) if is_made(&pending.change, view) => Ok(view.number),
            Some(_) if view.number != before + 1 => Err(ChangeError::Unknown),
            // Its instance is decided, and otherwise: it is not made. This primary tries again in the new view.
            _ if view.primary == self.identity.member => return,
            _ => Err(ChangeError::NotPrimary { hint: view.slot(view.primary).map(|slot| slot.address.clone()) }),
        };
        self.answer_change(answer, out);
    }

    /// This member ceases to be primary, and enters no view by that.
    pub(super) fn give_change_up(&mut self, out: &mut Output) {
        let proposed = self.change.as_ref().is_some_and(|pending| pending.proposed_in.is_some());
        self.answer_change(Err(if proposed { ChangeError::Unknown } else { ChangeError::ViewChanging }), out);
    }

    /// No asker waits for ever.
    pub(super) fn tick_change(&mut self, now: Micros, out: &mut Output) {
        let patience = CHANGE_PATIENCE * self.settings.timing.stall;
        if self.change.as_ref().is_some_and(|pending| now >= pending.asked_at + patience) {
            self.give_change_up(out);
        }
    }

    fn answer_change(&mut self, answer: Result<u64, ChangeError>, out: &mut Output) {
        if let Some(pending) = self.change.take() {
            out.changes.push((pending.tag, answer));
        }
    }

    /// The mutant that takes two members away at once.
    #[cfg(any(test, feature = "mutants"))]
    fn with_second_slot(&self, view: &View, mut next: View) -> View {
        let me = self.identity.member;
        if self.is_mutant(Mutant::TwoSlotsInOneView) && next.slots.len() < view.slots.len() {
            let second = next.slots.iter().position(|slot| slot.member != me);
            drop(second.map(|place| next.slots.remove(place)));
        }
        next
    }
}

/// Whether a view is as the change would have it.
fn is_made(change: &Change, view: &View) -> bool {
    let slot = view.slot(change.member());
    match change {
        Change::Add { .. } => slot.is_some(),
        Change::Remove { .. } => slot.is_none(),
        Change::Replace { address, .. } => {
            slot.is_some_and(|slot| slot.incarnation == crate::Incarnation::NOBODY && slot.address == *address)
        }
    }
}
