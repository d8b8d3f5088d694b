//! What is written down: one line of JSON each.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::lab::Return;

/// Where and when a run was.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Seconds since 1970.
    pub unix_time_s: u64,
    /// Cores of this machine.
    pub cores: usize,
    /// Its load over the last minute, before the run.
    pub load: f64,
    /// Its kernel.
    pub kernel: String,
    /// Whether everything was built optimised.
    pub optimised: bool,
}

impl Machine {
    /// This one, now; what the system does not tell is 0 or empty.
    #[expect(clippy::disallowed_methods, reason = "figures bear their date")]
    pub fn look() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Machine {
            unix_time_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// A start of a killed replica. Times in ms, from the process's start where nothing else is said.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The durability mode, and the medium where it is not the mode's usual one.
    pub mode: String,
    /// What was asked for, MB.
    pub state_mb: u64,
    /// The log's size, MiB.
    pub log_mib: u64,
    /// From 1 on.
    pub repetition: u64,
    /// From the kill to the start.
    pub away_ms: f64,
    /// The snapshot in the store, or the one that was sent; bytes.
    pub snapshot_bytes: u64,
    /// Of the log, read from the store.
    pub scanned_bytes: u64,
    /// Entries replayed from the store ...
    pub replayed_entries: u64,
    /// ... and skipped, being in its snapshot.
    pub skipped_entries: u64,
    /// To open and read the store.
    pub store_ms: f64,
    /// The snapshot that another member sent.
    pub installed_bytes: u64,
    /// Entries that others sent.
    pub appended_entries: u64,
    /// To the first acknowledgement, as the member says.
    pub first_ack_ms: Option<f64>,
    /// Until it had caught up, as the member says.
    pub caught_up_ms: f64,
    /// The same from outside, from the launch of the process until all were in sync.
    pub in_sync_ms: f64,
    /// What clients were granted before the kill, per second ...
    pub grants_before: f64,
    /// ... while it was away ...
    pub grants_away: f64,
    /// ... and from its start until all were in sync.
    pub grants_returning: f64,
}

impl Row {
    /// Enters what the member said.
    pub(super) fn with(self, back: &Return) -> Row {
        let caught_up = &back.caught_up;
        let row = Row {
            snapshot_bytes: caught_up.installed_bytes,
            installed_bytes: caught_up.installed_bytes,
            appended_entries: caught_up.appended_entries,
            first_ack_ms: caught_up.first_ack.map(ms),
            caught_up_ms: ms(caught_up.elapsed),
            ..self
        };
        match &back.found {
            None => row,
            Some(found) => Row {
                snapshot_bytes: found.snapshot_bytes,
                scanned_bytes: found.scanned_bytes,
                replayed_entries: found.replayed_entries,
                skipped_entries: found.skipped_entries,
                store_ms: ms(found.elapsed),
                ..row
            },
        }
    }
}

/// What happened at a moment of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The replica was killed.
    Killed,
    /// It was started again.
    Started,
    /// All were in sync.
    InSync,
}

/// What clients were granted around a kill.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timeline {
    /// As in a [`Row`].
    pub mode: String,
    /// The snapshot in the store, or the one that was sent; bytes.
    pub snapshot_bytes: u64,
    /// At so many ms there had been so many grants.
    pub grants: Vec<(f64, u64)>,
    /// At so many ms.
    pub moments: Vec<(f64, Moment)>,
}

pub(super) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
