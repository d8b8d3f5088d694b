//! Service time: how the cluster counts leases.
//!
//! It advances only by the elapsed time in tick ops, which one primary measured between two of its own clock readings. A
//! tick that says more than the cap is cut, and what was cut is never made up. So service time never runs faster than real
//! time; whatever is wrong (an outage, a paused primary, a fail-over) makes it slower, and a lease longer, never shorter.

use std::time::Duration;

use lock_protocol::{LEASE_MAX, tick_interval};

/// Service time since the cluster was founded, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceTime(pub(super) u64);

impl ServiceTime {
    /// Adds what a tick measured, cut to the cap for the shortest lease.
    pub(super) fn advance(&mut self, elapsed_us: u64, shortest: Option<Duration>) {
        let cap_us = tick_cap_us(shortest.unwrap_or(LEASE_MAX));
        self.0 = self.0.saturating_add(elapsed_us.min(cap_us));
    }

    /// When a lease that is renewed in a tick, after its elapsed time was added, ends.
    pub(super) fn renewed_until(self, lease: Duration) -> u64 {
        self.0.saturating_add(micros(lease))
    }

    /// When a lease that begins between two ticks ends. The next tick's elapsed time began before the session did, by up
    /// to a cap. That cap depends on the shortest lease *then*: at most this session's own, whoever leaves before.
    pub(super) fn opened_until(self, lease: Duration) -> u64 {
        self.renewed_until(lease).saturating_add(tick_cap_us(lease))
    }

    /// When a delay ends that begins between two ticks, in a session with this lease: as [`ServiceTime::opened_until`].
    pub(super) fn delayed_until(self, delay: Duration, lease: Duration) -> u64 {
        self.renewed_until(delay).saturating_add(tick_cap_us(lease))
    }

    /// Whole milliseconds since then; none where it is still to come.
    pub(super) fn ms_since(self, then_us: u64) -> u64 {
        self.0.saturating_sub(then_us) / 1000
    }
}

/// The most that one tick adds while the shortest lease is `shortest`: two tick intervals, µs.
fn tick_cap_us(shortest: Duration) -> u64 {
    micros(2 * tick_interval(shortest))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_after_a_long_pause_adds_two_tick_intervals_and_no_more() {
        let mut time = ServiceTime::default();
        time.advance(60_000, Some(Duration::from_secs(10)));
        assert_eq!(time.0, 60_000);
        time.advance(8_000_000, Some(Duration::from_secs(10)));
        assert_eq!(time.0, 60_000 + 1_000_000);
        time.advance(u64::MAX, Some(Duration::from_millis(500)));
        assert_eq!(time.0, 1_060_000 + 100_000);
        time.advance(u64::MAX, None);
        assert_eq!(time.0, 1_160_000 + 2_000_000);
    }

    #[test]
    fn time_at_its_end_stands_still_instead_of_wrapping() {
        let mut time = ServiceTime(u64::MAX - 1);
        time.advance(5, None);
        assert_eq!(time.0, u64::MAX);
        assert_eq!(time.opened_until(LEASE_MAX), u64::MAX);
    }
}
