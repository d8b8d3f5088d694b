//! What a store holds at a point of its records: the model that every recovery is held against.
//!
//! Why it is right: records become durable in the order in which they were asked for. So what a recovery finds is the
//! image after some record, no earlier than the last that was reported durable.

use std::collections::VecDeque;
use std::sync::Arc;

use rsm::{Control, Entry, Record, Recovered, SnapshotImage, Viewstamp};

/// What a store holds at a point of its records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) control: Control,
    pub(crate) snapshot: Option<Arc<SnapshotImage>>,
    pub(crate) entries: VecDeque<Arc<Entry>>,
}

impl Image {
    /// The last viewstamp: of the log, or where that is empty of the snapshot.
    pub(crate) fn last(&self) -> Viewstamp {
        let snapshot = self.snapshot.as_ref().map(|image| image.viewstamp).unwrap_or_default();
        self.entries.back().map_or(snapshot, |entry| entry.viewstamp)
    }

    /// Where the log starts: the viewstamp before its first entry.
    pub(crate) fn start(&self) -> Viewstamp {
        self.entries.front().map_or(self.last(), |entry| entry.previous)
    }

    /// Whether an entry with this viewstamp is in the log.
    fn holds(&self, viewstamp: Viewstamp) -> bool {
        let at = self.entries.partition_point(|entry| entry.viewstamp.op < viewstamp.op);
        self.entries.get(at).is_some_and(|entry| entry.viewstamp == viewstamp)
    }

    /// Whether an entry is in the log, or below the snapshot.
    pub(crate) fn covers(&self, viewstamp: Viewstamp) -> bool {
        self.holds(viewstamp) || self.snapshot.as_ref().is_some_and(|image| image.viewstamp.op >= viewstamp.op)
    }

    /// The number of the last decided view it knows.
    pub(crate) fn view(&self) -> u64 {
        self.control.config.as_ref().map_or(0, |config| config.last.number)
    }

    /// Takes a record in, as the log on a medium would.
    ///
    /// # Errors
    /// The record does not fit what is there: the core has lost track of its own store.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Control(control) => self.control = control.clone(),
            Record::Append(entry) => self.append(entry)?,
            Record::TruncateAfter { op } => self.truncate_after(*op)?,
            Record::SnapshotPart { .. } => {} // counts for nothing before the whole is there
            Record::Repair { .. } => {}       // says what is there already
            Record::Snapshot { image, release } => self.take_snapshot(image, *release)?,
            Record::Install { image, keep_suffix, control } => self.install(image, *keep_suffix, control)?,
        }
        Ok(())
    }

    fn append(&mut self, entry: &Arc<Entry>) -> Result<(), String> {
        if !entry.is_sound() || entry.previous != self.last() {
            let (last, now, previous) = (self.last(), entry.viewstamp, entry.previous);
            return Err(format!("append of {now} after {previous}, but the log ends at {last}"));
        }
        self.entries.push_back(Arc::clone(entry));
        Ok(())
    }

    fn truncate_after(&mut self, op: u64) -> Result<(), String> {
        while self.entries.back().is_some_and(|entry| entry.viewstamp.op > op) {
            self.entries.pop_back();
        }
        let floor = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        if op < floor {
            return Err(format!("truncation after {op}, below the snapshot at {floor}"));
        }
        if self.last().op != op {
            return Err(format!(
                "truncation after {op} cuts an entry in two, or does nothing: {} is left",
                self.last()
            ));
        }
        Ok(())
    }

    fn take_snapshot(&mut self, image: &Arc<SnapshotImage>, release: u64) -> Result<(), String> {
        let before = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        if !self.holds(image.viewstamp) {
            return Err(format!("a snapshot at {}, which is not in the log", image.viewstamp));
        }
        if image.viewstamp.op < before || release > image.viewstamp.op {
            return Err(format!("a snapshot at {} after one at {before}, release {release}", image.viewstamp));
        }
        self.snapshot = Some(Arc::clone(image));
        while self.entries.front().is_some_and(|entry| entry.viewstamp.op <= release) {
            self.entries.pop_front();
        }
        Ok(())
    }

    fn install(&mut self, image: &Arc<SnapshotImage>, keep_suffix: bool, control: &Control) -> Result<(), String> {
        if keep_suffix && !self.holds(image.viewstamp) {
            return Err(format!("an installed snapshot at {} keeps a suffix that does not fit", image.viewstamp));
        }
        if !keep_suffix && self.holds(image.viewstamp) {
            return Err(format!("the log holds {}, and an installed snapshot there drops it", image.viewstamp));
        }
        let floor = if keep_suffix { image.viewstamp.op } else { u64::MAX };
        while self.entries.front().is_some_and(|entry| entry.viewstamp.op <= floor) {
            self.entries.pop_front();
        }
        self.snapshot = Some(Arc::clone(image));
        self.control = control.clone();
        Ok(())
    }

    /// Whether a recovery found this. Released entries may still be there. `damaged`: the snapshot before the last will do,
    /// if the log goes on from it, and so will a log without entries that the snapshot covers.
    pub(crate) fn is_what(&self, found: &Recovered, damaged: bool) -> bool {
        let snapshot_op = found.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        let own_op = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        let (released, left_behind) = self.difference(found);
        let is_covered = |entry: &Arc<Entry>| damaged && entry.viewstamp.op <= snapshot_op;
        if last_of(found) != self.last() || !self.entries.iter().take(left_behind).all(is_covered) {
            return false;
        }
        let same_snapshot = found.snapshot == self.snapshot || (damaged && snapshot_op < own_op);
        let goes_on = found.entries.first().is_none_or(|first| first.previous.op <= snapshot_op);
        let chained = found.entries.windows(2).all(|pair| pair[1].previous == pair[0].viewstamp);
        let own = self.entries.iter().skip(left_behind);
        let same = found.entries[released..].iter().zip(own).all(|(found, own)| *found == **own);
        found.control == self.control && same_snapshot && goes_on && chained && same
    }

    /// How many entries were found that are released, and how many were left behind. One of the two is zero.
    fn difference(&self, found: &Recovered) -> (usize, usize) {
        let (found, own) = (found.entries.len(), self.entries.len());
        (found.saturating_sub(own), own.saturating_sub(found))
    }

    /// The image, with what was found beside it: entries that are still there although released, an older snapshot. Returns
    /// those entries too.
    pub(crate) fn completed(mut self, found: &Recovered) -> (Image, Vec<Arc<Entry>>) {
        let (released, left_behind) = self.difference(found);
        self.entries.drain(..left_behind);
        let extra: Vec<Arc<Entry>> = found.entries[..released].iter().map(|entry| Arc::new(entry.clone())).collect();
        for entry in extra.iter().rev() {
            self.entries.push_front(Arc::clone(entry));
        }
        self.snapshot = found.snapshot.clone();
        (self, extra)
    }
}

/// The last viewstamp that a recovery found.
pub(crate) fn last_of(found: &Recovered) -> Viewstamp {
    let snapshot = found.snapshot.as_ref().map(|image| image.viewstamp).unwrap_or_default();
    found.entries.last().map_or(snapshot, |entry| entry.viewstamp)
}
