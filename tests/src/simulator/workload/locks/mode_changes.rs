//! A user that has a lock goes on with it in another mode: what was exclusive shared, what was shared exclusively, if that can be had.

use lock_client::cores::Upgrade;
use lock_protocol::Mode;

use super::LockEvent;
use super::users::{Stage, UserState};
use crate::simulator::invariants::Violation;
use crate::simulator::world::{Event, World};

impl World {
    /// Whether it does so now, dead guard or not.
    pub(super) fn user_changes_mode(&mut self, client: usize, user: usize) -> Result<bool, Violation> {
        let chance = self.plan.locks.others.changes_mode;
        if chance == 0 || self.locks.probing || !self.lock_dice.chance(chance) {
            return Ok(false);
        }
        let UserState::Has { grant, .. } = &self.locks.clients[client].users[user].state else { return Ok(false) };
        match grant.mode {
            Mode::Exclusive => {
                self.user_downgrades(client, user);
                Ok(true)
            }
            Mode::Shared => self.user_upgrades(client, user),
        }
    }

    fn user_downgrades(&mut self, client: usize, user: usize) {
        let hold = self.lock_dice.spread((self.plan.locks.hold_us.0.max(1), self.plan.locks.hold_us.1));
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let UserState::Has { name, mut grant, is_dead, .. } = std::mem::take(&mut it.users[user].state) else { return };
        if let Some(opened) = it.opened_mut() {
            grant = opened.session.downgrade(clocks, &name, grant);
        }
        it.users[user].state = UserState::Has { name, grant, read: None, stage: Stage::Holds, is_dead };
        self.invariants.counters.hit("guards downgraded");
        self.user_later(client, user, hold);
    }

    fn user_upgrades(&mut self, client: usize, user: usize) -> Result<bool, Violation> {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let (clocks, run) = (it.clock.read(now), it.run);
        it.users[user].attempt += 1;
        let attempt = it.users[user].attempt;
        let UserState::Has { name, grant, .. } = &it.users[user].state else { return Ok(false) };
        let (name, grant) = (name.clone(), *grant);
        let Some(opened) = it.opened_mut() else { return Ok(false) };
        match opened.session.upgrade(clocks, &name, grant, (user, attempt)) {
            Upgrade::Refused => {
                self.invariants.counters.hit("upgrades refused by the cache");
                return Ok(false);
            }
            Upgrade::Had(grant) => {
                self.invariants.counters.hit("upgrades had from the cache");
                self.user_has(client, user, name, grant)?;
            }
            Upgrade::Waits(waiter) => {
                it.users[user].state = UserState::Waits { name, waiter: Some(waiter) };
                if self.lock_dice.chance(self.plan.locks.gives_up) {
                    let patience = self.lock_dice.spread(self.plan.locks.patience_us);
                    self.schedule(patience, Event::Lock(LockEvent::GiveUp { client, run, user, attempt }));
                }
            }
        }
        Ok(true)
    }
}
