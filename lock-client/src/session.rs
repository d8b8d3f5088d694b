//! The lease as the client counts it: a core without clock or IO.
//!
//! Why the client's deadline lies before the server's: the server extends the lease when it *executes* a keep-alive,
//! which is after the client *sent* it, and the client counts from the sending of exactly the transmission that was
//! answered (each has its own stamp). It keeps the maximum, so late, swapped and repeated answers are harmless; and it takes
//! the lease as over a margin early, which pays for a clock that loses time.
//!
//! ```text
//!           deadline passed, or real time ran ahead
//!    Live ─────────────────────────────────────────▶ Suspended
//!     ▲                                                 │
//!     └──────────── a later keep-alive answered ────────┘          SessionGone, from either: lost, for good
//! ```
//! A renewal that arrives after the deadline makes *both* steps, even where no timer had seen the deadline pass: guards
//! that were dead for a moment stay dead.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::{KeepAlive, LEASE_MAX, LEASE_MIN, Opened, RequestNumber, SessionId, lease_margin, tick_interval};

use crate::clock::Clocks;
use crate::mutant::{self, Mutant};

/// Keep-alives whose answer is still of use; far more than are sent within a lease.
const STAMPS_MAX: usize = 64;

/// What an event did to the lease; the shell acts on it, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseChange {
    /// It ran out: every guard dies.
    pub suspended: bool,
    /// It is in force again.
    pub resumed: bool,
}

/// A session's lease.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    lease_ns: u64,
    margin_ns: u64,
    /// Boot time from which the lease counts as over.
    deadline_ns: u64,
    /// [`Clocks::lead_ns`] when the transmission was sent that set the deadline.
    lead_ns: i64,
    live: bool,
    next_stamp: u64,
    last_sent_ns: Option<u64>,
    /// Connections given up for their silence since a keep-alive was last answered.
    silent: u32,
    /// When which unanswered stamp was sent.
    sent: BTreeMap<u64, Clocks>,
}

impl Session {
    /// A session as the server opened it; the lease counts from the *first* transmission of the open, since the server may
    /// have executed that one. None where the server's lease is outside what the protocol allows.
    pub fn opened(opened: Opened, first_sent: Clocks) -> Option<Self> {
        let lease = Duration::from_millis(opened.lease_ms);
        if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
            return None;
        }
        let margin = if mutant::is(Mutant::NoMargin) { Duration::ZERO } else { lease_margin(lease) };
        let (lease_ns, margin_ns) = (nanoseconds(lease), nanoseconds(margin));
        Some(Session {
            id: opened.session,
            lease_ns,
            margin_ns,
            deadline_ns: first_sent.boot_ns.saturating_add(lease_ns - margin_ns),
            lead_ns: first_sent.lead_ns(),
            live: true,
            next_stamp: 1,
            last_sent_ns: None,
            silent: 0,
            sent: BTreeMap::new(),
        })
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether it counted as in force at the last event.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The lease in force.
    pub fn lease(&self) -> Duration {
        Duration::from_nanos(self.lease_ns)
    }

    /// Boot time from which no guard may be valid.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// The greatest lead of real time at which the lease still holds.
    pub fn lead_max_ns(&self) -> i64 {
        self.lead_ns.saturating_add_unsigned(self.margin_ns)
    }

    /// A keep-alive that is sent now, with a stamp of its own.
    pub fn keep_alive(&mut self, now: Clocks, floor: RequestNumber) -> KeepAlive {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        self.last_sent_ns = Some(now.boot_ns);
        self.sent.insert(stamp, now);
        if self.sent.len() > STAMPS_MAX {
            self.sent.pop_first();
        }
        KeepAlive { session: self.id, stamp, floor }
    }

