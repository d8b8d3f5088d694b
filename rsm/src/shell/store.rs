//! Opening or formatting a member's store, and writing the core's records to it.
//!
//! Why it is right: a store is used only if it is this member's, nobody else has it open, and nothing that was durable is
//! missing from it. Where entries are missing, the others are asked for them first ([`crate::repair`]). Everything else is refused, with nothing
//! overwritten. Only a directory without a store is formatted, or one whose store is given up; that makes a new incarnation, which
//! counts for nothing until a view lists it (S10).
//!
//! A log whose tail is [`Outcome::Uncertain`] counts as torn. It nearly always is: a loss of power keeps the frames of one unfinished
//! flush in any order. Were it refused, or held back until others have settled it, a loss of power in all hosts at once could keep a whole cluster down.
//! What it costs: where a medium breaks the very frames that it flushed last before a loss of power, one acknowledgement is forgotten.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvm_log::medium::Medium;
use nvm_log::{Finding, Options, Outcome, Recovery, SnapshotMeta, Store};

use super::format::{self, FormatError, SNAPSHOT_TAG};
use super::stable_control::inherited;
use crate::repair::{Damaged, Repair};
use crate::{Control, Entry, Guard, Identity, Incarnation, MemberId, Recovered, SnapshotImage, StartError, Viewstamp};

/// What a frame takes beside its body, at most, bytes.
const FRAME_OVERHEAD_BYTES: u64 = 128;

/// What a [`super::RecordWriter`] needs of a store. A method that fails has possibly written something; none may be called after.
pub trait RecordStore: Send + 'static {
    /// Durable after the next flush.
    fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush.
    fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush, at the latest.
    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error>;
    /// Whose memory holds what this member acknowledges, in the mode that has it; durable on return (S14).
    fn set_guard(&mut self, _: Option<Guard>) -> Result<(), nvm_log::Error> {
        Ok(())
    }
    /// The bytes of a snapshot from this place on: a new one's where that is 0, else they follow those of the part before. They
    /// count for nothing before the whole is written.
    fn write_snapshot_part(&mut self, at: Viewstamp, offset: u64, part: &[u8]) -> Result<(), nvm_log::Error>;
    /// What was not written in parts, and the switch to it. Durable after the next flush, at the latest.
    fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error>;
    /// Durable after the next flush, at the latest; all of it or nothing.
    fn install(&mut self, image: &SnapshotImage, keep_suffix: bool, control: &Control) -> Result<(), nvm_log::Error>;
    /// Stores the last entries of the log again, in place of damaged ones; durable on return, all of it or nothing. False if they cannot
    /// take the place of the damage; then nothing was changed.
    fn repair(&mut self, _entries: &[Arc<Entry>]) -> Result<bool, nvm_log::Error> {
        Ok(false)
    }
    /// Reads about so many bytes of what is durable, and says what of it is damaged. By default the store is one that is never scrubbed.
    fn scrub(&mut self, _budget_bytes: u64) -> Result<Vec<Finding>, nvm_log::Error> {
        Ok(Vec::new())
    }
    /// Gives back the room of entries at or below the op.
    fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error>;
    /// All that was written is durable.
    fn flush(&mut self) -> Result<(), nvm_log::Error>;
    /// What was done since the opening; all zero where nobody counts.
    fn statistics(&self) -> nvm_log::Statistics {
        nvm_log::Statistics::default()
    }
    /// All that was written is durable, and the next opening has no doubt about it.
    fn close(self) -> Result<(), nvm_log::Error>;
}

