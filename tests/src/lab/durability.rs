//! What the members of a lab's cluster have their logs and snapshots on, and what a crash leaves of it.
//!
//! Why it is right: memory that a host would lose with its power is, in the mode `ring`, a directory of shared memory of that
//! member's own. A process's end leaves it; [`Cluster::forget`] is the rest of the crash of a host.

use std::path::Path;

use rsm::Durability;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, DEADLINE, POLL, remove};
use super::failure::{Checked, wrong};

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

    /// In `ring`, until each member that runs is guarded by the one before it.
    ///
    /// # Errors
    /// They do not come to that.
    pub async fn await_guards(&self) -> Checked<()> {
        let live = self.live();
        let guard = |id: &u64| live.iter().rev().find(|other| *other < id).or(live.last());
        let deadline = Instant::now() + DEADLINE;
        loop {
            let statuses = self.statuses().await;
            let is_guarded = |id: &u64| {
                let said = statuses.get(id).map(|status| status.durability.as_str()).unwrap_or_default();
                guard(id).is_some_and(|guard| said.ends_with(&format!("guarded by member {guard}")))
            };
            if live.iter().all(is_guarded) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said: Vec<_> = statuses.values().map(|status| &status.durability).collect();
                return wrong(format!("within {DEADLINE:?} not all of {live:?} were guarded: {said:?}"));
            }
            sleep(POLL).await;
        }
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
