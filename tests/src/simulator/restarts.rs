//! How processes end, and what becomes of their stores: recovered, or lost and begun anew as another incarnation.
//!
//! A store is lost only while the atlas allows it. What a recovery finds is judged at once, although the process that it is
//! for starts later: nobody else touches the medium of a process that is down.

use rsm::{Identity, Input, MemberId};

use super::atlas;
use super::damage;
use super::invariants::{Check, Violation};
use super::medium_plan::Durability;
use super::plan::Workload;
use super::ring::Pair;
use super::store::{End, Reopened, Store, Unusable};
use super::world::{Event, World, draw_incarnation};

/// Between two looks at whether the next member of a rolling restart may go, µs.
const ROLL_EVERY_US: u64 = 50_000;

impl World {
    /// The process dies, maybe with its machine.
    pub(crate) fn crash(&mut self, index: usize) -> Check {
        let machine = self.media_dice.chance(self.plan.medium.machine_dies);
        self.end(index, if machine { End::Machine } else { End::Process })
    }

    /// The process ends. What the cluster does not promise to survive does not happen.
    pub(crate) fn end(&mut self, index: usize, end: End) -> Check {
        let waiting = match &self.members[index].process {
            Some(_) => self.members[index].store.waiting(),
            None => return Ok(()),
        };
        let end = match self.plan.medium.durability {
            Durability::Durable => end,
            Durability::Memory if end == End::Machine && self.may_lose(index) => return self.end_and_lose(index),
            Durability::Memory if end == End::Machine => End::Process,
            Durability::Memory => end,
            Durability::Ring if end == End::Machine && self.may_lose_memory(index) => {
                return self.end_and_lose_memory(index);
            }
            Durability::Ring if end == End::Machine => End::Process,
            Durability::Ring => end,
            Durability::Process if self.may_lose(index) => return self.end_and_lose(index),
            Durability::Process => return Ok(()),
        };
        // Drawn from the usual dice, as it was when stores were a model.
        let begun = self.dice.index(waiting + 1);
        let is_in_snapshot =
            self.members[index].process.as_ref().is_some_and(|process| process.replica.machine().is_in_snapshot());
        self.members[index].process = None;
        let member = &mut self.members[index];
        let before = member.store.asked.control.clone();
        let in_part = member.store.end(end, begun, &mut self.media_dice);
        let counters = &mut self.invariants.counters;
        counters.hit("crashes");
        counters.add("crashes between parts of a snapshot", u64::from(is_in_snapshot));
        counters.add("crash images in part", u64::from(in_part));
        counters.add("stops in good order", u64::from(end == End::Clean));
        self.recover(index)?;
        if self.members[index].store.durable.control != before {
            self.invariants.counters.hit("control records lost in a crash");
        }
        self.count_and_tell(index);
        Ok(())
    }

    /// The process ends, and with it what it remembered.
    fn end_and_lose(&mut self, index: usize) -> Check {
        self.members[index].process = None;
        self.invariants.counters.hit("crashes");
        self.invariants.counters.hit("volatile restarts");
        self.lose(index);
        self.count_and_tell(index);
        Ok(())
    }

    pub(crate) fn count_and_tell(&mut self, index: usize) {
        if self.invariants.last_view().is_none() {
            self.invariants.counters.hit("crashes before founding ended");
        }
        if self.plan.workload == Workload::Locks && self.dice.chance(500_000) {
            self.lines_of_dead_member(index);
        }
        for other in 0..self.members.len() {
            if other != index && self.network.tells_of_death(&mut self.dice, index, other) {
                self.deliver(other, Input::Unreachable { member: MemberId(index as u64 + 1), incarnation: None });
            }
        }
    }

