//! The retryer: tells clients that a queued acquire of theirs was granted.
//!
//! Why it is right: a grant stands in the state whether or not its client hears of it; the client asks again for what it waits for, every
//! few seconds and whenever it connects. So a notice is sent until it is acknowledged, for a bounded time, and what is dropped
//! (too old, too many, no longer primary) costs time and nothing else. The name is that of the yfs labs, where the server
//! told a client to retry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{NOTICES_MAX, Notice, SessionId};

use crate::application::{Inlet, Outlet, RetryerEvent};
use crate::callbacks::{Callbacks, Flight, NOTIFY_TIMEOUT, Progress};

/// A call that failed is repeated after the first of these, then after twice as long each time, up to the second.
const REPEAT: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);
/// A notice is dropped when it is so old: its client has asked by itself several times.
const NOTICE_MAX_AGE: Duration = Duration::from_secs(15);
/// Notices that wait to be acknowledged, over all sessions; more are dropped.
const NOTICES_KEPT: usize = 100_000;
/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Events taken before anything is sent.
const EVENTS_AT_ONCE: usize = 256;

/// What the retryer's thread owns.
pub(crate) struct Retryer {
    callbacks: Arc<Callbacks>,
    inlet: Inlet<RetryerEvent>,
    /// For calls that end.
    outlet: Outlet<RetryerEvent>,
    granted: BTreeMap<SessionId, Granted>,
    schedule: BTreeSet<(Instant, SessionId)>,
    kept: usize,
}

/// A session's notices.
#[derive(Debug)]
struct Granted {
    /// Each with the time at which it is dropped.
    notices: VecDeque<(Notice, Instant)>,
    /// The call under way, and how many notices it took from the front.
    flight: Option<(Flight, usize)>,
    /// The time in the schedule.
    look_at: Instant,
    wait: Duration,
}

impl Retryer {
    pub(crate) fn new(callbacks: Arc<Callbacks>, inlet: Inlet<RetryerEvent>, outlet: Outlet<RetryerEvent>) -> Self {
        Retryer { callbacks, inlet, outlet, granted: BTreeMap::new(), schedule: BTreeSet::new(), kept: 0 }
    }

    /// Runs until told to end.
    pub(crate) fn run(mut self) {
        while !self.inlet.is_ending() {
            let now = Instant::now();
            let next = self.schedule.first().map_or(IDLE, |(at, _)| at.saturating_duration_since(now).min(IDLE));
            let mut touched = BTreeSet::new();
            if let Ok(event) = self.inlet.events.recv_timeout(next) {
                self.take(event, &mut touched);
            }
            for _ in 1..EVENTS_AT_ONCE {
                let Ok(event) = self.inlet.events.try_recv() else { break };
                self.take(event, &mut touched);
            }
            // What was lost here is asked for by its clients.
            self.inlet.has_lost();
            let now = Instant::now();
            touched.extend(self.schedule.iter().take_while(|(at, _)| *at <= now).map(|(_, session)| *session));
            for session in touched {
                self.attend(session, now);
            }
        }
    }

    fn take(&mut self, event: RetryerEvent, touched: &mut BTreeSet<SessionId>) {
        match event {
            RetryerEvent::Stopped => {
                self.granted.clear();
                self.schedule.clear();
                self.kept = 0;
            }
            RetryerEvent::Granted(notices) => {
                for (session, notice) in notices {
                    if self.keep(session, notice) {
                        touched.insert(session);
                    }
                }
            }
            RetryerEvent::Connected(session) => {
                if let Some(granted) = self.granted.get_mut(&session) {
                    // What was under way went to the connection before.
                    granted.flight = None;
                    granted.wait = *REPEAT.start();
                    self.plan(session, Instant::now());
                    touched.insert(session);
                }
            }
            RetryerEvent::Answered(session) => {
                touched.insert(session);
            }
            RetryerEvent::Wake => {}
        }
    }

    /// Queues a notice; false where there is no room.
    fn keep(&mut self, session: SessionId, notice: Notice) -> bool {
        if self.kept >= NOTICES_KEPT {
            return false;
        }
        let now = Instant::now();
        self.kept += 1;
        let granted = self.granted.entry(session).or_insert_with(|| Granted {
            notices: VecDeque::new(),
            flight: None,
            look_at: now,
            wait: *REPEAT.start(),
        });
        granted.notices.push_back((notice, now + NOTICE_MAX_AGE));
        if granted.notices.len() == 1 {
            self.plan(session, now);
        }
        true
    }

    fn plan(&mut self, session: SessionId, at: Instant) {
        let Some(granted) = self.granted.get_mut(&session) else { return };
        self.schedule.remove(&(granted.look_at, session));
        granted.look_at = at;
        self.schedule.insert((at, session));
    }

    /// Settles the call that ended, drops what is too old, and sends what is to be sent now.
    fn attend(&mut self, session: SessionId, now: Instant) {
        let Some(granted) = self.granted.get_mut(&session) else { return };
        let before = granted.notices.len();
        let next = granted.settle(now);
        self.kept -= before - granted.notices.len();
        if granted.notices.is_empty() {
            self.schedule.remove(&(granted.look_at, session));
            self.granted.remove(&session);
            return;
        }
        let at = match next {
            Next::LookAt(at) => at,
            Next::Send => {
                let count = granted.notices.len().min(NOTICES_MAX);
                let notices = granted.notices.iter().take(count).map(|(notice, _)| notice.clone()).collect();
                let outlet = self.outlet.clone();
                let ended = move || outlet.nudge(RetryerEvent::Answered(session));
                granted.flight = self.callbacks.notify(session, notices, ended).map(|flight| (flight, count));
                match granted.flight {
                    Some(_) => now + NOTIFY_TIMEOUT + *REPEAT.start(),
                    None => granted.later(now),
                }
            }
        };
        self.plan(session, at);
    }
}

/// What to do next for a session.
enum Next {
    /// Call now.
    Send,
    /// Nothing before this time.
    LookAt(Instant),
}

impl Granted {
    fn settle(&mut self, now: Instant) -> Next {
        let next = match self.flight.take() {
            None if self.look_at <= now => Next::Send,
            None => Next::LookAt(self.look_at),
            Some((flight, count)) => match flight.progress() {
                Progress::UnderWay => {
                    self.flight = Some((flight, count));
                    return Next::LookAt(self.look_at.max(now + *REPEAT.start()));
                }
                Progress::Acknowledged => {
                    self.notices.drain(..count.min(self.notices.len()));
                    self.wait = *REPEAT.start();
                    Next::Send
                }
                Progress::Failed => Next::LookAt(self.later(now)),
            },
        };
        while self.notices.front().is_some_and(|(_, until)| *until <= now) {
            self.notices.pop_front();
        }
        next
    }

    /// The time of the next try; each is twice as far as the one before.
    fn later(&mut self, now: Instant) -> Instant {
        let at = now + self.wait;
        self.wait = (2 * self.wait).min(*REPEAT.end());
        at
    }
}
