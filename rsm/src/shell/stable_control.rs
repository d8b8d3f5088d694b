//! The control record of a member whose log is in memory, in files, with the incarnation that it belongs to.
//!
//! Why it is right: a member without memory must not take up what an older incarnation promised, voted or acknowledged, and need
//! not, for no quorum counts an incarnation that its view does not list (S1, S3, S10). It must know one thing: the last view. With it the member
//! asks to be listed and never founds a second cluster. So each new life begins with one durable write: its own new incarnation, and of the old
//! record the last view alone. From then on the record is kept as in every other mode. In `ring` it says also whose memory
//! holds what this life has acknowledged (S14); both parts are replaced as one.

use std::path::Path;

use nvm_log::{Options, Store};

use super::format::{self, FormatError};
use super::node::StartError;
use super::store::{check_member, open_or_format, start_error};
use crate::{Control, Durability, Guard, Incarnation, MemberId};

/// A control record is kept beside the log's ring, which stays empty: the smallest there is.
const RING_BYTES: u64 = 16 << 10;

/// What one life of a member must not forget, beside its log and snapshot.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// In `ring`.
    pub(super) guard: Option<Guard>,
    pub(super) control: Control,
}

impl Life {
    /// A new one.
    pub(super) fn after(before: Option<Life>) -> Self {
        let control = inherited(before.map(|life| life.control));
        Life { incarnation: Incarnation(rand::random()), guard: None, control }
    }
}

/// What a new incarnation takes over from the one before: the last view, and no promise.
pub(super) fn inherited(before: Option<Control>) -> Control {
    let view = before.and_then(|control| control.config).map(|config| config.last);
    Control { founding: None, config: view.map(paxos::Durable::after) }
}

/// The control record, in the data directory.
#[derive(Debug)]
pub(super) struct StableControl {
    store: Store,
    mode: Durability,
    life: Life,
    is_flushed: bool,
}

impl StableControl {
    /// Opens or makes the record's store. Returns with it what the last life of this member wrote; nothing if there was none.
    pub(super) fn open(dir: &Path, mode: Durability, member: MemberId) -> Result<(Self, Option<Life>), StartError> {
        let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
        let options = Options { ring_bytes: RING_BYTES, ..Options::default() };
        let (store, recovery) = open_or_format(dir, &options, member).map_err(in_dir)?;
        check_member(&recovery, member).map_err(|refusal| start_error(refusal, dir.to_owned(), member))?;
        let in_format = |error| StartError::Format { dir: dir.to_owned(), error };
        if !recovery.frames.is_empty() || recovery.snapshot.is_some() {
            return Err(in_format(FormatError::Mode)); // a log, which is elsewhere in these modes
        }
        let found = recovery.control.as_deref().map(|blob| life_in(blob, mode)).transpose().map_err(in_format)?;
        let none = Life { incarnation: Incarnation::NOBODY, guard: None, control: Control::default() };
        Ok((StableControl { store, mode, life: none, is_flushed: true }, found))
    }

    /// Begins or takes up a life of this member, durably, before anything is sent.
    pub(super) fn begin(&mut self, life: Life) -> Result<(), nvm_log::Error> {
        self.life = life;
        self.write()?;
        self.flush()
    }

    /// Whose memory is this life's second, as the record says.
    pub(super) fn guard(&self) -> Option<Guard> {
        self.life.guard
    }

    /// Durable after the next flush.
    pub(super) fn set(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        self.life.control.clone_from(control);
        self.write()
    }

    /// Durable after the next flush.
    pub(super) fn set_guard(&mut self, guard: Option<Guard>) -> Result<(), nvm_log::Error> {
        self.life.guard = guard;
        self.write()
    }

    fn write(&mut self) -> Result<(), nvm_log::Error> {
        self.is_flushed = false;
        let Life { incarnation, guard, control } = &self.life;
        self.store.set_control(&match self.mode {
            Durability::Ring => format::guarded_life_blob(*incarnation, *guard, control),
            _ => format::life_blob(*incarnation, control),
        })
    }

    /// What was set is durable. Costs nothing if nothing was.
    pub(super) fn flush(&mut self) -> Result<(), nvm_log::Error> {
        if self.is_flushed {
            return Ok(());
        }
        self.store.flush()?;
        self.is_flushed = true;
        Ok(())
    }

    pub(super) fn close(self) -> Result<(), nvm_log::Error> {
        self.store.close()
    }
}

fn life_in(blob: &[u8], mode: Durability) -> Result<Life, FormatError> {
    if mode == Durability::Ring {
        let (incarnation, guard, control) = format::guarded_life_of(blob)?;
        return Ok(Life { incarnation, guard, control });
    }
    let (incarnation, control) = format::life_of(blob)?;
    Ok(Life { incarnation, guard: None, control })
}
