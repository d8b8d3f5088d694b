//! The durability modes: what "durable" means for the log and the snapshots of a cluster. All members have the same one.

use std::fmt;
use std::str::FromStr;

/// What a member's log and snapshots survive. Promises, votes and views are in files in every mode.
///
/// The names of the crash models are JPaxos' (Kończak et al., *Recovery algorithms for Paxos-based state machine replication*).
/// Where that system carries a vector of epochs on its answers, the incarnations that a decided view lists do the same work here: a
/// start without memory is a new incarnation, and nothing that an older one promised or acknowledged is counted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The log and the snapshots are in the data directory, in persistent memory where there is some, else in files.
    #[default]
    Nvm,
    /// The same in files, whatever the medium: each batch is written and flushed.
    FullSs,
    /// The log and the snapshots are in the process's memory: every start is a new incarnation, which gets them from the others.
    EpochSs,
    /// They are in this host's shared memory, which a crash of the process leaves whole; and all that the member acknowledges is in
    /// another's as well, its guard's: after a crash of its host it takes them from there, as the same incarnation. Where that memory is
    /// lost too, as `EpochSs`. A commit waits for the guards: for one member more than a majority, at least.
    Ring,
}

impl Durability {
    /// All of them.
    pub const ALL: [Durability; 4] = [Durability::Nvm, Durability::FullSs, Durability::EpochSs, Durability::Ring];

    /// Whether the log and the snapshots are in memory, and so lost with all hosts at once, for good.
    pub fn is_volatile(self) -> bool {
        matches!(self, Durability::EpochSs | Durability::Ring)
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Nvm => "nvm",
            Durability::FullSs => "full-ss",
            Durability::EpochSs => "epoch-ss",
            Durability::Ring => "ring",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let names = Durability::ALL.map(|mode| mode.to_string()).join(", ");
        Durability::ALL
            .into_iter()
            .find(|mode| mode.to_string() == name)
            .ok_or_else(|| format!("'{name}' is no durability mode: choose one of {names}"))
    }
}
