//! The revoker: tells holders that somebody else wants their locks, until an op makes that moot.
//!
//! Why it is right: it owns no truth. It remembers for which sessions something stood out, and when to look again; what stands out
//! is asked of the state each time. A revoke that is new is sent at once as it came, and one that turns out to be moot by then does
//! no harm, since it names its tenure. Whatever is lost (an event, a call, a connection) is made up for by the next look. It is
//! a thread of its own, as in the yfs labs, because an RPC handler must never make an RPC: replicas and clients that wait for each
//! other's handlers deadlock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{LockName, NOTICES_MAX, Notice, SessionId};
use rsm::Handle;
use tokio::runtime;

use crate::application::{Inlet, LockApplication, Outlet, RevokerEvent};
use crate::callbacks::{Callbacks, Flight, Progress};
use crate::machine::{Machine, Revoke};

/// A revoke is repeated after the first of these, then after twice as long each time, up to the second.
const REPEAT: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);
/// Between two pages of a session's revokes.
const NEXT_PAGE: Duration = Duration::from_millis(10);
/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Events taken before anything is sent.
const EVENTS_AT_ONCE: usize = 256;
/// New revokes of a session that are kept until its call under way ends; the next look finds the others.
const FRESH_MAX: usize = 4 * NOTICES_MAX;
/// Sessions looked at in one visit to the state: some ms of the replica thread at most.
const LOOK_MAX_SESSIONS: usize = 16;
/// Revokes derived in one visit.
const DERIVE_MAX: usize = 1024;

/// What the revoker's thread owns.
pub(crate) struct Revoker {
    handle: Handle,
    runtime: runtime::Handle,
    callbacks: Arc<Callbacks>,
    inlet: Inlet<RevokerEvent>,
    /// For calls that end.
    outlet: Outlet<RevokerEvent>,
    asked: BTreeMap<SessionId, Asked>,
    schedule: BTreeSet<(Instant, SessionId)>,
}

/// A session of which something is wanted.
#[derive(Debug)]
struct Asked {
    /// Not sent yet.
    fresh: Vec<Notice>,
    /// The time in the schedule.
    look_at: Instant,
    wait: Duration,
    /// The last name of the page sent last; none at the end.
    after: Option<LockName>,
    flight: Option<Flight>,
}

/// A page of a session's revokes, and what was asked for.
type Page = (SessionId, Option<LockName>, Vec<Notice>);