    /// A keep-alive was answered OK. A stamp that is not known (or older than one answered) changes nothing.
    pub fn on_renewed(&mut self, stamp: u64, now: Clocks) -> LeaseChange {
        let mut change = self.on_time(now);
        let newest = self.sent.last_key_value().map(|(stamp, _)| *stamp);
        let stamp = newest.filter(|_| mutant::is(Mutant::AnyStamp)).unwrap_or(stamp);
        let Some(sent) = self.sent.get(&stamp).copied() else { return change };
        let sent = if mutant::is(Mutant::LeaseFromAnswer) { now } else { sent };
        self.sent = self.sent.split_off(&(stamp + 1));
        self.silent = 0;
        let deadline_ns = sent.boot_ns.saturating_add(self.lease_ns - self.margin_ns);
        if deadline_ns >= self.deadline_ns {
            self.deadline_ns = deadline_ns;
            self.lead_ns = sent.lead_ns();
        }
        if !self.live && self.holds(now) {
            self.live = true;
            change.resumed = true;
        }
        change
    }

    /// Time went by.
    pub fn on_time(&mut self, now: Clocks) -> LeaseChange {
        let suspended = self.live && !self.holds(now);
        if suspended {
            self.live = false;
        }
        LeaseChange { suspended, resumed: false }
    }

    /// A new connection: what was sent on the old one will not be answered.
    pub fn on_connected(&mut self) {
        self.sent.clear();
        self.last_sent_ns = None;
    }

    /// The connection is given up because it is overdue.
    pub fn on_silence(&mut self) {
        self.silent = self.silent.saturating_add(1);
    }

    /// When the next keep-alive is due, boot time: every lease/5, every lease/10 while one is unanswered.
    pub fn next_keep_alive_ns(&self) -> u64 {
        let interval_ns = if self.sent.is_empty() { self.lease_ns / 5 } else { self.lease_ns / 10 };
        self.last_sent_ns.map_or(0, |sent_ns| sent_ns.saturating_add(interval_ns))
    }

    /// After when the connection has left a keep-alive unanswered for so long that another should be tried, boot time: a
    /// fifth of the lease, and never less than two ticks of the server; twice as long for each connection that was silent
    /// before, up to the lease. A server that answers, but late, would otherwise be dialled anew for ever, by all its clients
    /// at once, and never be heard. None while nothing is unanswered.
    pub fn overdue_ns(&self) -> Option<u64> {
        let least = (self.lease() / 5).max(tick_interval(self.lease()) * 2 + Duration::from_millis(100));
        let patience = least.saturating_mul(1 << self.silent.min(8)).min(self.lease().max(least));
        self.sent.first_key_value().map(|(_, sent)| sent.boot_ns.saturating_add(nanoseconds(patience)))
    }

    /// Whether that time has passed.
    pub fn is_overdue(&self, now: Clocks) -> bool {
        self.overdue_ns().is_some_and(|overdue_ns| now.boot_ns > overdue_ns)
    }

    fn holds(&self, now: Clocks) -> bool {
        now.boot_ns < self.deadline_ns && now.lead_ns() <= self.lead_max_ns()
    }
}