impl<M: Medium + Send + 'static> RecordStore for Store<M> {
    fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error> {
        Store::append(self, &format::frame_of(entry))
    }

    fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        Store::truncate_after(self, op)
    }

    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        Store::set_control(self, &format::control_blob(control))
    }

    fn write_snapshot_part(&mut self, at: Viewstamp, offset: u64, part: &[u8]) -> Result<(), nvm_log::Error> {
        if offset == 0 {
            self.begin_snapshot(meta_of(at))?;
        }
        let expected = Some((meta_of(at), offset));
        assert_eq!(self.unfinished_snapshot(), expected, "parts of a snapshot come one after the other");
        self.append_snapshot(part)
    }

    fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error> {
        let meta = meta_of(image.viewstamp);
        let written = match self.unfinished_snapshot() {
            Some((begun, bytes)) if begun == meta => bytes,
            _ => {
                self.begin_snapshot(meta)?;
                0
            }
        };
        image.from(written).try_for_each(|part| self.append_snapshot(part))?;
        self.finish_snapshot()
    }

    fn install(&mut self, image: &SnapshotImage, keep_suffix: bool, control: &Control) -> Result<(), nvm_log::Error> {
        install_with(self, image, keep_suffix, &format::control_blob(control))
    }

    fn repair(&mut self, entries: &[Arc<Entry>]) -> Result<bool, nvm_log::Error> {
        use nvm_log::Error::{Full, NotContiguous, OutOfRange};
        let frames: Vec<_> = entries.iter().map(|entry| format::frame_of(entry)).collect();
        // What is damaged goes on taking room until what follows it is released. The others' logs must fit beside it.
        let need_bytes: u64 = frames.iter().map(|frame| frame.body.len() as u64 + FRAME_OVERHEAD_BYTES).sum();
        let used_bytes = Store::statistics(self).ring_used_bytes;
        if used_bytes + need_bytes > self.ring_bytes() / 2 {
            tracing::warn!(used_bytes, need_bytes, "the log has no room to be repaired in its place");
            return Ok(false);
        }
        match Store::repair(self, &frames) {
            Err(error @ (Full { .. } | NotContiguous { .. } | OutOfRange { .. })) => {
                tracing::warn!(%error, "the log cannot be repaired in its place");
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    fn scrub(&mut self, budget_bytes: u64) -> Result<Vec<Finding>, nvm_log::Error> {
        Store::scrub(self, budget_bytes).map(|scrubbed| scrubbed.findings)
    }

    fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        Store::release_prefix(self, op)
    }

    fn flush(&mut self) -> Result<(), nvm_log::Error> {
        Store::flush(self)
    }

    fn statistics(&self) -> nvm_log::Statistics {
        Store::statistics(self)
    }

    fn close(self) -> Result<(), nvm_log::Error> {
        Store::close(self)
    }
}

/// Installs a snapshot, with this as the store's control blob.
pub(super) fn install_with<M: Medium>(
    store: &mut Store<M>,
    image: &SnapshotImage,
    keep_suffix: bool,
    blob: &[u8],
) -> Result<(), nvm_log::Error> {
    store.begin_snapshot(meta_of(image.viewstamp))?;
    image.from(0).try_for_each(|part| store.append_snapshot(part))?;
    store.install_snapshot(keep_suffix, blob)
}

fn meta_of(viewstamp: Viewstamp) -> SnapshotMeta {
    SnapshotMeta { view: viewstamp.view, op: viewstamp.op, tag: SNAPSHOT_TAG }
}

/// Why what a store holds cannot be used. Nothing of it may then be believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The store is another member's.
    #[error("it belongs to member {found}")]
    OtherMember {
        /// Whose it is.
        found: MemberId,
    },
    /// Durable entries are damaged or missing.
    #[error("ops {ops} were durable and are lost")]
    Damaged {
        /// Which ops.
        ops: String,
    },
    /// Its bytes are whole, and mean nothing to this program.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// The name of a new store.
pub fn identity_of(identity: Identity) -> nvm_log::Identity {
    let Identity { member, incarnation } = identity;
    nvm_log::Identity { cluster: [0; 16], member: member.0, incarnation: incarnation.0.to_le_bytes() }
}

/// What an opened store holds, for the core of this member.
///
/// # Errors
/// See [`Refusal`].
pub fn recovered(recovery: Recovery, member: MemberId) -> Result<Recovered, Refusal> {
    match contents(recovery, member)? {
        Contents::Whole(recovered) => Ok(recovered),
        Contents::Damaged(Damaged { ops, .. }) => Err(Refusal::Damaged { ops }),
    }
}

/// The same, of a store that may be damaged.
///
/// # Errors
/// See [`Refusal`].
pub fn contents(recovery: Recovery, member: MemberId) -> Result<Contents, Refusal> {
    check_member(&recovery, member)?;
    let Outcome::Corrupt { ranges } = &recovery.outcome else { return Ok(Contents::Whole(decode(recovery)?)) };
    let ops: Vec<String> = ranges.iter().map(|range| format!("{} to {}", range.start(), range.end())).collect();
    let last_lost = ranges.iter().map(|range| *range.end()).max().unwrap_or(u64::MAX);
    Ok(Contents::Damaged(Damaged { recovered: decode(recovery)?, ops: ops.join(", "), last_lost }))
}

impl Contents {
    /// What there is.
    pub fn recovered(&self) -> &Recovered {
        match self {
            Contents::Whole(recovered) | Contents::Damaged(Damaged { recovered, .. }) => recovered,
        }
    }
}

/// What an opened store holds.
#[derive(Clone, Debug)]
pub enum Contents {
    /// All that it ever held durably.
    Whole(Recovered),
    /// Durable entries are missing: the others have to be asked for them.
    Damaged(Damaged),
}

pub(super) fn check_member(recovery: &Recovery, member: MemberId) -> Result<(), Refusal> {
    match recovery.identity.member {
        found if found == member.0 => Ok(()),
        found => Err(Refusal::OtherMember { found: MemberId(found) }),
    }
}

/// Opens the store in `dir`, or formats one where there is none.
pub(super) fn open_or_format(
    dir: &Path,
    options: &Options,
    member: MemberId,
) -> Result<(Store, Recovery), nvm_log::Error> {
    match Store::open(dir, options) {
        Err(nvm_log::Error::NotFound { .. }) => {
            let identity = Identity { member, incarnation: Incarnation(rand::random()) };
            Store::format(dir, options, identity_of(identity))?;
            Store::open(dir, options)
        }
        opened => opened,
    }
}

/// Opens the member's store in `dir`, or formats one where there is none, and reads all that it holds.
pub(super) fn open(dir: &Path, options: &Options, member: MemberId) -> Result<(Store, Contents), StartError> {
    let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
    let (store, recovery) = open_or_format(dir, options, member).map_err(in_dir)?;
    if let Outcome::Uncertain { dropped_bytes } = &recovery.outcome {
        tracing::warn!(
            dropped_bytes,
            "the log's tail was torn, maybe damaged; what is missing is fetched from the others"
        );
    }
    report(dir, &recovery);
    match contents(recovery, member) {
        Ok(contents) => Ok((store, contents)),
        Err(refusal) => Err(start_error(refusal, dir.to_owned(), member)),
    }
}

/// Removes a member's store and formats an empty one, of a new incarnation that knows the last view of the one before. It never founds a
/// cluster, and knows whom to ask.
pub(super) fn begin_anew(
    dir: &Path,
    options: &Options,
    store: Store,
    repair: &Repair,
) -> Result<(Store, Recovered), nvm_log::Error> {
    drop(store);
    let former = repair.identity();
    Store::remove(dir)?;
    let (mut store, recovery) = open_or_format(dir, options, former.member)?;
    let control = inherited(Some(repair.control().clone()));
    Store::set_control(&mut store, &format::control_blob(&control))?;
    Store::flush(&mut store)?;
    let incarnation = Incarnation(u128::from_le_bytes(recovery.identity.incarnation));
    let identity = Identity { member: former.member, incarnation };
    Ok((store, Recovered { identity, control, snapshot: None, entries: Vec::new(), dead_bytes: 0 }))
}

pub(super) fn start_error(refusal: Refusal, dir: PathBuf, member: MemberId) -> StartError {
    match refusal {
        Refusal::OtherMember { found } => StartError::OtherMember { dir, found, member },
        Refusal::Damaged { ops } => StartError::Damaged { dir, ops },
        Refusal::Format(error) => StartError::Format { dir, error },
    }
}

/// One line on what was found.
pub(super) fn report(dir: &Path, recovery: &Recovery) {
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

fn decode(recovery: Recovery) -> Result<Recovered, FormatError> {
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
            Some(Arc::new(SnapshotImage::of(viewstamp, &state)))
        }
        None => None,
    };
    let entries = recovery.frames.iter().map(format::entry_of).collect::<Result<_, _>>()?;
    Ok(Recovered { identity, control, snapshot, entries, dead_bytes: 0 })
}
