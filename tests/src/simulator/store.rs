//! A model of a member's store: what it was asked to hold, and what it surely holds.
//!
//! Why it is right: records become durable in the order in which they were asked for. So a crash keeps all that was
//! reported durable and a prefix of the rest, and any prefix may happen.

use std::collections::VecDeque;
use std::sync::Arc;

use rsm::{Control, Entry, Identity, Record, Recovered, SnapshotImage, Token, Viewstamp};

use super::dice::Dice;

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
    fn start(&self) -> Viewstamp {
        self.entries.front().map_or(self.last(), |entry| entry.previous)
    }

    /// Whether an entry with this viewstamp is in the log.
    fn holds(&self, viewstamp: Viewstamp) -> bool {
        let at = self.entries.partition_point(|entry| entry.viewstamp.op < viewstamp.op);
        self.entries.get(at).is_some_and(|entry| entry.viewstamp == viewstamp)
    }

    /// The number of the last decided view it knows.
    pub(crate) fn view(&self) -> u64 {
        self.control.config.as_ref().map_or(0, |config| config.last.number)
    }

    /// Takes a record in, as the log on a medium would.
    ///
    /// # Errors
    /// The record does not fit what is there: the core has lost track of its own store.
    fn apply(&mut self, record: &Record, keeps_released: bool) -> Result<(), String> {
        match record {
            Record::Control(control) => self.control = control.clone(),
            Record::Append(entry) => self.append(entry)?,
            Record::TruncateAfter { op } => self.truncate_after(*op)?,
            Record::Snapshot { image, release } => self.take_snapshot(image, *release, keeps_released)?,
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

    fn take_snapshot(&mut self, image: &Arc<SnapshotImage>, release: u64, keeps: bool) -> Result<(), String> {
        let before = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        if !self.holds(image.viewstamp) {
            return Err(format!("a snapshot at {}, which is not in the log", image.viewstamp));
        }
        if image.viewstamp.op < before || release > image.viewstamp.op {
            return Err(format!("a snapshot at {} after one at {before}, release {release}", image.viewstamp));
        }
        self.snapshot = Some(Arc::clone(image));
        while !keeps && self.entries.front().is_some_and(|entry| entry.viewstamp.op <= release) {
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
}

/// A member's store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) identity: Identity,
    /// What a crash cannot take away.
    pub(crate) durable: Image,
    /// What the core believes to have: `durable` with all of `pending`.
    pub(crate) asked: Image,
    pending: VecDeque<(Token, Record)>,
    last_token: Token,
    durable_token: Token,
    keeps_released: bool,
}

impl Store {
    /// A store as it is formatted.
    pub(crate) fn empty(identity: Identity, keeps_released: bool) -> Self {
        Store {
            identity,
            durable: Image::default(),
            asked: Image::default(),
            pending: VecDeque::new(),
            last_token: 0,
            durable_token: 0,
            keeps_released,
        }
    }

    /// Asks for a record.
    ///
    /// # Errors
    /// See [`Image::apply`].
    pub(crate) fn ask(&mut self, record: Record) -> Result<Token, String> {
        self.asked.apply(&record, self.keeps_released)?;
        self.last_token += 1;
        self.pending.push_back((self.last_token, record));
        Ok(self.last_token)
    }

    /// Whether all is durable that was asked for before and with this token.
    pub(crate) fn is_durable(&self, token: Token) -> bool {
        token <= self.durable_token
    }

    pub(crate) fn last_token(&self) -> Token {
        self.last_token
    }

    /// A flush ended: all up to the token is durable. Returns the records that became so.
    pub(crate) fn flushed(&mut self, token: Token) -> Vec<Record> {
        let mut records = Vec::new();
        while self.pending.front().is_some_and(|(first, _)| *first <= token) {
            let (first, record) = self.pending.pop_front().expect("its front was just seen");
            self.durable.apply(&record, self.keeps_released).expect("it fitted when it was asked for");
            self.durable_token = first;
            records.push(record);
        }
        records
    }

    /// The process dies: a prefix of what was not reported stays. Returns the records that became durable by it, and
    /// how many were lost.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> (Vec<Record>, usize) {
        let kept = dice.index(self.pending.len() + 1) as u64;
        let records = self.flushed(self.durable_token + kept);
        let lost = self.pending.len();
        self.pending.clear();
        self.asked = self.durable.clone();
        (self.last_token, self.durable_token) = (0, 0);
        (records, lost)
    }

    /// What a starting process finds.
    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            identity: self.identity,
            control: self.durable.control.clone(),
            snapshot: self.durable.snapshot.clone(),
            entries: self.durable.entries.iter().map(|entry| (**entry).clone()).collect(),
        }
    }

    /// Compares what the core says of itself with what it asked the store to hold.
    ///
    /// # Errors
    /// They differ.
    pub(crate) fn compare(&self, control: &Control, log: &[Viewstamp]) -> Result<(), String> {
        if !same_promises(control, &self.asked.control) {
            return Err(format!("control in memory {control:?}, in the store {:?}", self.asked.control));
        }
        let stored = self.asked.entries.iter().map(|entry| entry.viewstamp);
        let shared = log.len().min(stored.len());
        let tails_agree = stored.skip(self.asked.entries.len() - shared).eq(log[log.len() - shared..].iter().copied());
        // The core lets go of a released prefix only when the snapshot that covers it is durable.
        let ends_agree = log.last().is_none_or(|last| *last == self.asked.last());
        if !tails_agree || !ends_agree {
            let (first, last) = (self.asked.start(), self.asked.last());
            return Err(format!("log in memory {:?}.., in the store {first} to {last}", log.last()));
        }
        Ok(())
    }
}

