//! The control record of a member whose log is in memory, in files, with the incarnation that it belongs to.
//!
//! Why it is right: a member without memory must not take up what an older incarnation promised, voted or acknowledged, and need
//! not, for no quorum counts an incarnation that its view does not list (S1, S3, S10). It must know one thing: the last view. With it the member
//! asks to be listed and never founds a second cluster. So each life begins with one durable write: its own new incarnation, and of the old
//! record the last view alone. From then on the record is kept as in every other mode.

use std::path::Path;

use nvm_log::{Options, Store};

use super::format::{self, FormatError};
use super::node::StartError;
use super::store::{check_member, open_or_format, start_error};
use crate::{Control, Incarnation, MemberId};

/// A control record is kept beside the log's ring, which stays empty: the smallest there is.
const RING_BYTES: u64 = 16 << 10;

/// The control record, in the data directory.
#[derive(Debug)]
pub(super) struct StableControl {
    store: Store,
    incarnation: Incarnation,
    is_flushed: bool,
}

impl StableControl {
    /// Opens or makes the record's store. Returns with it what the last life of this member wrote; nothing if there was none.
    pub(super) fn open(dir: &Path, member: MemberId) -> Result<(Self, Option<(Incarnation, Control)>), StartError> {
        let in_dir = |error| StartError::Store { dir: dir.to_owned(), error };
        let options = Options { ring_bytes: RING_BYTES, ..Options::default() };
        let (store, recovery) = open_or_format(dir, &options, member).map_err(in_dir)?;
        check_member(&recovery, member).map_err(|refusal| start_error(refusal, dir.to_owned(), member))?;
        let in_format = |error| StartError::Format { dir: dir.to_owned(), error };
        if !recovery.frames.is_empty() || recovery.snapshot.is_some() {
            return Err(in_format(FormatError::Mode)); // a log, which is elsewhere in these modes
        }
        let found = recovery.control.as_deref().map(format::life_of).transpose().map_err(in_format)?;
        Ok((StableControl { store, incarnation: Incarnation(0), is_flushed: true }, found))
    }

    /// Begins or takes up a life of this member, durably, before anything is sent.
    pub(super) fn begin(&mut self, incarnation: Incarnation, control: &Control) -> Result<(), nvm_log::Error> {
        self.incarnation = incarnation;
        self.set(control)?;
        self.flush()
    }

    /// Durable after the next flush.
    pub(super) fn set(&mut self, control: &Control) -> Result<(), nvm_log::Error> {
        self.is_flushed = false;
        self.store.set_control(&format::life_blob(self.incarnation, control))
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

/// What a new incarnation takes over from the one before: the last view, and no promise.
pub(super) fn inherited(found: Option<(Incarnation, Control)>) -> Control {
    let view = found.and_then(|(_, control)| control.config).map(|config| config.last);
    Control { founding: None, config: view.map(paxos::Durable::after) }
}
