//! `ring`: each member's log is held by a second host, its **guard**, so that a member whose host crashed takes it up again *as itself*.
//!
//! # What it is for
//!
//! The log of a replicated state machine is on a majority anyway. What a member loses with the memory of its host is its right to be
//! counted: it has forgotten what it acknowledged, so it must be another incarnation (S10), and too many of those at once end the cluster.
//! Here nothing counts before two hosts hold it. That buys the literature's pair of copies ("shared-memory-based checkpointing for
//! cluster services": a local server and its predecessor in a ring) without sending anything twice: the predecessor is a member too, so
//! it gets the same entries from the primary, and *equal viewstamps are equal bytes*. The copy is the predecessor's own log; what is
//! left to do is to know how far it reaches, and to hand it back.
//!
//! - Each member has a **memory**, random, new whenever its log in shared memory is formatted: after a crash of the host, not of the process.
//! - The **ring** has the members that are fit to guard. The guard of a member, in the ring or not, is the nearest ring member before it.
//! - A guard tells those that it guards, in a [`Word`], which memory it has and up to where its log there is stored.
//! - A member acknowledges (and counts for itself, as primary) only what its guard has said to hold: that is its **bound**.
//! - It keeps on stable storage *whose memory* that is, its [`Guard`] record. A member that has lost its memory fetches log and state
//!   from that very memory, and from no other; where it is gone too, the member is a new incarnation, as in `epoch-ss`.
//!
//! # Why it is safe (S14)
//!
//! Claim: the memory that the record names holds everything that this member acknowledged and that is committed, ever will be, or that a later
//! start of a view must find at it.
//!
//! 1. An acknowledgement counts in its view k only from k's barrier on, so its place is (k, n). A bound is taken only from a word about
//!    a place (k, m) while this member is in view k. A log that ends in view k is, up to there, the log of k's primary (S8): with n ≤ m
//!    the guard's memory holds the entry, and all before it. That is why a bound of an older view counts for nothing in this one.
//! 2. The guard may cut the entry later, but only for the log of a view that started without it. The guard had entered k when it
//!    stored (k, m), so that view is later than k; what q members acknowledged in k is in the log of each later view (S4). So what is
//!    cut was not committed in k, and cannot be any more. The same holds where the member is restored and reports: its report has what
//!    the guard's log has.
//! 3. The record changes only to a memory that holds a place of the entered view that is not below anything that this member may have
//!    acknowledged; and it is durable before the bound moves. If that was acknowledged in an older view, its committed part is in the log
//!    that this view started from (S4), below the place. The start of a run counts as acknowledged all that the log holds.
//! 4. Memory that is gone is never taken for the one that is named: its number is random. A guard that was itself restored, by its own
//!    guard, has a new memory, although it is the same incarnation: it may lack what it told those that it guards.
//! 5. Without a record there is no bound, and no restoration either: what is acknowledged then is lost with the host, as in `epoch-ss`.
//!
//! Nothing of this rests on the members agreeing on a ring: a wrong one costs time. So its membership is settled without Paxos:
//!
//! - Neighbours hear each other every heartbeat. Who misses one, or waits too long for his guard's word, takes it out of the ring, and
//!   tells its neighbours; each installs and tells on, both ways round. Of rings made at once the lower initiator's wins ([`Ring`]).
//! - A member in no ring tells everybody; the one that it would guard takes it in, once it is close behind.
//! - A view is the last word: a ring counts in one view, has only members of it, and always its primary, whom only the next view puts
//!   out. So those that are cut off from the primary have rings that keep nobody up, and no member is ever without somebody before it, but
//!   the primary alone; which does without after a while.
//!
//! # What it costs
//!
//! A small message to each member for each batch. And time: a commit waits for q members *and their guards*, q + 1 members at least; of
//! three, for the slower backup as well, until it is out of the ring. A member taken out or in costs its neighbour one control record.
//! It pays: of three hosts any two may crash at once, for one of them has the third before it; no crash of one host changes the view's members.

mod circle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use circle::Ring;
use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "mutants"))]
use crate::mutant::Mutant;
use crate::{Identity, Incarnation, Kind, MemberId, Micros, Standing, Timing, View, Viewstamp};

