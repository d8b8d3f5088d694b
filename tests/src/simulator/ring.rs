//! `ring`: a member's log is memory of its host, and of its guard's; who loses his own takes it up again from there, as himself (S14).
//!
//! Why no run asks for more than is promised: a memory is lost only while of the in-sync members a majority is left that have theirs, or a
//! guard that has. So of three hosts any two may die at once. What stands on stable storage, the control record and whose memory is the
//! second one, is written at once, as the shell does it, and survives.

use std::sync::Arc;

use rsm::{
    Control, Entry, Guard, Identity, Incarnation, Input, MemoryId, Message, Micros, Output, Record, RingMember,
    RingOutput, Send, SnapshotImage, Timing, View,
};

use super::dice::Dice;
use super::image::Image;
use super::invariants::{Check, Violation};
use super::member::{Core, Process};
use super::store::{End, Store};
use super::world::{Event, World};

/// For so long a member waits for its guard before it begins anew, µs; longer only if beginning anew is more than is promised.
const PATIENCE_US: u64 = 5_000_000;
/// Between two looks at whether the guard is there, µs.
const ASK_EVERY_US: u64 = 20_000;

/// What a member in a ring has beside its store.
#[derive(Debug)]
pub(crate) struct Pair {
    memory: MemoryId,
    /// Whose memory is the second, on stable storage.
    guard: Option<Guard>,
    /// Since when the own memory is lost.
    lost_at: Option<u64>,
}

impl Pair {
    /// Of a memory that was formatted just now.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        Pair { memory: MemoryId(dice.number()), guard: None, lost_at: None }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    /// The member's part in the ring, in a process that starts now.
    pub(crate) fn begin(&self, replica: &mut Core, timing: Timing, now: Micros) -> RingMember {
        let ring = RingMember::new(replica.identity(), self.memory, self.guard, replica.stored(), timing);
        replica.step(now, Input::Guarded { upto: ring.first_bound() }, &mut Output::default());
        ring
    }
}

impl Process {
    /// The ring takes its inputs; the core those that are not for the ring alone.
    pub(crate) fn take_in(&mut self, now: Micros, input: Input, pair: &mut Option<Pair>, out: &mut Output) {
        let (Some(ring), Some(pair)) = (&mut self.ring, pair) else { return self.replica.step(now, input, out) };
        let mut told = RingOutput::default();
        let view = self.replica.view();
        let is_listed = |member, incarnation: Incarnation| view.is_some_and(|view| view.lists(member, incarnation));
        match input {
            Input::Message { from, message: Message::Ring(word), .. } => {
                if is_listed(from.member, from.incarnation) {
                    ring.on_word(now, from.member, word, self.replica.stored(), &mut told);
                }
                return self.carry_out_ring(now, told, pair, out);
            }
            Input::Unreachable { member, incarnation }
                if incarnation.is_none_or(|incarnation| is_listed(member, incarnation)) =>
            {
                ring.on_gone(now, member, &mut told);
            }
            Input::Tick => ring.on_tick(now, &mut told),
            _ => {}
        }
        self.replica.step(now, input, out);
        self.carry_out_ring(now, told, pair, out);
    }

    /// After a step that leaves nothing to be stored: what the core has is durable.
    pub(crate) fn tend_ring(&mut self, now: Micros, pair: &mut Option<Pair>, out: &mut Output) {
        let (Some(ring), Some(pair)) = (&mut self.ring, pair) else { return };
        let mut told = RingOutput::default();
        if let Some(view) = self.replica.view() {
            ring.enter(now, view, &mut told);
        }
        ring.on_stored(now, self.replica.stored(), &mut told);
        self.carry_out_ring(now, told, pair, out);
        self.replica.settle(now, out);
    }

    /// Record, bound, words: in this order.
    fn carry_out_ring(&mut self, now: Micros, told: RingOutput, pair: &mut Pair, out: &mut Output) {
        let RingOutput { guard, bound, send } = told;
        if let Some(guard) = guard {
            pair.guard = guard;
        }
        let words = send.into_iter().map(|(to, word)| Send { to, after: 0, message: Message::Ring(word) });
        out.send.extend(words);
        if let Some(upto) = bound {
            self.replica.step(now, Input::Guarded { upto }, out);
        }
    }
}

impl World {
    /// Whether a member's memory may be lost now.
    pub(crate) fn may_lose_memory(&self, victim: usize) -> bool {
        let Some(view) = self.invariants.last_view().filter(|_| !self.is_changing()) else { return false };
        let has = |index: usize, memory: Option<MemoryId>| {
            let pair = self.members.get(index).and_then(|member| member.pair.as_ref());
            index != victim && pair.is_some_and(|pair| !pair.is_lost() && memory.is_none_or(|id| id == pair.memory))
        };
        let has_guard = |index: usize| {
            let guard = self.members[index].pair.as_ref().and_then(|pair| pair.guard);
            guard.is_some_and(|guard| has(guard.member.0 as usize - 1, Some(guard.memory)))
        };
        let is_counted = |index: &usize| {
            let Identity { member, incarnation } = self.members[*index].store.identity;
            view.is_in_sync(member, incarnation) && (has(*index, None) || has_guard(*index))
        };
        let left = (0..self.members.len()).filter(is_counted).count();
        left >= view.majority() && (has_guard(victim) || self.may_lose(victim))
    }

