//! The stores of the modes in which log and snapshots are in memory: `epoch-ss` and `ring`.
//!
//! Why it is right: what is gone with the process or the host is gone with the incarnation (see `stable_control`). In `epoch-ss` the core's own
//! log and image are the only ones; appending is done as soon as the core has it. In `ring` they are in a log in shared memory too; it is
//! taken up again, under the same incarnation, only if every sign says that it is whole: it is of this member and incarnation, the host has not started since it was
//! written, and no frame that was flushed is missing or in doubt. Everything in it was stored before it was acknowledged, and a crash of the process keeps
//! what was stored. A snapshot and the cut of the log are one record there; the control record in its file is written first, which is no
//! harm, since what it promises more is kept all the same.

use std::path::Path;

use nvm_log::{Backend, Options, Outcome, Recovery, Store};

use super::node::StartError;
use super::stable_control::{StableControl, inherited};
use super::store::{self, RecordStore, identity_of, report, start_error};
use crate::{Control, Entry, Identity, Incarnation, MemberId, Recovered, SnapshotImage, Viewstamp};

/// `epoch-ss`: the control record in files, and nothing else anywhere but in the core.
#[derive(Debug)]
pub(super) struct EpochStore(StableControl);

/// `ring`: the control record in files, log and snapshots in shared memory.
#[derive(Debug)]
pub(super) struct RingStore {
    control: StableControl,
    memory: Store,
}

impl EpochStore {
    /// Begins a new life of the member in `dir`.
    pub(super) fn open(dir: &Path, member: MemberId) -> Result<(EpochStore, Recovered), StartError> {
        let (mut stable, found) = StableControl::open(dir, member)?;
        let recovered = empty(member, inherited(found));
        begin(&mut stable, dir, &recovered)?;
        Ok((EpochStore(stable), recovered))
    }
}

impl RingStore {
    /// Room for the log.
    pub(super) fn log_bytes(&self) -> u64 {
        self.memory.ring_bytes()
    }

    /// Takes up the life of the member in `dir` whose log is whole in `memory_dir`, or begins a new one.
    pub(super) fn open(
        dir: &Path,
        memory_dir: &Path,
        ring_bytes: u64,
        member: MemberId,
    ) -> Result<(RingStore, Recovered), StartError> {
        let (mut control, found) = StableControl::open(dir, member)?;
        let options = Options { backend: Backend::Shm, ring_bytes, ..Options::default() };
        if let Some((incarnation, found)) = &found
            && let Some((memory, recovery)) =
                whole(memory_dir, &options, Identity { member, incarnation: *incarnation })
        {
            report(memory_dir, &recovery);
            let recovered = store::recovered(recovery, member)
                .map_err(|refusal| start_error(refusal, memory_dir.to_owned(), member))?;
            let recovered = Recovered { control: found.clone(), ..recovered };
            begin(&mut control, dir, &recovered)?;
            return Ok((RingStore { control, memory }, recovered));
        }
        let recovered = empty(member, inherited(found));
        // The life begins in the file first: a crash now leaves memory of another incarnation, which is not whole for this one.
        begin(&mut control, dir, &recovered)?;
        let memory = format_memory(memory_dir, &options, recovered.identity)
            .map_err(|error| StartError::Store { dir: memory_dir.to_owned(), error })?;
        Ok((RingStore { control, memory }, recovered))
    }
}

fn empty(member: MemberId, control: Control) -> Recovered {
    let identity = Identity { member, incarnation: Incarnation(rand::random()) };
    let view = control.config.as_ref().map_or(0, |config| config.last.number);
    tracing::info!(%member, view, "starts without log and state, as a new incarnation: the others have them");
    Recovered { identity, control, snapshot: None, entries: Vec::new() }
}

fn begin(control: &mut StableControl, dir: &Path, recovered: &Recovered) -> Result<(), StartError> {
    let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
    control.begin(recovered.identity.incarnation, &recovered.control).map_err(in_dir)
}

/// The log in shared memory, if there is no doubt about any of it.
fn whole(dir: &Path, options: &Options, identity: Identity) -> Option<(Store, Recovery)> {
    let reject = |why: String| {
        tracing::info!(dir = %dir.display(), "the log in shared memory is not used, this member starts as a new incarnation: {why}");
        None
    };
    match Store::open(dir, options) {
        Ok((_, recovery)) if recovery.identity != identity_of(identity) => {
            reject("it is of another incarnation".into())
        }
        Ok((store, recovery)) => match recovery.outcome {
            Outcome::Clean | Outcome::Torn { .. } | Outcome::Fresh => Some((store, recovery)),
            outcome => reject(format!("{outcome:?}")),
        },
        Err(error) => reject(error.to_string()),
    }
}

/// A new log in shared memory, in place of one that is not whole.
fn format_memory(dir: &Path, options: &Options, identity: Identity) -> Result<Store, nvm_log::Error> {
    Store::remove(dir)?;
    Store::format(dir, options, identity_of(identity))
}

impl RecordStore for EpochStore {
    fn append(&mut self, _: &Entry) -> Result<(), nvm_log::Error> {
        Ok(())
    }

    fn truncate_after(&mut self, _: u64) -> Result<(), nvm_log::Error> {
        Ok(())
    }

    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        self.0.set(control)
    }

    fn write_snapshot_part(&mut self, _: Viewstamp, _: u64, _: &[u8]) -> Result<(), nvm_log::Error> {
        Ok(())
    }

    fn write_snapshot(&mut self, _: &SnapshotImage) -> Result<(), nvm_log::Error> {
        Ok(())
    }

    fn install(&mut self, _: &SnapshotImage, _: bool, control: &Control) -> Result<(), nvm_log::Error> {
        self.0.set(control)
    }

    fn release_prefix(&mut self, _: u64) -> Result<(), nvm_log::Error> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), nvm_log::Error> {
        self.0.flush()
    }

    fn close(self) -> Result<(), nvm_log::Error> {
        self.0.close()
    }
}

impl RecordStore for RingStore {
    fn append(&mut self, entry: &Entry) -> Result<(), nvm_log::Error> {
        RecordStore::append(&mut self.memory, entry)
    }

    fn truncate_after(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        RecordStore::truncate_after(&mut self.memory, op)
    }

    fn set_control(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        self.control.set(control)
    }

    fn write_snapshot_part(&mut self, at: Viewstamp, offset: u64, part: &[u8]) -> Result<(), nvm_log::Error> {
        RecordStore::write_snapshot_part(&mut self.memory, at, offset, part)
    }

    fn write_snapshot(&mut self, image: &SnapshotImage) -> Result<(), nvm_log::Error> {
        RecordStore::write_snapshot(&mut self.memory, image)
    }

    fn install(&mut self, image: &SnapshotImage, keep_suffix: bool, control: &Control) -> Result<(), nvm_log::Error> {
        self.control.set(control)?;
        self.control.flush()?;
        self.memory.install(image, keep_suffix, control)
    }

    fn release_prefix(&mut self, op: u64) -> Result<(), nvm_log::Error> {
        RecordStore::release_prefix(&mut self.memory, op)
    }

    fn flush(&mut self) -> Result<(), nvm_log::Error> {
        RecordStore::flush(&mut self.memory)?;
        self.control.flush()
    }

    fn statistics(&self) -> nvm_log::Statistics {
        RecordStore::statistics(&self.memory)
    }

    fn close(self) -> Result<(), nvm_log::Error> {
        RecordStore::close(self.memory)?;
        self.control.close()
    }
}
