//! The end of a run: all who waited have their lock, every lock can be had again, the dead are forgotten, and then everybody
//! leaves in order.

use super::LockEvent;
use super::client::State;
use crate::simulator::invariants::{Check, Violation};
use crate::simulator::world::{Event, World};

/// Within this time of the last fault, µs: many users, one after the other, each with a flush.
const REST_BOUND_US: u64 = 90_000_000;

impl World {
    /// Clients' links and processes are whole again.
    pub(crate) fn make_clients_safe(&mut self) {
        self.locks.lines.calm = true;
        for client in 0..self.locks.clients.len() {
            self.heal_lines(client);
            let now = self.now;
            let it = &mut self.locks.clients[client];
            it.paused_until = 0;
            it.clock.go_on(now);
        }
    }

    fn expect_rest(&mut self, what: &'static str, done: impl Fn(&World) -> bool) -> Check {
        if self.run_until(self.now + REST_BOUND_US, done)? {
            return Ok(());
        }
        let (members, clients, kept) = (self.describe(), self.describe_clients(), &self.invariants.locks.kept);
        Err(Violation::new(what, format!("{members}{clients}\n  {kept:?}")))
    }

    /// Everything that waits comes to its end.
    pub(crate) fn locks_come_to_rest(&mut self) -> Check {
        let waiting: Vec<_> = self.waiting_users().collect();
        self.expect_rest("all who waited have their lock", |world| {
            let still: Vec<_> = world.waiting_users().collect();
            !waiting.iter().any(|waiter| still.contains(waiter))
        })?;
        self.locks.probing = true;
        for client in 0..self.locks.clients.len() {
            let wait = self.dice.below(10_000);
            self.schedule(wait, Event::Lock(LockEvent::Start(client)));
        }
        self.poke_users();
        let names = self.locks.names.len();
        self.expect_rest("every lock can be had again", |world| {
            world.locks.clients.iter().all(|client| client.probed >= names)
        })?;
        self.expect_rest("all recoveries end", |world| !world.invariants.locks.kept.awaits_recovery())?;
        self.expect_rest("the sessions of the dead end", |world| {
            let open = world.locks.clients.iter().filter_map(|client| client.session()).count();
            let machine = world.invariants.ledger.reference().locks();
            machine.is_none_or(|machine| machine.session_count() == open && open == world.locks.clients.len())
        })?;
        self.clients_rest = true;
        for client in 0..self.locks.clients.len() {
            let run = self.locks.clients[client].run;
            self.schedule(0, Event::Lock(LockEvent::Close(client, run)));
        }
        self.expect_rest("a closed session leaves nothing", |world| {
            let machine = world.invariants.ledger.reference().locks();
            machine.is_none_or(|machine| machine.session_count() == 0 && machine.lock_count() == 0)
                && world.locks.clients.iter().all(|client| client.is_down())
        })
    }

    /// Users that have nothing to do begin to probe.
    fn poke_users(&mut self) {
        for client in 0..self.locks.clients.len() {
            let it = &self.locks.clients[client];
            let run = it.run;
            let Some(user) = it.users.first() else { continue };
            let attempt = user.attempt;
            self.schedule(0, Event::Lock(LockEvent::User { client, run, user: 0, attempt }));
        }
    }

    fn waiting_users(&self) -> impl Iterator<Item = (usize, u64, usize, u64)> {
        self.locks.clients.iter().enumerate().flat_map(|(client, it)| {
            let waits = it.users.iter().enumerate().filter(|(_, user)| user.waits());
            waits.map(move |(user, state)| (client, it.run, user, state.attempt))
        })
    }

    fn describe_clients(&self) -> String {
        let clients = self.locks.clients.iter().enumerate().map(|(client, it)| {
            let users = it.users.iter().map(|user| format!("\n    {:?}", user.state)).collect::<String>();
            let state = match &it.state {
                State::Open(opened) => format!("{:?}", opened.session),
                other => format!("{other:?}"),
            };
            format!("\n  client {client}, probed {}: {state}{users}", it.probed)
        });
        clients.collect()
    }
}
