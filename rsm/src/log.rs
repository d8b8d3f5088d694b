//! The log as the core sees it: the entries from some base on, in memory, in op order.
//!
//! Why it is right: entries are only added where `previous` is the last viewstamp held, so both parts of the viewstamps
//! rise along the log, and a viewstamp that two logs share means that they are the same up to it (see [`Entry`]). The base
//! is the viewstamp before the first entry kept; everything up to it is committed and lies in a snapshot.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::{Entry, Viewstamp};

/// A suffix of the log.
#[derive(Clone, Default)]
pub(crate) struct Log {
    base: Viewstamp,
    entries: VecDeque<Held>,
    /// What the entries before the first took, bytes.
    start: u64,
    /// What all entries took that were ever added, bytes.
    end: u64,
    /// Entries up to this op may go; they do so by and by.
    released: u64,
}

/// An entry, and what it and all that were added before it take, bytes.
#[derive(Clone)]
struct Held {
    entry: Arc<Entry>,
    end: u64,
}

impl Log {
    /// A log that starts after `base`.
    pub(crate) fn starting_after(base: Viewstamp) -> Self {
        Log { base, ..Log::default() }
    }

    /// The viewstamp before the first entry kept.
    pub(crate) fn base(&self) -> Viewstamp {
        self.base
    }

    /// The last viewstamp; the base's, where there is no entry.
    pub(crate) fn last(&self) -> Viewstamp {
        self.entries.back().map_or(self.base, |held| held.entry.viewstamp)
    }

    /// Roughly what the entries take on the medium, bytes; and those that were cut off between them, for a medium has their room
    /// back only with that of the entries before them.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// So many bytes more are taken on the medium, until what comes after them is dropped.
    pub(crate) fn add_dead(&mut self, bytes: u64) {
        self.end += bytes;
    }

    /// How many entries lie up to an op.
    fn count_to(&self, op: u64) -> usize {
        self.entries.partition_point(|held| held.entry.viewstamp.op <= op)
    }

    /// What the entries after one op and up to another take, bytes.
    pub(crate) fn bytes_between(&self, after: u64, upto: u64) -> u64 {
        let end = |count: usize| count.checked_sub(1).map_or(self.start, |last| self.entries[last].end);
        end(self.count_to(upto)).saturating_sub(end(self.count_to(after)))
    }

    /// Whether the log holds this viewstamp (its base counts).
    pub(crate) fn contains(&self, viewstamp: Viewstamp) -> bool {
        viewstamp == self.base
            || self
                .entries
                .binary_search_by_key(&viewstamp.op, |held| held.entry.viewstamp.op)
                .is_ok_and(|at| self.entries[at].entry.viewstamp == viewstamp)
    }

    /// The highest viewstamp held that is not above the given one; `None` if that lies before the base.
    pub(crate) fn floor(&self, viewstamp: Viewstamp) -> Option<Viewstamp> {
        let not_above = self.entries.partition_point(|Held { entry, .. }| {
            entry.viewstamp.op <= viewstamp.op && entry.viewstamp.view <= viewstamp.view
        });
        match not_above {
            0 => (self.base.op <= viewstamp.op && self.base.view <= viewstamp.view).then_some(self.base),
            count => Some(self.entries[count - 1].entry.viewstamp),
        }
    }

    /// The entry that follows a viewstamp of the log.
    pub(crate) fn next(&self, viewstamp: Viewstamp) -> Option<&Arc<Entry>> {
        self.entries.get(self.count_to(viewstamp.op)).map(|held| &held.entry)
    }

    /// The entries after a viewstamp of the log, as many as fit into `max_bytes`, but one at least.
    pub(crate) fn after(&self, viewstamp: Viewstamp, max_bytes: usize) -> Vec<Arc<Entry>> {
        let mut bytes = 0;
        let mut found = Vec::new();
        for Held { entry, .. } in self.entries.range(self.count_to(viewstamp.op)..) {
            bytes += entry.size_bytes();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(Arc::clone(entry));
        }
        found
    }

    /// The entry that holds an op, and all after it.
    pub(crate) fn from(&self, op: u64) -> Vec<Arc<Entry>> {
        let before = self.count_to(op.saturating_sub(1));
        self.entries.range(before..).map(|held| Arc::clone(&held.entry)).collect()
    }

    /// How many entries lie after an op.
    pub(crate) fn count_after(&self, op: u64) -> usize {
        self.entries.len() - self.count_to(op)
    }

    /// Adds an entry at the end.
    pub(crate) fn append(&mut self, entry: Arc<Entry>) {
        assert_eq!(entry.previous, self.last(), "a log has no gaps: acknowledging one would lose what is missing");
        self.end += entry.size_bytes() as u64;
        self.entries.push_back(Held { entry, end: self.end });
    }

    /// Drops all entries above a viewstamp of the log.
    pub(crate) fn truncate_after(&mut self, viewstamp: Viewstamp) {
        assert!(self.contains(viewstamp), "a log is cut between entries");
        self.entries.truncate(self.count_to(viewstamp.op));
    }

    /// The entries up to an op lie in a snapshot: they are not needed any more.
    pub(crate) fn release(&mut self, op: u64) {
        self.released = self.released.max(op);
    }

