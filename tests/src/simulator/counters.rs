//! How often each rare branch was reached. A net with a hole looks like a net without a catch: what a suite never
//! reached, it did not test.

use std::collections::BTreeMap;

use rsm::{Message, Record};

/// Branches that a suite of some hundred seeds must reach; the test fails when one was not.
pub const MUST_BE_REACHED: [&str; 102] = [
    "acquires given up",
    "acquires that came after their cancel",
    "answers ok",
    "answers unknown",
    "append mismatches",
    "callback connections dialled anew",
    "calls to clients that failed",
    "cancels that met their grant",
    "changes of members refused",
    "clock jumps",
    "connections broken",
    "control records lost in a crash",
    "crash images in part",
    "crashes",
    "crashes before founding ended",
    "crashes between parts of a snapshot",
    "crashes in the midst of a flush",
    "damage refused",
    "damage that cost nothing",
    "deaths of clients",
    "entries lost in a crash",
    "entries on pages",
    "expiries",
    "fail-overs",
    "fail-overs that promote",
    "fetches of a reporter's log",
    "flushes repeated",
    "founded",
    "grants asked for again",
    "grants to waiters",
    "guards found dead by their users",
    "guards downgraded",
    "hand-overs asked of a serving primary",
    "hand-overs of locks",
    "healed runs",
    "incarnations lost",
    "joins",
    "learners promoted",
    "leases resumed",
    "leases suspended",
    "limits reached",
    "locks had from the cache",
    "locks kept for a lock delay",
    "locks kept for a recovery",
    "long pauses",
    "machines of clients stood still",
    "machines put to sleep",
    "mass expiries",
    "members added",
    "members removed",
    "members replaced",
    "members restored by their guard",
    "members that learned of their removal",
    "members that no guard restored",
    "memories lost",
    "opens repeated",
    "packets held back and delivered",
    "pauses",
    "pauses of clients",
    "paxos refusals",
    "planned stops",
    "power failures",
    "pre-vote agreements",
    "pre-vote refusals",
    "promotions",
    "queued acquires asked for again",
    "recoveries assigned",
    "recoveries begun",
    "recoveries cut short",
    "recoveries ended",
    "recoveries passed on to another",
    "recoveries told to the next that joined",
    "reports of those whose turn it was not",
    "revokes derived by a new primary",
    "revokes repeated",
    "rolling restarts",
    "sessions closed or abandoned",
    "sessions lost",
    "sets given up",
    "sets granted at once",
    "sets granted to waiters",
    "sets held",
    "snapshot chunks",
    "snapshot installs",
    "snapshots",
    "snapshots begun in parts",
    "snapshots overtaken by ops",
    "step-downs",
    "stops in good order",
    "stores that failed",
    "tenures ended by force",
    "tenures ended by force at once",
    "torn tails",
    "truncations",
    "upgrades granted",
    "upgrades had from the cache",
    "upgrades refused",
    "upgrades refused by the cache",
    "view changes",
    "views decided and never served",
    "volatile restarts",
    "writes stopped by their token",
];

/// Names and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one.
    pub(crate) fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub(crate) fn add(&mut self, name: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(name).or_default() += times;
        }
    }

    /// Counts a message that was sent, where it marks a rare branch.
    pub(crate) fn sent(&mut self, message: &Message) {
        self.hit(match message {
            Message::Mismatch { .. } => "append mismatches",
            Message::Unmatched { .. } => "fetches that had to step back",
            Message::Fetch { .. } => "fetches of a reporter's log",
            Message::StepDown { .. } => "step-downs",
            Message::PreVoteAnswer { ready: true, yes: true, .. } => "pre-vote agreements of a ready newcomer",
            Message::PreVoteAnswer { yes: true, .. } => "pre-vote agreements",
            Message::PreVoteAnswer { yes: false, .. } => "pre-vote refusals",
            Message::Paxos(paxos::Message::Refused { .. }) => "paxos refusals",
            Message::Join { .. } => "joins",
            Message::JoinRefused { .. } => "joins refused",
            Message::Chunk { .. } => "snapshot chunks",
            Message::Diverged { .. } => "divergence told",
            _ => return,
        });
    }

    /// Counts a record that became durable.
    pub(crate) fn stored(&mut self, record: &Record) {
        self.hit(match record {
            Record::TruncateAfter { .. } => "truncations",
            Record::SnapshotPart { offset: 0, .. } => "snapshots begun in parts",
            Record::SnapshotPart { .. } => "parts of snapshots between the first and the last",
            Record::Snapshot { .. } => "snapshots",
            Record::Install { keep_suffix: true, .. } => "snapshot installs that keep a suffix",
            Record::Install { .. } => "snapshot installs",
            Record::Repair { .. } => "entries stored again",
            Record::Control(_) | Record::Append(_) => return,
        });
    }

    /// How often.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Counters) {
        for (name, times) in &other.0 {
            self.add(name, *times);
        }
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, times)| (*name, *times))
    }

    /// What of [`MUST_BE_REACHED`] was not.
    pub fn missed(&self) -> Vec<&'static str> {
        MUST_BE_REACHED.into_iter().filter(|name| self.get(name) == 0).collect()
    }
}
