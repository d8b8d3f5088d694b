//! Users who want several locks at once: all of them, or none.
//!
//! As the client's own shell does it: a user who is told that its set is of no use any more, or who finds one of its guards dead when it
//! has all, lets go what it has, and asks for the same set anew.

use lock_client::cores::{Grant, Stage, WaiterId};
use lock_protocol::{LockName, LockSet};

use super::LockEvent;
use super::users::{UserState, Waiter};
use super::wishes::draw_set;
use crate::simulator::invariants::{Check, Violation};
use crate::simulator::world::{Event, World};

/// Before a user whose set was refused wants something else, µs.
const REFUSED_PAUSE_US: u64 = 10_000;

/// What a user wants or has of several locks.
#[derive(Debug)]
pub(crate) struct Several {
    set: LockSet,
    /// In the order of names.
    pub(crate) parts: Vec<Part>,
    ends: Option<End>,
}

/// One of the locks.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: LockName,
    pub(crate) standing: Standing,
}

/// How far one of the locks is.
#[derive(Debug)]
pub(crate) enum Standing {
    Waits(WaiterId),
    Has {
        grant: Grant,
        /// It was not valid once.
        is_dead: bool,
    },
    /// Its waiter was told that it will not have it.
    Ended,
}

/// Why a set is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is asked for anew.
    Dissolved,
    Refused,
}

impl Several {
    /// Whether it has not got all of them yet.
    pub(crate) fn waits(&self) -> bool {
        !self.parts.iter().all(|part| matches!(part.standing, Standing::Has { .. }))
    }
}

impl World {
    fn several(&mut self, client: usize, (user, attempt): Waiter) -> Option<&mut Several> {
        let user = self.locks.clients[client].users.get_mut(user).filter(|user| user.attempt == attempt)?;
        if let UserState::Several(several) = &mut user.state { Some(several) } else { None }
    }

    /// What it wants next, where that is a set.
    pub(super) fn draw_several(&mut self) -> Option<LockSet> {
        let is_set = !self.locks.probing && self.wish_dice.chance(self.plan.locks.wishes.sets);
        is_set.then(|| draw_set(&mut self.wish_dice, &self.locks.names))
    }

    pub(super) fn user_wants_several(&mut self, client: usize, user: usize, set: LockSet) -> Check {
        let it = &mut self.locks.clients[client];
        if it.opened().is_none() {
            return Ok(());
        }
        it.users[user].attempt += 1;
        let (attempt, run) = (it.users[user].attempt, it.run);
        self.ask_for_several(client, user, set);
        if self.wish_dice.chance(self.plan.locks.gives_up) {
            let patience = self.wish_dice.spread(self.plan.locks.patience_us);
            self.schedule(patience, Event::Lock(LockEvent::GiveUp { client, run, user, attempt }));
        }
        self.client_goes_on(client)
    }

    fn ask_for_several(&mut self, client: usize, user: usize, set: LockSet) {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let (attempt, clocks) = (it.users[user].attempt, it.clock.read(now));
        let Some(opened) = it.opened_mut() else { return };
        match opened.session.acquire_all(clocks, &set, |_| (user, attempt)) {
            Ok(waiters) => {
                let part = |((name, _), waiter): ((&LockName, _), _)| Part {
                    name: name.clone(),
                    standing: Standing::Waits(waiter),
                };
                let parts = set.iter().zip(waiters).map(part).collect();
                it.users[user].state = UserState::Several(Several { set, parts, ends: None });
            }
            Err(_) => self.user_later(client, user, REFUSED_PAUSE_US),
        }
    }

    /// The session serves one of the locks of a set; false where the user wants no set.
    pub(super) fn on_part_served(
        &mut self,
        client: usize,
        waiter: Waiter,
        name: &LockName,
        grant: Grant,
    ) -> Result<bool, Violation> {
        let Some(several) = self.several(client, waiter) else { return Ok(false) };
        let Some(part) = several.parts.iter_mut().find(|part| part.name == *name) else { return Ok(false) };
        if !matches!(part.standing, Standing::Waits(_)) {
            return Ok(false);
        }
        part.standing = Standing::Has { grant, is_dead: false };
        let other = several.parts.iter().find_map(|part| match part.standing {
            Standing::Has { grant: other, .. } if other.token != grant.token => Some(other),
            _ => None,
        });
        if let Some(other) = other {
            let detail = format!("{name} of {waiter:?} of client {client}: {grant:?} beside {other:?}");
            return Err(Violation::new("all locks of a set are granted by one op", detail));
        }
        let waits = several.waits();
        self.guard_begins(client, name, grant)?;
        if !waits {
            self.user_has_several(client, waiter);
        }
        Ok(true)
    }

