//! When a guarded command must end: the core of `run`, without clock, process or lock.
//!
//! ```text
//!   now                      deadline - kill_before - grace    deadline - kill_before   deadline   server's deadline
//!    ├──── the command runs ──────────────┼── SIGTERM, grace ──────────┼─ SIGKILL, dying ──┤ ............ ┤
//! ```
//! Why it is right: the local deadline lies before the moment from which the server may grant the lock to another. The
//! command's group has got SIGKILL [`KILL_BEFORE`] before it, so it is gone when another runs (within what the help says is
//! not covered). Both steps are taken once and never taken back: a command that was told to end is not run on.

use std::time::Duration;

use lock_client::lease_margin;

use crate::failure::seconds;

/// SIGKILL comes so much before the deadline: dying, and our own waking up, take time on a loaded machine.
pub(crate) const KILL_BEFORE: Duration = Duration::from_millis(250);
/// The client renews so often within a lease.
const RENEWALS_PER_LEASE: u32 = 5;
/// So many renewals must have a chance before the command is told to end, or one lost packet ends it.
const RENEWALS_BEFORE_END: u32 = 2;
/// Below so much time more, a fail-over of the cluster ends the command.
const FAIL_OVER: Duration = Duration::from_secs(2);
/// The deadline is looked at no less often: a machine that was suspended is noticed.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// And no more often.
const LOOK_MIN: Duration = Duration::from_millis(5);

/// The times of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    lease: Duration,
    grace: Duration,
}

/// A lease that guards nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a lease of {} is too short: of it {} go to the safety margin, {} to the grace after SIGTERM and {} to SIGKILL, and what remains \
     is less than the {} in which it is renewed twice; take a longer --lease{}",
    seconds2(*lease), seconds2(lease_margin(*lease)), seconds2(*grace), seconds2(KILL_BEFORE), seconds2(*lease * 2 / 5),
    if *grace > *lease / 5 { " or a shorter --grace" } else { "" }
)]
pub(crate) struct TooShort {
    lease: Duration,
    grace: Duration,
}

fn seconds2(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

impl Schedule {
    /// `grace` is a fifth of the lease where none is given.
    pub(crate) fn new(lease: Duration, grace: Option<Duration>) -> Result<Self, TooShort> {
        let grace = grace.unwrap_or(lease / 5);
        let schedule = Schedule { lease, grace };
        match schedule.spare() {
            Some(_) => Ok(schedule),
            None => Err(TooShort { lease, grace }),
        }
    }

    /// What is left beyond the two renewals; none where they do not fit.
    fn spare(&self) -> Option<Duration> {
        let before_end =
            self.lease.checked_sub(lease_margin(self.lease))?.checked_sub(self.grace)?.checked_sub(KILL_BEFORE)?;
        before_end.checked_sub(self.lease / RENEWALS_PER_LEASE * RENEWALS_BEFORE_END)
    }

    /// One line where a change of the primary could take longer than the lease allows.
    pub(crate) fn warning(&self) -> Option<String> {
        let spare = self.spare().unwrap_or_default();
        (spare < FAIL_OVER).then(|| {
            format!(
                "with a lease of {} a fail-over of the cluster can end the command; 8 s and more ride it out",
                seconds(self.lease)
            )
        })
    }

    /// Between SIGTERM and SIGKILL.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }
}

/// What to do to the command's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// How far it has come; only ever later ones follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Terminated,
    Killed,
}

/// Watches over one command.
#[derive(Debug)]
pub(crate) struct Watch {
    schedule: Schedule,
    stage: Stage,
}

