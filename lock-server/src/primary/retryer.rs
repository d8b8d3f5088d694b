//! The retryer: tells clients that a queued acquire of theirs was granted.
//!
//! Why it is right: a grant stands in the state whether or not its client hears of it; the client asks again for what it waits for, every
//! few seconds and whenever it connects. So a notice is sent until it is acknowledged, for a bounded time, and what is dropped
//! (too old, too many, no longer primary) costs time and nothing else. The name is that of the yfs labs, where the server
//! told a client to retry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use lock_protocol::{NOTICES_MAX, Notice, SessionId};

use super::{CALL_LOST, Call};

/// A call that failed is repeated after the first of these, then after twice as long each time, up to the second.
const REPEAT: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);
/// A notice is dropped when it is so old: its client has asked by itself several times.
const NOTICE_MAX_AGE: Duration = Duration::from_secs(15);
/// Notices that wait to be acknowledged, over all sessions; more are dropped.
const NOTICES_KEPT: usize = 100_000;

/// What the retryer hears of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryerEvent {
    /// This member serves no longer: whoever was granted something asks the next primary.
    Stopped,
    /// Queued acquires were granted; see [`super::news`].
    Granted(Vec<(SessionId, Notice)>),
    /// A callback connection appeared.
    Connected(SessionId),
    /// The call of this number to this client ended.
    Ended {
        /// The client.
        session: SessionId,
        /// The call.
        number: u64,
        /// The client has taken the notices in.
        acknowledged: bool,
    },
}

/// The retryer.
#[derive(Debug, Default)]
pub struct Retryer {
    granted: BTreeMap<SessionId, Granted>,
    schedule: BTreeSet<(Duration, SessionId)>,
    kept: usize,
    last_call: u64,
}

/// A session's notices; never empty.
#[derive(Debug)]
struct Granted {
    /// Each with the time at which it is dropped.
    notices: VecDeque<(Notice, Duration)>,
    flight: Option<Flight>,
    /// The time in the schedule.
    look_at: Duration,
    wait: Duration,
}

/// The call under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u64,
    /// How many notices it took from the front.
    count: usize,
    /// When it is given up.
    until: Duration,
}

impl Retryer {
    /// Something happened.
    pub fn on_event(&mut self, now: Duration, event: RetryerEvent) {
        match event {
            RetryerEvent::Stopped => *self = Retryer { last_call: self.last_call, ..Retryer::default() },
            RetryerEvent::Granted(notices) => {
                notices.into_iter().for_each(|(session, notice)| self.keep(now, session, notice));
            }
            RetryerEvent::Connected(session) => {
                if let Some(granted) = self.granted.get_mut(&session) {
                    // What was under way went to the connection before.
                    granted.flight = None;
                    granted.wait = *REPEAT.start();
                    self.plan(session, now);
                }
            }
            RetryerEvent::Ended { session, number, acknowledged } => self.on_end(now, session, number, acknowledged),
        }
    }

    /// The call to be made now; to be asked until there is none. Then [`RetryerEvent::Ended`], or at once
    /// [`Retryer::not_connected`].
    pub fn next_call(&mut self, now: Duration) -> Option<Call> {
        while let Some(&(_, session)) = self.schedule.first().filter(|(at, _)| *at <= now) {
            if let Some(call) = self.attend(now, session) {
                return Some(call);
            }
        }
        None
    }

    /// When [`Retryer::next_call`] is to be asked though nothing happens.
    pub fn due(&self) -> Option<Duration> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// The session has no callback connection: tried again later, or when it connects.
    pub fn not_connected(&mut self, now: Duration, session: SessionId) {
        self.failed(now, session);
    }

    /// Queues a notice, where there is room.
    fn keep(&mut self, now: Duration, session: SessionId, notice: Notice) {
        if self.kept >= NOTICES_KEPT {
            return;
        }
        self.kept += 1;
        let new = || Granted { notices: VecDeque::new(), flight: None, look_at: now, wait: *REPEAT.start() };
        let granted = self.granted.entry(session).or_insert_with(new);
        granted.notices.push_back((notice, now + NOTICE_MAX_AGE));
        if granted.notices.len() == 1 {
            self.plan(session, now);
        }
    }

    fn plan(&mut self, session: SessionId, at: Duration) {
        let Some(granted) = self.granted.get_mut(&session) else { return };
        self.schedule.remove(&(granted.look_at, session));
        granted.look_at = at;
        self.schedule.insert((at, session));
    }

    fn on_end(&mut self, now: Duration, session: SessionId, number: u64, acknowledged: bool) {
        let Some(granted) = self.granted.get_mut(&session) else { return };
        let Some(flight) = granted.flight.filter(|flight| flight.number == number) else { return };
        if !acknowledged {
            return self.failed(now, session);
        }
        granted.flight = None;
        granted.wait = *REPEAT.start();
        let count = flight.count.min(granted.notices.len());
        granted.notices.drain(..count);
        self.kept -= count;
        // What came meanwhile goes at once.
        self.plan(session, now);
        self.forget_if_empty(session);
    }

    /// Tries again later, each time after twice as long.
    fn failed(&mut self, now: Duration, session: SessionId) {
        let Some(granted) = self.granted.get_mut(&session) else { return };
        granted.flight = None;
        let at = now + granted.wait;
        granted.wait = (2 * granted.wait).min(*REPEAT.end());
        self.plan(session, at);
    }

    /// Drops what is too old, and calls, or plans to. Moves the session to a later place in the schedule, or out of it.
    fn attend(&mut self, now: Duration, session: SessionId) -> Option<Call> {
        let granted = self.granted.get_mut(&session)?;
        if granted.flight.is_some_and(|flight| flight.until <= now) {
            self.failed(now, session);
            return None;
        }
        if granted.flight.is_none() {
            let before = granted.notices.len();
            granted.notices.retain(|(_, until)| *until > now);
            self.kept -= before - granted.notices.len();
            if self.forget_if_empty(session) {
                return None;
            }
        }
        let granted = self.granted.get_mut(&session)?;
        let at = now + CALL_LOST;
        if let Some(flight) = granted.flight {
            self.plan(session, flight.until);
            return None;
        }
        self.last_call += 1;
        let count = granted.notices.len().min(NOTICES_MAX);
        granted.flight = Some(Flight { number: self.last_call, count, until: at });
        let notices = granted.notices.iter().take(count).map(|(notice, _)| notice.clone()).collect();
        self.plan(session, at);
        Some(Call { session, number: self.last_call, notices })
    }

    fn forget_if_empty(&mut self, session: SessionId) -> bool {
        let Some(granted) = self.granted.get(&session).filter(|granted| granted.notices.is_empty()) else {
            return false;
        };
        self.schedule.remove(&(granted.look_at, session));
        self.granted.remove(&session);
        true
    }
}
