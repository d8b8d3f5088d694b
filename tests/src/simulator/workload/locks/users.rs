//! Local users: each wants one lock at a time, or a set of them (`sets.rs`), waits, uses it, and gives it back.

use lock_client::cores::{Acquired, Grant, WaiterId};
use lock_protocol::{LockName, Mode};

use super::sets::{Several, Standing};
use super::vault::Ask;
use super::{ClientRun, LockEvent};
use crate::simulator::invariants::{Check, Violation};
use crate::simulator::world::{Event, World};

/// By what a session knows a waiter: the user, and its attempt.
pub(crate) type Waiter = (usize, u64);

/// A local user.
#[derive(Debug, Default)]
pub(crate) struct User {
    pub(crate) attempt: u64,
    pub(crate) state: UserState,
}

/// What it is doing.
#[derive(Debug, Default)]
pub(crate) enum UserState {
    #[default]
    Idle,
    Waits {
        name: LockName,
        /// None while the session is being asked.
        waiter: Option<WaiterId>,
    },
    Has {
        name: LockName,
        grant: Grant,
        /// What it read under the lock.
        read: Option<u64>,
        stage: Stage,
        /// It was not valid once.
        is_dead: bool,
    },
    Several(Several),
}

impl User {
    /// What it has, and whether it was dead once.
    pub(crate) fn guards_mut(&mut self) -> impl Iterator<Item = (&LockName, Grant, &mut bool)> {
        let (one, several) = match &mut self.state {
            UserState::Has { name, grant, is_dead, .. } => (Some((&*name, *grant, is_dead)), None),
            UserState::Several(several) => (None, Some(several)),
            UserState::Idle | UserState::Waits { .. } => (None, None),
        };
        let parts = several.into_iter().flat_map(|several| &mut several.parts);
        let parts = parts.filter_map(|part| match &mut part.standing {
            Standing::Has { grant, is_dead } => Some((&part.name, *grant, is_dead)),
            _ => None,
        });
        one.into_iter().chain(parts)
    }

    /// What it has.
    pub(crate) fn guards(&self) -> impl Iterator<Item = (&LockName, Grant)> {
        let (one, several) = match &self.state {
            UserState::Has { name, grant, .. } => (Some((name, *grant)), None),
            UserState::Several(several) => (None, Some(several)),
            UserState::Idle | UserState::Waits { .. } => (None, None),
        };
        let parts = several.into_iter().flat_map(|several| &several.parts);
        let parts = parts.filter_map(|part| match part.standing {
            Standing::Has { grant, .. } => Some((&part.name, grant)),
            _ => None,
        });
        one.into_iter().chain(parts)
    }

    pub(crate) fn waits(&self) -> bool {
        match &self.state {
            UserState::Waits { .. } => true,
            UserState::Several(several) => several.waits(),
            UserState::Idle | UserState::Has { .. } => false,
        }
    }
}

/// How far its use of the lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Begins,
    Reads,
    Holds,
    Writes,
}

impl World {
    fn user(&mut self, client: usize, run: ClientRun, user: usize, attempt: u64) -> Option<&mut User> {
        let it = &mut self.locks.clients[client];
        let known = it.run == run;
        it.users.get_mut(user).filter(|user| known && user.attempt == attempt)
    }

    pub(super) fn user_later(&mut self, client: usize, user: usize, wait: u64) {
        let it = &self.locks.clients[client];
        let (run, attempt) = (it.run, it.users[user].attempt);
        self.schedule(wait, Event::Lock(LockEvent::User { client, run, user, attempt }));
    }

    pub(crate) fn on_user(&mut self, client: usize, run: ClientRun, user: usize, attempt: u64) -> Check {
        let Some(it) = self.user(client, run, user, attempt) else { return Ok(()) };
        match &it.state {
            UserState::Idle => self.user_wants(client, user),
            UserState::Waits { .. } => Ok(()),
            UserState::Several(several) if several.waits() => Ok(()),
            UserState::Several(_) => self.user_ends_several(client, user),
            UserState::Has { stage, .. } => match stage {
                Stage::Begins => {
                    self.user_begins(client, user);
                    Ok(())
                }
                Stage::Holds => self.user_acts(client, user),
                Stage::Reads | Stage::Writes => Ok(()),
            },
        }
    }

