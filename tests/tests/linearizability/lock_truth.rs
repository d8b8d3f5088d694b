//! A lock that is right by construction, with clients that come, wait, die and forget: the histories that they leave are right.

use std::collections::BTreeMap;

use lock_client::Mode;
use plumeria_tests::linearizability::locks::{Action, Answer, History, Operation, View};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

const CLIENTS: usize = 4;

pub(super) fn below(chance: &mut Pcg64Mcg, bound: u64) -> u64 {
    chance.next_u64() % bound
}

/// What a user is at.
#[derive(Clone, Debug)]
enum User {
    Idle,
    Calls { action: Action, called: u64, answer: Option<Answer> },
    Holds { token: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Guard {
    session: u64,
    token: u64,
    mode: Mode,
}

/// One lock, and all that goes on around it.
#[derive(Debug)]
pub(super) struct Truth {
    view: View,
    chance: Pcg64Mcg,
    now: u64,
    rare: u64,
    /// The service's; those of sessions whose clients are dead, too.
    tenures: BTreeMap<u64, (u64, Mode)>,
    /// In use; in the service's view one for each tenure.
    guards: Vec<Guard>,
    last_token: u64,
    /// The sessions that have it.
    granted_last: Vec<u64>,
    /// The last op was a shared grant: another may be of the same op.
    shared_grant: bool,
    next_session: u64,
    /// Each with its session.
    users: Vec<(u64, User)>,
    /// Unanswered calls that may take effect yet.
    late: Vec<(u64, Action)>,
    /// Sessions whose clients are dead, and since when.
    dying: Vec<(u64, u64)>,
    pub(super) operations: Vec<Operation>,
    pub(super) ends: Vec<(u64, u64, Option<u64>)>,
}

impl Truth {
    /// Lets clients do so many steps, then stops them where they are. In one of sixty times `rare` steps a client dies.
    pub(super) fn run(seed: u64, view: View, steps: u64, rare: u64) -> Truth {
        let users_of_each = if view == View::Users { 2 } else { 1 };
        let users = (0..CLIENTS * users_of_each).map(|user| (1 + (user / users_of_each) as u64, User::Idle));
        let mut truth = Truth {
            view,
            chance: Pcg64Mcg::seed_from_u64(seed),
            now: 0,
            rare,
            tenures: BTreeMap::new(),
            guards: Vec::new(),
            last_token: 0,
            granted_last: Vec::new(),
            shared_grant: false,
            next_session: 1 + CLIENTS as u64,
            users: users.collect(),
            late: Vec::new(),
            dying: Vec::new(),
            operations: Vec::new(),
            ends: Vec::new(),
        };
        for now in 0..steps {
            truth.now = now;
            truth.step();
        }
        truth.stop();
        truth
    }

    pub(super) fn history(&self) -> History {
        let mut history = History::default();
        self.operations.iter().for_each(|operation| history.add("a", operation.clone()));
        self.ends.iter().for_each(|(session, called, returned)| history.add_end(*session, *called, *returned));
        history
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.chance, bound)
    }

    fn step(&mut self) {
        match self.below(60) {
            0 if self.below(self.rare) == 0 => self.client_dies(),
            1 | 2 => self.session_ends(),
            3 => self.late_call_takes_effect(),
            4 => self.operator_acts(),
            5 if self.view == View::Users => self.guard_lapses(),
            _ => self.user_acts(),
        }
    }

    fn user_acts(&mut self) {
        let at = self.below(self.users.len() as u64) as usize;
        let (session, user) = self.users[at].clone();
        self.users[at].1 = match user {
            User::Idle => {
                let mode = if self.below(3) == 0 { Mode::Shared } else { Mode::Exclusive };
                User::Calls { action: Action::Acquire { mode }, called: self.now, answer: None }
            }
            User::Holds { token } => {
                let downgrades = self.view == View::Service && self.below(8) == 0;
                let action = if downgrades { Action::Downgrade { token } } else { Action::Release { token } };
                User::Calls { action, called: self.now, answer: None }
            }
            User::Calls { action, called, answer: None } => {
                let answer = self.take_effect(session, action);
                User::Calls { action, called, answer }
            }
            User::Calls { action, called, answer: Some(answer) } => {
                let returned = Some((self.now, answer.clone()));
                self.operations.push(Operation { session, action, called, returned });
                match (action, answer) {
                    (Action::Acquire { .. }, Answer::Granted { token }) => User::Holds { token },
                    (Action::Downgrade { token }, Answer::Done) => User::Holds { token },
                    _ => User::Idle,
                }
            }
        };
    }

    fn take_effect(&mut self, session: u64, action: Action) -> Option<Answer> {
        match action {
            Action::Acquire { mode } => match self.take(session, mode) {
                Some(token) => Some(Answer::Granted { token }),
                None if self.below(4) > 0 => None,
                None if self.below(2) == 0 => Some(Answer::Withdrawn),
                None => self.tenures.keys().any(|other| *other != session).then_some(Answer::Busy),
            },
            Action::Release { token } => {
                self.shared_grant = false;
                let at = self.guards.iter().position(|guard| (guard.session, guard.token) == (session, token));
                if let Some(at) = at {
                    self.guards.remove(at);
                }
                if self.view == View::Users {
                    return Some(Answer::Done);
                }
                let held = self.tenures.remove(&session).is_some();
                Some(if held { Answer::Done } else { Answer::NotHeld })
            }
            Action::Downgrade { .. } => {
                self.shared_grant = false;
                let Some(tenure) = self.tenures.get_mut(&session) else { return Some(Answer::NotHeld) };
                tenure.1 = Mode::Shared;
                self.guards
                    .iter_mut()
                    .filter(|guard| guard.session == session)
                    .for_each(|guard| guard.mode = Mode::Shared);
                Some(Answer::Done)
            }
            _ => None,
        }
    }

    /// The token, if the lock can be had now: from the session's own tenure, or from a new one, for which idle tenures of
    /// others are taken back.
    fn take(&mut self, session: u64, mode: Mode) -> Option<u64> {
        let excludes = |guard: &Guard| !guard.mode.is_compatible_with(mode);
        if self.guards.iter().any(excludes) {
            return None;
        }
        let own = self.tenures.get(&session).copied();
        let token = match own {
            Some((token, held)) if self.view == View::Users && held.covers(mode) => token,
            Some(_) if self.view == View::Service || self.guards.iter().any(|guard| guard.session == session) => {
                return None;
            }
            _ => {
                let others_stay =
                    |other: &u64, held: &mut (u64, Mode)| *other == session || held.1.is_compatible_with(mode);
                if self.view == View::Users {
                    let in_use: Vec<u64> = self.guards.iter().map(|guard| guard.session).collect();
                    let kept = self
                        .tenures
                        .iter()
                        .any(|(other, held)| !others_stay(other, &mut held.clone()) && in_use.contains(other));
                    if kept {
                        return None;
                    }
                    self.tenures.retain(others_stay);
                }
                self.new_token(session, mode)
            }
        };
        self.tenures
            .entry(session)
            .and_modify(|held| {
                if held.0 != token {
                    *held = (token, mode)
                }
            })
            .or_insert((token, mode));
        self.guards.push(Guard { session, token, mode });
        Some(token)
    }

    fn new_token(&mut self, session: u64, mode: Mode) -> u64 {
        let of_same_op = mode == Mode::Shared && self.shared_grant && !self.granted_last.contains(&session);
        if !of_same_op {
            self.last_token += 1 + self.below(2);
            self.granted_last.clear();
        }
        self.shared_grant = mode == Mode::Shared;
        self.granted_last.push(session);
        self.last_token
    }

    /// Its users are never heard of again, its calls may take effect, its locks are kept until the session ends.
    fn client_dies(&mut self) {
        let user = self.below(self.users.len() as u64) as usize;
        let session = self.users[user].0;
        let (new, now) = (self.next_session, self.now);
        self.next_session += 1;
        for at in 0..self.users.len() {
            if self.users[at].0 == session {
                let (_, user) = std::mem::replace(&mut self.users[at], (new, User::Idle));
                self.forget(session, user);
            }
        }
        self.dying.push((session, now));
    }

    fn forget(&mut self, session: u64, user: User) {
        if let User::Calls { action, called, answer } = user {
            self.operations.push(Operation { session, action, called, returned: None });
            if answer.is_none() {
                self.late.push((session, action));
            }
        }
    }

    fn session_ends(&mut self) {
        if self.dying.is_empty() {
            return;
        }
        let at = self.below(self.dying.len() as u64) as usize;
        let (session, since) = self.dying.swap_remove(at);
        self.tenures.remove(&session);
        self.guards.retain(|guard| guard.session != session);
        self.late.retain(|(other, _)| *other != session);
        self.shared_grant = false;
        let returned = (self.below(2) == 0).then_some(self.now);
        self.ends.push((session, since, returned));
    }

    fn late_call_takes_effect(&mut self) {
        if !self.late.is_empty() {
            let at = self.below(self.late.len() as u64) as usize;
            let (session, action) = self.late.swap_remove(at);
            self.take_effect(session, action);
        }
    }

    /// At one moment: what an operator does is seldom.
    fn operator_acts(&mut self) {
        let tokens: Vec<u64> = self.tenures.values().map(|(token, _)| *token).collect();
        let (action, answer) = match self.below(3) {
            0 if !tokens.is_empty() && self.below(self.rare) == 0 => {
                let token = tokens[self.below(tokens.len() as u64) as usize];
                let now = self.below(2) == 0;
                let in_use = self.guards.iter().any(|guard| guard.token == token);
                if self.view == View::Users && !now && in_use {
                    return;
                }
                self.tenures.retain(|_, held| held.0 != token);
                self.guards.retain(|guard| guard.token != token);
                self.shared_grant = false;
                (Action::ForceRelease { token, now }, Answer::Done)
            }
            1 => (Action::ForceRelease { token: self.last_token + 9, now: false }, Answer::NotHeld),
            _ => {
                let holders = self.tenures.iter().map(|(session, (token, mode))| (*session, *token, *mode));
                (Action::Inspect, Answer::Holders(holders.collect()))
            }
        };
        let returned = Some((self.now, answer));
        self.operations.push(Operation { session: 0, action, called: self.now, returned });
    }

    /// A guard becomes invalid now, though its session lives on; its user notices later.
    fn guard_lapses(&mut self) {
        let at = self.below(self.users.len() as u64) as usize;
        if let (session, User::Holds { token }) = self.users[at].clone() {
            let action = Action::Release { token };
            let answer = self.take_effect(session, action);
            self.users[at].1 = User::Calls { action, called: self.now, answer };
        }
    }

    fn stop(&mut self) {
        for (session, user) in std::mem::take(&mut self.users) {
            self.forget(session, user);
        }
        let dying = std::mem::take(&mut self.dying);
        self.ends.extend(dying.into_iter().map(|(session, since)| (session, since, None)));
    }
}
