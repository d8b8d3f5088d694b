//! A client machine's clocks.
//!
//! A process that stands still finds that both clocks went on. A machine that stands still (a virtual one that is moved,
//! say) finds that its boot time did not go on, while real time was set right: the client notices by the lead of one
//! over the other, if it grew by more than the margin. Below that, a stop eats margin that clocks running at a wrong rate need
//! too; so a plan has one or the other.

use lock_client::cores::Clocks;

use crate::simulator::dice::{Dice, MILLION};

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientClock {
    boot_offset_us: u64,
    real_offset_us: u64,
    rate: u64,
    stopped_us: u64,
    /// The last stop: from, until.
    stop: (u64, u64),
}

impl ClientClock {
    pub(crate) fn new(dice: &mut Dice, rate: (u64, u64)) -> Self {
        ClientClock {
            boot_offset_us: dice.below(1_000 * MILLION),
            real_offset_us: dice.below(1_000_000 * MILLION) + 1_000 * MILLION,
            rate: dice.between(rate),
            stopped_us: 0,
            stop: (0, 0),
        }
    }

    /// Both readings at a moment of true time, µs.
    pub(crate) fn read(&self, now: u64) -> Clocks {
        let (from, until) = self.stop;
        let stopped = self.stopped_us + now.min(until).saturating_sub(from);
        let boot_us = self.boot_offset_us + (now - stopped) * self.rate / MILLION;
        let real_us = self.real_offset_us + now * self.rate / MILLION;
        Clocks { boot_ns: boot_us * 1_000, real_ns: real_us * 1_000 }
    }

    /// The machine stands still from now on for so long. One stop at a time.
    pub(crate) fn stop(&mut self, now: u64, for_us: u64) {
        let (from, until) = self.stop;
        if until <= now {
            self.stopped_us += until - from;
            self.stop = (now, now + for_us);
        }
    }

    /// It goes on now, if it stood still.
    pub(crate) fn go_on(&mut self, now: u64) {
        self.stop.1 = self.stop.1.min(now).max(self.stop.0);
    }

    /// Real time is set, forwards.
    pub(crate) fn jump(&mut self, by_us: u64) {
        self.real_offset_us += by_us;
    }

    /// Real time is set back.
    pub(crate) fn jump_back(&mut self, by_us: u64) {
        self.real_offset_us = self.real_offset_us.saturating_sub(by_us);
    }

    /// True time until boot time reads so much, µs; at least 1.
    pub(crate) fn until(&self, now: u64, boot_ns: u64) -> u64 {
        let left_us = boot_ns.saturating_sub(self.read(now).boot_ns).div_ceil(1_000);
        (left_us * MILLION).div_ceil(self.rate).max(1)
    }
}
