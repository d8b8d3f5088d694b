//! What must hold, whatever the schedule.

use std::collections::BTreeMap;
use std::sync::Mutex;

use lock_protocol::{FencingToken, Mode};

use crate::cell::Cell;
use crate::guard::LockGuard;

/// A guard that a user has.
#[derive(Clone, Copy, Debug)]
struct Use {
    token: FencingToken,
    mode: Mode,
    epoch: u64,
}

#[derive(Debug, Default)]
struct Seen {
    next: u64,
    uses: BTreeMap<u64, Use>,
    /// Epochs below this one have ended.
    epoch: u64,
    /// The tenure whose hook runs, and what is kept of it.
    flushing: Option<(FencingToken, Option<Mode>)>,
}

/// The guards of all users. Its mutex is no point of decision for the checker, and is never held across one.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    seen: Mutex<Seen>,
}

impl Oracle {
    fn look<R>(&self, at: impl FnOnce(&mut Seen) -> R) -> R {
        at(&mut self.seen.lock().expect("a thread that panics fails the whole schedule"))
    }

    /// A user was given a guard; `held` says whether the server had its tenure a moment before.
    pub(super) fn begin(&self, guard: &LockGuard, cell: &Cell, held: bool) -> u64 {
        let this = Use { token: guard.token(), mode: guard.mode(), epoch: guard.epoch() };
        let (id, others, flushing) = self.look(|seen| {
            let others: Vec<Use> = seen.uses.values().copied().collect();
            seen.next += 1;
            seen.uses.insert(seen.next, this);
            (seen.next, others, seen.flushing)
        });
        if !guard.is_valid() {
            return id;
        }
        assert!(held, "a valid guard without a tenure at the server");
        let is_flushed = flushing.is_some_and(|(token, to)| token == this.token && !is_kept(to, this.mode));
        assert!(!is_flushed, "{this:?} while the hook runs");
        for other in others.iter().filter(|other| !other.mode.is_compatible_with(this.mode)) {
            assert!(!is_valid(*other, cell), "{this:?} beside {other:?}");
        }
        id
    }

    /// The user is about to content itself with shared.
    pub(super) fn lower(&self, id: u64) {
        self.look(|seen| {
            seen.uses.entry(id).and_modify(|one| one.mode = Mode::Shared);
        });
    }

    /// The user has another guard in its place.
    pub(super) fn change(&self, id: u64, guard: &LockGuard, cell: &Cell) {
        let this = Use { token: guard.token(), mode: guard.mode(), epoch: guard.epoch() };
        let others: Vec<Use> = self.look(|seen| {
            seen.uses.insert(id, this);
            seen.uses.iter().filter(|(other, _)| **other != id).map(|(_, one)| *one).collect()
        });
        for other in others.iter().filter(|other| !other.mode.is_compatible_with(this.mode)) {
            assert!(!guard.is_valid() || !is_valid(*other, cell), "{this:?} beside {other:?}");
        }
    }

    /// The user is about to drop it.
    pub(super) fn end(&self, id: u64) {
        self.look(|seen| seen.uses.remove(&id));
    }

    /// Epochs below this one have ended.
    pub(super) fn on_epoch_end(&self, epoch: u64) {
        self.look(|seen| seen.epoch = seen.epoch.max(epoch));
    }

    /// A guard of an epoch that had ended before it was asked is dead.
    pub(super) fn check_dead(&self, guard: &LockGuard) {
        let ended = self.look(|seen| seen.epoch > guard.epoch());
        let valid = guard.is_valid();
        assert!(!(ended && valid), "a guard outlived its epoch");
    }

    /// No user has a valid guard: the server takes everything away.
    pub(super) fn check_all_dead(&self, cell: &Cell) {
        let uses: Vec<Use> = self.look(|seen| seen.uses.values().copied().collect());
        for one in uses {
            assert!(!is_valid(one, cell), "{one:?} is valid while its tenure ends at the server");
        }
    }

    /// The hook begins; `to` is what is kept of the tenure.
    pub(super) fn begin_flush(&self, token: FencingToken, to: Option<Mode>, cell: &Cell) {
        let uses: Vec<Use> = self.look(|seen| {
            assert!(
                seen.flushing.replace((token, to)).is_none_or(|(before, _)| before != token),
                "one tenure flushed twice at once"
            );
            let is_in_the_way = |one: &Use| one.token == token && !is_kept(to, one.mode);
            seen.uses.values().copied().filter(is_in_the_way).collect()
        });
        for one in uses {
            assert!(!is_valid(one, cell), "a hook while {one:?} lives");
        }
    }

    /// The hook has succeeded.
    pub(super) fn end_flush(&self) {
        self.look(|seen| seen.flushing = None);
    }
}

fn is_valid(one: Use, cell: &Cell) -> bool {
    let grant = crate::cache::Grant { token: one.token, mode: one.mode, epoch: one.epoch };
    !cell.valid_for(grant).is_zero()
}

/// Whether users in this mode may stay while the tenure is flushed.
fn is_kept(to: Option<Mode>, mode: Mode) -> bool {
    to.is_some_and(|to| to.covers(mode))
}
