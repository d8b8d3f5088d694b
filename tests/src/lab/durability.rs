//! What the members of a lab's cluster have their logs and snapshots on, and what a crash leaves of it.
//!
//! Why it is right: memory that a host would lose with its power is, in the mode `ring`, a directory of shared memory of that
//! member's own. A process's end leaves it; [`Cluster::forget`] is the rest of the crash of a host.

use std::path::Path;

use rsm::Durability;
use tempfile::TempDir;

use super::cluster::{Cluster, remove};
use super::failure::Checked;

const SHARED_MEMORY: &str = "/dev/shm";
/// The smallest that a member takes: it is full soon, and snapshots are frequent.
const LOG_MIB: u64 = 4;

/// The same for all members.
#[derive(Debug)]
pub(super) struct Kept {
    mode: Durability,
    log_mib: u64,
    /// In the mode that has one.
    shared: Option<TempDir>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { mode: Durability::default(), log_mib: LOG_MIB, shared: None }
    }
}

impl Kept {
    /// For a member's command line.
    pub(super) fn flags(&self, id: u64) -> Vec<String> {
        let mut flags = vec![format!("--durability={}", self.mode), format!("--log-mib={}", self.log_mib)];
        if let Some(shared) = &self.shared {
            flags.push(format!("--memory-dir={}", shared.path().join(id.to_string()).display()));
        }
        flags
    }
}

/// Whether the mode `ring` is possible here.
pub fn has_shared_memory() -> bool {
    Path::new(SHARED_MEMORY).is_dir()
}

impl Cluster {
    /// The mode of all members, before the first is started.
    ///
    /// # Errors
    /// The system refuses a directory of shared memory to `ring`.
    pub fn set_durability(&mut self, mode: Durability) -> Checked<()> {
        let shared = match mode {
            Durability::Ring => Some(TempDir::with_prefix_in("plumeria-lab-", SHARED_MEMORY)?),
            _ => None,
        };
        self.kept = Kept { mode, shared, ..std::mem::take(&mut self.kept) };
        Ok(())
    }

    /// The size of all members' logs, MiB, before the first is started.
    pub fn set_log_mib(&mut self, log_mib: u64) {
        self.kept.log_mib = log_mib;
    }

    /// The mode of all members.
    pub fn durability(&self) -> Durability {
        self.kept.mode
    }

    /// A dead member's host loses its memory, too.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn forget(&self, id: u64) -> Checked<()> {
        match &self.kept.shared {
            Some(shared) => remove(&shared.path().join(id.to_string())),
            None => Ok(()),
        }
    }
}
