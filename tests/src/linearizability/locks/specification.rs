//! The lock alone: what it answers when nothing else goes on.
//!
//! The rules of tokens follow from the service's: a token is the number of the op that granted. So they rise from grant to
//! grant, and only shared ones that one op granted together are equal. Where users are watched, a session may be served again from
//! a tenure that it kept. That is possible as long as no other session had the lock in a way that excludes it, and then
//! every token of such a one is above.
//!
//! What an unknown acquire may have been granted has a token that nobody knows: it is written 0, and fits any.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lock_protocol::Mode;

use super::operation::{Action, Answer, Operation};
use crate::linearizability::search::Sought;

/// Where a history was taken down; see the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Between the service and the sessions: grants begin tenures, releases end them.
    Service,
    /// Between clients that cache and their users: grants begin guards, releases end them.
    Users,
}

/// A tenure, or what a session's users have in use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    /// 0 where it is not known.
    token: u64,
    exclusive: bool,
    /// Guards; a tenure counts as one.
    guards: u32,
    /// An operator ended it, and the service waits for the holder: others may be kept out for a while, or not.
    forced: bool,
}

/// The lock between two operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    /// By session.
    uses: BTreeMap<u64, Use>,
    /// The greatest token that was granted.
    top: u64,
    /// The greatest of an exclusive grant, and its session.
    exclusive: (u64, u64),
    /// The last token of each session that is not below that one.
    last: BTreeMap<u64, u64>,
    /// Tenures that were ended while their holders did not know it: their guards are no obstacle to anybody.
    voided: BTreeSet<u64>,
    /// Sessions that have ended, of those that might still be granted something.
    ended: BTreeSet<u64>,
}

/// An operation, with what the rest of the history says of it.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    operation: &'a Operation,
    view: View,
    /// Of the end of a session: something that it asked for, or a guard of its users, might come later.
    matters_later: bool,
    /// Of a grant: its tenure may have been ended while the holder did not know it, and then its users' guards are void.
    may_be_void: bool,
}

impl<'a> Placed<'a> {
    pub(super) fn all(operations: Vec<&'a Operation>, view: View) -> Vec<Self> {
        let mut last_return = BTreeMap::new();
        for operation in operations.iter().filter(|operation| operation.action != Action::Expire) {
            let last = last_return.entry(operation.session).or_insert(0);
            *last = operation.returned().unwrap_or(u64::MAX).max(*last);
        }
        let voids = operations.iter().filter_map(|operation| match operation.action {
            Action::ForceRelease { token, now: true } => Some(token),
            _ => None,
        });
        let voids: BTreeSet<u64> = voids.collect();
        let place = |operation: &'a Operation| {
            let last = last_return.get(&operation.session).copied().unwrap_or(0);
            let may_be_void = match &operation.returned {
                Some((_, Answer::Granted { token })) => voids.contains(token),
                _ => false,
            };
            Placed { operation, view, matters_later: operation.called <= last, may_be_void }
        };
        // Whoever of the users is not answered has no guard, so whether its acquire took effect is nothing to anybody.
        let is_idle = |operation: &&Operation| {
            let is_unknown_acquire = matches!(operation.action, Action::Acquire { .. }) && operation.returned.is_none();
            view == View::Users && is_unknown_acquire
        };
        operations.into_iter().filter(|operation| !is_idle(operation)).map(place).collect()
    }
}

impl Placed<'_> {
    /// Whether it can help, of one that may be left out. That a session which has nothing ends, or gives something back, can
    /// explain nothing.
    fn may_change(&self, state: &State) -> bool {
        match self.operation.action {
            Action::Expire | Action::Release { .. } | Action::Downgrade { .. } => {
                state.uses.contains_key(&self.operation.session)
            }
            Action::Acquire { .. } | Action::ForceRelease { .. } => true,
            Action::Inspect => false,
        }
    }
}

impl Operation {
    fn returned(&self) -> Option<u64> {
        self.returned.as_ref().map(|(returned, _)| *returned)
    }
}

