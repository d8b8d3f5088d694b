//! What a member has done since it started, for people: nothing rests on it.
//!
//! Counting costs the replica thread and the log writer one store or copy in a round, never a wait: whoever reads takes a copy too.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{Micros, Record, Token};

/// What a member has done since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// The medium's; all zero where the log is in the process's memory.
    pub store: nvm_log::Statistics,
    /// Snapshots of the own state that became durable.
    pub snapshots: Snapshots,
    /// Views that it learnt of.
    pub views: u64,
    /// Messages from other members that were dropped because too much waited.
    pub dropped_messages: u64,
    /// Connections of other members that were closed because of what came over them.
    pub broken_peers: u64,
}

/// Snapshots of the own state, each from its first part until all of it was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// How many.
    pub count: u64,
    /// Time of all together, µs.
    pub sum_us: Micros,
    /// Time of the last, µs.
    pub last_us: Micros,
    /// Size of the last, bytes.
    pub last_bytes: u64,
}

/// What the threads count.
#[derive(Default)]
pub(super) struct Counts {
    /// When the replica thread began its last round, on the member's clock.
    round_at: AtomicU64,
    store: Mutex<nvm_log::Statistics>,
    snapshots: Mutex<Snapshots>,
}

impl Counts {
    /// The replica thread begins a round.
    pub(super) fn begin_round(&self, now: Micros) {
        self.round_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn round_at(&self) -> Micros {
        self.round_at.load(Ordering::Relaxed)
    }

    pub(super) fn set_store(&self, store: nvm_log::Statistics) {
        *self.store.lock() = store;
    }

    pub(super) fn store(&self) -> nvm_log::Statistics {
        *self.store.lock()
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        *self.snapshots.lock()
    }

    fn add_snapshot(&self, us: Micros, bytes: u64) {
        let mut snapshots = self.snapshots.lock();
        let Snapshots { count, sum_us, .. } = *snapshots;
        *snapshots = Snapshots { count: count + 1, sum_us: sum_us + us, last_us: us, last_bytes: bytes };
    }
}

/// Measures snapshots by their records.
#[derive(Debug, Default)]
pub(super) struct SnapshotTimer {
    begun_at: Option<Micros>,
    /// The record that switches to it, its beginning, and its size.
    storing: Option<(Token, Micros, u64)>,
}

impl SnapshotTimer {
    /// A record is handed over. A witness' marks are no snapshots.
    pub(super) fn on_record(&mut self, record: &Record, token: Token, now: Micros) {
        match record {
            Record::SnapshotPart { offset: 0, .. } => self.begun_at = Some(now),
            Record::Snapshot { image, .. } if image.size_bytes() > 0 => {
                self.storing = Some((token, self.begun_at.take().unwrap_or(now), image.size_bytes()));
            }
            Record::Install { .. } => *self = SnapshotTimer::default(),
            _ => {}
        }
    }

    /// All records up to this one are durable.
    pub(super) fn on_durable(&mut self, token: Token, now: Micros, counts: &Counts) {
        if let Some((_, begun_at, bytes)) = self.storing.take_if(|(last, ..)| *last <= token) {
            counts.add_snapshot(now - begun_at, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{SnapshotImage, Viewstamp};

    fn last(state: &[u8]) -> Record {
        Record::Snapshot { image: Arc::new(SnapshotImage::of(Viewstamp::default(), state)), release: 0 }
    }

    #[test]
    fn a_snapshot_counts_from_its_first_part_until_its_last_record_is_durable() {
        let (mut timer, counts) = (SnapshotTimer::default(), Counts::default());
        let part = |offset| Record::SnapshotPart { viewstamp: Viewstamp::default(), offset, bytes: Arc::default() };
        timer.on_record(&part(0), 1, 100);
        timer.on_durable(1, 110, &counts);
        timer.on_record(&part(9), 2, 120);
        timer.on_record(&last(b"state"), 3, 130);
        timer.on_durable(2, 140, &counts);
        assert_eq!(counts.snapshots().count, 0);
        timer.on_durable(3, 150, &counts);
        timer.on_durable(4, 160, &counts);
        assert_eq!(counts.snapshots(), Snapshots { count: 1, sum_us: 50, last_us: 50, last_bytes: 5 });
        timer.on_record(&last(b"st"), 5, 200);
        timer.on_durable(5, 210, &counts);
        assert_eq!(counts.snapshots(), Snapshots { count: 2, sum_us: 60, last_us: 10, last_bytes: 2 });
    }

    #[test]
    fn a_witness_mark_and_a_snapshot_that_another_replaced_do_not_count() {
        let (mut timer, counts) = (SnapshotTimer::default(), Counts::default());
        timer.on_record(&last(b""), 1, 100);
        timer.on_durable(1, 110, &counts);
        timer.on_record(&last(b"state"), 2, 120);
        let image = Arc::new(SnapshotImage::of(Viewstamp::default(), b"theirs"));
        timer.on_record(&Record::Install { image, keep_suffix: false, control: crate::Control::default() }, 3, 130);
        timer.on_durable(3, 140, &counts);
        assert_eq!(counts.snapshots(), Snapshots::default());
    }
}
