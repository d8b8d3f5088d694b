//! What a loop did and saw, for people.

use std::fmt;
use std::time::Duration;

use rsm::Durability;

use crate::lab::Return;

/// Of one mode.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Which.
    pub mode: Durability,
    /// Kills of one replica.
    pub kills: u64,
    /// Kills of all three.
    pub at_once: u64,
    /// Locks granted to those who fight.
    pub grants: u64,
    /// Locks kept over kills.
    pub kept: u64,
    /// Increments under locks.
    pub increments: u64,
    /// Views formed.
    pub views: u64,
    /// The longest time in which nobody was granted anything.
    pub longest_gap: Duration,
    /// What the members said of their starts.
    pub returns: Vec<Return>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { mode, kills, at_once, grants, kept, increments, views, longest_gap, returns } = self;
        let found = || returns.iter().filter_map(|back| back.found.as_ref());
        let replayed: u64 = found().map(|found| found.replayed_entries).sum();
        let skipped: u64 = found().map(|found| found.skipped_entries).sum();
        let torn = found().filter(|found| found.outcome != "Clean").count();
        let installed = returns.iter().filter(|back| back.caught_up.installed_op > 0).count();
        let (half, most) = middle_and_most(returns.iter().map(|back| back.caught_up.elapsed).collect());
        let (half_store, most_store) = middle_and_most(found().map(|found| found.elapsed).collect());
        write!(
            f,
            "{mode}: {kills} kills of one, {at_once} of all; {grants} grants, {kept} locks kept, {increments} increments, {views} views, \
             longest without a grant {longest_gap:.1?}; {} starts: {} found a store ({torn} not clean), in {half_store:.1?} (median) to {most_store:.1?}, \
             {replayed} entries replayed, {skipped} skipped; {installed} were sent a snapshot; caught up in {half:.1?} (median) to {most:.1?}",
            returns.len(),
            found().count(),
        )
    }
}

fn middle_and_most(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times.get(times.len() / 2).copied().unwrap_or_default(), times.last().copied().unwrap_or_default())
}