    /// What the next process will find.
    pub(crate) fn recover(&mut self, index: usize) -> Check {
        let member = &mut self.members[index];
        let name = member.store.identity.member;
        match member.store.reopen(self.plan.medium.interrupt, &mut self.media_dice) {
            Ok(reopened) => self.reopened(index, reopened),
            Err(Unusable::Refused(line)) => {
                let detail = format!("member {name}, whose medium is sound: {line}");
                Err(Violation::new("a crash is not taken for damage", detail))
            }
            Err(Unusable::TakenForTorn) => {
                let detail = format!("member {name}, whose medium is sound, lost what was durable");
                Err(Violation::new("what was durable is recovered", detail))
            }
            Err(Unusable::Wrong(line)) => {
                Err(Violation::new("what was durable is recovered", format!("member {name}: {line}")))
            }
        }
    }

    fn reopened(&mut self, index: usize, reopened: Reopened) -> Check {
        let Reopened { records, lost, released, outcome, fell_back, interruptions } = reopened;
        let counters = &mut self.invariants.counters;
        counters.add("entries lost in a crash", lost as u64);
        counters.add("recoveries cut short", interruptions);
        counters.add("damaged snapshots with another before them", u64::from(fell_back));
        match outcome {
            nvm_log::Outcome::Torn { .. } => counters.hit("torn tails"),
            nvm_log::Outcome::Uncertain { .. } => counters.hit("uncertain tails"),
            _ => {}
        }
        let store = &self.members[index].store;
        let (holder, last) = (store.identity.incarnation, store.durable.last());
        self.trace.note(self.now, [6, index as u64, lost as u64 ^ last.op << 20], || {
            format!("member {} is down; its log ends at {last}, {lost} records are lost; {outcome:?}", index + 1)
        });
        released.iter().try_for_each(|entry| self.invariants.ledger.see(entry))?;
        if fell_back && let Some(image) = &self.members[index].store.durable.snapshot {
            self.invariants.snapshot_is_history(image.viewstamp, &image.joined())?;
        }
        records.iter().try_for_each(|record| self.invariants.durable(holder, record))
    }

    /// The process dies and is started again some time later.
    pub(crate) fn crash_and_return(&mut self, index: usize) -> Check {
        self.crash(index)?;
        self.start_later(index);
        Ok(())
    }

    /// The same, with the machine.
    pub(crate) fn lose_power(&mut self, index: usize) -> Check {
        self.end(index, End::Machine)?;
        self.start_later(index);
        Ok(())
    }

    /// The process's medium failed: it is known of nothing that was not flushed whether it is there.
    pub(crate) fn medium_failed(&mut self, index: usize, error: &nvm_log::Error) -> Check {
        if !self.members[index].store.disk().is_failing() {
            let detail = format!("member {}: {error}", index + 1);
            return Err(Violation::new("a sound medium takes every record", detail));
        }
        self.invariants.counters.hit("stores that failed");
        self.trace.note(self.now, [9, index as u64, 0], || format!("member {}: {error}", index + 1));
        self.lose_power(index)
    }

    /// A machine that is no member yet, or none any more, is left alone; unless its store knows a cluster, and no better.
    pub(crate) fn start_later(&mut self, index: usize) {
        let wanted = match self.invariants.last_view() {
            None => index < self.plan.members,
            Some(view) => view.slot(MemberId(index as u64 + 1)).is_some(),
        };
        if !wanted && self.members[index].store.durable.view() == 0 {
            return;
        }
        if !self.members[index].starts && self.members[index].process.is_none() {
            self.members[index].starts = true;
            let wait = self.dice.spread(self.plan.down_us);
            self.schedule(wait, Event::Start(index));
        }
    }

    /// A planned end.
    pub(crate) fn stop(&mut self, index: usize) -> Check {
        let clean = self.media_dice.chance(self.plan.medium.stops_clean);
        if clean { self.end(index, End::Clean) } else { self.crash(index) }
    }

    pub(crate) fn may_lose(&self, index: usize) -> bool {
        !self.is_changing() && atlas::may_lose(&self.members, &self.wiped, self.invariants.last_view(), index)
    }

    /// The store is lost too, if the cluster promises to survive that.
    pub(crate) fn wipe(&mut self, index: usize) -> Check {
        if !self.may_lose(index) {
            return Ok(());
        }
        self.crash(index)?;
        // What the crash left on the medium may have changed what the cluster promises.
        if self.may_lose(index) {
            self.lose(index);
        }
        self.start_later(index);
        Ok(())
    }

