//! What goes wrong.

use std::io::ErrorKind;

use rsm::{Input, MemberId};

use super::invariants::Check;
use super::medium_plan::Durability;
use super::plan::Fault;
use super::world::{Event, World};

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
                (0..self.members.len()).try_for_each(|index| self.lose_power(index))
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
            Fault::Add | Fault::Remove => {
                self.start_listed();
                self.change_members(fault, index);
                Ok(())
            }
            Fault::Replace => {
                self.wipe(index)?;
                self.change_members(fault, index);
                Ok(())
            }
            Fault::SlowStore => {
                self.members[index].flush_is_slow ^= true;
                Ok(())
            }
            Fault::Damage => self.damage(index),
            Fault::StoreFails => {
                self.fail_store(index);
                Ok(())
            }
            Fault::RollingRestart => self.on_roll(0),
            Fault::LongPause | Fault::Suspend => {
                self.stand_still(index, fault == Fault::Suspend);
                Ok(())
            }
            Fault::ClockJump => {
                self.jump(index);
                Ok(())
            }
        }
    }

    /// Who serves, by its own word.
    pub(crate) fn serving(&self) -> Option<usize> {
        self.members.iter().position(|member| member.process.as_ref().is_some_and(|process| process.serving))
    }

    fn pause(&mut self, index: usize) {
        let (now, until) = (self.now, self.now + self.dice.spread(self.plan.down_us));
        if let Some(process) = self.members[index].process.as_mut().filter(|process| !process.is_asleep(now)) {
            process.paused_until = until;
            self.invariants.counters.hit("pauses");
        }
    }

    /// Far longer than any timer. A process that is stopped finds its clock far ahead; one whose machine slept does not.
    fn stand_still(&mut self, index: usize, asleep: bool) {
        let until = (self.now + self.media_dice.spread(self.plan.medium.still_us)).min(self.safe_at);
        let now = self.now;
        if let Some(process) = &mut self.members[index].process {
            if process.is_asleep(now) {
                return;
            }
            process.paused_until = until;
            if asleep {
                process.sleep(now, until);
            }
            self.invariants.counters.hit(if asleep { "machines put to sleep" } else { "long pauses" });
        }
    }

    fn jump(&mut self, index: usize) {
        let by = self.media_dice.spread(self.plan.medium.jump_us);
        if let Some(process) = &mut self.members[index].process {
            process.jump(by);
            self.invariants.counters.hit("clock jumps");
        }
    }

    /// Soon the medium takes nothing more: it is full, or broken.
    fn fail_store(&mut self, index: usize) {
        let kind = *self.media_dice.pick(&[ErrorKind::StorageFull, ErrorKind::Other]);
        let operations = self.media_dice.spread((1, 64)) as usize - 1;
        let kept_bytes = self.media_dice.below(256) as usize;
        if self.members[index].process.is_some() && self.plan.medium.durability == Durability::Durable {
            self.members[index].store.disk().fail_after(operations, kind, kept_bytes);
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
