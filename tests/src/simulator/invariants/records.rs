//! What a store is asked for, and what it then holds: the checks of the other files, record by record.

use rsm::{Incarnation, Record};

use super::{Check, Invariants};
use crate::simulator::image::Image;

impl Invariants {
    /// A record is asked for: nothing goes back.
    pub(crate) fn record(&mut self, before: &Image, record: &Record) -> Check {
        match record {
            Record::Append(_) | Record::SnapshotPart { .. } | Record::Repair { .. } => Ok(()),
            Record::Control(control) | Record::Install { control, .. } => {
                self.control_follows(&before.control, control)?;
                match record {
                    Record::Install { image, .. } => self.snapshot_is_history(image.viewstamp, &image.joined()),
                    _ => Ok(()),
                }
            }
            Record::Snapshot { image, .. } => self.snapshot_is_history(image.viewstamp, &image.joined()),
            Record::TruncateAfter { op } => self.no_committed_entry_goes(before, *op),
        }
    }

    /// A record is durable: only now is a first view in force, and only now (or when it was sent) has an entry its
    /// viewstamp for good. What a crash takes away before that, nobody saw.
    pub(crate) fn durable(&mut self, holder: Incarnation, record: &Record) -> Check {
        self.counters.stored(record);
        match record {
            Record::Append(entry) => {
                self.ledger.see(entry)?;
                self.ledger.hold(holder, entry.viewstamp);
            }
            Record::Install { image, .. } => self.ledger.install(holder, image.viewstamp.op),
            Record::Snapshot { image, .. } => self.witness_drops(holder, image)?,
            _ => {}
        }
        match record {
            Record::Control(control) | Record::Install { control, .. } => {
                self.note_vote(holder, control);
                let Some(config) = &control.config else { return Ok(()) };
                self.knows_view(holder, config.last.number);
                self.decided(&config.last)
            }
            _ => Ok(()),
        }
    }
}
