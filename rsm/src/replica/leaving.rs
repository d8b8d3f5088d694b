//! A store that the last view no longer lists: it sees to it that the others know, and then its process stops.
//!
//! # Why it is right
//!
//! - *Why not at once.* The instance that decides a member's removal is the last in which it has a vote, and its vote may be
//!   one that the decision needed; whoever proposed the view may even be the member itself, and then nobody else knows that it
//!   is decided. Were the store lost at that moment (an operator empties it, or it lives in memory), a majority of the old list
//!   would have to decide the view again, one member poorer than anybody agreed to: four members that become three bear the
//!   loss of one, but a decision among the four needs three.
//! - *Until when.* Until a majority of the list's voters said that they know the view. The new list bears the loss of less than
//!   a majority, so one that knows is left, and tells the rest. What they say they hold durably: nothing leaves a member before
//!   it is durable that the view was entered (S2). A view *above* says as much: those who decided it are a majority of this
//!   one's voters, who had all entered it. So a member that was away while others went on stops as soon as it hears.
//! - *What it may say meanwhile.* It is an acceptor as before, by the same rules ([`paxos::Node`]); they leave it nothing to
//!   promise or to vote: its own instance is finished and is answered with the outcome only, and in the next one its store is
//!   not listed (S1). It acknowledges, reports and assigns nothing, as it has entered a view in which it has no part (S2),
//!   and it grants no prevote. It does not ask to be listed again: a store that was replaced stays replaced (S6, S10).
//! - *It ends.* It stops after so many rounds without a majority's answer, counted in messages sent and not by the clock, which
//!   may jump. Then its line says that the store is still needed.

use std::collections::BTreeSet;

use super::roles::Role;
use super::{Identity, Replica};
use crate::{MemberId, Message, Micros, Output, StateMachine, View};

/// A leaving member tells the others so often, a retransmit time apart; then it stops without their answer.
const ROUNDS_MAX: u32 = 1000;

/// What a leaving member knows of those that stay.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// Who said that it knows the view.
    aware: BTreeSet<MemberId>,
    /// How often all were told.
    rounds: u32,
    told_at: Micros,
    /// The view that listed this store last, where it was entered in this run.
    listed_in: Option<u64>,
}

impl Leaving {
    pub(super) fn new(listed_in: Option<u64>) -> Self {
        Leaving { aware: BTreeSet::new(), rounds: 0, told_at: 0, listed_in }
    }

    /// As if it had told the others once, just now.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn forget_time(&mut self, now: Micros) {
        (self.rounds, self.told_at) = (1, now);
    }

    pub(super) fn waits_for(&self, majority: usize) -> String {
        let aware = self.aware.len();
        format!("is a member no more: waits for {majority} of those that are to know it, and then stops; {aware} do")
    }
}

impl<M: StateMachine> Replica<M> {
    /// The view that was just entered does not list this store, which was listed in that one before.
    pub(super) fn begin_leaving(&mut self, now: Micros, listed_in: u64, out: &mut Output) {
        self.role = Role::Leaving(Leaving::new(Some(listed_in)));
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(crate::mutant::Mutant::LeavesUntold) {
            return self.leave(out);
        }
        if self.view_number() > listed_in + 1 {
            self.leave(out); // views were decided without me since, and I had no part in the instances between
        } else {
            self.tell_of_last_view(now, out);
        }
    }

    pub(super) fn tick_leaving(&mut self, now: Micros, out: &mut Output) {
        let Role::Leaving(leaving) = &self.role else { return };
        if leaving.rounds > 0 && now < leaving.told_at + self.settings.timing.retransmit {
            return;
        }
        if leaving.rounds < ROUNDS_MAX {
            return self.tell_of_last_view(now, out);
        }
        let line = farewell(self.identity.member, self.view(), leaving.listed_in);
        self.fail(format!("{line}. Too few of the others answered: keep this data directory until they serve"), out);
    }

    /// Tells the view, and asks for the last: whoever knows answers with it.
    fn tell_of_last_view(&mut self, now: Micros, out: &mut Output) {
        let Some(value) = self.view().cloned() else { return };
        if let Role::Leaving(leaving) = &mut self.role {
            (leaving.rounds, leaving.told_at) = (leaving.rounds + 1, now);
        }
        let above = value.number - 1;
        for member in self.others() {
            // The decision may be mine alone, and rest on this store: it leaves when that is durable.
            for message in [paxos::Message::Decided { value: value.clone() }, paxos::Message::Fetch { above }] {
                self.send_after(self.last_token, member, Message::Paxos(message), out);
            }
        }
    }

    /// A member said that it knows this decided view.
    pub(super) fn note_aware(&mut self, from: Identity, number: u64, out: &mut Output) {
        let Some(view) = self.view() else { return };
        let majority = view.majority();
        let counts = number >= view.number
            && view.voters().any(|slot| slot.member == from.member && slot.incarnation == from.incarnation);
        let Role::Leaving(leaving) = &mut self.role else { return };
        if counts {
            leaving.aware.insert(from.member);
        }
        if leaving.aware.len() >= majority {
            self.leave(out);
        }
    }

    /// The process is to stop, with its reason.
    pub(super) fn leave(&self, out: &mut Output) {
        if let Role::Leaving(leaving) = &self.role {
            self.fail(farewell(self.identity.member, self.view(), leaving.listed_in), out);
        }
    }
}

/// Why a store that was listed, and is not any more, stops.
fn farewell(me: MemberId, view: Option<&View>, listed_in: Option<u64>) -> String {
    let number = view.map_or(0, |view| view.number);
    let before = listed_in.map_or(String::new(), |former| format!(" (view {former} did)"));
    match view.and_then(|view| view.slot(me)) {
        Some(_) => format!(
            "view {number} lists another store for member {me} than this one{before}: it was replaced; remove this data \
             directory to join anew"
        ),
        None => format!(
            "view {number} lists no member {me} any more{before}: it was removed from the cluster; take it out of the \
             other members' configuration, or have it added again with an empty data directory"
        ),
    }
}
