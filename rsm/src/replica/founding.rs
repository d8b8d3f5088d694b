//! A store without a view in force: it asks everybody, and is founded with, learns a view, or joins as a new incarnation.
//!
//! # Why it is safe (S10)
//!
//! - *Nobody serves from an empty store by mistake.* A store without a view asks **all** configured members. Whoever knows a
//!   view in force answers with it; so a cluster is founded only if every single member says that it knows none.
//! - *One founder.* Only the lowest configured id founds. It sends view 1 to all and waits until **all** have stored it;
//!   only then does it mark it in force, durably, and tells the others. A member that lost its store in between has
//!   another incarnation, which view 1 does not list; its answer does not count, and founding starts anew.
//! - *A founding record is not a view.* It is replaced freely and nothing rests on it, because it is in force nowhere
//!   while one store lacks it. Only [`paxos::Message::Decided`] tells of a view in force.
//! - *One configuration.* Members compare name, ids, addresses, kinds and mode, and wait, saying who differs.

use std::collections::BTreeSet;

use paxos::Decree;

use super::roles::{Founder, Role};
use super::{Identity, Replica};
use crate::{ClusterId, Founding, Kind, MemberId, Message, Micros, Output, Slot, Standing, StateMachine, View};

/// A founder that hears nothing from somebody who had answered starts anew after this many retransmit times.
const FOUNDING_PATIENCE: u64 = 20;
/// A store that is not listed asks this many retransmit times apart.
const JOIN_PATIENCE: u64 = 2;

impl<M: StateMachine> Replica<M> {
    pub(super) fn tick_founding(&mut self, now: Micros, out: &mut Output) {
        let retransmit = self.settings.timing.retransmit;
        let own = self.settings.founding.clone();
        let members: Vec<MemberId> = own.members.iter().map(|(member, ..)| *member).collect();
        let me = self.identity.member;
        let Role::Founding(founder) = &mut self.role else { return };
        if founder.asked_at.is_some_and(|at| now < at + retransmit) {
            return;
        }
        founder.asked_at = Some(now);
        if founder.proposal.as_ref().is_some_and(|(_, since, _)| now > since + FOUNDING_PATIENCE * retransmit) {
            *founder = Founder { asked_at: Some(now), ..Founder::default() };
        }
        let message = match &founder.proposal {
            Some((view, ..)) => Message::Found { view: view.clone() },
            None => Message::Ask(own),
        };
        for member in members.into_iter().filter(|member| *member != me) {
            self.send(member, message.clone(), out);
        }
        self.found_if_all_agree(now, out);
    }

    pub(super) fn tick_outsider(&mut self, now: Micros, out: &mut Output) {
        let retransmit = self.settings.timing.retransmit;
        let message = Message::Join { address: self.settings.address.clone(), kind: self.kind };
        let Role::Outsider { asked_at, .. } = &mut self.role else { return };
        if asked_at.is_none_or(|at| now >= at + JOIN_PATIENCE * retransmit) {
            *asked_at = Some(now);
            for member in self.others() {
                self.send(member, message.clone(), out);
            }
        }
    }

    pub(super) fn on_ask(&mut self, now: Micros, from: Identity, theirs: Founding, out: &mut Output) {
        if let Some(view) = self.view() {
            let value = view.clone();
            self.send(from.member, Message::Paxos(paxos::Message::Decided { value }), out);
            return;
        }
        let own = self.settings.founding.clone();
        self.send(from.member, Message::Standing(own), out);
        self.on_standing(now, from, theirs, out);
    }

    /// Somebody else knows no view either.
    pub(super) fn on_standing(&mut self, now: Micros, from: Identity, theirs: Founding, out: &mut Output) {
        let Role::Founding(founder) = &mut self.role else { return };
        founder.standings.insert(from.member, (from.incarnation, theirs));
        self.found_if_all_agree(now, out);
    }

    /// The lowest id makes view 1 once all have answered, under the same configuration.
    fn found_if_all_agree(&mut self, now: Micros, out: &mut Output) {
        let own = &self.settings.founding;
        let me = self.identity;
        if own.members.iter().map(|(member, ..)| *member).min() != Some(me.member) {
            return;
        }
        let Role::Founding(founder) = &self.role else { return };
        if founder.proposal.is_some() {
            return;
        }
        let mut slots = Vec::new();
        for (member, address, kind) in &own.members {
            let incarnation = match founder.standings.get(member) {
                _ if *member == me.member => me.incarnation,
                Some((incarnation, theirs)) if theirs == own => *incarnation,
                _ => return,
            };
            slots.push(Slot {
                member: *member,
                incarnation,
                address: address.clone(),
                kind: *kind,
                standing: Standing::InSync,
            });
        }
        let cluster = ClusterId::new(self.random.next(), &self.settings.founding.name);
        // The founder may be a witness; the first primary is the lowest replica.
        let primary = slots.iter().find(|slot| slot.kind == Kind::Replica).map_or(me.member, |slot| slot.member);
        let view = View { number: 1, parent: 0, cluster, primary, slots };
        if !view.is_well_formed() {
            return; // too many witnesses: the status says so
        }
        self.founding = Some(view.clone());
        self.persist_control(out);
        if let Role::Founding(founder) = &mut self.role {
            founder.proposal = Some((view.clone(), now, BTreeSet::new()));
        }
        let token = self.last_token;
        for member in self.founding_members() {
            self.send_after(token, member, Message::Found { view: view.clone() }, out);
        }
        self.put_in_force_if_all_stored(now, out);
    }

