//! What a campaign did, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;

/// Of one round, or of all.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Clusters.
    pub rounds: u64,
    /// How many in each durability mode.
    pub modes: BTreeMap<String, u64>,
    /// How often each was done.
    pub faults: BTreeMap<Fault, u64>,
    /// In the histories that were checked.
    pub operations: u64,
    /// Users' calls for locks.
    pub calls: u64,
    /// Those that were granted.
    pub grants: u64,
    /// Locks that the probe had.
    pub probed: u64,
    /// Sessions that clients opened.
    pub sessions: u64,
    /// Rounds whose history of calls was too long to be decided by the search; all others' are linearizable.
    pub undecided: u64,
    /// Writes that the stores took ...
    pub written: u64,
    /// ... and requests that they refused, as being of an earlier tenure.
    pub refused: u64,
    /// Views formed.
    pub views: u64,
    /// Packets that the switch passed on ...
    pub passed: u64,
    /// ... dropped ...
    pub dropped: u64,
    /// ... sent twice ...
    pub twins: u64,
    /// ... and held back.
    pub overtaken: u64,
    /// Changes of the list of members that were made.
    pub changes: u64,
    /// Starts of members after the first, each under clocks drawn anew where that is possible.
    pub starts: u64,
    /// For how long the probe was not served at the longest.
    pub longest_gap: Duration,
    /// From the last heal until all members were in sync, at the longest.
    pub longest_convergence: Duration,
}

impl Report {
    /// Adds another round's.
    pub fn add(&mut self, other: &Report) {
        self.rounds += other.rounds;
        for (mode, count) in &other.modes {
            *self.modes.entry(mode.clone()).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.operations += other.operations;
        self.calls += other.calls;
        self.grants += other.grants;
        self.probed += other.probed;
        self.sessions += other.sessions;
        self.undecided += other.undecided;
        self.written += other.written;
        self.refused += other.refused;
        self.views += other.views;
        self.passed += other.passed;
        self.dropped += other.dropped;
        self.twins += other.twins;
        self.overtaken += other.overtaken;
        self.changes += other.changes;
        self.starts += other.starts;
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.longest_convergence = self.longest_convergence.max(other.longest_convergence);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes: Vec<String> = self.modes.iter().map(|(mode, count)| format!("{mode} {count}")).collect();
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        write!(
            f,
            "{} rounds ({}), {} histories linearizable, {} undecided, {} operations; faults: {}; {} calls, {} granted, {} sessions; stores: {} writes, {} refused; probe: {} locks; {} views, {} changes of the list, {} starts; \
             {} packets, {} dropped, {} twice, {} held back; \
             longest without service {:.1?}, longest until in sync {:.1?}",
            self.rounds,
            modes.join(", "),
            self.rounds - self.undecided,
            self.undecided,
            self.operations,
            faults.join(", "),
            self.calls,
            self.grants,
            self.sessions,
            self.written,
            self.refused,
            self.probed,
            self.views,
            self.changes,
            self.starts,
            self.passed,
            self.dropped,
            self.twins,
            self.overtaken,
            self.longest_gap,
            self.longest_convergence
        )
    }
}
