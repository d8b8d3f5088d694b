//! Repair of a damaged log, from a peer or from memory.
//!
//! Why a crash leaves either the damaged or the repaired log: the repair is appended at the tail, behind everything that was ever durable,
//! where nothing leads to it. When it is durable, one control record names the way around the damage, atomically. Until that
//! record is durable the damage is where it was, and so is every whole frame beyond it.

use crate::control::BRIDGES_MAX;
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::recovery::Ending;
use crate::{Error, Frame, Store};

/// Damage that an open store knows of and that is not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The first op that may be missing.
    pub(crate) first_op: u64,
    /// The log's last op, as far as it is known.
    pub(crate) last_op: u64,
    /// Where the first frame lies that does not count; none means where the sound log ends.
    pub(crate) position: Option<u64>,
}

impl Damage {
    pub(crate) fn found(ending: &Ending) -> Option<Damage> {
        let Ending::Corrupt(ranges, last_op) = ending else { return None };
        let first_op = ranges.first().map(|range| *range.start())?;
        Some(Damage { first_op, last_op: *last_op, position: None })
    }
}

impl<M: Medium> Store<M> {
    /// Replaces the log from the first damaged op on: with what peers have of the missing ops, and the whole frames beyond them. Durable on
    /// return; a crash before leaves the damaged log, as it was. An empty suffix declares that the log ends before the damage.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`]: there is no damage, or the suffix begins after its first op, or before the log.
    /// - [`Error::NotContiguous`]: the suffix has a gap, or does not follow on the log by op and view. Then ops before the ones that were
    ///   named missing have been replaced as well: begin earlier.
    /// - [`Error::Full`]: the ring has no room for it beside what is there. Install a snapshot instead.
    ///
    /// In each of these cases nothing was changed.
    pub fn repair(&mut self, suffix: &[Frame]) -> Result<(), Error> {
        self.check()?;
        let (damage, keep, need_bytes) = self.check_repair(suffix)?;
        self.reach_for(need_bytes)?;
        let position = damage.position.unwrap_or(self.ring.tail());
        let bridge = self.ring.lead_around(position, keep);
        let mut appended = self.append_repair(keep, suffix);
        if appended.is_ok() && mutation::active(Mutation::BridgeBeforeRepair) {
            self.record.bridges.push(bridge);
            appended = self.store_control().and_then(|()| self.media.store.flush().map_err(Error::io("flushing")));
        }
        self.poison_on_io(appended)?;
        self.record.bridges.retain(|older| older.from < bridge.from);
        self.record.bridges.push(bridge);
        self.damage = None;
        self.control_pending = true;
        self.flush()
    }

    fn append_repair(&mut self, keep: u64, suffix: &[Frame]) -> Result<(), Error> {
        if self.ring.last().1 > keep {
            self.ring.truncate_after(&mut self.media.store, keep)?;
        }
        suffix.iter().try_for_each(|frame| self.ring.append(&mut self.media.store, frame))
    }

    /// The damage, the last op that stays, and the bytes that the repair takes.
    fn check_repair(&self, suffix: &[Frame]) -> Result<(Damage, u64, u64), Error> {
        let floor = self.ring.floor();
        let first_op = suffix.first().map_or(self.damage.map_or(0, |damage| damage.first_op), |frame| frame.first_op);
        let high = self.damage.map_or(0, |damage| damage.first_op);
        let refused = Error::OutOfRange { doing: "repair from", op: first_op, low: floor.1 + 1, high };
        let Some(damage) = self.damage.filter(|_| (floor.1 + 1..=high).contains(&first_op)) else {
            return Err(refused);
        };
        let keep = first_op - 1;
        let mut last = self.ring.viewstamp_at(keep).ok_or(refused)?;
        let mut tail = self.ring.tail() + crate::layout::LINE;
        for frame in suffix {
            let fits = frame.first_op.checked_add(u64::from(frame.count)).is_some() && frame.count > 0;
            if !fits || frame.previous != last || frame.first_op != last.1 + 1 {
                let (first_op, count, previous_op, last_op) = (frame.first_op, frame.count, frame.previous.1, last.1);
                return Err(Error::NotContiguous { first_op, count, previous_op, last_op });
            }
            tail += self.ring.need_at(tail, frame)?;
            last = (frame.view, frame.last_op());
        }
        let need_bytes = tail - self.ring.tail();
        if need_bytes > self.ring.free_bytes() || self.record.bridges.len() >= BRIDGES_MAX {
            return Err(Error::Full { need_bytes, free_bytes: self.ring.free_bytes() });
        }
        Ok((damage, keep, need_bytes))
    }
}