    fn founding_members(&self) -> Vec<MemberId> {
        let me = self.identity.member;
        self.settings.founding.members.iter().map(|(member, ..)| *member).filter(|member| *member != me).collect()
    }

    /// A founder's view 1: stored as founding, in place of an earlier one.
    pub(super) fn on_found(&mut self, from: Identity, view: View, out: &mut Output) {
        if let Some(known) = self.view() {
            let value = known.clone();
            self.send(from.member, Message::Paxos(paxos::Message::Decided { value }), out);
            return;
        }
        let configured = &self.settings.founding.members;
        let same_members = view.slots.len() == configured.len()
            && view.slots.iter().zip(configured).all(|(slot, (member, address, kind))| {
                slot.member == *member && slot.address == *address && slot.kind == *kind
            });
        let is_first = view.number == 1 && configured.iter().map(|(member, ..)| *member).min() == Some(from.member);
        if !same_members
            || !is_first
            || !view.is_well_formed()
            || !view.lists(self.identity.member, self.identity.incarnation)
        {
            return;
        }
        let hash = view.hash();
        if self.founding.as_ref() != Some(&view) {
            self.founding = Some(view);
            self.persist_control(out);
        }
        self.send_after(self.last_token, from.member, Message::FoundStored { hash }, out);
    }

    pub(super) fn on_found_stored(&mut self, now: Micros, from: Identity, hash: u64, out: &mut Output) {
        let Role::Founding(Founder { proposal: Some((view, _, stored)), .. }) = &mut self.role else { return };
        if view.hash() == hash && view.lists(from.member, from.incarnation) {
            stored.insert(from.member);
            self.put_in_force_if_all_stored(now, out);
        }
    }

    fn put_in_force_if_all_stored(&mut self, now: Micros, out: &mut Output) {
        let Role::Founding(Founder { proposal: Some((view, _, stored)), .. }) = &self.role else { return };
        let all = view.slots.iter().all(|slot| slot.member == self.identity.member || stored.contains(&slot.member));
        if all {
            let view = view.clone();
            self.learn_first_view(now, view.clone(), out);
            let token = self.last_token;
            for member in self.founding_members() {
                let value = view.clone();
                self.send_after(token, member, Message::Paxos(paxos::Message::Decided { value }), out);
            }
        }
    }

    /// A view in force is known for the first time.
    pub(super) fn learn_first_view(&mut self, now: Micros, view: View, out: &mut Output) {
        let (member, incarnation) = (self.identity.member.0, self.identity.incarnation.0);
        let node = paxos::Node::new(member, incarnation, paxos::Node::first(view));
        #[cfg(any(test, feature = "mutants"))]
        let node = node.with_mutant(self.mutant.and_then(crate::mutant::Mutant::in_paxos));
        self.paxos = Some(node);
        self.founding = None;
        self.persist_control(out);
        self.enter_last_view(now, None, out);
    }

    pub(super) fn on_join_refused(&mut self, reason: String) {
        if let Role::Outsider { refused, .. } = &mut self.role {
            *refused = Some(reason.chars().take(300).collect());
        }
    }

    pub(super) fn founding_waits_for(&self, founder: &Founder) -> String {
        let own = &self.settings.founding;
        let mut silent = Vec::new();
        for (member, address, _) in &own.members {
            match founder.standings.get(member) {
                _ if *member == self.identity.member => {}
                None => silent.push(format!("{member} ({address})")),
                Some((_, theirs)) if theirs != own => {
                    let (name, count) = (&theirs.name, theirs.members.len());
                    return format!(
                        "member {member} was started with another configuration (cluster '{name}', {count} members): \
                         start all members with the same --cluster, --name and --durability"
                    );
                }
                Some(_) => {}
            }
        }
        let witnesses = own.members.iter().filter(|(_, _, kind)| *kind == Kind::Witness).count();
        if 2 * witnesses >= own.members.len() {
            return format!("{witnesses} of {} members are witnesses: fewer than half may be", own.members.len());
        }
        if silent.is_empty() {
            "all members are new: the cluster is being founded".into()
        } else {
            format!(
                "its store is new: waits for an answer from member {}; one that knows the cluster is enough, so name a member \
                 of now in --cluster",
                silent.join(", ")
            )
        }
    }
}