/// A member that is no further behind than this may guard others, ops: they wait for it from then on.
const LAG_MAX_OPS: u64 = 4096;
/// A guard that says nothing new for so many suspect times, while it is waited for, is put out of the ring.
const WAIT_PATIENCE: u64 = 2;
/// Who was put out is not taken in again by the same member for so many suspect times.
const BARRED_FOR: u64 = 4;

/// One life of the memory that a member's log is in: random, made when it is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryId(pub u64);

/// Whose memory holds what a member has acknowledged. On stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The member.
    pub member: MemberId,
    /// Which memory of it.
    pub memory: MemoryId,
}

/// What the members of a ring tell each other: the ring, as its token, and what is stored here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The sender's ring, in the view that it has entered.
    pub ring: Ring,
    /// The sender's memory.
    pub memory: MemoryId,
    /// The sender's log there reaches to here.
    pub stored: Viewstamp,
}

/// What is to be done, in this order: the record is durable, then the core has the bound, then the words leave.
#[derive(Debug, Default)]
pub struct RingOutput {
    /// The new guard record.
    pub guard: Option<Option<Guard>>,
    /// Up to where another host holds what this member stores; none: it does without.
    pub bound: Option<Option<Viewstamp>>,
    /// To whom, what.
    pub send: Vec<(MemberId, Word)>,
}

/// One member's part in the ring. Volatile but for the record.
#[derive(Debug)]
pub struct RingMember {
    me: Identity,
    memory: MemoryId,
    timing: Timing,
    /// The record. Without one there is no bound.
    guard: Option<Guard>,
    bound: Viewstamp,
    /// Nothing above it was ever acknowledged.
    promised: Viewstamp,
    stored: Viewstamp,
    /// Members of the view that have a state, and under which incarnation; none where this member is not among them.
    able: BTreeMap<MemberId, Incarnation>,
    primary: MemberId,
    ring: Ring,
    ring_since: Micros,
    /// Those next to this member in the ring: when each was last heard, or became one.
    neighbours: BTreeMap<MemberId, Micros>,
    /// Whom this member has put out, and until when it stays out.
    barred: BTreeMap<MemberId, Micros>,
    /// Since when the guard is waited for.
    waits_since: Option<Micros>,
    said_at: Micros,
    #[cfg(any(test, feature = "mutants"))]
    mutant: Option<Mutant>,
}

impl RingMember {
    /// A member that starts with this memory and record, and a log that ends there. Its core is to have [`Self::first_bound`] at once.
    pub fn new(me: Identity, memory: MemoryId, guard: Option<Guard>, last: Viewstamp, timing: Timing) -> Self {
        let ring = Ring { view: 0, number: 0, initiator: me.member, members: Vec::new() };
        RingMember {
            me,
            memory,
            timing,
            guard,
            bound: Viewstamp::default(),
            promised: last,
            stored: last,
            able: BTreeMap::new(),
            primary: me.member,
            ring,
            ring_since: 0,
            neighbours: BTreeMap::new(),
            barred: BTreeMap::new(),
            waits_since: None,
            said_at: 0,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }

    /// Puts a known bug back.
    #[cfg(any(test, feature = "mutants"))]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutant = mutant;
        self
    }

    /// Before anything is heard: nothing new, where there is a record.
    pub fn first_bound(&self) -> Option<Viewstamp> {
        self.guard.map(|_| self.bound)
    }

    /// This member's memory.
    pub fn memory(&self) -> MemoryId {
        self.memory
    }

    /// The last decided view, durably entered if it lists this store. The ring goes on as far as the view has its members.
    pub fn enter(&mut self, now: Micros, view: &View, out: &mut RingOutput) {
        if view.number <= self.ring.view {
            return;
        }
        let before = std::mem::replace(&mut self.able, able_in(view, self.me));
        let stays = |member: &MemberId| self.able.get(member).is_some_and(|now| before.get(member) == Some(now));
        let mut members: Vec<_> = self.ring.members.iter().copied().filter(stays).collect();
        self.primary = view.primary;
        if !members.contains(&view.primary) {
            members.push(view.primary);
            members.sort_unstable();
        }
        let number = if self.ring.members.is_empty() { 0 } else { self.ring.number.saturating_add(1) };
        self.waits_since = None;
        if self.able.is_empty() {
            self.ring = Ring { view: view.number, number: 0, initiator: self.me.member, members: Vec::new() };
            self.neighbours.clear();
            return self.do_without(out);
        }
        self.install(now, Ring { view: view.number, number, initiator: self.me.member, members }, out);
    }

