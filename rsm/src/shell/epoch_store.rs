//! The store of `epoch-ss`: the control record in files, and nothing else anywhere but in the core.
//!
//! Why it is right: what is gone with the process is gone with the incarnation (see `stable_control`). The core's own log and image are the
//! only ones; appending is done as soon as the core has it.

use std::path::Path;

use super::node::StartError;
use super::stable_control::{Life, StableControl};
use super::store::RecordStore;
use crate::{Control, Durability, Entry, Identity, MemberId, Recovered, SnapshotImage, Viewstamp};

/// `epoch-ss`.
#[derive(Debug)]
pub(super) struct EpochStore(StableControl);

impl EpochStore {
    /// Begins a new life of the member in `dir`.
    pub(super) fn open(dir: &Path, member: MemberId) -> Result<(EpochStore, Recovered), StartError> {
        let (mut stable, found) = StableControl::open(dir, Durability::EpochSs, member)?;
        let recovered = begin_anew(&mut stable, dir, member, found)?;
        Ok((EpochStore(stable), recovered))
    }
}

/// A life without log and state.
pub(super) fn begin_anew(
    stable: &mut StableControl,
    dir: &Path,
    member: MemberId,
    before: Option<Life>,
) -> Result<Recovered, StartError> {
    let life = Life::after(before);
    let view = life.control.config.as_ref().map_or(0, |config| config.last.number);
    tracing::info!(%member, view, "starts without log and state, as a new incarnation: the others have them");
    let identity = Identity { member, incarnation: life.incarnation };
    let control = life.control.clone();
    stable.begin(life).map_err(|error| StartError::Store { dir: dir.to_owned(), error })?;
    Ok(Recovered { identity, control, snapshot: None, entries: Vec::new(), dead_bytes: 0 })
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
