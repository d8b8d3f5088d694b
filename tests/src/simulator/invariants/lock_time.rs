//! Service time is never faster than true time.
//!
//! Each tick's elapsed time lies between two readings of one primary's clock, and these spans do not overlap, over fail-over
//! too. So between any two ticks service time advances by no more than the true time between their closings; which is to say
//! that its lead over true time never grows.

use super::lock_truth::Seen;
use super::{Check, Invariants, Run, Violation};
use crate::simulator::dice::MILLION;

impl Invariants {
    /// A primary closed a tick.
    pub(crate) fn tick_made(&mut self, run: Run, now: u64, command: &[u8]) {
        self.locks.ticks.entry(run).or_default().push_back((now, command.to_vec()));
    }

    pub(super) fn ticked(&mut self, seen: &Seen<'_>) -> Check {
        self.locks.leases.last_tick = None;
        let run = self.served.get(&seen.view).map(|(_, run)| *run);
        let Some(made) = run.and_then(|run| self.locks.ticks.get_mut(&run)) else { return Ok(()) };
        // One tick of a run is uncommitted at a time, so this is the newest that says so; those before it are lost or done.
        let Some(place) = made.iter().rposition(|(_, command)| command == seen.command) else { return Ok(()) };
        let Some((closed_at, _)) = made.drain(..=place).next_back() else { return Ok(()) };
        let time_us = seen.machine.service_time_us();
        self.locks.leases.last_tick = Some((closed_at, time_us));
        let rate = i128::from(self.locks.rate_max.max(MILLION));
        let ahead = i128::from(time_us) * i128::from(MILLION) - i128::from(closed_at) * rate;
        // A reading of a clock is cut to whole µs.
        let slack = 4 * i128::from(MILLION);
        if let Some(before) = self.locks.ahead.filter(|before| ahead > *before + slack) {
            let gained_us = (ahead - before) / i128::from(MILLION);
            let detail = format!("op {}: at {time_us} µs it has gained {gained_us} µs", seen.op);
            return Err(Violation::new("service time is never faster than true time", detail));
        }
        self.locks.ahead = Some(self.locks.ahead.map_or(ahead, |before| before.min(ahead)));
        Ok(())
    }
}