    /// A word of a member that the view lists, under the incarnation that it lists. `stored`: this member's own log is stored up to there, by
    /// what its core knows; it may have acknowledged as much in this very step, before a change of the record.
    pub fn on_word(&mut self, now: Micros, from: MemberId, word: Word, stored: Viewstamp, out: &mut RingOutput) {
        self.on_stored(now, stored, out);
        if !self.able.contains_key(&from) {
            return;
        }
        self.neighbours.entry(from).and_modify(|heard_at| *heard_at = now);
        if word.ring.view != self.ring.view {
            return; // one of us is behind; the members' own messages tell
        }
        let Word { ring, memory, stored } = word;
        let able: Vec<_> = self.able.keys().copied().collect();
        if ring.is_newer_than(&self.ring) {
            if ring.is_of(self.primary, &able) {
                self.install(now, ring, out);
            }
        } else if self.ring.is_newer_than(&ring) {
            self.say(from, out);
        }
        if self.ring.before(self.me.member) == Some(from) {
            self.take_stored(now, Guard { member: from, memory }, stored, out);
        }
        self.admit(now, from, stored, out);
    }

    /// This member's own log is stored up to there.
    pub fn on_stored(&mut self, now: Micros, stored: Viewstamp, out: &mut RingOutput) {
        if stored == self.stored {
            return;
        }
        let began = stored.view == self.ring.view && self.stored.view != stored.view;
        self.stored = stored;
        self.note_promised();
        self.note_waiting(now);
        match began {
            true => self.say_to_all(now, out), // from now on it may be taken in, and its guard is waited for
            false => self.wards().for_each(|ward| out.send.push((ward, self.word()))),
        }
    }

    /// A host said that the member's process is gone.
    pub fn on_gone(&mut self, now: Micros, member: MemberId, out: &mut RingOutput) {
        let Some(heard_at) = self.neighbours.get_mut(&member) else { return };
        *heard_at = 0; // a primary stays until the next view, and goes at once then
        self.put_out(now, member, out);
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: Micros, out: &mut RingOutput) {
        if self.able.is_empty() {
            return;
        }
        let Timing { suspect, heartbeat, .. } = self.timing;
        let is_late = |since: Micros, patience: u64| now > since + patience * suspect;
        let silent = self.neighbours.iter().filter(|(member, _)| **member != self.primary);
        let silent = silent.filter(|(_, heard_at)| is_late(**heard_at, 1)).map(|(member, _)| *member).next();
        let slow = self.waits_since.filter(|since| is_late(*since, WAIT_PATIENCE));
        let slow = slow.and_then(|_| self.ring.before(self.me.member));
        if let Some(member) = silent.or(slow) {
            self.put_out(now, member, out);
        }
        if self.ring.before(self.me.member).is_none() && is_late(self.ring_since, 1) {
            self.do_without(out);
        }
        if now >= self.said_at + heartbeat {
            self.say_to_all(now, out);
        }
    }

    /// The guard's log is stored up to there. See 1 and 3 of the argument.
    fn take_stored(&mut self, now: Micros, from: Guard, stored: Viewstamp, out: &mut RingOutput) {
        let promised = self.promised;
        #[cfg(any(test, feature = "mutants"))]
        let (stored, promised) = match self.mutant {
            Some(Mutant::RingOldBound) => (Viewstamp { view: self.ring.view, ..stored }, promised),
            Some(Mutant::RingAnyRecord) => (stored, Viewstamp::default()),
            _ => (stored, promised),
        };
        if stored.view != self.ring.view {
            return;
        }
        if self.guard != Some(from) {
            if stored < promised {
                return;
            }
            self.guard = Some(from);
            self.bound = Viewstamp::default();
            out.guard = Some(self.guard);
        }
        if stored > self.bound {
            self.bound = stored;
            out.bound = Some(Some(stored));
            self.note_promised();
            self.waits_since = None;
            self.note_waiting(now);
        }
    }

