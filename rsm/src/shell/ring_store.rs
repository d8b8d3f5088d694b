//! The store of `ring`: the control record in files, log and snapshots in this host's shared memory, and in a guard's (S14).
//!
//! Why it is right: of the two copies the own one is taken first. It is taken, under the same incarnation, only if every sign says that it is
//! whole: it is of this member and incarnation, it bears its memory's number, the host has not started since it was
//! written, and no frame that was flushed is missing or in doubt. Everything in it was stored before it was acknowledged, and a crash of the process keeps
//! what was stored; so the guard's copy can hold nothing more that this member owes. Else the guard's is taken, as a new memory of the same
//! incarnation, if it is the memory that the record names; that one holds all that was acknowledged (see `crate::ring`). Else this
//! is a new incarnation.
//!
//! A memory gets its number last of all: one that is cut short in being filled is nobody's. A snapshot and the cut of the log are one record
//! there; the control record in its file is written first, which is no harm, since what it promises more is kept all the same.

use std::path::Path;

use nvm_log::{Backend, Options, Outcome, Recovery, Store};
use wire::{Endpoint, Tls};

use super::epoch_store::begin_anew;
use super::format;
use super::node::StartError;
use super::restoration::{self, Copied};
use super::stable_control::{Life, StableControl};
use super::store::{self, RecordStore, identity_of, report, start_error};
use crate::{Control, Durability, Entry, Guard, Identity, MemberId, MemoryId, Recovered, SnapshotImage, Viewstamp};

/// `ring`.
#[derive(Debug)]
pub(super) struct RingStore {
    control: StableControl,
    memory: Store,
    id: MemoryId,
}

/// Where a member's store is, and where the others are.
pub(super) struct Places<'a> {
    pub(super) dir: &'a Path,
    pub(super) memory_dir: &'a Path,
    pub(super) ring_bytes: u64,
    /// Configured addresses; the view has others.
    pub(super) peers: &'a [(MemberId, Endpoint)],
    pub(super) tls: Option<&'a Tls>,
}

impl RingStore {
    /// Room for the log.
    pub(super) fn log_bytes(&self) -> u64 {
        self.memory.ring_bytes()
    }

    /// The memory, and whose memory is its second.
    pub(super) fn pair(&self) -> (MemoryId, Option<Guard>) {
        (self.id, self.control.guard())
    }

    /// Takes up the life of the member whose log is whole, here or at its guard, or begins a new one.
    pub(super) fn open(places: &Places<'_>, member: MemberId) -> Result<(RingStore, Recovered), StartError> {
        let Places { dir, memory_dir, ring_bytes, .. } = *places;
        let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
        let in_memory = |error| StartError::Store { dir: memory_dir.to_owned(), error };
        let options = Options { backend: Backend::Shm, ring_bytes, ..Options::default() };
        let (mut control, found) = StableControl::open(dir, Durability::Ring, member)?;
        if let Some(life) = &found {
            let identity = Identity { member, incarnation: life.incarnation };
            if let Some((memory, id, recovery)) = whole(memory_dir, &options, identity) {
                report(memory_dir, &recovery);
                let recovered = store::recovered(recovery, member)
                    .map_err(|refusal| start_error(refusal, memory_dir.to_owned(), member))?;
                let recovered = Recovered { control: life.control.clone(), ..recovered };
                control.begin(life.clone()).map_err(in_dir)?;
                return Ok((RingStore { control, memory, id }, recovered));
            }
            if let Some(copied) = copy_of_guard(places, identity, life) {
                // The view that the entries belong to is durable before they are.
                let life = Life { control: at_view(&life.control, &copied), ..life.clone() };
                control.begin(life.clone()).map_err(in_dir)?;
                let (memory, id) = fill(memory_dir, &options, identity, &copied).map_err(in_memory)?;
                let Copied { snapshot, entries, .. } = copied;
                let recovered = Recovered { identity, control: life.control, snapshot, entries, dead_bytes: 0 };
                return Ok((RingStore { control, memory, id }, recovered));
            }
        }
        // The life begins in the file first: a crash now leaves memory of another incarnation, which is not whole for this one.
        let recovered = begin_anew(&mut control, dir, member, found)?;
        let nothing = Copied::default();
        let (memory, id) = fill(memory_dir, &options, recovered.identity, &nothing).map_err(in_memory)?;
        Ok((RingStore { control, memory, id }, recovered))
    }
}

/// What the member's guard holds for it.
fn copy_of_guard(places: &Places<'_>, identity: Identity, life: &Life) -> Option<Copied> {
    let guard = life.guard?;
    let slot = life.control.config.as_ref().and_then(|config| config.last.slot(guard.member));
    let listed = slot.and_then(|slot| slot.address.parse().ok());
    let configured = places.peers.iter().filter(|(member, _)| *member == guard.member);
    let endpoints: Vec<_> = listed.into_iter().chain(configured.map(|(_, endpoint)| endpoint.clone())).collect();
    restoration::fetch(identity, life.control.cluster(), guard, &endpoints, places.tls)
}

/// The control record with the guard's view, where that is later: what was promised before it is settled.
fn at_view(control: &Control, copied: &Copied) -> Control {
    let known = control.config.as_ref().map_or(0, |config| config.last.number);
    match &copied.view {
        Some(view) if view.number > known => {
            Control { founding: None, config: Some(paxos::Durable::after(view.clone())) }
        }
        _ => control.clone(),
    }
}

/// The log in shared memory, if there is no doubt about any of it.
fn whole(dir: &Path, options: &Options, identity: Identity) -> Option<(Store, MemoryId, Recovery)> {
    let reject = |why: String| {
        tracing::info!(dir = %dir.display(), "the log in this host's shared memory is not used: {why}");
        None
    };
    match Store::open(dir, options) {
        Ok((_, recovery)) if recovery.identity != identity_of(identity) => {
            reject("it is of another incarnation".into())
        }
        Ok((store, mut recovery)) => {
            let Some(Ok(id)) = recovery.control.take().map(|blob| format::memory_of(&blob)) else {
                return reject("it was never filled".into());
            };
            match recovery.outcome {
                Outcome::Clean | Outcome::Torn { .. } | Outcome::Fresh => Some((store, id, recovery)),
                outcome => reject(format!("{outcome:?}")),
            }
        }
        Err(error) => reject(error.to_string()),
    }
}

/// A new memory, in place of one that is not whole, with this in it.
fn fill(
    dir: &Path,
    options: &Options,
    identity: Identity,
    copied: &Copied,
) -> Result<(Store, MemoryId), nvm_log::Error> {
    Store::remove(dir)?;
    let mut memory = Store::format(dir, options, identity_of(identity))?;
    if let Some(image) = &copied.snapshot {
        store::install_with(&mut memory, image, false, &[])?;
    }
    copied.entries.iter().try_for_each(|entry| RecordStore::append(&mut memory, entry))?;
    memory.flush()?;
    let id = MemoryId(rand::random());
    memory.set_control(&format::memory_blob(id))?;
    memory.flush()?;
    Ok((memory, id))
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

    fn set_guard(&mut self, guard: Option<Guard>) -> Result<(), nvm_log::Error> {
        self.control.set_guard(guard)?;
        self.control.flush()
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
        store::install_with(&mut self.memory, image, keep_suffix, &format::memory_blob(self.id))
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