    /// It looks at its guards, and uses them for a while.
    fn user_has_several(&mut self, client: usize, waiter: Waiter) {
        let hold = self.wish_dice.spread((self.plan.locks.hold_us.0.max(1), self.plan.locks.hold_us.1));
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let (state, users) = (&it.state, &mut it.users);
        let (Some(opened), UserState::Several(several)) = (state.opened(), &mut users[waiter.0].state) else { return };
        let is_valid = |part: &Part| match part.standing {
            Standing::Has { grant, .. } => !opened.session.valid_for(&part.name, grant, clocks).is_zero(),
            _ => false,
        };
        if several.parts.iter().all(is_valid) {
            self.invariants.counters.hit("sets held");
            self.user_later(client, waiter.0, hold);
        } else {
            several.ends = Some(End::Dissolved);
            self.invariants.counters.hit("sets of which a guard was dead when all were there");
        }
    }

    /// One of the locks came to another end: so does the set, when all is known that this step brought.
    pub(super) fn on_part_ended(&mut self, client: usize, waiter: Waiter, name: &LockName, is_refused: bool) -> bool {
        let Some(several) = self.several(client, waiter) else { return false };
        if let Some(part) = several.parts.iter_mut().find(|part| part.name == *name) {
            part.standing = Standing::Ended;
        }
        let end = if is_refused { End::Refused } else { End::Dissolved };
        several.ends = Some(several.ends.filter(|end| *end == End::Refused).unwrap_or(end));
        true
    }

    /// Lets go every set that came to its end, and asks anew where it dissolved; false where there was none.
    pub(super) fn settle_sets(&mut self, client: usize) -> Result<bool, Violation> {
        let mut settled = false;
        for user in 0..self.locks.clients[client].users.len() {
            let UserState::Several(several) = &self.locks.clients[client].users[user].state else { continue };
            let Some(end) = several.ends else { continue };
            let set = several.set.clone();
            settled = true;
            self.let_go(client, user)?;
            let is_open = self.locks.clients[client].opened().is_some_and(|it| it.session.stage() == Stage::Open);
            if end == End::Dissolved && is_open {
                self.invariants.counters.hit("sets dissolved");
                self.ask_for_several(client, user, set);
            } else {
                self.rest(client, user, REFUSED_PAUSE_US);
            }
        }
        Ok(settled)
    }

    /// The user is done with its set.
    pub(super) fn user_ends_several(&mut self, client: usize, user: usize) -> Check {
        self.let_go(client, user)?;
        self.rest(client, user, 0);
        self.client_goes_on(client)
    }

    /// It waits no longer.
    pub(super) fn several_given_up(&mut self, client: usize, user: usize) -> Check {
        self.invariants.counters.hit("sets given up");
        self.user_ends_several(client, user)
    }

    fn rest(&mut self, client: usize, user: usize, pause: u64) {
        self.locks.clients[client].users[user].attempt += 1;
        let wait = self.wish_dice.between(self.plan.locks.think_us);
        self.user_later(client, user, wait + pause);
    }

    fn let_go(&mut self, client: usize, user: usize) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let UserState::Several(several) = std::mem::take(&mut it.users[user].state) else { return Ok(()) };
        let Some(opened) = it.opened_mut() else { return Ok(()) };
        for Part { name, standing } in several.parts {
            match standing {
                Standing::Has { grant, .. } => opened.session.end_guard(clocks, &name, grant),
                Standing::Waits(waiter) => {
                    if !opened.session.leave(clocks, &name, waiter) {
                        let detail = format!("user {user} of client {client}: {name}");
                        return Err(Violation::new("who waits for a lock can leave", detail));
                    }
                }
                Standing::Ended => {}
            }
        }
        Ok(())
    }
}
