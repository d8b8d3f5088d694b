//! Opening or formatting a member's store, and writing the core's records to it.
//!
//! Why it is right: a store is used only if it is this member's, nobody else has it open, and nothing that was durable is
//! missing from it. Everything else is refused, with nothing overwritten. Only a directory without a store is formatted, and
//! that makes a new incarnation, which counts for nothing until a view lists it (S10).

use std::path::Path;
use std::sync::Arc;

use nvm_log::{Options, Outcome, Recovery, SnapshotMeta, Store};

use super::format::{self, FormatError, SNAPSHOT_TAG};
use crate::{Control, Entry, Identity, Incarnation, MemberId, Recovered, SnapshotImage, StartError, Viewstamp};

/// What the log writer needs of a store. A method that fails has possibly written something; none may be called after.
pub(super) trait RecordStore: Send + 'static {
    /// Durable after the next flush.
    fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush.
    fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush, at the latest.
    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush, at the latest.
    fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush, at the latest; all of it or nothing.
    fn install(&mut self, image: &SnapshotImage, keep_suffix: bool, control: &Control) -> Result<(), nvm_log::Error>;
    /// Gives back the room of entries at or below the op.
    fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error>;
    /// All that was written is durable.
    fn flush(&mut self) -> Result<(), nvm_log::Error>;
    /// The same, and the next opening has no doubt about it.
    fn close(self) -> Result<(), nvm_log::Error>;
}

impl RecordStore for Store {
    fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error> {
        Store::append(self, &format::frame_of(entry))
    }

    fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        Store::truncate_after(self, op)
    }

    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        Store::set_control(self, &format::control_blob(control))
    }

    fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error> {
        Store::write_snapshot(self, meta_of(image), &image.state)
    }

    fn install(&mut self, image: &SnapshotImage, keep_suffix: bool, control: &Control) -> Result<(), nvm_log::Error> {
        self.install_snapshot(meta_of(image), &image.state, keep_suffix, &format::control_blob(control))
    }

    fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        Store::release_prefix(self, op)
    }

    fn flush(&mut self) -> Result<(), nvm_log::Error> {
        Store::flush(self)
    }

    fn close(self) -> Result<(), nvm_log::Error> {
        Store::close(self)
    }
}

fn meta_of(image: &SnapshotImage) -> SnapshotMeta {
    SnapshotMeta { view: image.viewstamp.view, op: image.viewstamp.op, tag: SNAPSHOT_TAG }
}

/// Opens the member's store in `dir`, or formats one where there is none, and reads all that it holds.
pub(super) fn open(dir: &Path, options: &Options, member: MemberId) -> Result<(Store, Recovered), StartError> {
    let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
    let (store, recovery) = match Store::open(dir, options) {
        Err(nvm_log::Error::NotFound { .. }) => {
            let incarnation: u128 = rand::random();
            let identity =
                nvm_log::Identity { cluster: [0; 16], member: member.0, incarnation: incarnation.to_le_bytes() };
            Store::format(dir, options, identity).map_err(in_dir)?;
            Store::open(dir, options).map_err(in_dir)?
        }
        opened => opened.map_err(in_dir)?,
    };
    if recovery.identity.member != member.0 {
        let (found, dir) = (MemberId(recovery.identity.member), dir.to_owned());
        return Err(StartError::OtherMember { dir, found, member });
    }
    if let Outcome::Corrupt { ranges } = &recovery.outcome {
        let ops = ranges.iter().map(|range| format!("{} to {}", range.start(), range.end()));
        return Err(StartError::Damaged { dir: dir.to_owned(), ops: ops.collect::<Vec<_>>().join(", ") });
    }
    if let Outcome::Uncertain { dropped_bytes } = &recovery.outcome {
        tracing::warn!(
            dropped_bytes,
            "the log's tail was torn, maybe damaged; what is missing is fetched from the others"
        );
    }
    report(dir, &recovery);
    let recovered = recovered(recovery).map_err(|error| StartError::Format { dir: dir.to_owned(), error })?;
    Ok((store, recovered))
}

/// One line on what was found.
fn report(dir: &Path, recovery: &Recovery) {
    let snapshot_op = recovery.snapshot.as_ref().map_or(0, |(meta, _)| meta.op);
    let skipped = recovery.frames.iter().filter(|frame| frame.last_op() <= snapshot_op).count();
    tracing::info!(
        dir = %dir.display(),
        member = recovery.identity.member,
        outcome = ?recovery.outcome,
        volatile = recovery.volatile,
        snapshot_op,
        snapshot_bytes = recovery.snapshot.as_ref().map_or(0, |(_, state)| state.len()),
        last_op = recovery.last_op,
        scanned_frames = recovery.scanned_frames,
        scanned_bytes = recovery.scanned_bytes,
        replayed_entries = recovery.frames.len() - skipped,
        skipped_entries = skipped,
        elapsed_ms = recovery.elapsed.as_secs_f64() * 1e3,
        "store recovered",
    );
}

fn recovered(recovery: Recovery) -> Result<Recovered, FormatError> {
    let identity = Identity {
        member: MemberId(recovery.identity.member),
        incarnation: Incarnation(u128::from_le_bytes(recovery.identity.incarnation)),
    };
    let control = match &recovery.control {
        Some(blob) => format::control_of(blob)?,
        None => Control::default(),
    };
    let snapshot = match recovery.snapshot {
        Some((meta, _)) if meta.tag != SNAPSHOT_TAG => {
            return Err(FormatError::Version { what: "snapshot", found: meta.tag, known: SNAPSHOT_TAG });
        }
        Some((meta, state)) => {
            let viewstamp = Viewstamp { view: meta.view, op: meta.op };
            Some(Arc::new(SnapshotImage { viewstamp, state }))
        }
        None => None,
    };
    let entries = recovery.frames.iter().map(format::entry_of).collect::<Result<_, _>>()?;
    Ok(Recovered { identity, control, snapshot, entries })
}