    /// The store is gone; an empty one takes its place, as a new incarnation.
    pub(crate) fn lose(&mut self, index: usize) {
        self.invariants.counters.hit("incarnations lost");
        if let Some(wiped) = self.wiped.get_mut(index) {
            *wiped |= self.invariants.last_view().is_none();
        }
        self.empty_store(index);
    }

    /// The next life of a member's store.
    pub(crate) fn empty_store(&mut self, index: usize) {
        let mut identity =
            Identity { member: MemberId(index as u64 + 1), incarnation: draw_incarnation(&mut self.dice) };
        if self.mutation.is_amnesia() {
            identity = self.members[index].store.identity;
        }
        self.trace.note(self.now, [7, index as u64, 0], || {
            format!("member {} lost its store; the next is {}", index + 1, identity.incarnation)
        });
        let member = &mut self.members[index];
        member.store = Store::format(identity, &self.plan.medium, self.mutation);
        member.pair = member.pair.is_some().then(|| Pair::new(&mut self.media_dice));
    }

    /// A process whose store is empty ends: nothing is lost by it.
    pub(crate) fn end_empty(&mut self, index: usize) {
        self.invariants.counters.hit("crashes");
        self.members[index].process = None;
        self.empty_store(index);
        self.count_and_tell(index);
    }

    /// A member that is down finds its medium damaged: it recovers all, or refuses the store, and then its operator begins
    /// with an empty one.
    pub(crate) fn damage(&mut self, index: usize) -> Check {
        if self.plan.medium.durability != Durability::Durable || !self.may_lose(index) {
            return Ok(());
        }
        self.crash(index)?;
        self.start_later(index);
        if !self.may_lose(index) {
            return Ok(());
        }
        let member = &mut self.members[index];
        let mut place = String::new();
        member.store.damage(|disk| place = damage::damage(disk, &mut self.media_dice));
        self.trace.note(self.now, [10, index as u64, 0], || format!("member {}: {place}", index + 1));
        match self.members[index].store.reopen(0, &mut self.media_dice) {
            Ok(reopened) => {
                self.invariants.counters.hit("damage that cost nothing");
                self.reopened(index, reopened)
            }
            Err(Unusable::Refused(line)) => {
                self.invariants.counters.hit("damage refused");
                self.trace.note(self.now, [11, index as u64, 0], || format!("member {}: {line}", index + 1));
                self.lose(index);
                Ok(())
            }
            Err(Unusable::TakenForTorn) => {
                self.invariants.counters.hit("damage taken for a torn tail");
                self.lose(index);
                Ok(())
            }
            Err(Unusable::Wrong(line)) => {
                let detail = format!("member {}: {}: {line}", index + 1, place);
                Err(Violation::new("damage is never silently accepted", detail))
            }
        }
    }

    /// Members are restarted one after the other, each when the one before is back.
    pub(crate) fn on_roll(&mut self, next: usize) -> Check {
        if !self.unsafe_now || next == self.members.len() {
            return Ok(());
        }
        let volatile = self.plan.medium.durability != Durability::Durable;
        let last = self.invariants.last_view();
        let listed = |index: usize| last.is_none_or(|view| view.slot(MemberId(index as u64 + 1)).is_some());
        let others = || self.members.iter().enumerate().filter(|(index, _)| *index != next && listed(*index));
        let back = others().all(|(_, member)| member.process.is_some() && atlas::is_whole(member, last));
        if !back || (volatile && !self.may_lose(next)) {
            self.schedule(ROLL_EVERY_US, Event::Roll(next));
            return Ok(());
        }
        if next + 1 == self.members.len() {
            self.invariants.counters.hit("rolling restarts");
        }
        self.stop(next)?;
        self.start_later(next);
        self.schedule(ROLL_EVERY_US, Event::Roll(next + 1));
        Ok(())
    }
}
