//! What a store has done since it was opened.

use std::time::Instant;

/// Flushes of a medium in memory, of which one is timed: reading the clock costs as much as half a flush there.
const MEMORY_SAMPLE: u64 = 64;

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Batches.
    pub appends: u64,
    /// Bytes of them in the ring, headers and padding included.
    pub appended_bytes: u64,
    /// Calls that made something durable, or found that all was.
    pub flushes: u64,
    /// Flushes that were timed: all of a file, one in 64 of memory.
    pub timed_flushes: u64,
    /// Time of those together, in nanoseconds.
    pub flush_sum_ns: u64,
    /// The longest of those, in nanoseconds.
    pub flush_max_ns: u64,
    /// Those that took less than two to the power of the index nanoseconds, and not less than half of that; the last one also has all
    /// that took longer.
    pub flush_histogram: [u64; 32],
    /// Bytes that [`crate::Store::scrub`] has read.
    pub scrubbed_bytes: u64,
    /// Pieces of damage that it has found.
    pub scrub_findings: u64,
    /// Bytes of the ring that cannot be overwritten.
    pub ring_used_bytes: u64,
    /// Size of the ring, in bytes.
    pub ring_bytes: u64,
}

impl Statistics {
    #[inline]
    pub(crate) fn time_flush(&self, is_slow: bool) -> Option<Instant> {
        (is_slow || self.flushes.is_multiple_of(MEMORY_SAMPLE)).then(Instant::now)
    }

    #[inline]
    pub(crate) fn flushed(&mut self, timer: Option<Instant>) {
        self.flushes += 1;
        if let Some(timer) = timer {
            let elapsed_ns = u64::try_from(timer.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.timed_flushes += 1;
            self.flush_sum_ns = self.flush_sum_ns.saturating_add(elapsed_ns);
            self.flush_max_ns = self.flush_max_ns.max(elapsed_ns);
            let power = (64 - elapsed_ns.leading_zeros() as usize).min(self.flush_histogram.len() - 1);
            self.flush_histogram[power] += 1;
        }
    }
}