/// Equal but for the highest round heard of, which is stored only on occasion: it saves time, nothing rests on it.
fn same_promises(one: &Control, other: &Control) -> bool {
    let without_round = |control: &Control| {
        let mut control = control.clone();
        if let Some(config) = &mut control.config {
            config.highest_round = 0;
        }
        control
    };
    one == other || without_round(one) == without_round(other)
}

#[cfg(test)]
mod tests {
    use rsm::{Incarnation, MemberId, Payload};

    use super::*;

    fn entry(view: u64, op: u64, previous: Viewstamp) -> Arc<Entry> {
        Arc::new(Entry { viewstamp: Viewstamp { view, op }, previous, payload: Payload::Batch(vec![vec![op as u8]]) })
    }

    fn store() -> Store {
        let mut store = Store::empty(Identity { member: MemberId(1), incarnation: Incarnation(1) }, false);
        let mut previous = Viewstamp::default();
        for op in 1..=4 {
            store.ask(Record::Append(entry(1, op, previous))).expect("it fits");
            previous = Viewstamp { view: 1, op };
        }
        store
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_any_prefix_of_the_rest() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut store = store();
            assert_eq!(store.flushed(2).len(), 2);
            store.crash(&mut Dice::new(seed));
            lengths.insert(store.recovered().entries.len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn an_append_that_leaves_a_gap_is_told() {
        let mut store = store();
        let gap = entry(1, 9, Viewstamp { view: 1, op: 8 });
        assert!(store.ask(Record::Append(gap)).expect_err("a gap").contains("ends at (1, 4)"));
    }

    #[test]
    fn a_snapshot_releases_what_it_covers_and_no_more() {
        let mut store = store();
        let image = Arc::new(SnapshotImage { viewstamp: Viewstamp { view: 1, op: 3 }, state: vec![] });
        store.ask(Record::Snapshot { image, release: 2 }).expect("it fits");
        store.flushed(5);
        assert_eq!(store.recovered().entries.first().map(Entry::first_op), Some(3));
        assert_eq!(store.durable.last().op, 4);
    }
}
