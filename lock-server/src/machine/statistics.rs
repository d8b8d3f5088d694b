//! What the ops executed here did, for people: counted on every member alike, since its process started.
//!
//! No part of the state: not in a snapshot, not in the hash, and nothing is decided by it. Times are service time, so they are as
//! coarse as ticks, and outages do not count.

use super::Machine;

/// Upper bounds of the classes of [`Durations`], µs. The last class, above all of them, has none.
pub const DURATION_BOUNDS_US: [u64; 20] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

/// How long something took, in classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many were in each class.
    pub counts: [u64; DURATION_BOUNDS_US.len() + 1],
    /// All together, µs.
    pub sum_us: u64,
}

/// What the ops executed here did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Sessions opened; repetitions do not count.
    pub opened: u64,
    /// Sessions that their clients closed.
    pub closed: u64,
    /// Sessions whose lease ran out.
    pub expired: u64,
    /// Tenures that ended with the lease of their session.
    pub lost: u64,
    /// Tenures ended by an operator.
    pub forced: u64,
    /// Tenures granted by the op that asked for them.
    pub granted_at_once: u64,
    /// Tenures granted to those that waited, by how long they did.
    pub waits: Durations,
    /// Tenures that ended, by how long they lasted. An upgrade ends one and begins another.
    pub holds: Durations,
    /// Who waits now, over all locks.
    pub waiters: u64,
}

impl Machine {
    /// What the ops executed here did.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

impl Durations {
    /// One more.
    pub fn record(&mut self, us: u64) {
        self.record_many(us, 1);
    }

    /// So many more, all alike.
    pub fn record_many(&mut self, us: u64, count: u64) {
        self.counts[DURATION_BOUNDS_US.partition_point(|bound| *bound < us)] += count;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(count));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_class_whose_bound_it_does_not_exceed() {
        let mut durations = Durations::default();
        [0, 50, 51, 3_600_000_000, 3_600_000_001].into_iter().for_each(|us| durations.record(us));
        durations.record_many(100, 3);
        assert_eq!((durations.counts[0], durations.counts[1], durations.count()), (2, 4, 8));
        assert_eq!((durations.counts[19], durations.counts[20]), (1, 1));
        assert_eq!(durations.sum_us, 50 + 51 + 7_200_000_001 + 300);
        durations.record(u64::MAX);
        assert_eq!(durations.sum_us, u64::MAX);
    }
}