impl Watch {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Watch { schedule, stage: Stage::Running }
    }

    /// The lock is certainly held for `valid_for` from now.
    pub(crate) fn on_time(&mut self, valid_for: Duration) -> Option<Act> {
        if valid_for <= KILL_BEFORE {
            return self.on_lost();
        }
        if valid_for <= KILL_BEFORE + self.schedule.grace && self.stage < Stage::Terminated {
            self.stage = Stage::Terminated;
            return Some(Act::Terminate);
        }
        None
    }

    /// The loss was learned otherwise: there is no time for a grace.
    pub(crate) fn on_lost(&mut self) -> Option<Act> {
        (self.stage < Stage::Killed).then(|| {
            self.stage = Stage::Killed;
            Act::Kill
        })
    }

    /// In how long to look at the deadline again.
    pub(crate) fn look_again(&self, valid_for: Duration) -> Duration {
        let next = match self.stage {
            Stage::Running => valid_for.saturating_sub(KILL_BEFORE + self.schedule.grace),
            Stage::Terminated => valid_for.saturating_sub(KILL_BEFORE),
            Stage::Killed => LOOK_MAX,
        };
        next.clamp(LOOK_MIN, LOOK_MAX)
    }

    /// Whether the command was told to end because of the lock.
    pub(crate) fn has_ended_it(&self) -> bool {
        self.stage > Stage::Running
    }

    /// Whether nothing more can be done but wait.
    pub(crate) fn has_killed(&self) -> bool {
        self.stage == Stage::Killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn m22_term_comes_a_grace_before_the_kill_and_the_kill_before_the_deadline() {
        let mut watch = Watch::new(Schedule::new(ms(15_000), None).expect("long enough"));
        assert_eq!(watch.on_time(ms(13_500)), None);
        assert_eq!(watch.on_time(ms(3251)), None);
        assert_eq!(watch.look_again(ms(3251)), LOOK_MIN);
        assert_eq!(watch.on_time(ms(3250)), Some(Act::Terminate));
        assert_eq!(watch.on_time(ms(2000)), None, "once");
        assert_eq!(watch.look_again(ms(1000)), ms(750));
        assert_eq!(watch.on_time(ms(251)), None);
        assert_eq!(watch.on_time(ms(250)), Some(Act::Kill));
        assert_eq!(watch.on_time(ms(0)), None, "once");
    }

    #[test]
    fn a_deadline_that_is_over_when_first_looked_at_kills_without_a_grace() {
        let mut watch = Watch::new(Schedule::new(ms(15_000), None).expect("long enough"));
        assert_eq!(watch.on_time(Duration::ZERO), Some(Act::Kill));
        assert!(watch.has_ended_it() && watch.has_killed());
    }

    #[test]
    fn a_renewal_after_the_term_does_not_take_it_back() {
        let mut watch = Watch::new(Schedule::new(ms(15_000), None).expect("long enough"));
        assert_eq!(watch.on_time(ms(3000)), Some(Act::Terminate));
        assert_eq!(watch.on_time(ms(13_000)), None);
        assert!(watch.has_ended_it());
        assert_eq!(watch.on_lost(), Some(Act::Kill));
        assert_eq!(watch.on_lost(), None);
    }

    #[test]
    fn a_lease_without_room_for_two_renewals_is_refused_with_the_sum() {
        assert!(Schedule::new(ms(834), None).is_ok());
        let error = Schedule::new(ms(832), None).expect_err("too short").to_string();
        assert!(error.contains("0.83 s is too short") && error.contains("longer --lease"), "{error}");
        assert!(!error.contains("--grace"), "{error}");
        let error = Schedule::new(ms(15_000), Some(ms(14_000))).expect_err("too short").to_string();
        assert!(error.contains("shorter --grace"), "{error}");
        assert!(Schedule::new(ms(15_000), Some(Duration::MAX)).is_err());
    }

    #[test]
    fn a_lease_that_no_fail_over_fits_in_is_warned_of() {
        assert!(Schedule::new(ms(7_400), None).expect("long enough").warning().is_some());
        assert_eq!(Schedule::new(ms(8_000), None).expect("long enough").warning(), None);
        assert_eq!(Schedule::new(ms(15_000), None).expect("long enough").warning(), None);
    }

    #[test]
    fn the_deadline_is_looked_at_every_second_at_least() {
        let watch = Watch::new(Schedule::new(ms(3_600_000), None).expect("long enough"));
        assert_eq!(watch.look_again(ms(3_000_000)), LOOK_MAX);
    }
}
