//! What every guard and every cached lock looks at: is the lease in force, in this very epoch?
//!
//! An **epoch** ends when the lease runs out, when the session is lost and when it is closed; guards belong to the epoch in
//! which they were made, and die with it for good. The order of the stores is what makes it right: the deadline is
//! zeroed *before* the epoch is raised, and a reader takes the epoch *before* the deadline. So whoever reads a new
//! epoch reads no deadline of the old one, and a guard made of an old epoch is dead whatever the deadline says later.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clocks, boot_ns};
use crate::sync::Notify;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Read by all, written by the clerk only.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Boot time, ns; 0 while suspended, lost or closed.
    deadline_ns: AtomicU64,
    epoch: AtomicU64,
    /// The greatest lead of real time over boot time at which the lease holds.
    lead_max_ns: AtomicI64,
    /// Every handle of the client is gone: the end of the last guard ends the session.
    orphaned: AtomicBool,
    /// Somebody may be interested in the end of an epoch, or (once orphaned) of a guard.
    pub(crate) changed: Arc<Notify>,
}

impl Lease {
    /// The lease is in force until `deadline_ns`.
    pub(crate) fn extend(&self, deadline_ns: u64, lead_max_ns: i64) {
        self.lead_max_ns.store(lead_max_ns, Ordering::Release);
        if self.deadline_ns.swap(deadline_ns, Ordering::AcqRel) == 0 {
            self.changed.notify_waiters();
        }
    }

    /// All guards die; returns the new epoch. Nothing is served until [`Lease::extend`].
    pub(crate) fn end_epoch(&self) -> u64 {
        self.deadline_ns.store(0, Ordering::SeqCst);
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.changed.notify_waiters();
        epoch
    }

    /// All guards die while the lease itself stays in force, for the flushes of a close; returns the new epoch.
    pub(crate) fn end_guards(&self) -> u64 {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.changed.notify_waiters();
        epoch
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The epoch, and the time, where the lease is in force; for the fast path, which leaves real time to the clerk.
    #[inline]
    pub(crate) fn live_epoch(&self) -> Option<(u64, u64)> {
        let epoch = self.epoch();
        let now_ns = boot_ns();
        (now_ns < self.deadline_ns.load(Ordering::Acquire)).then_some((epoch, now_ns))
    }

    /// How long a guard of `epoch` is valid from now on; zero once it is not.
    pub(crate) fn valid_for(&self, epoch: u64) -> Duration {
        let deadline_ns = self.deadline_ns.load(Ordering::Acquire);
        let now = Clocks::now();
        valid_for(epoch, self.epoch(), deadline_ns, self.lead_max_ns.load(Ordering::Acquire), now)
    }

    pub(crate) fn set_orphaned(&self) {
        self.orphaned.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }
}

/// How long a guard of epoch `guard` is valid from now on, in a client whose epoch is `epoch` and whose lease is in force
/// until `deadline_ns` (0: it is not) while real time leads by `lead_max_ns` at most; zero once it is not valid.
pub fn valid_for(guard: u64, epoch: u64, deadline_ns: u64, lead_max_ns: i64, now: Clocks) -> Duration {
    if guard != epoch || now.lead_ns() > lead_max_ns {
        return Duration::ZERO;
    }
    Duration::from_nanos(deadline_ns.saturating_sub(now.boot_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_of_an_earlier_epoch_stays_dead_when_the_lease_is_extended_again() {
        shuttle::check_random(
            || {
                let lease = Lease::default();
                let second_ns = 1_000_000_000;
                lease.extend(boot_ns() + second_ns, i64::MAX);
                let (epoch, _) = lease.live_epoch().expect("in force");
                assert!(lease.valid_for(epoch) > Duration::ZERO);
                lease.end_epoch();
                assert!(lease.live_epoch().is_none());
                lease.extend(boot_ns() + second_ns, i64::MAX);
                assert_eq!(lease.valid_for(epoch), Duration::ZERO);
                assert!(lease.valid_for(epoch + 1) > Duration::ZERO);
            },
            1,
        );
    }

    #[test]
    fn real_time_ahead_of_what_the_lease_allows_makes_a_guard_invalid() {
        let now = Clocks::now();
        assert_eq!(valid_for(0, 0, u64::MAX, now.lead_ns() - 1_000_000, now), Duration::ZERO);
    }
}
