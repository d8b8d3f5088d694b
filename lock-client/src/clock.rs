//! The two clocks that a lease is measured with.
//!
//! CLOCK_BOOTTIME runs on while the machine is suspended, which CLOCK_MONOTONIC does not. CLOCK_REALTIME is only compared with
//! it: a virtual machine that was stopped and resumed finds its real time set forward, while its boot time may not have
//! noticed.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Since boot, ns.
    pub boot_ns: u64,
    /// Since 1970, ns.
    pub real_ns: u64,
}

impl Clocks {
    /// Reads both.
    pub(crate) fn now() -> Self {
        #[cfg(test)]
        if let Some(clocks) = set::get() {
            return clocks;
        }
        Clocks { boot_ns: boot_ns(), real_ns: nanoseconds(clock_gettime(ClockId::Realtime)) }
    }

    /// By how much real time is ahead of boot time, ns; only differences of it mean something.
    pub fn lead_ns(&self) -> i64 {
        self.real_ns.wrapping_sub(self.boot_ns).cast_signed()
    }
}

/// CLOCK_BOOTTIME, ns; tens of nanoseconds, without a system call where the kernel offers it so.
#[inline]
pub(crate) fn boot_ns() -> u64 {
    #[cfg(test)]
    if let Some(clocks) = set::get() {
        return clocks.boot_ns;
    }
    nanoseconds(clock_gettime(ClockId::Boottime))
}

#[inline]
fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}

/// A clock that a test sets, for its thread (and so for all threads of a checker, which run on one).
#[cfg(test)]
pub(crate) mod set {
    use std::cell::Cell;

    use super::Clocks;

    thread_local! {
        static SET: Cell<Option<Clocks>> = const { Cell::new(None) };
    }

    pub(crate) fn get() -> Option<Clocks> {
        SET.get()
    }

    pub(crate) fn set(clocks: Option<Clocks>) {
        SET.set(clocks);
    }
}