    /// What it wants next; none if it rests.
    fn draw_wish(&mut self, client: usize, user: usize) -> Option<(LockName, Mode)> {
        if self.locks.probing {
            let probed = self.locks.clients[client].probed;
            return self.locks.names.get(probed).filter(|_| user == 0).map(|name| (name.clone(), Mode::Exclusive));
        }
        let name = self.dice.pick(&self.locks.names).clone();
        let mode = if self.dice.chance(self.plan.locks.shared) { Mode::Shared } else { Mode::Exclusive };
        Some((name, mode))
    }

    fn user_wants(&mut self, client: usize, user: usize) -> Check {
        if let Some(set) = self.draw_several() {
            return self.user_wants_several(client, user, set);
        }
        let Some((name, mode)) = self.draw_wish(client, user) else { return Ok(()) };
        let (now, probing) = (self.now, self.locks.probing);
        let it = &mut self.locks.clients[client];
        if it.opened().is_none() {
            return Ok(());
        }
        it.users[user].attempt += 1;
        let (attempt, run, clocks) = (it.users[user].attempt, it.run, it.clock.read(now));
        it.users[user].state = UserState::Waits { name: name.clone(), waiter: None };
        let Some(opened) = it.opened_mut() else { return Ok(()) };
        match opened.session.acquire(clocks, &name, mode, (user, attempt)) {
            Ok(Acquired::Had(grant)) => {
                self.invariants.counters.hit("locks had from the cache");
                self.user_has(client, user, name, grant)?;
            }
            Ok(Acquired::Waits(id)) => {
                if let UserState::Waits { waiter, .. } = &mut it.users[user].state {
                    *waiter = Some(id);
                }
                if !probing && self.dice.chance(self.plan.locks.gives_up) {
                    let patience = self.dice.spread(self.plan.locks.patience_us);
                    self.schedule(patience, Event::Lock(LockEvent::GiveUp { client, run, user, attempt }));
                }
            }
            Err(_) => {
                it.users[user].state = UserState::Idle;
                self.user_later(client, user, 100_000);
            }
        }
        self.client_goes_on(client)
    }

    pub(crate) fn on_give_up(&mut self, client: usize, run: ClientRun, user: usize, attempt: u64) -> Check {
        let now = self.now;
        let Some(it) = self.user(client, run, user, attempt).filter(|user| user.waits()) else { return Ok(()) };
        if let UserState::Several(_) = it.state {
            return self.several_given_up(client, user);
        }
        let UserState::Waits { name, waiter: Some(waiter) } = &it.state else { return Ok(()) };
        let (name, waiter) = (name.clone(), *waiter);
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let Some(opened) = it.opened_mut() else { return Ok(()) };
        if opened.session.leave(clocks, &name, waiter) {
            it.users[user].state = UserState::Idle;
            it.users[user].attempt += 1;
            self.invariants.counters.hit("acquires given up");
            let wait = self.dice.between(self.plan.locks.think_us);
            self.user_later(client, user, wait);
        }
        self.client_goes_on(client)
    }

    /// The session serves a waiter.
    pub(crate) fn on_served(&mut self, client: usize, (user, attempt): Waiter, name: LockName, grant: Grant) -> Check {
        if self.on_part_served(client, (user, attempt), &name, grant)? {
            return Ok(());
        }
        let it = &self.locks.clients[client];
        let waits = it.users.get(user).is_some_and(|it| {
            it.attempt == attempt && matches!(&it.state, UserState::Waits { name: wanted, .. } if *wanted == name)
        });
        if !waits {
            let detail =
                format!("user {user} of client {client} has {name} ({grant:?}), and had given up attempt {attempt}");
            return Err(Violation::new("a cancelled waiter is never granted", detail));
        }
        self.user_has(client, user, name, grant)
    }

    pub(crate) fn on_refused(&mut self, client: usize, (user, attempt): Waiter, name: &LockName) {
        if self.on_part_ended(client, (user, attempt), name, true) {
            return;
        }
        let it = &mut self.locks.clients[client];
        if let Some(waiting) = it.users.get_mut(user).filter(|user| user.attempt == attempt) {
            waiting.state = UserState::Idle;
            let wait = self.dice.between(self.plan.locks.think_us) + 10_000;
            self.user_later(client, user, wait);
        }
    }

