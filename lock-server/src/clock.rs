//! The clock that service time is measured with.
//!
//! CLOCK_MONOTONIC_RAW is not slewed by time daemons, so service time never runs faster than the hardware's clock. Readings are
//! only ever compared with readings of the same process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A reading, ns since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawTime(u64);

impl RawTime {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::MonotonicRaw);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        RawTime(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
    }

    /// A reading of another clock, ns since its arbitrary start.
    pub const fn from_ns(ns: u64) -> Self {
        RawTime(ns)
    }

    /// What passed since an earlier reading; nothing where that is later.
    pub fn since(self, earlier: RawTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