    /// No record, no bound: this member has no other to be guarded by.
    fn do_without(&mut self, out: &mut RingOutput) {
        if self.guard.take().is_some() {
            out.guard = Some(None);
            out.bound = Some(None);
            self.note_promised();
            self.waits_since = None;
        }
    }

    /// What the core may have acknowledged by its next step.
    fn note_promised(&mut self) {
        let may = if self.guard.is_some() { self.stored.min(self.bound) } else { self.stored };
        self.promised = self.promised.max(may);
    }

    fn note_waiting(&mut self, now: Micros) {
        let waits = self.guard.is_some() && self.stored.view == self.ring.view && self.stored > self.bound;
        self.waits_since = waits.then(|| self.waits_since.unwrap_or(now));
    }

    /// Takes a ring as its own, and tells it on.
    fn install(&mut self, now: Micros, ring: Ring, out: &mut RingOutput) {
        self.ring = ring;
        self.ring_since = now;
        let me = self.me.member;
        let after = self.ring.after(me).filter(|_| self.ring.contains(me));
        let neighbours = self.ring.before(me).into_iter().chain(after);
        self.neighbours =
            neighbours.map(|member| (member, self.neighbours.get(&member).copied().unwrap_or(now))).collect();
        self.say_to_all(now, out);
    }

    fn put_out(&mut self, now: Micros, member: MemberId, out: &mut RingOutput) {
        if member == self.primary || !self.ring.contains(member) {
            return;
        }
        self.barred.insert(member, now + BARRED_FOR * self.timing.suspect);
        self.waits_since = self.waits_since.map(|_| now); // the next guard has its own time
        self.install(now, self.ring.without(member, self.me.member), out);
    }

    /// Takes in a member that would guard this one, if it is close behind.
    fn admit(&mut self, now: Micros, from: MemberId, stored: Viewstamp, out: &mut RingOutput) {
        let is_close = stored.view == self.ring.view && stored.op.saturating_add(LAG_MAX_OPS) >= self.stored.op;
        let is_barred = self.barred.get(&from).is_some_and(|until| now < *until);
        let me = self.me.member;
        if !self.ring.contains(me) || self.ring.contains(from) || !is_close || is_barred {
            return;
        }
        let ring = self.ring.with(from, me);
        if ring.after(from) == Some(me) {
            self.install(now, ring, out);
        }
    }

    /// Those that this member guards.
    fn wards(&self) -> impl Iterator<Item = MemberId> {
        let me = self.me.member;
        let is_ward = move |member: &MemberId| *member != me && self.ring.before(*member) == Some(me);
        self.able.keys().copied().filter(is_ward)
    }

    /// The token, with what is stored: to the neighbours and wards; from outside the ring, to everybody.
    fn say_to_all(&mut self, now: Micros, out: &mut RingOutput) {
        self.said_at = now;
        let me = self.me.member;
        let is_inside = self.ring.contains(me);
        let before = self.ring.before(me);
        let hears = |member: &MemberId| {
            *member != me && (!is_inside || before == Some(*member) || self.ring.before(*member) == Some(me))
        };
        for member in self.able.keys().copied().filter(hears) {
            out.send.push((member, self.word()));
        }
    }

    fn say(&self, to: MemberId, out: &mut RingOutput) {
        out.send.push((to, self.word()));
    }

    fn word(&self) -> Word {
        Word { ring: self.ring.clone(), memory: self.memory, stored: self.stored }
    }
}

/// The members that have a state and are counted, if this store is one of them.
fn able_in(view: &View, me: Identity) -> BTreeMap<MemberId, Incarnation> {
    let is_able = |slot: &&crate::Slot| {
        slot.kind == Kind::Replica && slot.standing != Standing::Learner && slot.incarnation != Incarnation::NOBODY
    };
    let able: BTreeMap<_, _> = view.slots.iter().filter(is_able).map(|slot| (slot.member, slot.incarnation)).collect();
    if able.get(&me.member) == Some(&me.incarnation) { able } else { BTreeMap::new() }
}