impl Sought for Placed<'_> {
    type State = State;

    fn called(&self) -> u64 {
        self.operation.called
    }

    fn returned(&self) -> Option<u64> {
        self.operation.returned()
    }

    fn execute(&self, state: &State) -> Option<State> {
        let Operation { session, action, returned, .. } = self.operation;
        let answer = returned.as_ref().map(|(_, answer)| answer);
        if answer.is_none() && !self.may_change(state) {
            return None;
        }
        let mut after = state.clone();
        let fits = match *action {
            Action::Acquire { mode } => after.acquire(*session, mode, answer, self.view),
            Action::Release { token } => after.release(*session, token, answer, self.view),
            Action::Downgrade { token } => after.downgrade(*session, token, answer),
            Action::Expire => after.expire(*session, self.matters_later),
            Action::ForceRelease { token, now } => after.force_release(token, now, answer, self.view),
            Action::Inspect => after.is_held_by(answer, self.view),
        };
        fits.then_some(after)
    }

    fn is_too_late(&self, state: &State) -> bool {
        match (self.operation.action, &self.operation.returned) {
            (Action::Acquire { mode }, Some((_, Answer::Granted { token }))) => {
                let session = self.operation.session;
                let is_above = self.may_be_void || state.is_above(session, mode, *token, self.view);
                state.ended.contains(&session) || !is_above
            }
            _ => false,
        }
    }

    fn does_as(&self, other: &Self) -> bool {
        (self.operation.session, self.operation.action) == (other.operation.session, other.operation.action)
    }
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation.fmt(f)
    }
}

/// Each changes the state, and says whether the answer, where one is known, is the one that it would give.
impl State {
    fn acquire(&mut self, session: u64, mode: Mode, answer: Option<&Answer>, view: View) -> bool {
        match answer {
            Some(Answer::Granted { token }) => match view {
                View::Service => self.grant_tenure(session, mode, *token),
                View::Users => self.serve_user(session, mode, *token),
            },
            None => self.grant_tenure(session, mode, 0),
            Some(Answer::Busy) => view == View::Users || self.uses.keys().any(|other| *other != session),
            Some(Answer::Withdrawn) => true,
            Some(_) => false,
        }
    }

    fn grant_tenure(&mut self, session: u64, mode: Mode, token: u64) -> bool {
        let exclusive = mode == Mode::Exclusive;
        let holds = self.uses.get(&session).is_some_and(|own| !own.forced);
        let is_late = self.ended.contains(&session) || !self.is_above(session, mode, token, View::Service);
        if is_late || holds || !self.admits(session, exclusive) {
            return false;
        }
        // What was forced is over, now that somebody else has the lock.
        self.uses.retain(|_, other| !other.forced);
        self.uses.insert(session, Use { token, exclusive, guards: 1, forced: false });
        self.note(session, exclusive, token);
        true
    }

    fn serve_user(&mut self, session: u64, mode: Mode, token: u64) -> bool {
        let exclusive = mode == Mode::Exclusive;
        if self.ended.contains(&session) {
            return false;
        }
        if self.voided.contains(&token) {
            return true;
        }
        if !self.is_above(session, mode, token, View::Users) || !self.admits(session, exclusive) {
            return false;
        }
        match self.uses.get_mut(&session) {
            Some(own) if exclusive || own.exclusive || own.token != token => return false,
            Some(own) => own.guards += 1,
            None => {
                self.uses.insert(session, Use { token, exclusive, guards: 1, forced: false });
            }
        }
        self.note(session, exclusive, token);
        true
    }

    /// Whether the token is as far above earlier ones as the rules say. Once it is not, it never will be.
    fn is_above(&self, session: u64, mode: Mode, token: u64, view: View) -> bool {
        let last = self.last.get(&session).copied().unwrap_or(0);
        match (view, mode) {
            (View::Service, _) if token == 0 => true,
            (View::Service, Mode::Exclusive) => token > self.top,
            (View::Service, Mode::Shared) => token >= self.top && token > self.exclusive.0 && token > last,
            (View::Users, _) if self.voided.contains(&token) => true,
            (View::Users, mode) => {
                let others_are_below = token > self.exclusive.0 || (token, session) == self.exclusive;
                let is_alone = || self.last.iter().all(|(other, last)| *other == session || *last < token);
                others_are_below && last <= token && (mode == Mode::Shared || (token >= self.top && is_alone()))
            }
        }
    }