    pub(super) fn user_has(&mut self, client: usize, user: usize, name: LockName, grant: Grant) -> Check {
        let it = &mut self.locks.clients[client];
        it.users[user].state =
            UserState::Has { name: name.clone(), grant, read: None, stage: Stage::Begins, is_dead: false };
        self.user_later(client, user, 0);
        self.guard_begins(client, &name, grant)
    }

    pub(super) fn guard_begins(&mut self, client: usize, name: &LockName, grant: Grant) -> Check {
        if let Some(opened) = self.locks.clients[client].opened_mut() {
            opened.conduct.served(name, grant)?;
        }
        self.invariants.counters.hit("guards");
        self.check_guards(name)
    }

    /// The user runs: what the lock guards is read, where it is used.
    fn user_begins(&mut self, client: usize, user: usize) {
        let uses = self.dice.chance(self.plan.locks.uses_vault);
        let hold = self.dice.spread((self.plan.locks.hold_us.0.max(1), self.plan.locks.hold_us.1));
        let it = &mut self.locks.clients[client];
        let Some(session) = it.session() else { return };
        let (run, attempt) = (it.run, it.users[user].attempt);
        let UserState::Has { name, grant, stage, .. } = &mut it.users[user].state else { return };
        if uses && grant.mode == Mode::Exclusive {
            *stage = Stage::Reads;
            let ask = Ask { client, run, user, attempt, name: name.clone(), session, token: grant.token, write: None };
            self.ask_vault(ask);
        } else {
            *stage = Stage::Holds;
            self.user_later(client, user, hold);
        }
    }

    pub(crate) fn on_vault_answer(&mut self, ask: &Ask, value: Option<u64>) {
        let hold = self.dice.spread((self.plan.locks.hold_us.0.max(1), self.plan.locks.hold_us.1));
        let Some(it) = self.user(ask.client, ask.run, ask.user, ask.attempt) else { return };
        let UserState::Has { stage, read, .. } = &mut it.state else { return };
        (*stage, *read) = match (*stage, value) {
            (Stage::Reads, Some(value)) => (Stage::Holds, Some(value)),
            _ => (Stage::Holds, None),
        };
        let wait = if read.is_some() { hold } else { 0 };
        self.user_later(ask.client, ask.user, wait);
    }

    /// It looks at its guard, and acts or leaves.
    fn user_acts(&mut self, client: usize, user: usize) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let (run, attempt, clocks) = (it.run, it.users[user].attempt, it.clock.read(now));
        let Some(session) = it.session() else { return Ok(()) };
        let Some(opened) = it.opened() else { return Ok(()) };
        let UserState::Has { name, grant, .. } = &it.users[user].state else { return Ok(()) };
        let (grant, valid) = (*grant, !opened.session.valid_for(name, *grant, clocks).is_zero());
        let UserState::Has { name, read, stage, .. } = &mut it.users[user].state else { return Ok(()) };
        let name = name.clone();
        if let Some(value) = read.take().filter(|_| valid) {
            *stage = Stage::Writes;
            let write = Some(value + 1);
            self.ask_vault(Ask { client, run, user, attempt, name, session, token: grant.token, write });
            return Ok(());
        }
        if !valid {
            self.invariants.counters.hit("guards found dead by their users");
        }
        if self.user_changes_mode(client, user)? {
            return self.client_goes_on(client);
        }
        let it = &mut self.locks.clients[client];
        it.users[user].state = UserState::Idle;
        it.users[user].attempt += 1;
        if self.locks.probing && user == 0 && grant.mode == Mode::Exclusive && valid {
            let is_next = self.locks.names.get(it.probed) == Some(&name);
            it.probed += usize::from(is_next);
        }
        if let Some(opened) = it.opened_mut() {
            opened.session.end_guard(clocks, &name, grant);
        }
        let wait = self.dice.between(self.plan.locks.think_us);
        self.user_later(client, user, wait);
        self.client_goes_on(client)
    }
}
