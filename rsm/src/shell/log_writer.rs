//! The log writer: a thread round a [`RecordWriter`], where a flush takes longer than the way to another thread.
//!
//! Why it is right: groups are written in the order in which they came. After an error the member stops. Between two groups a piece of the
//! store is read again (the *scrub*), at a bounded pace; what it finds damaged is told to the replica thread, which has it in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nvm_log::Finding;

use super::inbox::{Ending, Inbox};
use super::record_writer::RecordWriter;
use super::store::RecordStore;
use crate::{Damage, Guard, Record};

/// Groups of records that wait for the log writer; the core's window keeps them far below. If a stalled medium fills
/// them the replica thread waits, falls silent, and is taken for gone, as it should be.
const QUEUE_MAX_GROUPS: usize = 1024;
/// Records under one flush: enough that the flush is shared by all that wait, few enough that the first does not wait long.
const GROUP_MAX_RECORDS: usize = 256;
/// What the scrub reads at a time, bytes: some tens of microseconds.
const SCRUB_BYTES: u64 = 64 << 10;
/// Between two pieces: a log of 64 MiB is read once in two minutes, for a thousandth of a processor.
const SCRUB_EVERY: Duration = Duration::from_millis(100);

/// Where the replica thread's records go.
pub(super) enum Writer<S> {
    /// To a thread: a flush takes longer than the way there.
    Thread(Sender<Vec<Record>>),
    /// To the store at once: memory is written faster than another thread wakes up.
    Inline(RecordWriter<S>, ScrubClock),
}

/// When the next piece of the store is to be read.
#[derive(Default)]
pub(super) struct ScrubClock(Option<Instant>);

impl ScrubClock {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_none_or(|last| now >= last + SCRUB_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

impl<S: RecordStore> Writer<S> {
    /// Takes the records, and leaves the vector empty. Returns false where the log writer has ended.
    pub(super) fn take(&mut self, records: &mut Vec<Record>, inbox: &Inbox) -> bool {
        match self {
            Writer::Thread(groups) => groups.send(std::mem::take(records)).is_ok(),
            Writer::Inline(writer, _) => {
                let result = writer.carry_out(records, |token| inbox.note_durable(token));
                records.clear();
                result.map_err(|error| inbox.fail(fault_line(&error))).is_ok()
            }
        }
    }

    /// Makes the guard record durable, where the store has one: that is written inline. Returns false where that failed.
    pub(super) fn set_guard(&mut self, guard: Option<Guard>, inbox: &Inbox) -> bool {
        match self {
            Writer::Thread(_) => false,
            Writer::Inline(writer, _) => {
                writer.set_guard(guard).map_err(|error| inbox.fail(fault_line(&error))).is_ok()
            }
        }
    }

    /// What an inline store has done goes to where it can be read.
    pub(super) fn report(&self, inbox: &Inbox) {
        if let Writer::Inline(writer, _) = self {
            inbox.counts.set_store(writer.statistics());
        }
    }

    /// Time has passed.
    pub(super) fn on_tick(&mut self, inbox: &Inbox) {
        if let Writer::Inline(writer, clock) = self
            && clock.is_due()
        {
            scrub(writer, inbox);
        }
    }

    /// Nothing more will come. The thread, where there is one, ends when it has written what waits.
    pub(super) fn end(self, inbox: &Inbox) {
        if let Writer::Inline(writer, _) = self {
            finish(writer, inbox);
        }
    }
}

/// The queue in front of the log writer's thread.
pub(super) fn queue() -> (Sender<Vec<Record>>, Receiver<Vec<Record>>) {
    bounded(QUEUE_MAX_GROUPS)
}

/// The log writer's thread: takes what waits, makes it durable, until the replica thread lets go of the queue.
pub(super) fn run<S: RecordStore>(mut writer: RecordWriter<S>, groups: &Receiver<Vec<Record>>, inbox: &Arc<Inbox>) {
    let mut clock = ScrubClock::default();
    loop {
        let mut records = match groups.recv_timeout(SCRUB_EVERY) {
            Ok(records) => records,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        while records.len() < GROUP_MAX_RECORDS {
            match groups.try_recv() {
                Ok(more) => records.extend(more),
                Err(_) => break,
            }
        }
        if inbox.ending() == Ending::Abrupt {
            return;
        }
        if let Err(error) = writer.carry_out(&records, |token| inbox.set_durable(token)) {
            inbox.fail(fault_line(&error));
            return;
        }
        inbox.counts.set_store(writer.statistics());
        if clock.is_due() {
            scrub(&mut writer, inbox);
        }
    }
    finish(writer, inbox);
}

/// Reads a piece of the store; tells what of it is damaged.
fn scrub<S: RecordStore>(writer: &mut RecordWriter<S>, inbox: &Inbox) {
    match writer.scrub(SCRUB_BYTES) {
        Ok(findings) => findings.iter().for_each(|finding| {
            tracing::warn!(?finding, "the scrub found damage in the store: it is written again");
            match finding {
                Finding::Log { ops } => inbox.note_damage(Damage::Log { op: *ops.start() }),
                Finding::Snapshot { .. } => inbox.note_damage(Damage::Snapshot),
                Finding::Control | Finding::Superblock => {}
            }
        }),
        Err(error) => inbox.fail(fault_line(&error)),
    }
}

fn finish<S: RecordStore>(writer: RecordWriter<S>, inbox: &Inbox) {
    if inbox.ending() == Ending::Clean
        && let Err(error) = writer.close()
    {
        inbox.fail(fault_line(&error));
    }
}

pub(super) fn fault_line(error: &nvm_log::Error) -> String {
    format!("the store cannot be written: {error}")
}

#[cfg(test)]
mod tests {
    use super::super::record_writer::tests::{Journal, append};
    use super::*;

    #[test]
    fn a_failing_store_stops_the_member_with_one_line() {
        let (inbox, _requests) = Inbox::new();
        let (groups, waiting) = queue();
        groups.send(vec![append(1), append(2)]).expect("room");
        groups.send(vec![append(3)]).expect("room");
        drop(groups);
        let inbox = Arc::new(inbox);
        run(RecordWriter::new(Journal::failing_at("append 2")), &waiting, &inbox);
        let line = inbox.fault().expect("a fault");
        assert!(line.starts_with("the store cannot be written: ") && !line.contains('\n'), "{line}");
        assert_eq!((inbox.durable(), inbox.ending()), (0, Ending::Abrupt));
    }

    #[test]
    fn what_waits_is_taken_as_one_group() {
        let (inbox, _requests) = Inbox::new();
        let (groups, waiting) = queue();
        for op in 1..=3 {
            groups.send(vec![append(op)]).expect("room");
        }
        drop(groups);
        let inbox = Arc::new(inbox);
        let journal = Journal::failing_at("append 4");
        run(RecordWriter::new(journal), &waiting, &inbox);
        assert_eq!((inbox.durable(), inbox.fault()), (3, None));
    }
}
