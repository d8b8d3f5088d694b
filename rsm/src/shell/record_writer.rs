//! Makes records durable in the order of their numbers, many with one flush; without a thread, for any shell.
//!
//! Why it is right: a record is reported durable only after a flush that followed its write, and all before it were
//! written earlier. Log frames of one group may reach the medium in any order before their flush: none of them was reported,
//! and the log's chain lets recovery take only a prefix. A control record lives elsewhere, so nothing orders it with frames
//! but a flush: one stands between them, on both sides. Of control records that follow each other directly the last is enough, for it
//! replaces the others. A prefix of the log is given back after the snapshot that covers it is durable, and before that is reported: the core
//! counts on the room from then on. After an error nothing is written or reported any more.

use super::store::RecordStore;
use crate::{Guard, Record, Token};

/// Writes records to a store and counts them.
#[derive(Debug)]
pub struct RecordWriter<S> {
    store: S,
    /// The last record given to the store.
    written: Token,
    /// The last record known durable.
    durable: Token,
    has_failed: bool,
}

impl<S: RecordStore> RecordWriter<S> {
    /// Counts from this store's opening.
    pub fn new(store: S) -> Self {
        RecordWriter { store, written: 0, durable: 0, has_failed: false }
    }

    /// Makes the records durable, in order; tells after each flush how far that is.
    ///
    /// # Errors
    /// The store cannot be written. Nothing is written to it any more, and nothing beyond what was told counts.
    pub fn carry_out(&mut self, records: &[Record], durable: impl FnMut(Token)) -> Result<(), nvm_log::Error> {
        if self.has_failed {
            return Err(nvm_log::Error::Poisoned); // what was half done must not be gone on with
        }
        let result = self.write_all(records, durable);
        self.has_failed = result.is_err();
        result
    }

    fn write_all(&mut self, records: &[Record], mut durable: impl FnMut(Token)) -> Result<(), nvm_log::Error> {
        let mut superseded = 0;
        for (index, record) in records.iter().enumerate() {
            let next = records.get(index + 1);
            if let (Record::Control(_), Some(Record::Control(_))) = (record, next) {
                superseded += 1;
                continue;
            }
            self.write(record, 1 + std::mem::take(&mut superseded), &mut durable)?;
        }
        self.flush(&mut durable)
    }

    /// Writes a record that stands for `count` of them, itself and those that it supersedes.
    fn write(&mut self, record: &Record, count: Token, durable: &mut impl FnMut(Token)) -> Result<(), nvm_log::Error> {
        if matches!(record, Record::Append(_) | Record::TruncateAfter { .. }) {
            match record {
                Record::Append(entry) => self.store.append(entry)?,
                Record::TruncateAfter { op } => self.store.truncate_after(*op)?,
                _ => {}
            }
            self.written += count;
            return Ok(());
        }
        self.flush(durable)?;
        match record {
            Record::Control(control) => self.store.set_control(control)?,
            Record::SnapshotPart { viewstamp, offset, bytes } => {
                self.store.write_snapshot_part(*viewstamp, *offset, bytes)?;
            }
            Record::Snapshot { image, .. } => self.store.write_snapshot(image)?,
            Record::Install { image, keep_suffix, control } => self.store.install(image, *keep_suffix, control)?,
            Record::Append(_) | Record::TruncateAfter { .. } | Record::Repair { .. } => {}
        }
        if let Record::Repair { entries } = record
            && !self.store.repair(entries)?
        {
            tracing::warn!("the damaged part of the log is given back with the next snapshot");
        }
        let released = match record {
            Record::Snapshot { release, .. } => *release,
            // What it covers is gone for the core.
            Record::Install { image, keep_suffix: true, .. } => image.viewstamp.op,
            _ => 0,
        };
        if released > 0 {
            self.store.flush()?;
            self.store.release_prefix(released)?;
        }
        self.written += count;
        self.flush(durable)
    }