impl Revoker {
    pub(crate) fn new(
        handle: Handle,
        runtime: runtime::Handle,
        callbacks: Arc<Callbacks>,
        inlet: Inlet<RevokerEvent>,
        outlet: Outlet<RevokerEvent>,
    ) -> Self {
        Revoker { handle, runtime, callbacks, inlet, outlet, asked: BTreeMap::new(), schedule: BTreeSet::new() }
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
            if self.inlet.has_lost() {
                self.derive_all();
            }
            for session in touched {
                self.send_fresh(session);
            }
            self.look();
        }
    }

    fn take(&mut self, event: RevokerEvent, touched: &mut BTreeSet<SessionId>) {
        match event {
            RevokerEvent::Serving => self.derive_all(),
            RevokerEvent::Stopped => {
                self.asked.clear();
                self.schedule.clear();
                self.callbacks.close_all();
            }
            RevokerEvent::Revokes(revokes) => {
                for (revoke, told_by_grant) in revokes {
                    touched.insert(revoke.session);
                    self.on_revoke(revoke, told_by_grant);
                }
            }
            RevokerEvent::Connected(session) => self.look_at(session, Instant::now()),
            RevokerEvent::Answered(session) => {
                touched.insert(session);
            }
            RevokerEvent::Wake => {}
        }
    }

    fn on_revoke(&mut self, revoke: Revoke, told_by_grant: bool) {
        let session = revoke.session;
        let at = Instant::now() + *REPEAT.start();
        let at = self.asked.get(&session).map_or(at, |asked| asked.look_at.min(at));
        self.look_at(session, at);
        let Some(asked) = self.asked.get_mut(&session) else { return };
        asked.wait = *REPEAT.start();
        // A holder that heard of the waiters with its grant gives the lock back by itself.
        if !told_by_grant && asked.fresh.len() < FRESH_MAX {
            asked.fresh.push(revoke.into());
        }
    }

    /// Looks at the session at this time instead of the time planned.
    fn look_at(&mut self, session: SessionId, at: Instant) {
        let asked = self.asked.entry(session).or_insert_with(|| Asked {
            fresh: Vec::new(),
            look_at: at,
            wait: *REPEAT.start(),
            after: None,
            flight: None,
        });
        self.schedule.remove(&(asked.look_at, session));
        asked.look_at = at;
        self.schedule.insert((at, session));
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(asked) = self.asked.remove(&session) {
            self.schedule.remove(&(asked.look_at, session));
        }
    }

    /// Sends what is new, unless a call to the client is under way: then its end brings us here again.
    fn send_fresh(&mut self, session: SessionId) {
        let Some(asked) = self.asked.get_mut(&session) else { return };
        if asked.fresh.is_empty() || asked.is_in_flight() {
            return;
        }
        let rest = asked.fresh.split_off(asked.fresh.len().min(NOTICES_MAX));
        let notices = std::mem::replace(&mut asked.fresh, rest);
        self.send(session, notices);
    }

    fn send(&mut self, session: SessionId, notices: Vec<Notice>) {
        let outlet = self.outlet.clone();
        let flight = self.callbacks.notify(session, notices, move || outlet.nudge(RevokerEvent::Answered(session)));
        if let Some(asked) = self.asked.get_mut(&session) {
            if flight.is_none() {
                // The client takes what stands out when it connects.
                asked.fresh.clear();
            }
            asked.flight = flight;
        }
    }

    /// Looks at what still stands out of those sessions whose time has come, and sends it again.
    fn look(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.schedule.iter().take_while(|(at, _)| *at <= now).take(LOOK_MAX_SESSIONS).collect();
        if due.is_empty() {
            return;
        }
        let wanted: Vec<_> = due
            .into_iter()
            .map(|&(_, session)| (session, self.asked.get(&session).and_then(|asked| asked.after.clone())))
            .collect();
        let sessions: Vec<_> = wanted.iter().map(|(session, _)| *session).collect();
        let visit = self.handle.visit(move |application: &mut LockApplication| pages(application.machine(), wanted));
        match self.runtime.block_on(visit) {
            Some(pages) => pages.into_iter().for_each(|page| self.on_page(now, page)),
            // Too much waits for the replica thread, or the member ends.
            None => sessions.into_iter().for_each(|session| self.look_at(session, now + *REPEAT.start())),
        }
    }

    fn on_page(&mut self, now: Instant, (session, after, notices): Page) {
        if notices.is_empty() && after.is_none() {
            return self.forget(session);
        }
        let Some(asked) = self.asked.get_mut(&session) else { return };
        let in_flight = asked.is_in_flight();
        if !in_flight {
            asked.after = notices.last().filter(|_| notices.len() == NOTICES_MAX).map(name_of);
        }
        let mut wait = NEXT_PAGE;
        if in_flight || asked.after.is_none() {
            wait = asked.wait;
            asked.wait = (2 * wait).min(*REPEAT.end());
        }
        self.look_at(session, now + wait);
        if !in_flight && !notices.is_empty() {
            self.send(session, notices);
        }
    }

    /// Goes through all revokes that the state implies, and plans a look at each session at once.
    fn derive_all(&mut self) {
        self.asked.clear();
        self.schedule.clear();
        let mut after = None;
        loop {
            let page = self.runtime.block_on(self.handle.visit(move |application: &mut LockApplication| {
                application.machine().outstanding_revokes(after.as_ref(), DERIVE_MAX)
            }));
            // Sessions that are not derived now are looked at when they connect, and told with their keep-alives.
            let Some(page) = page else { return };
            after = page.last().map(|revoke| (revoke.session, revoke.name.clone()));
            let is_last = page.len() < DERIVE_MAX;
            let now = Instant::now();
            for session in page.into_iter().map(|revoke| revoke.session).collect::<BTreeSet<_>>() {
                self.look_at(session, now);
            }
            if is_last || self.inlet.is_ending() {
                return;
            }
        }
    }
}

impl Asked {
    fn is_in_flight(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.progress() == Progress::UnderWay)
    }
}

fn pages(machine: &Machine, wanted: Vec<(SessionId, Option<LockName>)>) -> Vec<Page> {
    let page = |(session, after): (SessionId, Option<LockName>)| {
        let notices = match &after {
            None => machine.revokes_of(session, NOTICES_MAX).0,
            Some(last) => {
                let revokes = machine.outstanding_revokes(Some(&(session, last.clone())), NOTICES_MAX);
                revokes.into_iter().filter(|revoke| revoke.session == session).map(Notice::from).collect()
            }
        };
        (session, after, notices)
    };
    wanted.into_iter().map(page).collect()
}

fn name_of(notice: &Notice) -> LockName {
    match notice {
        Notice::Revoke { name, .. } | Notice::Granted { name, .. } => name.clone(),
    }
}
