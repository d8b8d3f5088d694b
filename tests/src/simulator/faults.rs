//! What goes wrong.

use rsm::{Identity, Input, MemberId, Record};

use super::atlas;
use super::invariants::Check;
use super::plan::{Fault, Workload};
use super::store::Store;
use super::world::{Event, World, draw_incarnation};

impl World {
    /// The next fault, and when the one after it comes.
    pub(crate) fn on_fault(&mut self) -> Check {
        if !self.unsafe_now || self.plan.faults.is_empty() {
            return Ok(());
        }
        let wait = self.dice.spread(self.plan.fault_every_us);
        self.schedule(wait, Event::Fault);
        let fault = *self.dice.pick(&self.plan.faults);
        let index = self.dice.index(self.members.len());
        self.trace
            .note(self.now, [5, fault as u64, index as u64], || format!("FAULT {fault:?} (member {})", index + 1));
        match fault {
            Fault::Crash => self.crash_and_return(index),
            Fault::CrashPrimary => self.serving().map_or(Ok(()), |primary| self.crash_and_return(primary)),
            Fault::PowerFailure => {
                self.invariants.counters.hit("power failures");
                (0..self.members.len()).try_for_each(|index| self.crash_and_return(index))
            }
            Fault::Wipe => self.wipe(index),
            Fault::Pause => {
                self.pause(index);
                Ok(())
            }
            Fault::Isolate | Fault::OneWay | Fault::Split | Fault::Chain | Fault::Flap => {
                self.network.cut(&mut self.dice, fault);
                Ok(())
            }
            Fault::Heal => {
                self.network.heal();
                Ok(())
            }
            Fault::HandOver => {
                self.hand_over();
                Ok(())
            }
            Fault::PlannedStop => {
                self.planned_stop();
                Ok(())
            }
            Fault::SlowStore => {
                self.members[index].flush_is_slow ^= true;
                Ok(())
            }
        }
    }

    /// Who serves, by its own word.
    pub(crate) fn serving(&self) -> Option<usize> {
        self.members.iter().position(|member| member.process.as_ref().is_some_and(|process| process.serving))
    }

    /// The process dies; a prefix of what it asked its store for stays.
    pub(crate) fn crash(&mut self, index: usize) -> Check {
        let member = &mut self.members[index];
        if member.process.take().is_none() {
            return Ok(());
        }
        let before = member.store.asked.control.clone();
        let (records, lost) = member.store.crash(&mut self.dice);
        let counters = &mut self.invariants.counters;
        counters.hit("crashes");
        counters.add("entries lost in a crash", lost as u64);
        if member.store.durable.control != before {
            counters.hit("control records lost in a crash");
        }
        if self.invariants.last_view().is_none() {
            self.invariants.counters.hit("crashes before founding ended");
        }
        let last = member.store.durable.last();
        self.trace.note(self.now, [6, index as u64, lost as u64], || {
            format!("member {} dies; its log ends at {last}, {lost} records are lost", index + 1)
        });
        let holder = member.store.identity.incarnation;
        records.iter().try_for_each(|record: &Record| self.invariants.durable(holder, record))?;
        if self.plan.workload == Workload::Locks && self.dice.chance(500_000) {
            self.lines_of_dead_member(index);
        }
        for other in 0..self.members.len() {
            if other != index && self.network.tells_of_death(&mut self.dice, index, other) {
                self.deliver(other, Input::Unreachable { member: MemberId(index as u64 + 1), incarnation: None });
            }
        }
        Ok(())
    }

    /// The process dies and is started again some time later.
    pub(crate) fn crash_and_return(&mut self, index: usize) -> Check {
        self.crash(index)?;
        self.start_later(index);
        Ok(())
    }

    fn start_later(&mut self, index: usize) {
        if !self.members[index].starts {
            self.members[index].starts = true;
            let wait = self.dice.spread(self.plan.down_us);
            self.schedule(wait, Event::Start(index));
        }
    }

    /// The store is lost too, if the cluster promises to survive that.
    fn wipe(&mut self, index: usize) -> Check {
        if !atlas::may_lose(&self.members, &self.wiped, self.invariants.last_view(), index) {
            return Ok(());
        }
        self.crash(index)?;
        if !atlas::may_lose(&self.members, &self.wiped, self.invariants.last_view(), index) {
            self.start_later(index);
            return Ok(());
        }
        self.invariants.counters.hit("incarnations lost");
        self.wiped[index] |= self.invariants.last_view().is_none();
        let mut identity =
            Identity { member: MemberId(index as u64 + 1), incarnation: draw_incarnation(&mut self.dice) };
        if self.mutation.is_amnesia() {
            identity = self.members[index].store.identity;
        }
        self.trace.note(self.now, [7, index as u64, 0], || {
            format!("member {} lost its store; the next is {}", index + 1, identity.incarnation)
        });
        self.members[index].store = Store::empty(identity, self.plan.store.keeps_released);
        self.start_later(index);
        Ok(())
    }

    fn pause(&mut self, index: usize) {
        let until = self.now + self.dice.spread(self.plan.down_us);
        if let Some(process) = &mut self.members[index].process {
            process.paused_until = until;
            self.invariants.counters.hit("pauses");
        }
    }

    fn hand_over(&mut self) {
        let others = self.members.len();
        let to = self.dice.chance(500_000).then(|| MemberId(self.dice.below(others as u64) + 1));
        let asked = if self.dice.chance(900_000) { self.serving() } else { Some(self.dice.index(others)) };
        let Some(asked) = asked else { return };
        if self.serving() == Some(asked) {
            self.invariants.counters.hit("hand-overs asked of a serving primary");
        }
        self.deliver(asked, Input::HandOver { to });
    }

    fn planned_stop(&mut self) {
        let Some(index) = self.serving() else { return };
        let Some(run) = self.members[index].process.as_ref().map(|process| process.run) else { return };
        self.invariants.counters.hit("planned stops");
        self.deliver(index, Input::HandOver { to: None });
        let grace = self.dice.spread((1_000, 1_000_000));
        self.schedule(grace, Event::Stop(index, run));
        if !self.members[index].starts {
            self.members[index].starts = true;
            let wait = grace + self.dice.spread(self.plan.down_us);
            self.schedule(wait, Event::Start(index));
        }
    }
}