    /// Whose memory holds what this member acknowledges: durable on return (S14).
    ///
    /// # Errors
    /// As [`Self::carry_out`].
    pub fn set_guard(&mut self, guard: Option<Guard>) -> Result<(), nvm_log::Error> {
        if self.has_failed {
            return Err(nvm_log::Error::Poisoned);
        }
        let result = self.store.set_guard(guard);
        self.has_failed = result.is_err();
        result
    }

    /// What the store has done since it was opened.
    pub fn statistics(&self) -> nvm_log::Statistics {
        self.store.statistics()
    }

    /// Reads a piece of what is durable, and says what of it is damaged.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn scrub(&mut self, budget_bytes: u64) -> Result<Vec<nvm_log::Finding>, nvm_log::Error> {
        if self.has_failed {
            return Ok(Vec::new());
        }
        let findings = self.store.scrub(budget_bytes)?;
        if findings.contains(&nvm_log::Finding::Control) {
            self.store.flush()?; // writes the control record anew
        }
        Ok(findings)
    }

    /// Closes the store, in good order.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn close(self) -> Result<(), nvm_log::Error> {
        self.store.close()
    }

    fn flush(&mut self, durable: &mut impl FnMut(Token)) -> Result<(), nvm_log::Error> {
        if self.durable < self.written {
            self.store.flush()?;
            self.durable = self.written;
            durable(self.durable);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Control, Entry, Payload, SnapshotImage, Viewstamp};

    /// A store that writes down what is asked of it.
    #[derive(Default)]
    pub(in super::super) struct Journal {
        calls: Vec<String>,
        fails_at: Option<&'static str>,
    }

    impl Journal {
        pub(in super::super) fn failing_at(call: &'static str) -> Self {
            Journal { calls: Vec::new(), fails_at: Some(call) }
        }

        fn note(&mut self, call: impl Into<String>) -> Result<(), nvm_log::Error> {
            let call = call.into();
            if self.fails_at == Some(&*call) {
                return Err(nvm_log::Error::Poisoned);
            }
            self.calls.push(call);
            Ok(())
        }
    }

    impl RecordStore for Journal {
        fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error> {
            self.note(format!("append {}", entry.viewstamp.op))
        }
        fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error> {
            self.note(format!("truncate {op}"))
        }
        fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
            self.note(format!("control {}", control.founding.is_some()))
        }
        fn write_snapshot_part(&mut self, at: Viewstamp, offset: u64, part: &[u8]) -> Result<(), nvm_log::Error> {
            self.note(format!("part {}: {offset} to {}", at.op, offset + part.len() as u64))
        }
        fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error> {
            self.note(format!("snapshot {}", image.viewstamp.op))
        }
        fn install(&mut self, image: &SnapshotImage, keep: bool, _: &Control) -> Result<(), nvm_log::Error> {
            self.note(format!("install {} {keep}", image.viewstamp.op))
        }
        fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error> {
            self.note(format!("release {op}"))
        }
        fn flush(&mut self) -> Result<(), nvm_log::Error> {
            self.note("flush")
        }
        fn close(self) -> Result<(), nvm_log::Error> {
            Ok(())
        }
    }

    pub(in super::super) fn append(op: u64) -> Record {
        Record::Append(Arc::new(Entry {
            viewstamp: Viewstamp { view: 1, op },
            previous: Viewstamp { view: 1, op: op - 1 },
            payload: Payload::Batch(vec![vec![]]),
        }))
    }

    fn control() -> Record {
        Record::Control(Control::default())
    }

    fn image(op: u64) -> Arc<SnapshotImage> {
        Arc::new(SnapshotImage::new(Viewstamp { view: 1, op }))
    }

    /// The calls and the reports between them, as one line.
    fn trace(records: &[Record]) -> String {
        let mut writer = RecordWriter::new(Journal::default());
        let mut reports = Vec::new();
        writer.carry_out(records, |token| reports.push(token)).expect("written");
        format!("{} | {reports:?}", writer.store.calls.join(", "))
    }

    #[test]
    fn a_group_of_log_records_shares_one_flush() {
        let records = [append(1), append(2), Record::TruncateAfter { op: 1 }, append(2)];
        assert_eq!(trace(&records), "append 1, append 2, truncate 1, append 2, flush | [4]");
    }

    #[test]
    fn a_flush_stands_between_a_control_record_and_log_records_on_both_sides() {
        let records = [append(1), control(), append(2)];
        assert_eq!(trace(&records), "append 1, flush, control false, flush, append 2, flush | [1, 2, 3]");
    }

    #[test]
    fn of_neighbouring_control_records_the_last_is_written() {
        let last = Record::Control(Control { founding: Some(view()), config: None });
        let records = [control(), control(), last, append(1)];
        assert_eq!(trace(&records), "control true, flush, append 1, flush | [3, 4]");
    }

    #[test]
    fn a_prefix_is_released_after_the_snapshot_is_durable_and_before_that_is_reported() {
        let records = [append(1), Record::Snapshot { image: image(1), release: 7 }, append(2)];
        let expected = "append 1, flush, snapshot 1, flush, release 7, flush, append 2, flush | [1, 2, 3]";
        assert_eq!(trace(&records), expected);
        assert_eq!(trace(&[Record::Snapshot { image: image(1), release: 0 }]), "snapshot 1, flush | [1]");
    }

    #[test]
    fn what_came_before_a_part_of_a_snapshot_is_durable_before_it_and_does_not_wait_for_it() {
        let part = |offset| {
            let viewstamp = Viewstamp { view: 1, op: 1 };
            Record::SnapshotPart { viewstamp, offset, bytes: Arc::new(vec![0; 9]) }
        };
        let records = [append(1), part(0), append(2), part(9)];
        let expected = "append 1, flush, part 1: 0 to 9, flush, append 2, flush, part 1: 9 to 18, flush | [1, 2, 3, 4]";
        assert_eq!(trace(&records), expected);
    }

    #[test]
    fn an_installed_snapshot_is_durable_before_what_follows() {
        let install = Record::Install { image: image(5), keep_suffix: true, control: Control::default() };
        assert_eq!(trace(&[install, append(6)]), "install 5 true, flush, release 5, flush, append 6, flush | [1, 2]");
    }

    #[test]
    fn an_installed_snapshot_frees_the_room_of_what_it_covers_where_the_log_stays() {
        // The simulator found it: a witness without room took a snapshot to get some, and its log was full a little later.
        let install = |keep_suffix| Record::Install { image: image(5), keep_suffix, control: Control::default() };
        assert_eq!(trace(&[install(true)]), "install 5 true, flush, release 5, flush | [1]");
        assert_eq!(trace(&[install(false)]), "install 5 false, flush | [1]");
    }

    #[test]
    fn numbers_run_on_from_group_to_group() {
        let mut writer = RecordWriter::new(Journal::default());
        let mut reports = Vec::new();
        for group in [vec![append(1)], vec![], vec![append(2), append(3)]] {
            writer.carry_out(&group, |token| reports.push(token)).expect("written");
        }
        assert_eq!(reports, [1, 3]);
    }

    #[test]
    fn after_a_failed_flush_nothing_is_reported_durable() {
        let mut writer = RecordWriter::new(Journal::failing_at("flush"));
        let result = writer.carry_out(&[append(1)], |token| panic!("{token} was reported"));
        assert!(matches!(result, Err(nvm_log::Error::Poisoned)));
    }

    #[test]
    fn after_an_error_nothing_is_written_any_more() {
        let mut writer = RecordWriter::new(Journal::failing_at("append 1"));
        assert!(writer.carry_out(&[append(1)], |_| {}).is_err());
        assert!(writer.carry_out(&[append(2)], |_| {}).is_err());
        assert_eq!(writer.store.calls, [""; 0]);
    }

    fn view() -> crate::View {
        crate::View { number: 1, parent: 0, cluster: crate::ClusterId(1), primary: crate::MemberId(1), slots: vec![] }
    }
}