    /// Drops released entries, of so many commands or one entry more.
    pub(crate) fn drop_released(&mut self, max_commands: usize) {
        let mut commands = 0;
        while commands < max_commands
            && let Some(held) = self.entries.pop_front_if(|held| held.entry.viewstamp.op <= self.released)
        {
            self.base = held.entry.viewstamp;
            self.start = held.end;
            commands += held.entry.op_count();
        }
    }

    /// Drops the entries up to an op at once.
    pub(crate) fn drop_prefix(&mut self, op: u64) {
        self.release(op);
        self.drop_released(usize::MAX);
    }

    /// All viewstamps, ascending.
    pub(crate) fn viewstamps(&self) -> impl Iterator<Item = Viewstamp> {
        self.entries.iter().map(|held| held.entry.viewstamp)
    }
}

impl fmt::Debug for Log {
    /// What it holds; not what has passed through it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> = self.entries.iter().map(|held| &held.entry).collect();
        f.debug_struct("Log").field("base", &self.base).field("entries", &entries).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    fn log(viewstamps: &[(u64, u64)]) -> Log {
        let mut log = Log::default();
        for (view, op) in viewstamps {
            let previous = log.last();
            let commands = vec![vec![]; (op - previous.op) as usize];
            let viewstamp = Viewstamp { view: *view, op: *op };
            log.append(Arc::new(Entry { viewstamp, previous, payload: Payload::Batch(commands) }));
        }
        log
    }

    fn at(view: u64, op: u64) -> Viewstamp {
        Viewstamp { view, op }
    }

    #[test]
    fn the_floor_of_a_foreign_viewstamp_is_the_last_place_where_two_logs_may_still_agree() {
        let mine = log(&[(1, 3), (1, 5), (2, 6), (4, 9)]);
        assert_eq!(mine.floor(at(4, 9)), Some(at(4, 9)));
        assert_eq!(mine.floor(at(3, 12)), Some(at(2, 6)), "what came after view 3 cannot be shared");
        assert_eq!(mine.floor(at(4, 8)), Some(at(2, 6)));
        assert_eq!(mine.floor(at(1, 2)), Some(at(0, 0)));
    }

    #[test]
    fn a_dropped_prefix_leaves_its_last_viewstamp_as_the_base() {
        let mut mine = log(&[(1, 3), (1, 5), (2, 6)]);
        mine.drop_prefix(5);
        assert_eq!((mine.base(), mine.last()), (at(1, 5), at(2, 6)));
        assert!(mine.contains(at(1, 5)) && !mine.contains(at(1, 3)));
        assert_eq!(mine.floor(at(1, 4)), None, "below the base only a snapshot helps");
        mine.truncate_after(at(1, 5));
        assert_eq!(mine.last(), at(1, 5));
    }

    #[test]
    fn entries_that_were_cut_off_take_room_until_what_follows_them_is_dropped() {
        let mut mine = log(&[(1, 3), (1, 5), (2, 6)]);
        let whole = mine.bytes();
        mine.truncate_after(at(1, 3));
        assert_eq!(mine.bytes(), whole);
        let entry = Entry { viewstamp: at(3, 4), previous: at(1, 3), payload: Payload::Barrier };
        mine.append(Arc::new(entry.clone()));
        assert_eq!(mine.bytes(), whole + entry.size_bytes());
        mine.drop_prefix(4);
        assert_eq!(mine.bytes(), 0);
    }

    #[test]
    fn released_entries_go_a_few_commands_at_a_time() {
        let mut mine = log(&[(1, 3), (1, 5), (2, 6), (2, 9)]);
        let whole = mine.bytes() as u64;
        assert_eq!(mine.bytes_between(0, 9), whole);
        assert_eq!(mine.bytes_between(3, 6) + mine.bytes_between(0, 3) + mine.bytes_between(6, 9), whole);
        mine.release(6);
        mine.drop_released(1);
        assert_eq!(mine.base(), at(1, 3));
        mine.drop_released(3);
        assert_eq!((mine.base(), mine.bytes() as u64), (at(2, 6), mine.bytes_between(6, 9)));
        mine.drop_released(100);
        assert_eq!(mine.base(), at(2, 6), "what is not released stays");
    }

    #[test]
    fn dead_bytes_count_until_what_comes_after_them_is_dropped() {
        let mut mine = log(&[(1, 3), (1, 5)]);
        let before = mine.bytes();
        mine.add_dead(1000);
        let entry = Entry { viewstamp: at(2, 6), previous: at(1, 5), payload: Payload::Barrier };
        mine.append(Arc::new(entry.clone()));
        assert_eq!(mine.bytes(), before + 1000 + entry.size_bytes());
        mine.drop_prefix(5);
        assert_eq!(mine.bytes(), 1000 + entry.size_bytes());
        mine.drop_prefix(6);
        assert_eq!(mine.bytes(), 0);
    }

    #[test]
    fn messages_take_what_fits_but_one_entry_at_least() {
        let mine = log(&[(1, 1), (1, 2), (1, 3)]);
        assert_eq!(mine.after(at(1, 1), 1).len(), 1);
        assert_eq!(mine.after(at(0, 0), usize::MAX).len(), 3);
        assert_eq!(mine.count_after(1), 2);
    }

    #[test]
    #[should_panic(expected = "no gaps")]
    fn a_gap_is_never_appended() {
        let mut mine = log(&[(1, 1)]);
        let entry = Entry { viewstamp: at(1, 4), previous: at(1, 3), payload: Payload::Batch(vec![vec![]]) };
        mine.append(Arc::new(entry));
    }
}
