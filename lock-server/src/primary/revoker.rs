//! The revoker: tells holders that somebody else wants their locks, or that their tenure was ended by force, and sessions that they are
//! to recover another, until an op makes that moot.
//!
//! Why it is right: it owns no truth. It remembers for which sessions something stood out, and when to look again; what stands out
//! is asked of the state each time. A revoke that is new is sent at once as it came, and one that turns out to be moot by then does
//! no harm, since it names its tenure. Whatever is lost (an event, a call, a connection) is made up for by the next look. At most one
//! call to a client is under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use lock_protocol::{LockName, NOTICES_MAX, Notice, SessionId};

use super::{CALL_LOST, Call};
use crate::machine::{Machine, Revoke};
use crate::mutant::{Mutant, Mutation};

/// A revoke is repeated after the first of these, then after twice as long each time, up to the second.
const REPEAT: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);
/// Between two pages of a session's revokes.
const NEXT_PAGE: Duration = Duration::from_millis(10);
/// New revokes of a session that are kept until its call under way ends; the next look finds the others.
const FRESH_MAX: usize = 4 * NOTICES_MAX;
/// Sessions looked at in one visit to the state: some ms of the replica thread at most.
const LOOK_MAX_SESSIONS: usize = 16;
/// Revokes derived in one visit.
const DERIVE_MAX: usize = 1024;

/// What the revoker hears of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokerEvent {
    /// This member begins to serve: all revokes are to be derived.
    Serving,
    /// It serves no longer: nothing is to be revoked.
    Stopped,
    /// New revokes, each with whether the grant itself told of it; see [`super::news`].
    Revokes(Vec<(Revoke, bool)>),
    /// Tenures that were ended by force, and recoveries; see [`super::news`].
    Notices(Vec<(SessionId, Notice)>),
    /// Events were lost: all revokes are to be derived.
    Lost,
    /// A callback connection appeared.
    Connected(SessionId),
    /// The call of this number to this client ended.
    Ended(SessionId, u64),
}

/// What is to be done for the revoker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close all callback connections, so that the clients look for the primary.
    CloseConnections,
    /// Call the client; then [`RevokerEvent::Ended`], or at once [`Revoker::not_connected`].
    Call(Call),
    /// Ask [`Machine::outstanding_revokes`], with these arguments; then [`Revoker::derived`], before anything else.
    Derive {
        /// The last of the page before.
        after: Option<(SessionId, LockName)>,
        /// The most revokes.
        limit: usize,
    },
    /// Ask [`pages`]; then [`Revoker::looked`], before anything else.
    Look(Vec<Wanted>),
}

/// A page of a session's revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub session: SessionId,
    /// The last name of the page before; none for the first page.
    pub after: Option<LockName>,
}

/// The revoker.
#[derive(Debug, Default)]
pub struct Revoker {
    asked: BTreeMap<SessionId, Asked>,
    schedule: BTreeSet<(Duration, SessionId)>,
    /// Something new is to be sent to these.
    touched: BTreeSet<SessionId>,
    /// To be made; sessions of which a page was looked at.
    calls: VecDeque<Call>,
    /// All revokes are being derived, from behind this one on.
    deriving: Option<Option<(SessionId, LockName)>>,
    is_closing: bool,
    last_call: u64,
    mutation: Mutation,
}

/// A session of which something is wanted.
#[derive(Debug)]
struct Asked {
    /// Not sent yet.
    fresh: Vec<Notice>,
    /// The time in the schedule.
    look_at: Duration,
    wait: Duration,
    /// The last name of the page sent last; none at the end.
    after: Option<LockName>,
    /// The call under way, and when it is given up.
    flight: Option<(u64, Duration)>,
}

