//! A volume that several mounts share: files, a log for each mount, and who is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lock_client::{FencingToken, FlushError, RecoveryToken, SessionId};

/// The volume. It keeps what it was told, and outlives every mount.
#[derive(Default)]
pub(crate) struct Volume {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the token of the tenure in which it was written.
    files: BTreeMap<String, (FencingToken, u64)>,
    logs: BTreeMap<SessionId, Vec<Record>>,
    /// Mounts that are refused, and whose recovery is the newest.
    fences: BTreeMap<SessionId, RecoveryToken>,
}

#[derive(Clone)]
struct Record {
    file: String,
    token: FencingToken,
    value: u64,
}

impl Volume {
    /// Writes into the mount's log; the file itself follows when it is flushed.
    pub(crate) fn write(
        &self,
        mount: SessionId,
        file: &str,
        token: FencingToken,
        value: u64,
    ) -> Result<(), &'static str> {
        let mut state = self.state();
        state.check(mount)?;
        state.logs.entry(mount).or_default().push(Record { file: file.to_owned(), token, value });
        Ok(())
    }

    /// Brings all that the mount has written to the files.
    pub(crate) fn flush(&self, mount: SessionId) -> Result<(), FlushError> {
        let mut state = self.state();
        state.check(mount).map_err(FlushError::new)?;
        state.empty_log(mount);
        Ok(())
    }

    /// What the file itself holds.
    pub(crate) fn read(&self, file: &str) -> Option<u64> {
        self.state().files.get(file).map(|(_, value)| *value)
    }

    /// From now on the mount is refused, and so is an older recovery of it.
    pub(crate) fn fence(&self, mount: SessionId, token: RecoveryToken) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.fences.get(&mount).is_some_and(|newest| *newest > token) {
            return Err("another recovers it");
        }
        state.fences.insert(mount, token);
        Ok(())
    }

    /// Brings what the log of a fenced mount holds to the files.
    pub(crate) fn replay(&self, mount: SessionId, token: RecoveryToken) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.fences.get(&mount) != Some(&token) {
            return Err("another recovers it");
        }
        state.empty_log(mount);
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, mount: SessionId) -> Result<(), &'static str> {
        if self.fences.contains_key(&mount) { Err("this mount is being recovered") } else { Ok(()) }
    }

    /// What a later holder of the lock has written stays.
    fn empty_log(&mut self, mount: SessionId) {
        for Record { file, token, value } in self.logs.remove(&mount).unwrap_or_default() {
            let written = self.files.entry(file).or_insert((token, value));
            if written.0 <= token {
                *written = (token, value);
            }
        }
    }
}