/// Whole nanoseconds, saturating.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Seconds since boot, real time 1000 s ahead.
    fn at(seconds: u64) -> Clocks {
        Clocks { boot_ns: seconds * SECOND, real_ns: (seconds + 1000) * SECOND }
    }

    fn session() -> Session {
        Session::opened(Opened { session: SessionId(7), lease_ms: 10_000 }, at(100))
            .expect("a lease that the protocol allows")
    }

    #[test]
    pub(crate) fn m2_a_lease_counts_from_the_sending_of_the_stamp_that_was_answered() {
        let mut session = session();
        assert_eq!(session.deadline_ns(), 109 * SECOND);
        let lost = session.keep_alive(at(101), RequestNumber(1));
        let second = session.keep_alive(at(107), RequestNumber(1));
        assert!(second.stamp > lost.stamp);
        session.on_renewed(lost.stamp, at(108));
        assert_eq!(session.deadline_ns(), 110 * SECOND, "the answer to the first says nothing of the second");
    }

    #[test]
    fn m2_late_swapped_and_repeated_answers_never_move_the_deadline_back_or_too_far() {
        let mut session = session();
        let first = session.keep_alive(at(101), RequestNumber(1));
        let second = session.keep_alive(at(103), RequestNumber(1));
        session.on_renewed(second.stamp, at(104));
        session.on_renewed(first.stamp, at(105));
        session.on_renewed(second.stamp, at(106));
        session.on_renewed(99, at(106));
        assert_eq!(session.deadline_ns(), 112 * SECOND);
    }

    #[test]
    fn m10_a_lease_that_ran_out_is_suspended_and_a_later_answer_resumes_it() {
        let mut session = session();
        assert_eq!(session.on_time(at(108)), LeaseChange::default());
        assert_eq!(session.on_time(at(109)), LeaseChange { suspended: true, resumed: false });
        assert_eq!(session.on_time(at(110)), LeaseChange::default());
        let fresh = session.keep_alive(at(111), RequestNumber(1));
        assert_eq!(session.on_renewed(fresh.stamp, at(112)), LeaseChange { suspended: false, resumed: true });
    }

    #[test]
    fn m10_a_renewal_after_a_deadline_that_no_timer_saw_still_suspends_first() {
        let mut session = session();
        let sent = session.keep_alive(at(105), RequestNumber(1));
        assert_eq!(session.on_renewed(sent.stamp, at(110)), LeaseChange { suspended: true, resumed: true });
    }

    #[test]
    fn an_answer_that_is_itself_too_old_does_not_resume() {
        let mut session = session();
        let sent = session.keep_alive(at(101), RequestNumber(1));
        assert_eq!(session.on_renewed(sent.stamp, at(120)), LeaseChange { suspended: true, resumed: false });
    }

    #[test]
    fn real_time_that_ran_ahead_ends_the_lease_until_a_fresh_answer() {
        let mut session = session();
        let mut stopped = at(103);
        stopped.real_ns += 30 * SECOND;
        assert!(session.on_time(stopped).suspended);
        let fresh = session.keep_alive(stopped, RequestNumber(1));
        assert!(session.on_renewed(fresh.stamp, stopped).resumed);
    }

    #[test]
    fn keep_alives_come_every_fifth_and_every_tenth_while_one_is_unanswered() {
        let mut session = session();
        assert_eq!(session.next_keep_alive_ns(), 0, "one at once on a new connection");
        let sent = session.keep_alive(at(102), RequestNumber(1));
        assert_eq!(session.next_keep_alive_ns(), 103 * SECOND);
        assert!(!session.is_overdue(at(103)) && session.is_overdue(at(105)));
        session.on_renewed(sent.stamp, at(102));
        assert_eq!(session.next_keep_alive_ns(), 104 * SECOND);
        assert!(!session.is_overdue(at(109)));
    }

    #[test]
    fn a_server_that_answers_late_is_heard_in_the_end_because_patience_grows_up_to_the_lease() {
        let mut session = session();
        let patience = |session: &mut Session| {
            session.on_connected();
            session.keep_alive(at(102), RequestNumber(1));
            let overdue_ns = session.overdue_ns().expect("a keep-alive is unanswered");
            session.on_silence();
            (overdue_ns - at(102).boot_ns) / SECOND
        };
        assert_eq!([(); 4].map(|()| patience(&mut session)), [2, 4, 8, 10]);
        let heard = session.keep_alive(at(102), RequestNumber(1));
        session.on_renewed(heard.stamp, at(103));
        assert_eq!(patience(&mut session), 2, "an answer makes it short again");
    }

    #[test]
    fn a_lease_outside_the_protocol_is_not_taken() {
        for lease_ms in [0, 1, u64::MAX] {
            assert!(Session::opened(Opened { session: SessionId(1), lease_ms }, at(1)).is_none());
        }
    }
}