    /// Whether nobody else is in the way.
    fn admits(&self, session: u64, exclusive: bool) -> bool {
        let others = self.uses.iter().filter(|(other, _)| **other != session);
        others.into_iter().all(|(_, other)| other.forced || !(exclusive || other.exclusive))
    }

    fn note(&mut self, session: u64, exclusive: bool, token: u64) {
        if token == 0 {
            return;
        }
        self.top = self.top.max(token);
        self.last.insert(session, token);
        if exclusive {
            self.exclusive = (token, session);
            self.last.retain(|_, last| *last >= token);
        }
    }

    fn release(&mut self, session: u64, token: u64, answer: Option<&Answer>, view: View) -> bool {
        let own = self.uses.get(&session).copied().filter(|own| own.token == token || own.token == 0);
        let Some(own) = own else {
            // A guard is dropped in any case, where its session or tenure has ended too.
            let over = self.ended.contains(&session) || self.voided.contains(&token);
            return match view {
                View::Users => over,
                View::Service => matches!(answer, None | Some(Answer::NotHeld)),
            };
        };
        let told = match answer {
            Some(Answer::NotHeld) => own.forced,
            answer => matches!(answer, None | Some(Answer::Done)),
        };
        if told {
            self.drop_guard(session, own);
        }
        told
    }

    fn drop_guard(&mut self, session: u64, own: Use) {
        if own.guards > 1 {
            self.uses.insert(session, Use { guards: own.guards - 1, ..own });
        } else {
            self.uses.remove(&session);
        }
    }

    fn downgrade(&mut self, session: u64, token: u64, answer: Option<&Answer>) -> bool {
        let own = self.uses.get_mut(&session).filter(|own| !own.forced && (own.token == token || own.token == 0));
        match (own, answer) {
            (Some(own), None | Some(Answer::Done)) => {
                own.exclusive = false;
                true
            }
            (None, None | Some(Answer::NotHeld)) => true,
            _ => false,
        }
    }

    fn expire(&mut self, session: u64, matters_later: bool) -> bool {
        self.uses.remove(&session);
        if matters_later {
            self.ended.insert(session);
        }
        true
    }

    fn force_release(&mut self, token: u64, now: bool, answer: Option<&Answer>, view: View) -> bool {
        let is_meant = |held: &Use| !held.forced && (held.token == token || held.token == 0);
        let is_held = self.uses.values().any(is_meant);
        let does = match (answer, view) {
            (None, _) => true,
            (Some(Answer::Done), View::Service) => is_held,
            (Some(Answer::NotHeld), View::Service) => {
                !self.uses.values().any(|held| !held.forced && held.token == token)
            }
            // The session may have kept the tenure without a user, and whoever uses it holds it.
            (Some(Answer::Done), View::Users) => true,
            (Some(Answer::NotHeld), View::Users) => !is_held,
            _ => false,
        };
        if !does || answer == Some(&Answer::NotHeld) {
            return does;
        }
        match (view, now) {
            (View::Users, true) => {
                self.voided.insert(token);
                self.uses.retain(|_, held| held.token != token);
            }
            // The holder is told first, and then its guards are not valid: nothing changes before.
            (View::Users, false) => {}
            (View::Service, true) => self.uses.retain(|_, held| !is_meant(held)),
            (View::Service, false) => {
                self.uses.values_mut().filter(|held| is_meant(held)).for_each(|held| held.forced = true)
            }
        }
        true
    }

    /// Whether these are the holders; the sessions' caches, too, where only users are watched.
    fn is_held_by(&self, answer: Option<&Answer>, view: View) -> bool {
        let Some(Answer::Holders(listed)) = answer else { return answer.is_none() };
        let is_listed = |session: &u64, held: &Use| {
            listed.iter().any(|(other, token, mode)| {
                let is_it = other == session && (held.token == *token || held.token == 0);
                is_it && (!held.exclusive || *mode == Mode::Exclusive)
            })
        };
        let is_held = |(session, token, mode): &(u64, u64, Mode)| {
            self.uses.get(session).is_some_and(|held| {
                (held.token == *token || held.token == 0) && held.exclusive == (*mode == Mode::Exclusive)
            })
        };
        self.uses.iter().all(|(session, held)| held.forced || is_listed(session, held))
            && (view == View::Users || listed.iter().all(is_held))
    }
}