    /// The machine dies, and with it the log; the control record stays, with `begun` of what was still to be stored.
    pub(crate) fn end_and_lose_memory(&mut self, index: usize) -> Check {
        self.invariants.counters.hit("crashes");
        self.invariants.counters.hit("memories lost");
        let begun = self.media_dice.index(self.members[index].store.waiting() + 1);
        let member = &mut self.members[index];
        member.process = None;
        let control = member.store.control_after(begun);
        let memory = MemoryId(self.media_dice.number());
        if let Some(pair) = &mut member.pair {
            (pair.memory, pair.lost_at) = (memory, Some(self.now));
        }
        self.fill_store(index, control, None, Vec::new())?;
        self.count_and_tell(index);
        Ok(())
    }

    /// A member that lost its memory asks its guard. Says whether it can start; else it asks again, unless it is down again.
    pub(crate) fn has_memory(&mut self, index: usize) -> Result<bool, Violation> {
        let member = &self.members[index];
        let Some(lost_at) = member.pair.as_ref().and_then(|pair| pair.lost_at) else { return Ok(true) };
        let guard = member.pair.as_ref().and_then(|pair| pair.guard);
        match guard.map(|guard| self.ask_guard(member.store.identity, guard)) {
            Some(Guarding::Has(view, snapshot, entries)) => {
                let control = self.members[index].store.durable.control.clone();
                let known = control.config.as_ref().map_or(0, |config| config.last.number);
                let control = match view.number > known {
                    true => Control { founding: None, config: Some(paxos::Durable::after(view)) },
                    false => control,
                };
                self.fill_store(index, control, snapshot, entries)?;
                self.invariants.counters.hit("members restored by their guard");
                if let Some(pair) = &mut self.members[index].pair {
                    pair.lost_at = None;
                }
                Ok(true)
            }
            Some(Guarding::Silent) if self.now < lost_at + PATIENCE_US || !self.may_lose(index) => {
                self.members[index].starts = true;
                let wait = self.media_dice.spread((1_000, ASK_EVERY_US));
                self.schedule(wait, Event::Start(index));
                Ok(false)
            }
            Some(Guarding::Silent | Guarding::Refuses) | None => {
                self.invariants.counters.hit("members that no guard restored");
                self.lose(index);
                Ok(true)
            }
        }
    }

    /// The durable log of a member's guard, if that still has the memory that the member's record names.
    pub(crate) fn guards_log(&self, index: usize) -> Option<&Image> {
        let guard = self.members[index].pair.as_ref()?.guard?;
        let member = self.members.get(guard.member.0 as usize - 1)?;
        let is_there = member.pair.as_ref().is_some_and(|pair| !pair.is_lost() && pair.memory == guard.memory);
        is_there.then_some(&member.store.durable)
    }

    fn ask_guard(&self, own: Identity, guard: Guard) -> Guarding {
        let Some(member) = self.members.get(guard.member.0 as usize - 1) else { return Guarding::Refuses };
        if member.pair.as_ref().is_none_or(|pair| pair.is_lost() || pair.memory != guard.memory) {
            return Guarding::Refuses;
        }
        // Its shell answers between two rounds.
        let idle = member.process.as_ref().filter(|_| member.store.is_durable(member.store.last_token()));
        let Some(process) = idle.filter(|process| process.paused_until <= self.now) else { return Guarding::Silent };
        match process.replica.view() {
            Some(view) if view.lists(own.member, own.incarnation) => {
                let (snapshot, entries) = process.replica.parts();
                Guarding::Has(view.clone(), snapshot, entries)
            }
            _ => Guarding::Refuses,
        }
    }

    /// A new memory for the same incarnation, with this in it.
    fn fill_store(
        &mut self,
        index: usize,
        control: Control,
        snapshot: Option<Arc<SnapshotImage>>,
        entries: Vec<Arc<Entry>>,
    ) -> Check {
        let member = &mut self.members[index];
        let identity = member.store.identity;
        self.invariants.control_follows(&member.store.durable.control, &control)?;
        let mut store = Store::format(identity, &self.plan.medium, self.mutation);
        let first = match snapshot {
            Some(image) => Record::Install { image, keep_suffix: false, control },
            None => Record::Control(control),
        };
        let records = std::iter::once(first).chain(entries.into_iter().map(Record::Append));
        let wrong = |line: String| Violation::new("a guard's copy is whole", format!("member {}: {line}", index + 1));
        records.into_iter().try_for_each(|record| store.ask(record).map(drop)).map_err(wrong)?;
        let stored = store.flush(store.last_token()).map_err(|error| wrong(error.to_string()))?;
        store.end(End::Clean, 0, &mut self.media_dice);
        self.trace.note(self.now, [12, index as u64, store.durable.last().op], || {
            format!("member {} has another memory; its log ends at {}", index + 1, store.durable.last())
        });
        self.members[index].store = store;
        self.recover(index)?;
        stored.iter().try_for_each(|record| self.invariants.durable(identity.incarnation, record))
    }
}

/// What a guard says to one that lost its memory.
enum Guarding {
    Has(View, Option<Arc<SnapshotImage>>, Vec<Arc<Entry>>),
    /// The memory that is named is lost, or belongs to others now.
    Refuses,
    /// It does not answer.
    Silent,
}