impl Revoker {
    /// The same revoker with a known bug.
    #[cfg(any(test, feature = "mutants"))]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutation = Mutation::new(mutant);
        self
    }

    /// Something happened.
    pub fn on_event(&mut self, now: Duration, event: RevokerEvent) {
        let [lost, once] = [Mutant::LostRevoke, Mutant::RevokesOnce].map(|mutant| self.mutation.is(mutant));
        match event {
            RevokerEvent::Serving | RevokerEvent::Lost if lost => {}
            RevokerEvent::Connected(_) if lost || once => {}
            RevokerEvent::Serving | RevokerEvent::Lost => self.derive_all(),
            RevokerEvent::Stopped => {
                let Revoker { last_call, mutation, .. } = *self;
                *self = Revoker { is_closing: true, last_call, mutation, ..Revoker::default() };
            }
            RevokerEvent::Revokes(revokes) => {
                for (revoke, told_by_grant) in revokes {
                    self.touched.insert(revoke.session);
                    // A holder that heard of the waiters with its grant gives the lock back by itself.
                    let session = revoke.session;
                    self.on_notice(now, session, (!told_by_grant).then(|| revoke.into()));
                }
            }
            RevokerEvent::Notices(notices) => {
                for (session, notice) in notices {
                    self.touched.insert(session);
                    self.on_notice(now, session, Some(notice));
                }
            }
            RevokerEvent::Connected(session) => self.look_at(session, now),
            RevokerEvent::Ended(session, number) => {
                if let Some(asked) = self.asked.get_mut(&session)
                    && asked.flight.is_some_and(|(under_way, _)| under_way == number)
                {
                    asked.flight = None;
                }
                self.touched.insert(session);
            }
        }
    }

    /// What is to be done now; to be asked until there is nothing more.
    pub fn next_action(&mut self, now: Duration) -> Option<Action> {
        if std::mem::take(&mut self.is_closing) {
            return Some(Action::CloseConnections);
        }
        if let Some(call) = self.calls.pop_front() {
            return Some(Action::Call(call));
        }
        if let Some(after) = &self.deriving {
            return Some(Action::Derive { after: after.clone(), limit: DERIVE_MAX });
        }
        while let Some(session) = self.touched.pop_first() {
            if let Some(call) = self.fresh(now, session) {
                return Some(Action::Call(call));
            }
        }
        let due = self.schedule.iter().take_while(|(at, _)| *at <= now).take(LOOK_MAX_SESSIONS);
        let wanted = due.map(|&(_, session)| {
            let after = self.asked.get(&session).and_then(|asked| asked.after.clone());
            Wanted { session, after }
        });
        let wanted: Vec<_> = wanted.collect();
        (!wanted.is_empty()).then_some(Action::Look(wanted))
    }

    /// When [`Revoker::next_action`] is to be asked though nothing happens.
    pub fn due(&self) -> Option<Duration> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// The session has no callback connection. The client takes what stands out when it connects.
    pub fn not_connected(&mut self, session: SessionId) {
        if let Some(asked) = self.asked.get_mut(&session) {
            asked.flight = None;
            asked.fresh.clear();
        }
    }

    /// The answer to [`Action::Derive`]; none where nobody could look. Sessions that are not derived then are looked at when they
    /// connect, and told with their keep-alives.
    pub fn derived(&mut self, now: Duration, revokes: Option<Vec<Revoke>>) {
        let revokes = revokes.unwrap_or_default();
        let is_last = revokes.len() < DERIVE_MAX;
        let after = revokes.last().map(|revoke| (revoke.session, revoke.name.clone()));
        self.deriving = after.filter(|_| !is_last).map(Some);
        for session in revokes.into_iter().map(|revoke| revoke.session).collect::<BTreeSet<_>>() {
            self.look_at(session, now);
        }
    }

    /// The answer to [`Action::Look`], a page for each; none where nobody could look.
    pub fn looked(&mut self, now: Duration, wanted: Vec<Wanted>, pages: Option<Vec<Vec<Notice>>>) {
        match pages {
            Some(pages) => wanted.into_iter().zip(pages).for_each(|(wanted, page)| self.on_page(now, &wanted, page)),
            None => wanted.into_iter().for_each(|wanted| self.look_at(wanted.session, now + *REPEAT.start())),
        }
    }

    /// Something is wanted of a session: what is given is sent at once.
    fn on_notice(&mut self, now: Duration, session: SessionId, notice: Option<Notice>) {
        let at = now + *REPEAT.start();
        let at = self.asked.get(&session).map_or(at, |asked| asked.look_at.min(at));
        self.look_at(session, at);
        let Some(asked) = self.asked.get_mut(&session) else { return };
        asked.wait = *REPEAT.start();
        let room = FRESH_MAX.saturating_sub(asked.fresh.len());
        asked.fresh.extend(notice.into_iter().take(room));
    }

    /// Looks at the session at this time instead of the time planned.
    fn look_at(&mut self, session: SessionId, at: Duration) {
        let new = || Asked { fresh: Vec::new(), look_at: at, wait: *REPEAT.start(), after: None, flight: None };
        let asked = self.asked.entry(session).or_insert_with(new);
        self.schedule.remove(&(asked.look_at, session));
        asked.look_at = at;
        self.schedule.insert((at, session));
    }

    /// Goes through all revokes that the state implies, and plans a look at each session at once.
    fn derive_all(&mut self) {
        self.asked.clear();
        self.schedule.clear();
        self.calls.clear();
        self.deriving = Some(None);
    }

    /// What is new, unless a call to the client is under way: then its end brings us here again.
    fn fresh(&mut self, now: Duration, session: SessionId) -> Option<Call> {
        let asked = self.asked.get_mut(&session)?;
        if asked.fresh.is_empty() || asked.is_in_flight(now) {
            return None;
        }
        let rest = asked.fresh.split_off(asked.fresh.len().min(NOTICES_MAX));
        let notices = std::mem::replace(&mut asked.fresh, rest);
        self.call(now, session, notices)
    }

    fn call(&mut self, now: Duration, session: SessionId, notices: Vec<Notice>) -> Option<Call> {
        let asked = self.asked.get_mut(&session)?;
        if self.mutation.is(Mutant::RevokesOnce) {
            self.schedule.remove(&(asked.look_at, session));
        }
        self.last_call += 1;
        asked.flight = Some((self.last_call, now + CALL_LOST));
        Some(Call { session, number: self.last_call, notices })
    }

    /// A page in full is followed by the next one soon; the last one by the first, after twice the time of the round before.
    fn on_page(&mut self, now: Duration, wanted: &Wanted, notices: Vec<Notice>) {
        let session = wanted.session;
        if notices.is_empty() && wanted.after.is_none() {
            return self.forget(session);
        }
        let Some(asked) = self.asked.get_mut(&session) else { return };
        let in_flight = asked.is_in_flight(now);
        if !in_flight {
            asked.after = notices.last().filter(|_| notices.len() == NOTICES_MAX).and_then(|last| last.name().cloned());
        }
        let mut wait = NEXT_PAGE;
        if in_flight || asked.after.is_none() {
            wait = asked.wait;
            asked.wait = (2 * wait).min(*REPEAT.end());
        }
        self.look_at(session, now + wait);
        if !in_flight && !notices.is_empty() {
            let call = self.call(now, session, notices);
            self.calls.extend(call);
        }
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(asked) = self.asked.remove(&session) {
            self.schedule.remove(&(asked.look_at, session));
        }
    }
}

impl Asked {
    fn is_in_flight(&self, now: Duration) -> bool {
        self.flight.is_some_and(|(_, until)| now < until)
    }
}

/// A page of each session's revokes, at most [`NOTICES_MAX`] of them: for [`Revoker::looked`].
pub fn pages(machine: &Machine, wanted: &[Wanted]) -> Vec<Vec<Notice>> {
    let page = |Wanted { session, after }: &Wanted| match after {
        None => machine.revokes_of(*session, NOTICES_MAX).0,
        Some(last) => {
            let revokes = machine.outstanding_revokes(Some(&(*session, last.clone())), NOTICES_MAX);
            revokes.into_iter().filter(|revoke| revoke.session == *session).map(Notice::from).collect()
        }
    };
    wanted.iter().map(page).collect()
}
